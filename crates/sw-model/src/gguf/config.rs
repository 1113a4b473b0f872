//! From the metadata of a GGUF file to the `config.json` of the checkpoint that it was made from.

use serde_json::{Map, Value, json};
use sw_tensor::GgufValue;

use super::{
    meta::Meta,
    tables::{ARCHS, Arch},
};
use crate::error::Result;

/// The architecture of a file. Mixtral's is `llama`, with experts; Mistral's, with a window.
pub(super) fn arch(meta: Meta<'_>) -> Result<&'static Arch> {
    let name = match meta.arch() {
        "llama" if meta.opt("expert_count")?.unwrap_or(0) > 0 => "mixtral",
        "llama" if meta.opt("attention.sliding_window")?.unwrap_or(0) > 0 => "mistral",
        name => name,
    };
    ARCHS.iter().find(|arch| arch.name == name).ok_or_else(|| {
        let known: Vec<_> = ARCHS.iter().map(|arch| arch.name).collect();
        let problem = format!(
            "{name} is not implemented; expected one of {}",
            known.join(", ")
        );
        meta.error("general.architecture", problem)
    })
}

/// The config.
pub(super) fn config(meta: Meta<'_>, arch: &Arch) -> Result<Value> {
    let mut config = match arch.model_type {
        "gpt2" => gpt2(meta)?,
        "gpt_neox" => gpt_neox(meta)?,
        _ => llama_like(meta, arch)?,
    };
    config.insert("architectures".into(), json!([arch.class]));
    config.insert("model_type".into(), arch.model_type.into());
    config.insert("torch_dtype".into(), "float32".into());
    config.insert("vocab_size".into(), vocab_size(meta)?.into());
    let is_tied = meta.shape("output.weight").is_none();
    config.insert("tie_word_embeddings".into(), is_tied.into());
    for (key, id) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
    ] {
        config.insert(key.into(), meta.size(id)?.into());
    }
    Ok(Value::Object(config))
}

/// What the file says, else what its tokenizer has, else what its embedding has.
fn vocab_size(meta: Meta<'_>) -> Result<u64> {
    let rows = meta
        .shape("token_embd.weight")
        .and_then(|shape| shape.first());
    let tokens = meta.texts("tokenizer.ggml.tokens")?.map(<[String]>::len);
    let found = tokens.or(rows.copied()).unwrap_or(0) as u64;
    Ok(meta.opt("vocab_size")?.unwrap_or(found))
}

/// Heads of an architecture that gives each query head keys and values of its own.
fn heads_alone(meta: Meta<'_>) -> Result<u64> {
    let heads = meta.required("attention.head_count")?;
    let key = "attention.head_count_kv";
    match meta.opt(key)? {
        Some(shared) if shared != heads => {
            let problem =
                format!("expected as many as attention.head_count ({heads}), found {shared}");
            Err(meta.error(&meta.key(key), problem))
        }
        _ => Ok(heads),
    }
}

fn gpt2(meta: Meta<'_>) -> Result<Map<String, Value>> {
    let config = json!({
        "activation_function": "gelu_new",
        "layer_norm_epsilon": meta.number("attention.layer_norm_epsilon")?,
        "n_embd": meta.required("embedding_length")?,
        "n_head": heads_alone(meta)?,
        "n_inner": meta.required("feed_forward_length")?,
        "n_layer": meta.required("block_count")?,
        "n_positions": meta.required("context_length")?,
    });
    Ok(object(config))
}

fn gpt_neox(meta: Meta<'_>) -> Result<Map<String, Value>> {
    let (hidden, heads) = (meta.required("embedding_length")?, heads_alone(meta)?);
    let rotated = meta.opt("rope.dimension_count")?;
    let part = rotated.map(|dim| dim as f64 * heads as f64 / (hidden as f64).max(1.0));
    let config = json!({
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": meta.required("feed_forward_length")?,
        "layer_norm_eps": meta.number("attention.layer_norm_epsilon")?,
        "max_position_embeddings": meta.required("context_length")?,
        "num_attention_heads": heads,
        "num_hidden_layers": meta.required("block_count")?,
        "rotary_emb_base": meta.number("rope.freq_base")?.unwrap_or(10_000.0),
        "rotary_pct": part,
        "use_parallel_residual": meta.flag(&meta.key("use_parallel_residual"))?.unwrap_or(true),
    });
    Ok(object(config))
}

