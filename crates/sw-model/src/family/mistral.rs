//! Mistral: the Llama block with a sliding window. Mixtral: with a mixture of experts.

use super::{Family, MOE_INERT, experts, llama::LlamaLike, window};
use crate::{
    config::Fields,
    edit::Linear,
    error::Result,
    rope::RopeKeys,
    spec::{Slot, Spec},
};

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    read: mistral,
    inert: &[],
};

pub(super) const MIXTRAL: Family = Family {
    model_type: "mixtral",
    read: mixtral,
    inert: MOE_INERT,
};

fn mistral(f: &Fields<'_>) -> Result<Spec> {
    let defaults = LlamaLike {
        max_positions: 4096 * 32,
        kv_heads: Some(8),
        ..LlamaLike::new("mistral")
    };
    let mut spec = defaults.read(f)?;
    let window = window(f)?;
    for layer in &mut spec.layers {
        layer.window = window;
    }
    Ok(spec)
}

fn mixtral(f: &Fields<'_>) -> Result<Spec> {
    let defaults = LlamaLike {
        max_positions: 4096 * 32,
        eps: 1e-5,
        kv_heads: Some(8),
        rope: RopeKeys::theta(1e6),
        ..LlamaLike::new("mixtral")
    };
    f.expect("norm_topk_prob", true)?;
    let mut spec = defaults.read(f)?;
    let experts = experts(f, 8, 2, true, spec.intermediate_size)?;
    let window = f.opt_size("sliding_window")?;
    for layer in &mut spec.layers {
        layer.window = window;
        layer.experts = Some(experts);
    }
    let slot = |module| Slot {
        module,
        bias: false,
    };
    spec.names.router = "block_sparse_moe.gate.weight";
    spec.names.expert_linears = vec![
        (Linear::Gate, slot("block_sparse_moe.experts.{}.w1")),
        (Linear::Up, slot("block_sparse_moe.experts.{}.w3")),
        (Linear::Down, slot("block_sparse_moe.experts.{}.w2")),
    ];
    Ok(spec)
}
