//! GPT-NeoX and Pythia: attention and MLP side by side, partly rotated heads, q, k and v fused head by head.

use super::{Family, llama::LlamaLike};
use crate::{
    config::Fields,
    edit::Linear,
    error::Result,
    rope::RopeKeys,
    spec::{LayerNorms, Names, Norm, QkvLayout, Slot, Spec},
};

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neox",
    read,
    // Later versions of transformers repeat `rotary_emb_base` and `rotary_pct` under these names.
    inert: &["rope_theta", "partial_rotary_factor"],
};

fn read(f: &Fields<'_>) -> Result<Spec> {
    let defaults = LlamaLike {
        rope: RopeKeys {
            theta: ("rotary_emb_base", 10_000.0),
            partial: Some(("rotary_pct", 0.25)),
        },
        activation: ("hidden_act", "gelu"),
        ..LlamaLike::new("gpt_neox")
    };
    let mut spec = defaults.read(f)?;
    spec.norm = Norm::Layer {
        eps: f.f32_or("layer_norm_eps", 1e-5)?,
        affine: true,
    };
    spec.gated = false;
    spec.parallel = f.bool_or("use_parallel_residual", true)?;
    let attention_bias = f.bool_or("attention_bias", true)?;
    let slot = |module, bias| Slot { module, bias };
    spec.names = Names {
        base: "gpt_neox.",
        embed: "embed_in.weight",
        head: "embed_out.weight",
        final_norm: "final_layer_norm",
        norms: LayerNorms {
            attn_in: Some("input_layernorm"),
            mlp_in: Some("post_attention_layernorm"),
            ..LayerNorms::default()
        },
        linears: vec![
            (
                Linear::Qkv,
                slot("attention.query_key_value", attention_bias),
            ),
            (Linear::O, slot("attention.dense", attention_bias)),
            (Linear::Up, slot("mlp.dense_h_to_4h", true)),
            (Linear::Down, slot("mlp.dense_4h_to_h", true)),
        ],
        qkv_layout: QkvLayout::Heads,
        modules: ["gpt_neox.", "lm_head.weight"],
        ..spec.names
    };
    Ok(spec)
}