/// The block of Llama and its relatives.
fn llama_like(meta: Meta<'_>, arch: &Arch) -> Result<Map<String, Value>> {
    let (hidden, heads) = (
        meta.required("embedding_length")?,
        meta.required("attention.head_count")?,
    );
    let layers = meta.required("block_count")?;
    let widths = [
        meta.opt("attention.key_length")?,
        meta.opt("attention.value_length")?,
    ];
    if let [Some(key), Some(value)] = widths
        && key != value
    {
        let problem =
            format!("heads of keys and of values must be as wide, found {key} and {value}");
        return Err(meta.error(&meta.key("attention.value_length"), problem));
    }
    let head_dim = widths[0].unwrap_or(hidden / heads.max(1));
    let rotated = meta.opt("rope.dimension_count")?.unwrap_or(head_dim);
    if rotated != head_dim && arch.model_type != "phi3" {
        let problem = format!("only whole heads are rotated here ({head_dim}), found {rotated}");
        return Err(meta.error(&meta.key("rope.dimension_count"), problem));
    }
    let has = |tensor: &str| meta.shape(tensor).is_some();
    let theta = meta.number("rope.freq_base")?.unwrap_or(10_000.0);
    let mut config = object(json!({
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta.opt("feed_forward_length")?.filter(|&n| n > 0),
        "max_position_embeddings": meta.required("context_length")?,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": meta.opt("attention.head_count_kv")?.unwrap_or(heads),
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon")?,
        "rope_theta": theta,
        "rope_scaling": rope_scaling(meta, theta, rotated)?,
    }));
    let mut put = |key: &str, value: Value| config.insert(key.into(), value);
    if arch.model_type != "phi3" && arch.model_type != "olmo2" && arch.model_type != "qwen2" {
        put("head_dim", head_dim.into());
    }
    let window = || -> Result<_> { Ok(meta.opt("attention.sliding_window")?.filter(|&n| n > 0)) };
    match arch.model_type {
        "llama" => {
            put("attention_bias", has("blk.0.attn_q.bias").into());
            put("mlp_bias", has("blk.0.ffn_up.bias").into());
        }
        "mistral" => {
            put("sliding_window", window()?.into());
        }
        "mixtral" => {
            put("sliding_window", window()?.into());
            put("num_local_experts", meta.required("expert_count")?.into());
            put(
                "num_experts_per_tok",
                meta.required("expert_used_count")?.into(),
            );
        }
        "qwen2" => {
            put("use_sliding_window", false.into());
        }
        "qwen3" => {
            put("attention_bias", has("blk.0.attn_q.bias").into());
            put("use_sliding_window", false.into());
        }
        "qwen3_moe" => {
            let inner = meta.required("expert_feed_forward_length")?;
            put("attention_bias", has("blk.0.attn_q.bias").into());
            put("use_sliding_window", false.into());
            put("num_experts", meta.required("expert_count")?.into());
            put(
                "num_experts_per_tok",
                meta.required("expert_used_count")?.into(),
            );
            put("moe_intermediate_size", inner.into());
            // Where no layer is dense, no width of one is there.
            let dense = meta.opt("feed_forward_length")?.filter(|&n| n > 0);
            put("intermediate_size", dense.unwrap_or(inner).into());
            put("norm_topk_prob", true.into());
            put("decoder_sparse_step", 1.into());
            put("mlp_only_layers", json!([]));
        }
        "phi3" => {
            put("sliding_window", window()?.into());
            put(
                "partial_rotary_factor",
                json!(rotated as f64 / head_dim.max(1) as f64),
            );
            let original = meta.opt("rope.scaling.original_context_length")?;
            if let Some(original) = original {
                put("original_max_position_embeddings", original.into());
            }
        }
        "olmo2" => {}
        "gemma" => {
            put("hidden_act", "gelu_pytorch_tanh".into());
        }
        _ => {
            // Gemma 2 and 3. The files do not say what scores are divided by: it is the same in all sizes but the largest,
            // where it is the width that the heads would have without one of their own.
            let largest = if arch.model_type == "gemma2" { 46 } else { 62 };
            let scalar = if layers == largest {
                hidden / heads.max(1)
            } else {
                256
            };
            put("query_pre_attn_scalar", scalar.into());
            put("hidden_act", "gelu_pytorch_tanh".into());
            put("hidden_activation", "gelu_pytorch_tanh".into());
            put("sliding_window", window()?.into());
            if let Some((key, pattern)) = window_pattern(meta, arch)? {
                put(key, pattern);
            }
            let caps = [
                (
                    "attn_logit_softcapping",
                    meta.number("attn_logit_softcapping")?,
                ),
                (
                    "final_logit_softcapping",
                    meta.number("final_logit_softcapping")?,
                ),
            ];
            for (key, cap) in caps {
                put(key, cap.filter(|&x| x > 0.0).into());
            }
        }
    }
    if arch.model_type == "gemma3_text" {
        let local = meta.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
        put("rope_local_base_freq", local.into());
    }
    Ok(config)
}

