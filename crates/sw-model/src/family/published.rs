//! Configs of well-known checkpoints are read without complaint: which keys they have, and what they mean.
//!
//! Set down by hand after the released files, without the keys that every config has and no forward pass reads.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::spec;
use crate::{
    rope::RopeScaling,
    spec::{Activation, Spec},
};

fn read(config: Value) -> Spec {
    let mut whole = json!({
        "architectures": ["X"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": [2, 3],
        "initializer_range": 0.02, "torch_dtype": "bfloat16", "transformers_version": "4.40.0", "use_cache": true,
    });
    for (key, value) in config.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let read = spec(Path::new("config.json"), &whole, [100_000; 2], &[]);
    let (spec, unknown) = read.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(unknown, [""; 0]);
    spec
}

#[test]
fn llama() {
    let llama_1 = read(json!({
        "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
        "max_position_embeddings": 2048, "max_sequence_length": 2048, "num_attention_heads": 32,
        "num_hidden_layers": 32, "pad_token_id": 0, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
        "vocab_size": 32000,
    }));
    assert_eq!((llama_1.q_width(), llama_1.kv_width()), (4096, 4096));
    let llama_3_1 = read(json!({
        "model_type": "llama", "attention_bias": false, "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": false, "vocab_size": 128256,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    }));
    assert_eq!(llama_3_1.kv_width(), 1024);
    assert!(matches!(
        llama_3_1.ropes[0].scaling,
        RopeScaling::Llama3 {
            original: 8192.0,
            ..
        }
    ));
    read(json!({ // SmolLM2
        "model_type": "llama", "attention_bias": false, "hidden_act": "silu", "hidden_size": 576,
        "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1,
        "rms_norm_eps": 1e-5, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
        "tie_word_embeddings": true, "transformers.js_config": {"kv_cache_dtype": {}}, "vocab_size": 49152,
    }));
}

#[test]
fn mistral() {
    let base = json!({
        "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
        "tie_word_embeddings": false, "vocab_size": 32000,
    });
    assert_eq!(read(base.clone()).layers[31].window, Some(4096));
    let mut nemo = base.clone();
    nemo["sliding_window"] = json!(null);
    nemo["head_dim"] = json!(128);
    nemo["hidden_size"] = json!(5120);
    let nemo = read(nemo);
    assert_eq!((nemo.layers[0].window, nemo.q_width()), (None, 4096));
    let mut mixtral = base;
    for (key, value) in [
        ("model_type", json!("mixtral")),
        ("sliding_window", json!(null)),
        ("num_experts_per_tok", json!(2)),
        ("num_local_experts", json!(8)),
        ("output_router_logits", json!(false)),
        ("router_aux_loss_coef", json!(0.02)),
        ("rope_theta", json!(1e6)),
    ] {
        mixtral[key] = value;
    }
    let mixtral = read(mixtral);
    assert!(mixtral.layers[0].experts.is_some() && mixtral.layers[0].window.is_none());
    assert_eq!(mixtral.linears().count(), 32 * (4 + 8 * 3));
}

#[test]
fn olmo() {
    let base = json!({
        "model_type": "olmo", "attention_bias": false, "clip_qkv": null, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 2048, "num_attention_heads": 16,
        "num_hidden_layers": 16, "num_key_value_heads": 16, "pad_token_id": 1, "rope_scaling": null,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "vocab_size": 50304,
    });
    assert_eq!(read(base.clone()).attention.clip, None);
    let mut large = base.clone();
    large["clip_qkv"] = json!(8.0);
    assert_eq!(read(large).attention.clip, Some(8.0));
    let mut second = base.clone();
    second.as_object_mut().unwrap().remove("clip_qkv");
    second["model_type"] = json!("olmo2");
    second["rms_norm_eps"] = json!(1e-6);
    read(second);
    let mut mixture = base;
    for (key, value) in [
        ("model_type", json!("olmoe")),
        ("norm_topk_prob", json!(false)),
        ("num_experts", json!(64)),
        ("num_experts_per_tok", json!(8)),
        ("output_router_logits", json!(false)),
        ("router_aux_loss_coef", json!(0.01)),
        ("rms_norm_eps", json!(1e-5)),
    ] {
        mixture[key] = value;
    }
    assert_eq!(
        read(mixture).layers[0]
            .experts
            .map(|e| (e.count, e.normalize)),
        Some((64, false))
    );
}

#[test]
fn phi3() {
    let base = json!({
        "model_type": "phi3", "attention_bias": false, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "embd_pdrop": 0.0, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
        "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "pad_token_id": 32000,
        "resid_pdrop": 0.0, "rms_norm_eps": 1e-5, "rope_scaling": null, "rope_theta": 10000.0,
        "sliding_window": 2047, "tie_word_embeddings": false, "vocab_size": 32064,
    });
    assert_eq!(read(base.clone()).layers[0].window, Some(2047));
    let mut long = base.clone();
    long["max_position_embeddings"] = json!(131072);
    long["rope_scaling"] =
        json!({"type": "su", "short_factor": vec![1.05; 48], "long_factor": vec![2.5; 48]});
    long["sliding_window"] = json!(262144);
    let RopeScaling::LongRope {
        attention_factor,
        original,
        ..
    } = read(long).ropes[0].scaling
    else {
        panic!("another scaling");
    };
    assert_eq!(original, 4096);
    assert!((attention_factor - 1.190_238).abs() < 1e-5);
    let mut mini = base;
    for (key, value) in [
        ("partial_rotary_factor", json!(0.75)),
        ("hidden_size", json!(3072)),
        ("num_attention_heads", json!(24)),
        ("num_key_value_heads", json!(8)),
        ("full_attn_mod", json!(1)),
        ("interpolate_factor", json!(1)),
        ("lm_head_bias", json!(false)),
        ("mlp_bias", json!(false)),
        ("tie_word_embeddings", json!(true)),
    ] {
        mini[key] = value;
    }
    assert_eq!(read(mini).ropes[0].dim, 96); // Phi-4-mini
}

#[test]
fn qwen() {
    let base = json!({
        "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944,
        "max_position_embeddings": 131072, "max_window_layers": 28, "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "sliding_window": 131072, "tie_word_embeddings": false, "use_mrope": false, "use_sliding_window": false,
        "vocab_size": 152064,
    });
    assert!(read(base.clone()).layers.iter().all(|l| l.window.is_none()));
    let mut third = base.clone();
    third.as_object_mut().unwrap().remove("use_mrope");
    for (key, value) in [
        ("model_type", json!("qwen3")),
        ("attention_bias", json!(false)),
        ("head_dim", json!(128)),
        ("rope_scaling", json!(null)),
        ("sliding_window", json!(null)),
    ] {
        third[key] = value;
    }
    assert_eq!(read(third.clone()).q_width(), 3584);
    for (key, value) in [
        ("model_type", json!("qwen3_moe")),
        ("decoder_sparse_step", json!(1)),
        ("mlp_only_layers", json!([])),
        ("moe_intermediate_size", json!(768)),
        ("norm_topk_prob", json!(true)),
        ("num_experts", json!(128)),
        ("num_experts_per_tok", json!(8)),
        ("output_router_logits", json!(false)),
        ("router_aux_loss_coef", json!(0.001)),
    ] {
        third[key] = value;
    }
    let mixture = read(third);
    assert!(mixture.layers.iter().all(|l| l.experts.is_some()));
}

#[test]
fn gemma() {
    let first = read(json!({
        "model_type": "gemma", "attention_bias": false, "head_dim": 256, "hidden_act": "gelu", "hidden_size": 2048,
        "intermediate_size": 16384, "max_position_embeddings": 8192, "num_attention_heads": 8,
        "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0, "rms_norm_eps": 1e-6,
        "rope_scaling": null, "rope_theta": 10000.0, "vocab_size": 256000,
    }));
    assert!(first.tied && first.activation == Activation::GeluTanh);
    let second = read(json!({
        "model_type": "gemma2", "attention_bias": false, "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
        "intermediate_size": 9216, "max_position_embeddings": 8192, "num_attention_heads": 8,
        "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000,
    }));
    let windows = [second.layers[0].window, second.layers[1].window];
    assert_eq!(windows, [Some(4096), None]);
    let third = read(json!({
        "model_type": "gemma3_text", "attention_bias": false, "attn_logit_softcapping": null,
        "cache_implementation": "hybrid", "final_logit_softcapping": null, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
        "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26,
        "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512,
        "sliding_window_pattern": 6, "vocab_size": 262144,
    }));
    let full: Vec<usize> = (0..26)
        .filter(|&l| third.layers[l].window.is_none())
        .collect();
    assert_eq!(full, [5, 11, 17, 23]);
    let thetas: Vec<f32> = third.ropes.iter().map(|r| r.theta).collect();
    assert_eq!((thetas, third.layers[5].rope), (vec![1e6, 1e4], Some(0)));
    let with_vision = read(json!({
        "model_type": "gemma3", "boi_token_index": 255999, "eoi_token_index": 256000, "image_token_index": 262144,
        "mm_tokens_per_image": 256, "vision_config": {"hidden_size": 1152},
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
    }));
    assert_eq!(
        (
            with_vision.q_width(),
            with_vision.kv_width(),
            with_vision.vocab_size
        ),
        (2048, 1024, 262_208)
    );
    assert_eq!(
        with_vision.ropes[0].scaling,
        RopeScaling::Linear { factor: 8.0 }
    );
    assert_eq!(with_vision.ropes[1].scaling, RopeScaling::Default);
}

#[test]
fn gpt() {
    let gpt2 = read(json!({
        "model_type": "gpt2", "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
        "task_specific_params": {"text-generation": {"do_sample": true}}, "vocab_size": 50257,
    }));
    assert_eq!((gpt2.intermediate_size, gpt2.tied), (3072, true));
    let pythia = read(json!({
        "model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": 2048, "intermediate_size": 8192,
        "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "num_attention_heads": 16,
        "num_hidden_layers": 16, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false,
        "use_parallel_residual": true, "vocab_size": 50304,
    }));
    assert_eq!((pythia.ropes[0].dim, pythia.parallel), (32, true));
}

#[test]
fn what_tools_write_into_configs_does_not_stop_a_model() {
    let base = json!({
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5504, "num_attention_heads": 16,
        "num_hidden_layers": 24, "rms_norm_eps": 1e-6, "vocab_size": 32000, "max_position_embeddings": 2048,
    });
    let with = |extra: Value| {
        let mut whole = base.clone();
        for (key, value) in extra.as_object().unwrap() {
            whole[key] = value.clone();
        }
        spec(Path::new("config.json"), &whole, [100_000; 2], &[]).map(|(_, unknown)| unknown)
    };
    // Before 4.40, transformers wrote every default of generation and of its base class.
    let defaults = json!({
        "add_cross_attention": false, "bad_words_ids": null, "cross_attention_hidden_size": null, "do_sample": false,
        "length_penalty": 1.0, "max_length": 20, "num_beams": 1, "pruned_heads": {}, "temperature": 1.0, "top_k": 50,
        "tf_legacy_loss": false, "tie_encoder_decoder": false, "typical_p": 1.0, "use_bfloat16": false,
        "unk_token_id": 0, "_model_name_or_path": "x", "pad_token_id": -1,
    });
    assert_eq!(with(defaults).unwrap(), ["pruned_heads", "tf_legacy_loss"]);
    assert_eq!(
        with(json!({"unsloth_fixed": true})).unwrap(),
        ["unsloth_fixed"]
    );
    assert_eq!(
        with(json!({"qk_layer_norms": false, "use_resampler": false})).unwrap(),
        [""; 0]
    );
    for (key, value) in [
        ("qk_layer_norms", json!(true)),
        ("residual_multiplier", json!(0.22)),
        ("alibi", json!(true)),
        ("num_kv_shared_layers", json!(4)),
        ("is_causal", json!(false)),
    ] {
        let error = with(json!({key: value})).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

/// The list of configs in the shared folder, where it is there.
#[test]
fn configs_in_the_wild_are_read_or_refused_by_name() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/reference/configs-in-the-wild.json");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("skipped: {} is not there", path.display());
        return;
    };
    let configs: Value = serde_json::from_str(&text).unwrap();
    let configs = configs.as_object().unwrap().iter();
    let configs: Vec<_> = configs.filter(|(name, _)| *name != "_about").collect();
    assert_eq!(configs.len(), 25);
    for (name, config) in configs {
        let read = spec(Path::new("config.json"), config, [100_000; 2], &[]);
        let named = [
            ("granite", "granite"),
            ("without rope", "no_rope_layers"),
            ("gptq", "gptq"),
        ];
        match named.iter().find(|(part, _)| name.contains(part)) {
            Some((_, word)) => {
                let error = read.unwrap_err().to_string();
                assert!(error.contains(word), "{name}: {error}");
            }
            None => println!("{name}: passed over {:?}", read.unwrap().1),
        }
    }
}
