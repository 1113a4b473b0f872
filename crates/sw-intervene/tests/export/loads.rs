//! What other loaders need to read a packed checkpoint as it is meant. `xtask/compare/exports.py` shows that transformers
//! does so for every family.

use std::{collections::BTreeMap, fs, path::Path};

use half::f16;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use sw_intervene::{Export, Format, Override, Plan, Rule};
use sw_model::Model;
use sw_quant::{Grouping, Levels, Scheme};

use super::{INTEGER, export, golden, scheme, tensors, write};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A folder with the config of a small model, changed, and these weights.
fn folder(dir: &Path, case: &str, tensors: &Tensors, edit: impl FnOnce(&mut Value)) {
    fs::create_dir_all(dir).expect("a folder");
    let text = fs::read_to_string(golden(case).join("config.json")).expect("a config");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    edit(&mut config);
    fs::write(dir.join("config.json"), config.to_string()).expect("written");
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor");
        (name.clone(), view)
    });
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    safetensors::serialize_to_file(views, metadata, &dir.join("model.safetensors"))
        .expect("written");
}

fn packed(scheme: Scheme, overrides: &[(&str, Option<Scheme>)]) -> Export {
    let mut export = export(Format::Packed, scheme, &[]);
    export.overrides = overrides
        .iter()
        .map(|(pattern, scheme)| Override {
            pattern: (*pattern).into(),
            rule: scheme.map(|scheme| Rule {
                scheme,
                search: false,
            }),
        })
        .collect();
    export
}

/// The `quantization_config` that is written.
fn config(model: &Path, export: &Export) -> Value {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("packed");
    write(&Model::open(model).expect("opens"), export, &out);
    let text = fs::read_to_string(out.join("config.json")).expect("a config");
    let config: Value = serde_json::from_str(&text).expect("JSON");
    config["quantization_config"].clone()
}

fn refused(case: &str, export: &Export, words: &str) {
    let model = Model::open(golden(case)).expect("opens");
    let error = Plan::new(&model, export)
        .err()
        .expect("refused")
        .to_string();
    assert!(
        error.contains(words) && error.contains("use packed-sw or fake"),
        "{error}"
    );
}

fn four() -> Scheme {
    scheme(Levels::symmetric(4), Grouping::flat(4))
}

fn eight() -> Scheme {
    scheme(Levels::symmetric(8), Grouping::Row)
}

#[test]
fn what_is_not_quantized_is_ignored_under_all_its_names() {
    let neox = config(&golden("gpt_neox"), &packed(four(), &[]));
    assert_eq!(neox["ignore"], json!(["embed_out", "lm_head"]));
    assert_eq!(
        neox["config_groups"]["group_0"]["targets"],
        json!(["Linear"])
    );
    assert!(neox.get("dequantize").is_none());

    // Gemma 3 with a vision tower: three names for the head, two for a matrix that is kept, none of the tower's modules.
    let dir = tempfile::tempdir().expect("a folder");
    let mut weights: Tensors = tensors(&golden("gemma3_text"))
        .into_iter()
        .map(|(name, tensor)| (format!("language_model.{name}"), tensor))
        .collect();
    let name = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight";
    weights.insert(name.into(), (Dtype::F32, vec![1, 1], vec![0; 4]));
    folder(dir.path(), "gemma3_text", &weights, |config| {
        *config =
            json!({"model_type": "gemma3", "text_config": config.take(), "vision_config": {}});
    });
    fs::write(dir.path().join("preprocessor_config.json"), "{}").expect("written");
    let gemma = config(
        dir.path(),
        &packed(four(), &[("*layers.0.mlp.down_proj*", None)]),
    );
    let expected = [
        "language_model.lm_head",
        "language_model.model.layers.0.mlp.down_proj",
        "lm_head",
        "model.language_model.layers.0.mlp.down_proj",
        "re:.*vision_tower.*",
    ];
    assert_eq!(gemma["ignore"], json!(expected));
    // Under two rules modules are named, by both names.
    let two = config(
        dir.path(),
        &packed(four(), &[("*layers.0.mlp.down_proj*", Some(eight()))]),
    );
    let groups = two["config_groups"].as_object().expect("groups");
    assert_eq!(groups.len(), 2);
    let eight_bits = groups.values().find(|g| g["weights"]["num_bits"] == 8);
    assert_eq!(
        eight_bits.expect("a group")["targets"],
        json!([expected[1], expected[3]])
    );
}

