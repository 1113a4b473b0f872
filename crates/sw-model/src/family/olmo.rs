//! OLMo: LayerNorm without parameters, clipped queries, keys and values. OLMo 2: norms after the blocks. OLMoE: experts.

use super::{Family, MOE_INERT, experts, llama::LlamaLike};
use crate::{
    config::Fields,
    error::Result,
    spec::{LayerNorms, Norm, QkNorm, Spec},
};

pub(super) const OLMO: Family = Family {
    model_type: "olmo",
    read: olmo,
    inert: &[],
};

pub(super) const OLMO2: Family = Family {
    model_type: "olmo2",
    read: olmo2,
    inert: &[],
};

pub(super) const OLMOE: Family = Family {
    model_type: "olmoe",
    read: olmoe,
    inert: MOE_INERT,
};

fn base(family: &'static str, f: &Fields<'_>, max_positions: usize) -> Result<Spec> {
    let defaults = LlamaLike {
        bias: [f.bool_or("attention_bias", false)?; 4],
        max_positions,
        eps: 1e-5,
        ..LlamaLike::new(family)
    };
    defaults.read(f)
}

fn olmo(f: &Fields<'_>) -> Result<Spec> {
    let mut spec = base("olmo", f, 2048)?;
    spec.norm = Norm::Layer {
        eps: 1e-5,
        affine: false,
    };
    spec.attention.clip = f.opt_positive("clip_qkv")?;
    Ok(spec)
}

fn olmo2(f: &Fields<'_>) -> Result<Spec> {
    let mut spec = base("olmo2", f, 2048)?;
    spec.attention.qk_norm = Some(QkNorm::Full);
    spec.names.norms = LayerNorms {
        query: Some("self_attn.q_norm"),
        key: Some("self_attn.k_norm"),
        attn_out: Some("post_attention_layernorm"),
        mlp_out: Some("post_feedforward_layernorm"),
        ..LayerNorms::default()
    };
    Ok(spec)
}

fn olmoe(f: &Fields<'_>) -> Result<Spec> {
    let mut spec = base("olmoe", f, 4096)?;
    spec.attention.clip = f.opt_positive("clip_qkv")?;
    spec.attention.qk_norm = Some(QkNorm::Full);
    spec.names.norms.query = Some("self_attn.q_norm");
    spec.names.norms.key = Some("self_attn.k_norm");
    let normalize = f.bool_or("norm_topk_prob", false)?;
    let experts = experts(f, 64, 8, normalize, spec.intermediate_size)?;
    for layer in &mut spec.layers {
        layer.experts = Some(experts);
    }
    Ok(spec)
}
