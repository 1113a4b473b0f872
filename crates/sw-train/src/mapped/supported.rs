//! Which models the backward pass knows.

use sw_model::{Activation, Linear, LinearAt, Model, Norm};

use crate::error::{Error, Result};

/// The linear maps of a layer that the backward pass knows.
pub const MAPS: [Linear; 7] = [
    Linear::Q,
    Linear::K,
    Linear::V,
    Linear::O,
    Linear::Gate,
    Linear::Up,
    Linear::Down,
];

/// Whether the backward pass knows this model: Llama 1 to 3, SmolLM2, Mistral, Qwen2 and others whose layers are RMSNorm,
/// grouped rotary attention and SwiGLU, each with one matrix per linear map.
///
/// # Errors
/// [`Error::Unsupported`] names the first thing that it does not know.
pub fn check(model: &Model) -> Result<()> {
    let spec = model.spec();
    let (attention, norms) = (&spec.attention, &spec.names.norms);
    let maps = |l: usize| MAPS.map(|linear| LinearAt::dense(l, linear));
    let missing = |l: usize| maps(l).into_iter().any(|at| spec.slot(at).is_none());
    let unknown = [
        (
            !matches!(spec.norm, Norm::Rms { .. }),
            "another norm than RMSNorm",
        ),
        (
            spec.layers.iter().any(|layer| layer.experts.is_some()),
            "a mixture of experts",
        ),
        (spec.parallel, "attention and MLP side by side"),
        (
            !spec.gated || spec.activation != Activation::Silu,
            "another MLP than SwiGLU",
        ),
        (
            attention.qk_norm.is_some() || norms.query.is_some(),
            "a norm of queries and keys",
        ),
        (
            attention.clip.is_some(),
            "clipping of queries, keys and values",
        ),
        (
            attention.softcap.is_some() || spec.logit_softcap.is_some(),
            "a soft cap",
        ),
        (
            norms.attn_out.is_some() || norms.mlp_out.is_some(),
            "a norm after a block",
        ),
        (
            norms.attn_in.is_none() || norms.mlp_in.is_none(),
            "a block without a norm before it",
        ),
        (spec.names.positions.is_some(), "learned positions"),
        (
            (0..spec.layers.len()).any(missing),
            "linear maps that share a matrix",
        ),
    ];
    match unknown.into_iter().find(|(found, _)| *found) {
        None => Ok(()),
        Some((_, what)) => Err(Error::Unsupported {
            family: spec.family,
            what,
        }),
    }
}