#[test]
fn experts_load_under_one_rule() {
    let symmetric = packed(eight(), &[]);
    let one = config(&golden("mixtral"), &symmetric);
    assert_eq!(one["config_groups"].as_object().expect("groups").len(), 1);
    assert_eq!(
        one["config_groups"]["group_0"]["targets"],
        json!(["Linear"])
    );
    assert_eq!(
        one["dequantize"], true,
        "transformers widens experts as it loads them"
    );
    let routers = [
        "lm_head",
        "model.layers.0.block_sparse_moe.gate",
        "model.layers.0.mlp.gate",
        "model.layers.1.block_sparse_moe.gate",
        "model.layers.1.mlp.gate",
    ];
    assert_eq!(one["ignore"], json!(routers));

    let other = config(
        &golden("olmoe"),
        &packed(four(), &[("*experts*", Some(eight()))]),
    );
    let bits = |group: &str| other["config_groups"][group]["weights"]["num_bits"].clone();
    let targets = |group: &str| other["config_groups"][group]["targets"].clone();
    assert_eq!(
        (bits("group_0"), targets("group_0")),
        (json!(8), json!([r"re:.*\.experts\..*"]))
    );
    assert_eq!(
        (bits("group_1"), targets("group_1")),
        (json!(4), json!(["Linear"]))
    );

    let some = "*layers.1.*experts.3.w2*";
    refused(
        "mixtral",
        &packed(eight(), &[(some, Some(four()))]),
        "2 rules for experts",
    );
    refused(
        "mixtral",
        &packed(eight(), &[(some, None)]),
        "experts that stay as they are",
    );
    refused(
        "mixtral",
        &packed(eight(), &[("*o_proj*", Some(four()))]),
        "2 rules outside experts beside experts",
    );
    refused(
        "mixtral",
        &packed(scheme(INTEGER, Grouping::Row), &[]),
        "experts with zero-points",
    );
    let mixed = packed(
        scheme(INTEGER, Grouping::Row),
        &[("*o_proj*", Some(eight()))],
    );
    refused(
        "llama",
        &mixed,
        "2 rules outside experts beside zero-points",
    );
}

#[test]
fn a_group_as_wide_as_a_matrix_is_a_group() {
    let wide = scheme(Levels::symmetric(4), Grouping::tile(1, 24));
    let keep = [("*down_proj*", None), ("*o_proj*", None)];
    let found = config(&golden("llama"), &packed(wide, &keep));
    let weights = &found["config_groups"]["group_0"]["weights"];
    assert_eq!(
        (&weights["strategy"], &weights["group_size"]),
        (&json!("group"), &json!(24))
    );
}

/// Half precision holds nothing below 2^-24: such a scale becomes that, and every value stays within half of it.
#[test]
fn a_scale_that_half_precision_cannot_hold_does_not_stop_the_export() {
    let least = 2f32.powi(-24);
    let dir = tempfile::tempdir().expect("a folder");
    let mut weights = tensors(&golden("gpt_neox"));
    let name = "gpt_neox.layers.1.mlp.dense_4h_to_h";
    let (dtype, shape, bytes) = weights
        .get_mut(&format!("{name}.weight"))
        .expect("a matrix");
    assert_eq!(*dtype, Dtype::F16);
    let [rows, cols] = shape[..] else {
        panic!("a matrix")
    };
    let tiny = |i: usize| f16::from_f32(least * (i % 3) as f32);
    *bytes = (0..rows * cols)
        .flat_map(|i| tiny(i).to_le_bytes())
        .collect();
    folder(dir.path(), "gpt_neox", &weights, |_| ());
    fs::write(dir.path().join("modeling_own.py"), "pass").expect("written");
    for levels in [Levels::symmetric(8), INTEGER] {
        let out = dir.path().join(format!(
            "../{}-{levels:?}",
            dir.path().file_name().unwrap().to_string_lossy()
        ));
        let model = Model::open(dir.path()).expect("opens");
        write(&model, &packed(scheme(levels, Grouping::Row), &[]), &out);
        let found = tensors(&out);
        let (dtype, _, scales) = &found[&format!("{name}.weight_scale")];
        assert_eq!(*dtype, Dtype::F16);
        for scale in scales.as_chunks::<2>().0 {
            assert_eq!(f16::from_le_bytes(*scale).to_f32(), least);
        }
        assert!(
            out.join("modeling_own.py").is_file(),
            "code of the model is copied"
        );
        fs::remove_dir_all(out).expect("removed");
    }
}
