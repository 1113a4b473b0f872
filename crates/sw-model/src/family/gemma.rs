//! Gemma 1, 2 and 3: a scaled embedding, `1 + weight` in norms, GeGLU; from 2 on norms after the blocks too, soft caps
//! and alternating windows; in 3 norms of queries and keys, and a rotary base of its own for sliding layers.

use super::{Family, llama::LlamaLike, sliding_layers, window};
use crate::{
    config::Fields,
    error::Result,
    rope::{RopeKeys, RopeSpec},
    spec::{LayerNorms, Norm, QkNorm, Spec},
};

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    read: gemma,
    inert: &[],
};

pub(super) const GEMMA2: Family = Family {
    model_type: "gemma2",
    read: gemma2,
    inert: &["sliding_window_size"],
};

pub(super) const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    read: gemma3,
    inert: &["_sliding_window_pattern"],
};

/// Gemma 3 with a vision tower, of which only the language model is read.
pub(super) const GEMMA3_VISION: Family = Family {
    model_type: "gemma3",
    read: gemma3_vision,
    inert: &[
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "mm_tokens_per_image",
        "vision_config",
    ],
};

fn defaults(f: &Fields<'_>, family: &'static str) -> Result<LlamaLike> {
    f.expect("use_bidirectional_attention", false)?;
    let bias = f.bool_or("attention_bias", false)?;
    Ok(LlamaLike {
        bias: [bias; 4],
        max_positions: 8192,
        head_dim: Some(256),
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        tied: true,
        ..LlamaLike::new(family)
    })
}

fn common(spec: &mut Spec) {
    if let Norm::Rms { offset, .. } = &mut spec.norm {
        *offset = 1.0;
    }
    spec.embed_scale = Some((spec.hidden_size as f64).sqrt() as f32);
}

fn gemma(f: &Fields<'_>) -> Result<Spec> {
    // The first release says "gelu" and means its approximation.
    if f.opt_str("hidden_act")? != Some("gelu") {
        f.expect("hidden_act", "gelu_pytorch_tanh")?;
    }
    f.expect("hidden_activation", "gelu_pytorch_tanh")?;
    let defaults = LlamaLike {
        kv_heads: Some(16),
        ..defaults(f, "gemma")?
    };
    let mut spec = defaults.read(f)?;
    common(&mut spec);
    Ok(spec)
}

fn gemma2(f: &Fields<'_>) -> Result<Spec> {
    f.expect("hidden_act", "gelu_pytorch_tanh")?;
    let defaults = LlamaLike {
        kv_heads: Some(4),
        ..defaults(f, "gemma2")?
    };
    let mut spec = defaults.read(f)?;
    let sliding = sliding_layers(f, spec.layers.len(), |l| l.is_multiple_of(2))?;
    from_2_on(f, &mut spec, &sliding, [Some(50.0), Some(30.0)])?;
    Ok(spec)
}

fn gemma3(f: &Fields<'_>) -> Result<Spec> {
    f.expect("hidden_act", "gelu_pytorch_tanh")?;
    let defaults = LlamaLike {
        vocab_size: Some(262_208),
        heads: Some(8),
        kv_heads: Some(4),
        max_positions: 131_072,
        ..defaults(f, "gemma3_text")?
    };
    let mut attention = defaults.attention(f)?;
    attention.qk_norm = Some(QkNorm::Head);
    let max_positions = defaults.max_positions(f)?;
    let rope = |p, theta| {
        let keys = RopeKeys {
            theta,
            partial: None,
        };
        RopeSpec::read_from(f, p, attention.head_dim, max_positions, &keys)
    };
    // Scaling is for full attention; sliding layers have a base of their own.
    let (full, sliding) = match f.object("rope_parameters")? {
        Some(p) => {
            let pair = (p.object("full_attention")?, p.object("sliding_attention")?);
            p.finish(&[])?;
            pair
        }
        None => (f.object("rope_scaling")?, None),
    };
    let ropes = vec![
        rope(full, ("rope_theta", 1e6))?,
        rope(sliding, ("rope_local_base_freq", 1e4))?,
    ];
    let mut spec = defaults.read_with(f, attention, ropes)?;
    spec.names.norms.query = Some("self_attn.q_norm");
    spec.names.norms.key = Some("self_attn.k_norm");
    let pattern = f.opt_size("sliding_window_pattern")?.unwrap_or(6);
    let sliding = sliding_layers(f, spec.layers.len(), |l| !(l + 1).is_multiple_of(pattern))?;
    from_2_on(f, &mut spec, &sliding, [None, None])?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.rope = Some(usize::from(sliding));
    }
    Ok(spec)
}

fn gemma3_vision(f: &Fields<'_>) -> Result<Spec> {
    let missing = || f.error("text_config", "required, but missing");
    let text = f.object("text_config")?.ok_or_else(missing)?;
    let mut spec = gemma3(&text)?;
    text.finish(GEMMA3.inert)?;
    spec.family = GEMMA3_VISION.model_type;
    spec.tied = f.bool_or("tie_word_embeddings", true)?;
    spec.names.base = "language_model.model.";
    spec.names.head = "language_model.lm_head.weight";
    spec.names.modules = ["model.language_model.", "lm_head.weight"];
    Ok(spec)
}

/// What Gemma 2 and 3 share. `softcaps`: of scores and logits, where the config says nothing (null is none).
fn from_2_on(
    f: &Fields<'_>,
    spec: &mut Spec,
    sliding: &[bool],
    softcaps: [Option<f32>; 2],
) -> Result<()> {
    common(spec);
    let softcap = |name, default: Option<f32>| -> Result<Option<f32>> {
        let default = default.filter(|_| !f.is_null(name));
        Ok(f.opt_positive(name)?.or(default))
    };
    spec.attention.softcap = softcap("attn_logit_softcapping", softcaps[0])?;
    spec.logit_softcap = softcap("final_logit_softcapping", softcaps[1])?;
    let scalar = f.opt_positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    let window = window(f)?;
    for (layer, &sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.scale = 1.0 / scalar.sqrt();
        layer.window = window.filter(|_| sliding);
    }
    spec.names.norms = LayerNorms {
        attn_out: Some("post_attention_layernorm"),
        mlp_in: Some("pre_feedforward_layernorm"),
        mlp_out: Some("post_feedforward_layernorm"),
        ..spec.names.norms
    };
    Ok(())
}
