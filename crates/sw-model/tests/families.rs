//! Settings that a family does not implement are refused by name.

use std::{fs, path::Path};

use serde_json::{Value, json};
use sw_model::Model;

/// What opening says about a case's published config with one field changed.
fn refusal(case: &str, field: &str, value: Value) -> String {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case);
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&golden).unwrap().map(|e| e.unwrap()) {
        if entry.file_name().to_str().unwrap().starts_with("model") {
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    let config = fs::read_to_string(golden.join("config.published.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config[field] = value;
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    match Model::open(dir.path()) {
        Ok(_) => panic!("{case}: {field} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn unsupported_values_are_named() {
    let cases: &[(&str, &str, Value, &[&str])] = &[
        (
            "llama",
            "rope_interleaved",
            json!(true),
            &["rope_interleaved", "false"],
        ),
        (
            "llama",
            "partial_rotary_factor",
            json!(0.5),
            &["partial_rotary_factor", "not implemented"],
        ),
        (
            "llama-linear",
            "rope_scaling",
            json!({"type": "linear"}),
            &["rope_scaling.factor", "missing"],
        ),
        (
            "phi3",
            "rope_scaling",
            json!({"type": "linear", "factor": 2}),
            &["rope_scaling", "longrope"],
        ),
        (
            "phi3",
            "partial_rotary_factor",
            json!(0.9),
            &["partial_rotary_factor", "even"],
        ),
        (
            "phi3",
            "lm_head_bias",
            json!(true),
            &["lm_head_bias", "false"],
        ),
        (
            "phi3-longrope",
            "rope_scaling",
            json!({"type": "su", "short_factor": [1], "long_factor": [1]}),
            &["short_factor", "4 factors", "1"],
        ),
        ("qwen2", "use_mrope", json!(true), &["use_mrope"]),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention"]),
            &["layer_types", "2 layers"],
        ),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention", "linear_attention"]),
            &["layer_types", "linear_attention"],
        ),
        (
            "gemma2",
            "use_bidirectional_attention",
            json!(true),
            &["use_bidirectional_attention"],
        ),
        (
            "gemma",
            "hidden_act",
            json!("silu"),
            &["hidden_act", "gelu_pytorch_tanh"],
        ),
        (
            "gpt2",
            "add_cross_attention",
            json!(true),
            &["add_cross_attention"],
        ),
        (
            "gpt2",
            "activation_function",
            json!("tanh"),
            &["activation_function", "tanh"],
        ),
        (
            "gpt2",
            "n_head",
            json!(5),
            &["n_head", "5 heads", "n_embd = 24"],
        ),
        ("gpt_neox", "rotary_pct", json!(1.5), &["rotary_pct", "1.5"]),
        (
            "mixtral",
            "num_local_experts",
            json!(1_000_000_000_000_u64),
            &["num_local_experts", "tensors"],
        ),
        (
            "mixtral",
            "num_experts_per_tok",
            json!(6),
            &["num_experts_per_tok", "6 of only 5"],
        ),
        (
            "mixtral",
            "num_local_experts",
            json!(6),
            &["block_sparse_moe.gate.weight", "[6, 24]", "[5, 24]"],
        ),
        (
            "olmoe",
            "num_experts",
            json!(0),
            &["num_experts", "at least 1"],
        ),
        (
            "qwen3_moe",
            "mlp_only_layers",
            json!(3),
            &["mlp_only_layers", "list"],
        ),
        (
            "qwen3_moe",
            "shared_expert_intermediate_size",
            json!(8),
            &["shared_expert_intermediate_size"],
        ),
    ];
    for (case, field, value, words) in cases {
        let error = refusal(case, field, value.clone());
        assert!(!error.contains('\n'), "more than one line: {error}");
        for word in *words {
            assert!(
                error.contains(word),
                "{case}, {field}: {error}\n  lacks {word}"
            );
        }
    }
}

#[test]
fn maps_are_what_the_checkpoint_stores() {
    let golden = |case: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(case)
    };
    let cases = [
        ("llama", 14, "model.layers.1.mlp.down_proj.weight"),
        ("phi3", 8, "model.layers.1.mlp.down_proj.weight"),
        ("gpt2", 8, "h.1.mlp.c_proj.weight"),
        ("gpt2-scaled", 8, "transformer.h.1.mlp.c_proj.weight"),
        ("gpt_neox", 8, "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"),
        (
            "mixtral",
            2 * (4 + 5 * 3),
            "model.layers.1.block_sparse_moe.experts.4.w2.weight",
        ),
        (
            "qwen3_moe",
            7 + 4 + 6 * 3,
            "model.layers.1.mlp.experts.5.down_proj.weight",
        ),
    ];
    for (case, count, last) in cases {
        let model = Model::open(golden(case)).unwrap();
        let maps: Vec<_> = model.linears().collect();
        assert_eq!(maps.len(), count, "{case}");
        assert_eq!(
            model.spec().tensor_name_at(maps[count - 1]).as_deref(),
            Some(last),
            "{case}"
        );
        for at in maps {
            let w = model.weight_at(at).unwrap();
            assert_eq!([w.rows(), w.cols()], model.spec().shape(at), "{case}: {at}");
        }
    }
}
