//! Qwen 2 and 2.5: biases on q, k and v. Qwen 3: norms of queries and keys instead, also with experts.

use super::{Family, experts, llama::LlamaLike, sliding_layers, window};
use crate::{
    config::Fields,
    error::Result,
    spec::{QkNorm, Spec},
};

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    read: qwen2,
    inert: &[],
};

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3",
    read: qwen3,
    inert: &[],
};

pub(super) const QWEN3_MOE: Family = Family {
    model_type: "qwen3_moe",
    read: qwen3_moe,
    inert: &[
        "max_window_layers", // a window holds for all layers or none
        "output_router_logits",
        "router_aux_loss_coef",
    ],
};

fn qwen2(f: &Fields<'_>) -> Result<Spec> {
    f.expect("use_mrope", false)?;
    let defaults = LlamaLike {
        bias: [true, true, true, false],
        max_positions: 32768,
        kv_heads: Some(32),
        ..LlamaLike::new("qwen2")
    };
    let mut spec = defaults.read(f)?;
    windows(f, &mut spec)?;
    Ok(spec)
}

fn qwen3(f: &Fields<'_>) -> Result<Spec> {
    let mut spec = qwen3_block("qwen3", f, 32, Some(128))?;
    windows(f, &mut spec)?;
    Ok(spec)
}

fn qwen3_moe(f: &Fields<'_>) -> Result<Spec> {
    let mut spec = qwen3_block("qwen3_moe", f, 4, None)?;
    let inner = f.opt_size("moe_intermediate_size")?.unwrap_or(768);
    let normalize = f.bool_or("norm_topk_prob", false)?;
    let experts = experts(f, 128, 8, normalize, inner)?;
    let step = f.opt_size("decoder_sparse_step")?.unwrap_or(1);
    let dense = f.opt_list("mlp_only_layers")?.unwrap_or_default();
    let window = used_window(f)?;
    for (l, layer) in spec.layers.iter_mut().enumerate() {
        layer.window = window;
        let sparse = (l + 1).is_multiple_of(step) && !dense.iter().any(|d| *d == l);
        layer.experts = sparse.then_some(experts);
    }
    Ok(spec)
}

fn qwen3_block(
    family: &'static str,
    f: &Fields<'_>,
    kv_heads: usize,
    head_dim: Option<usize>,
) -> Result<Spec> {
    f.expect("use_qk_norm", true)?;
    let defaults = LlamaLike {
        bias: [f.bool_or("attention_bias", false)?; 4],
        max_positions: 32768,
        kv_heads: Some(kv_heads),
        head_dim,
        ..LlamaLike::new(family)
    };
    let mut spec = defaults.read(f)?;
    spec.attention.qk_norm = Some(QkNorm::Head);
    spec.names.norms.query = Some("self_attn.q_norm");
    spec.names.norms.key = Some("self_attn.k_norm");
    Ok(spec)
}

/// The window, which counts only where `use_sliding_window` says so.
fn used_window(f: &Fields<'_>) -> Result<Option<usize>> {
    let (used, window) = (f.bool_or("use_sliding_window", false)?, window(f)?);
    Ok(window.filter(|_| used))
}

/// Layers from `max_window_layers` on slide, unless `layer_types` says otherwise.
fn windows(f: &Fields<'_>, spec: &mut Spec) -> Result<()> {
    let window = used_window(f)?;
    let from = f.opt_size("max_window_layers")?.unwrap_or(28);
    let sliding = sliding_layers(f, spec.layers.len(), |l| l >= from)?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.window = window.filter(|_| sliding);
    }
    Ok(())
}
