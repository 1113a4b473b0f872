//! Llama 1, 2 and 3.

use super::Family;
use crate::{
    config::Fields,
    error::Result,
    rope::RopeSpec,
    spec::{Activation, Attention, LayerSpec, Names, Norm, Slot, Spec},
};

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    read,
    inert: &[],
};

fn read(f: &Fields<'_>) -> Result<Spec> {
    let attention_bias = f.bool_or("attention_bias", false)?;
    let mlp_bias = f.bool_or("mlp_bias", false)?;
    llama_like("llama", f, [attention_bias; 4], mlp_bias, 2048)
}

/// The Llama block: pre-norm RMSNorm, rotary grouped attention, SwiGLU. `bias`: of the q, k, v and o projections.
pub(super) fn llama_like(
    family: &'static str,
    f: &Fields<'_>,
    bias: [bool; 4],
    mlp_bias: bool,
    default_positions: usize,
) -> Result<Spec> {
    let hidden_size = f.size("hidden_size")?;
    let max_positions = f
        .opt_size("max_position_embeddings")?
        .unwrap_or(default_positions);
    let heads = f.size("num_attention_heads")?;
    let attention = attention(
        f,
        heads,
        f.opt_size("num_key_value_heads")?.unwrap_or(heads),
        hidden_size,
    )?;
    f.expect("hidden_act", "silu")?;
    let layer = LayerSpec {
        window: None,
        rope: Some(0),
    };
    Ok(Spec {
        family,
        vocab_size: f.size("vocab_size")?,
        hidden_size,
        intermediate_size: f.size("intermediate_size")?,
        max_positions,
        layers: vec![layer; f.layers("num_hidden_layers")?],
        norm: Norm::Rms {
            eps: f.f32_or("rms_norm_eps", 1e-6)?,
        },
        attention,
        ropes: vec![RopeSpec::read(
            f,
            attention.head_dim,
            max_positions,
            10_000.0,
        )?],
        activation: Activation::Silu,
        gated: true,
        tied: f.bool_or("tie_word_embeddings", false)?,
        names: Names {
            embed: "model.embed_tokens.weight",
            head: "lm_head.weight",
            final_norm: "model.norm",
            layer: "model.layers.{}.",
            attn_in_norm: Some("input_layernorm"),
            mlp_in_norm: Some("post_attention_layernorm"),
            q: Slot::own("self_attn.q_proj", bias[0]),
            k: Slot::own("self_attn.k_proj", bias[1]),
            v: Slot::own("self_attn.v_proj", bias[2]),
            o: Slot::own("self_attn.o_proj", bias[3]),
            gate: Some(Slot::own("mlp.gate_proj", mlp_bias)),
            up: Slot::own("mlp.up_proj", mlp_bias),
            down: Slot::own("mlp.down_proj", mlp_bias),
        },
    })
}

/// Checks that heads, groups and head width fit together.
pub(super) fn attention(
    f: &Fields<'_>,
    heads: usize,
    kv_heads: usize,
    hidden_size: usize,
) -> Result<Attention> {
    let head_dim = match f.opt_size("head_dim")? {
        Some(dim) => dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let problem = format!(
                "{heads} heads do not divide hidden_size = {hidden_size}, and head_dim is not given"
            );
            return Err(f.error("num_attention_heads", problem));
        }
    };
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("{kv_heads} key-value heads do not divide {heads} attention heads");
        return Err(f.error("num_key_value_heads", problem));
    }
    if !head_dim.is_multiple_of(2) {
        return Err(f.error(
            "head_dim",
            format!("expected an even number for rotary embeddings, found {head_dim}"),
        ));
    }
    Ok(Attention {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
    })
}
