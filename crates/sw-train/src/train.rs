//! One optimiser step over a batch, in parallel and reproducibly.

use rayon::prelude::*;

use crate::adamw::AdamW;
use crate::error::{Error, Result};
use crate::gradient::{Gradient, Selection};
use crate::model::{Batch, IGNORE, backward};
use crate::params::{Params, Shape};

/// Sequences whose gradients one thread sums; fixed, so that sums do not depend on the number of threads.
const PIECE: usize = 2;

/// Mean negative log-likelihood of the batch in nats, and the gradient of `sum_t weight(nll_t) nll_t / targets`.
///
/// The batch is cut into pieces of two sequences whose gradients are added in their order: the result is the same for
/// any number of threads.
///
/// # Errors
/// If the batch does not fit the model.
pub fn gradient(
    params: &Params,
    batch: &Batch,
    weight: impl Fn(f32) -> f32 + Sync,
    selection: &Selection,
) -> Result<(f64, Gradient)> {
    let shape: &Shape = params.shape();
    let scored = batch
        .targets
        .iter()
        .filter(|&&t| t != IGNORE)
        .count()
        .max(1);
    let share = 1.0 / scored as f32;
    let pieces: Vec<Result<(f64, Gradient)>> = batch
        .pieces(PIECE)
        .into_par_iter()
        .map(|piece| {
            let mut gradient = Gradient::zeros(shape, selection);
            let nll = backward(
                params,
                &piece,
                |nll| share * weight(nll),
                selection,
                &mut gradient,
            )?;
            Ok((nll, gradient))
        })
        .collect();
    let mut pieces = pieces.into_iter();
    let (mut nll, mut sum) = pieces
        .next()
        .unwrap_or_else(|| Ok((0.0, Gradient::zeros(shape, selection))))?;
    for piece in pieces {
        let (more, gradient) = piece?;
        nll += more;
        sum.add(&gradient);
    }
    Ok((nll / scored as f64, sum))
}

/// Clips `gradient` to the Euclidean norm `clip` and takes one optimiser step with it; the norm before clipping.
///
/// # Errors
/// If the gradient is not finite; the weights are then unchanged.
pub fn step(
    params: &mut Params,
    optimizer: &mut AdamW,
    mut gradient: Gradient,
    clip: f64,
    rate: f32,
    number: usize,
) -> Result<f64> {
    let norm = gradient.norm();
    if !norm.is_finite() {
        return Err(Error::NotFinite {
            step: number,
            what: "gradient",
        });
    }
    if norm > clip {
        gradient.scale((clip / norm) as f32);
    }
    optimizer.step(params, &gradient, rate);
    Ok(norm)
}
