//! Which weights a loss is most sensitive to, by one pass forward and back.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;
use sw_model::{LinearAt, Mat, Model, WeightCoord};
use sw_tensor::product;

use crate::error::{Error, Result};
use crate::mapped::{self, Gradients, PANEL, widened};

/// A weight and what the gradient says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Screened {
    /// Which weight.
    pub at: WeightCoord,
    /// Its value.
    pub value: f32,
    /// The derivative of the loss with respect to it, in nats per token and unit of weight.
    pub gradient: f32,
    /// `|value * gradient|`: what zeroing the weight would change in the loss if the loss were linear in it, in nats per token.
    pub score: f32,
}

/// The `top` weights of the layers' linear maps with the highest `|w * dL/dw|`, the highest first (equal ones in the order of
/// their coordinates), by one pass forward and back over `texts`, which are one batch. `L` is the mean negative log-likelihood
/// of every token but the first of each text.
///
/// The gradient of no more than one matrix is in memory at a time. The result does not depend on the number of threads. The
/// score is of first order (before its normalization it is the saliency of SNIP, arXiv 1810.02340): a weight whose effect is large
/// and far from linear may have a small one, so what is found is to be zeroed and measured.
///
/// # Errors
/// [`Error::Unsupported`] where the backward pass does not know the model; see [`mapped::backward`]. A gradient that is not
/// finite, with the map where it is.
pub fn screen(model: &Model, texts: &[&[u32]], top: usize) -> Result<Vec<Screened>> {
    let mut screening = Screening {
        model,
        best: Best::new(top),
        bad: None,
    };
    mapped::backward(model, texts, &mut screening)?;
    match screening.bad {
        Some(at) => Err(Error::Shape(format!(
            "the gradient of {at} is not finite on these texts"
        ))),
        None => Ok(screening.best.sorted()),
    }
}

struct Screening<'m> {
    model: &'m Model,
    best: Best,
    /// A map whose gradient is not finite.
    bad: Option<LinearAt>,
}

impl Gradients for Screening<'_> {
    fn linear(&mut self, at: LinearAt, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        let Some(w) = self.model.weight_at(at) else {
            return;
        };
        let (top, least) = (self.best.top, self.best.least());
        let panels = x.axis_chunks_iter(Axis(1), PANEL).into_par_iter();
        let found: Vec<Option<Best>> = panels
            .enumerate()
            .map(|(i, x)| panel(at, w, dy, x, i * PANEL, Best::above(top, least)))
            .collect();
        for panel in found {
            match panel {
                Some(panel) => self.best.join(panel),
                None => self.bad = Some(at),
            }
        }
    }
}

/// The best of some columns of a map; `None` where a gradient is not finite.
fn panel(
    at: LinearAt,
    w: &Mat,
    dy: ArrayView2<'_, f32>,
    x: ArrayView2<'_, f32>,
    first: usize,
    mut best: Best,
) -> Option<Best> {
    let w = widened(w, first..first + x.ncols());
    let mut gradient = Array2::zeros(w.dim());
    product(1.0, dy.t(), x, 0.0, gradient.view_mut());
    let mut finite = true;
    for ((row, col), &gradient) in gradient.indexed_iter() {
        let value = w[(row, col)];
        let score = (value * gradient).abs();
        finite &= score.is_finite();
        if score >= best.floor {
            best.push(Screened {
                at: WeightCoord {
                    layer: at.layer,
                    linear: at.linear,
                    expert: at.expert,
                    row,
                    col: first + col,
                },
                value,
                gradient,
                score,
            });
        }
    }
    finite.then_some(best)
}

/// The best so far, the worst of them at hand.
struct Best {
    top: usize,
    heap: BinaryHeap<Reverse<Ranked>>,
    /// A score below this one has no place.
    floor: f32,
}

impl Best {
    fn new(top: usize) -> Best {
        Best::above(top, 0.0)
    }

    /// For scores that are not below `floor`.
    fn above(top: usize, floor: f32) -> Best {
        Best {
            top,
            heap: BinaryHeap::new(),
            floor,
        }
    }

    fn least(&self) -> f32 {
        self.floor
    }

    fn push(&mut self, new: Screened) {
        self.heap.push(Reverse(Ranked(new)));
        if self.heap.len() > self.top {
            self.heap.pop();
        }
        if self.heap.len() == self.top
            && let Some(Reverse(Ranked(worst))) = self.heap.peek()
        {
            self.floor = worst.score.max(self.floor);
        }
    }

    fn join(&mut self, other: Best) {
        for Reverse(Ranked(new)) in other.heap {
            self.push(new);
        }
    }

    fn sorted(self) -> Vec<Screened> {
        let mut all: Vec<Ranked> = self.heap.into_iter().map(|Reverse(r)| r).collect();
        all.sort_by(|a, b| b.cmp(a));
        all.into_iter().map(|Ranked(s)| s).collect()
    }
}

/// Ordered by score; of equal ones the first coordinate is the greater.
struct Ranked(Screened);

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = self.0.score.total_cmp(&other.0.score);
        by_score.then_with(|| other.0.at.cmp(&self.0.at))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}
