//! GPT-2: learned positions, LayerNorm with biases, a plain MLP, matrices stored transposed.

use super::{Family, activation, llama::attention};
use crate::{
    config::Fields,
    edit::Linear,
    error::Result,
    spec::{LayerNorms, LayerSpec, Names, Norm, QkvLayout, Slot, Spec},
};

pub(super) const FAMILY: Family = Family {
    model_type: "gpt2",
    read,
    inert: &[
        "n_ctx",
        "reorder_and_upcast_attn",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
};

fn read(f: &Fields<'_>) -> Result<Spec> {
    f.expect("add_cross_attention", false)?;
    let hidden_size = f.size("n_embd")?;
    let heads = f.size("n_head")?;
    let attention = attention(f, ["n_head", "n_embd"], heads, heads, None)?;
    let (scaled, by_layer) = (
        f.bool_or("scale_attn_weights", true)?,
        f.bool_or("scale_attn_by_inverse_layer_idx", false)?,
    );
    let layer = |l: usize| {
        let usual = LayerSpec::new(attention.head_dim);
        let scale = if scaled { usual.scale } else { 1.0 };
        LayerSpec {
            rope: None,
            scale: if by_layer {
                scale / (l + 1) as f32
            } else {
                scale
            },
            ..usual
        }
    };
    let slot = |module| Slot { module, bias: true };
    Ok(Spec {
        family: "gpt2",
        vocab_size: f.size("vocab_size")?,
        hidden_size,
        intermediate_size: f.opt_size("n_inner")?.unwrap_or(4 * hidden_size),
        max_positions: f.opt_size("n_positions")?.unwrap_or(1024),
        layers: (0..f.layers("n_layer")?).map(layer).collect(),
        norm: Norm::Layer {
            eps: f.f32_or("layer_norm_epsilon", 1e-5)?,
            affine: true,
        },
        attention,
        ropes: Vec::new(),
        activation: activation(f, "activation_function", "gelu_new")?,
        gated: false,
        parallel: false,
        embed_scale: None,
        logit_softcap: None,
        tied: f.bool_or("tie_word_embeddings", true)?,
        names: Names {
            base: "transformer.",
            embed: "wte.weight",
            positions: Some("wpe.weight"),
            head: "lm_head.weight",
            final_norm: "ln_f",
            layer: "h.{}.",
            norms: LayerNorms {
                attn_in: Some("ln_1"),
                mlp_in: Some("ln_2"),
                ..LayerNorms::default()
            },
            linears: vec![
                (Linear::Qkv, slot("attn.c_attn")),
                (Linear::O, slot("attn.c_proj")),
                (Linear::Up, slot("mlp.c_fc")),
                (Linear::Down, slot("mlp.c_proj")),
            ],
            router: "",
            mix: "",
            expert_linears: Vec::new(),
            qkv_layout: QkvLayout::Blocks,
            transposed: true,
            modules: ["transformer.", "lm_head.weight"],
        },
    })
}