/// Which layers have the window, where the file says it: a list of one flag per layer, or the distance of those without one.
fn window_pattern(meta: Meta<'_>, arch: &Arch) -> Result<Option<(&'static str, Value)>> {
    let key = meta.key("attention.sliding_window_pattern");
    if let Some(flags) = meta.value(&key).and_then(GgufValue::as_ints) {
        let kind = |&flag: &i64| match flag {
            0 => "full_attention",
            _ => "sliding_attention",
        };
        let kinds: Vec<_> = flags.iter().map(kind).collect();
        return Ok(Some(("layer_types", json!(kinds))));
    }
    let distance = meta.size(&key)?.filter(|&n| n > 0);
    match distance {
        Some(n) if n != 2 && arch.model_type == "gemma2" => Err(meta.error(
            &key,
            format!("every second layer has none in gemma2, found {n}"),
        )),
        Some(n) if arch.model_type != "gemma2" => Ok(Some(("sliding_window_pattern", n.into()))),
        _ => Ok(None),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, v)| !v.is_null()).collect(),
        _ => Map::new(),
    }
}

/// `rope_scaling`: what the keys say, or what tensors of factors say; null where frequencies are as they are.
fn rope_scaling(meta: Meta<'_>, theta: f64, rotated: u64) -> Result<Value> {
    let factors = |name: &str| meta.gguf.vector(name);
    let context = meta.required("context_length")?;
    let original = meta.opt("rope.scaling.original_context_length")?;
    if let Some(factors) = factors("rope_freqs.weight") {
        return Ok(llama3(&factors, theta, rotated).unwrap_or_else(|| {
            json!({
                "rope_type": "longrope", "short_factor": factors, "long_factor": factors,
                "factor": 1.0, "attention_factor": 1.0, "original_max_position_embeddings": context,
            })
        }));
    }
    if let (Some(short), Some(long)) = (
        factors("rope_factors_short.weight"),
        factors("rope_factors_long.weight"),
    ) {
        let mut scaling = json!({
            "rope_type": "longrope", "short_factor": short, "long_factor": long,
        });
        let original = original.unwrap_or(context);
        let longer = context as f64 / (original as f64).max(1.0);
        let usual = match longer {
            ..=1.0 => 1.0,
            _ => (1.0 + longer.ln() / (original as f64).ln()).sqrt(),
        };
        // Said only where it is not what follows from the lengths.
        let given = meta.number("rope.scaling.attn_factor")?;
        if let Some(given) = given.filter(|given| (given - usual).abs() > 1e-5) {
            scaling["attention_factor"] = given.into();
        }
        return Ok(scaling);
    }
    let linear = meta.number("rope.scale_linear")?;
    let factor = meta.number("rope.scaling.factor")?.or(linear);
    let kind = meta.text(&meta.key("rope.scaling.type"))?;
    Ok(match (kind, factor) {
        (Some("none"), _) | (None, None) => Value::Null,
        (Some("linear") | None, Some(factor)) if factor == 1.0 || factor == 0.0 => Value::Null,
        (Some("linear") | None, Some(factor)) => json!({"rope_type": "linear", "factor": factor}),
        (Some("yarn"), Some(factor)) => {
            let mut scaling = json!({"rope_type": "yarn", "factor": factor});
            let mut put = |key: &str, value: Option<Value>| {
                if let Some(value) = value {
                    scaling[key] = value;
                }
            };
            put(
                "original_max_position_embeddings",
                original.map(Value::from),
            );
            for (key, name) in [
                ("beta_fast", "rope.scaling.yarn_beta_fast"),
                ("beta_slow", "rope.scaling.yarn_beta_slow"),
            ] {
                put(key, meta.number(name)?.map(Value::from));
            }
            scaling
        }
        (kind, _) => {
            let problem = format!(
                "expected none, linear or yarn, with a factor, or tensors of factors; found {}",
                kind.unwrap_or_default()
            );
            return Err(meta.error(&meta.key("rope.scaling.type"), problem));
        }
    })
}

/// The three bands of Llama 3.1 and later, where these are their factors.
fn llama3(factors: &[f32], theta: f64, rotated: u64) -> Option<Value> {
    let (low, high, original) = (1.0, 4.0, 8192.0);
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let of = |i: usize| {
        let length = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / rotated as f64);
        let turns = original / length;
        if turns > high {
            1.0
        } else if turns < low {
            factor
        } else {
            let smooth = (turns - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let fits = |(i, &found): (usize, &f32)| (f64::from(found) / of(i) - 1.0).abs() < 1e-4;
    let is_that = factors.len() as u64 == rotated / 2 && factors.iter().enumerate().all(fits);
    is_that.then(|| {
        json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": original as u64,
        })
    })
}
