//! One optimiser step over a batch, in parallel and reproducibly.

use rayon::prelude::*;

use crate::adamw::AdamW;
use crate::distill::Distill;
use crate::error::{Error, Result};
use crate::gradient::{Gradient, Selection};
use crate::mixture::{Load, Pass, Routing};
use crate::model::{Batch, Extra, IGNORE, backward_with};
use crate::params::Params;

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
    let plain = |_, _| Extra::default();
    let (losses, sum) = pieces(params, batch, weight, selection, PIECE, plain)?;
    Ok((losses.nll, sum))
}

/// What a model is trained for: the text, with the auxiliary loss of its experts, and perhaps a teacher.
#[derive(Clone, Copy, Debug)]
pub struct Objective<'a> {
    /// How its experts are routed.
    pub routing: &'a Routing,
    /// Whom it learns from beside the text.
    pub distill: Option<Distill<'a>>,
}

/// The parts of a loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Losses {
    /// Mean negative log-likelihood of the targets, in nats.
    pub nll: f64,
    /// Mean of `temperature^2 * KL` over the targets, before the teacher's weight; 0 without a teacher.
    pub kl: f64,
    /// What routing came to, by block; the auxiliary loss is the mean over pieces, weighted by their tokens.
    pub loads: Vec<Load>,
}

impl Losses {
    /// The auxiliary losses of all blocks together, before their factor.
    pub fn aux(&self) -> f64 {
        self.loads.iter().map(|l| l.aux).sum()
    }
}

/// The losses of the batch in the step `number` (counted from 0), and the gradient of
/// `nll + aux factor * sum of auxiliary losses + teacher's weight * kl`.
///
/// The batch is cut into pieces of [`Routing::sequences`], each routed by itself, whose gradients are added in their order: the result is
/// the same for any number of threads.
///
/// # Errors
/// If the batch does not fit the model, or the teacher does not fit the student.
pub fn objective_gradient(
    params: &Params,
    batch: &Batch,
    number: usize,
    objective: &Objective<'_>,
    selection: &Selection,
) -> Result<(Losses, Gradient)> {
    let Objective { routing, distill } = *objective;
    if let Some(distill) = &distill {
        distill.check(params)?;
    }
    let distill = distill.filter(|d| number < d.until);
    let all = batch.inputs.len();
    let each_counts = 1.0 / scored(batch) as f32;
    let extra = |piece, tokens: usize| Extra {
        pass: Some(Pass {
            routing,
            step: number,
            piece,
            share: tokens as f32 / all as f32,
        }),
        distill: distill.map(|d| (d, each_counts)),
    };
    pieces(params, batch, |_| 1.0, selection, routing.sequences, extra)
}

/// Targets of a batch, at least 1.
fn scored(batch: &Batch) -> usize {
    let scored = batch.targets.iter().filter(|&&t| t != IGNORE);
    scored.count().max(1)
}

/// Losses and gradient of a batch, piece by piece; `extra` is told the number of a piece and its tokens.
fn pieces<'a>(
    params: &Params,
    batch: &Batch,
    weight: impl Fn(f32) -> f32 + Sync,
    selection: &Selection,
    sequences: usize,
    extra: impl Fn(usize, usize) -> Extra<'a> + Sync,
) -> Result<(Losses, Gradient)> {
    let shape = params.shape();
    let (scored, all) = (scored(batch), batch.inputs.len().max(1) as f64);
    let share = 1.0 / scored as f32;
    let pieces: Vec<Result<(Losses, Gradient)>> = batch
        .pieces(sequences)
        .into_par_iter()
        .enumerate()
        .map(|(i, piece)| {
            let mut gradient = Gradient::zeros(shape, selection);
            let tokens = piece.inputs.len();
            let weight = |nll| share * weight(nll);
            let extra = extra(i, tokens);
            let sums = backward_with(params, &piece, weight, extra, selection, &mut gradient)?;
            let mut loads = sums.loads;
            loads
                .iter_mut()
                .for_each(|load| load.aux *= tokens as f64 / all);
            let losses = Losses {
                nll: sums.nll,
                kl: sums.kl,
                loads,
            };
            Ok((losses, gradient))
        })
        .collect();
    let mut pieces = pieces.into_iter();
    let (mut losses, mut sum) = pieces
        .next()
        .unwrap_or_else(|| Ok((Losses::default(), Gradient::zeros(shape, selection))))?;
    for piece in pieces {
        let (more, gradient) = piece?;
        losses.nll += more.nll;
        losses.kl += more.kl;
        let loads = losses.loads.iter_mut().zip(&more.loads);
        loads.for_each(|(mine, theirs)| mine.add(theirs));
        sum.add(&gradient);
    }
    losses.nll /= scored as f64;
    losses.kl /= scored as f64;
    Ok((losses, sum))
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
