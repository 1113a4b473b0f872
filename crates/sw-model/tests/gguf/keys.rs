//! Metadata keys: used, refused because they change the arithmetic, or passed over with one warning.

use std::fs;

use serde_json::{Value, json};
use sw_model::{Error, Model, OpenOptions};

use crate::written::Written;

/// A tiny Llama with these keys besides.
fn open(keys: &[(&str, Value)], options: &OpenOptions) -> Result<Model, Error> {
    let mut file = Written::tiny_llama(5);
    for (key, value) in keys {
        file.key(key, value);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.gguf"), file.bytes()).unwrap();
    Model::open_with(folder.path(), options)
}

fn refusal(key: &str, value: &Value) -> String {
    let keys = [(key, value.clone())];
    let line = open(&keys, &OpenOptions::default())
        .err()
        .expect(key)
        .to_string();
    assert!(line.contains("m.gguf") && line.contains(key), "{line}");
    assert!(!line.contains('\n'), "{line}");
    line
}

#[test]
fn keys_that_nothing_reads_are_one_warning() {
    let unknown = ["llama.attention.novelty", "llama.wobble"];
    let keys = [
        ("general.name", json!("Tiny")),
        ("llama.vocab_size", json!(5)),
        ("llama.pooling_type", json!(3)),
        (unknown[0], json!(true)),
        (unknown[1], json!([1, 2])),
    ];
    let mut options = OpenOptions::default();
    let model = open(&keys, &options).unwrap();
    assert_eq!(model.unknown_config_fields(), unknown);
    let [line] = model.warnings() else {
        panic!("{:?}", model.warnings());
    };
    assert!(
        line.contains("m.gguf") && line.ends_with(&unknown.join(", ")),
        "{line}"
    );

    options.strict_config = true;
    let line = open(&keys, &options).err().unwrap().to_string();
    assert!(
        line.contains("llama.wobble") && line.contains("--strict-config"),
        "{line}"
    );
    options.ignore_config_fields = unknown.map(String::from).to_vec();
    let model = open(&keys, &options).unwrap();
    assert!(model.warnings().is_empty());
}

#[test]
fn keys_that_change_the_arithmetic_are_refused() {
    for (key, value) in [
        ("llama.logit_scale", json!(0.5)),
        ("llama.attention.clamp_kqv", json!(8.0)),
        ("llama.attention.causal", json!(false)),
        (
            "llama.attention.sliding_window_pattern",
            json!([true, false]),
        ),
        ("llama.rope.dimension_sections", json!([16, 24, 24, 0])),
        ("llama.rope.scaling.attn_factor", json!(1.2)),
        ("llama.use_parallel_residual", json!(true)),
        ("llama.final_logit_softcapping", json!(30.0)),
        ("llama.ssm.state_size", json!(16)),
        ("llama.swin_norm", json!(true)),
    ] {
        let line = refusal(key, &value);
        assert!(line.contains("arithmetic"), "{line}");
        let mut options = OpenOptions::default();
        options.ignore_config_fields = vec![key.to_owned()];
        let model = open(&[(key, value)], &options).unwrap();
        assert_eq!(model.ignored_config_fields(), [key]);
    }
}

#[test]
fn neutral_values_are_passed_over_in_silence() {
    let keys = [
        ("llama.logit_scale", json!(1.0)),
        ("llama.attention.clamp_kqv", json!(0.0)),
        ("llama.attention.causal", json!(true)),
        ("llama.rope.dimension_sections", json!([0, 0, 0, 0])),
        ("llama.rope.scaling.attn_factor", json!(1.0)),
        ("llama.expert_weights_norm", json!(true)),
        ("llama.use_parallel_residual", json!(false)),
        ("llama.ssm.state_size", json!(0)),
    ];
    let model = open(&keys, &OpenOptions::default()).unwrap();
    assert!(model.warnings().is_empty(), "{:?}", model.warnings());
}

/// llama.cpp's converter writes a list where a config has one; no family that is implemented has sizes that differ by layer.
#[test]
fn a_list_of_one_size_for_each_layer_opens_where_all_are_equal() {
    let key = "llama.attention.head_count_kv";
    let keys = [(key, json!([1, 1, 1]))];
    let model = open(&keys, &OpenOptions::default()).unwrap();
    assert_eq!(model.spec().attention.kv_heads, 1);
    let line = refusal(key, &json!([1, 2, 1]));
    assert!(line.contains("1, 2, 1"), "{line}");
    refusal(key, &json!([]));
    refusal(key, &json!([-1, -1]));
}
