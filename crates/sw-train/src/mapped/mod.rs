//! The backward pass of an opened model: weights stay where they are mapped, in whatever type they are stored.
//!
//! The forward pass is sw-model's own, with a hook that keeps what the way back needs; the way back reads each matrix a few
//! columns at a time. In memory are the tape (per layer and token twice the hidden channels, twice those of the queries and twice
//! those of the keys, in f32), what one layer works in, logits of 128 rows, and never more than one matrix in f32.
//!
//! Gradients go to a [`Gradients`], as the two factors of their product: who wants some of a matrix computes no more.

mod attention;
mod layer;
mod supported;
mod tape;

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;
use sw_model::{LinearAt, Mat, Model, Seq, Site};
use sw_tensor::product;

use crate::error::{Error, Result};
use layer::LayerPass;
use tape::Tape;

pub use supported::check;

/// Columns of a matrix that a thread widens at a time; fixed, so that sums do not depend on the number of threads.
pub(crate) const PANEL: usize = 64;

/// Rows of logits that are in memory at a time.
const LOGIT_ROWS: usize = 128;

/// Who takes the gradients of a pass. They come from the output back to the input; what is not overridden is not kept.
pub trait Gradients {
    /// A linear map `y = x w^T`, whose gradient is `dy^T x`: `dy` is `[tokens, output channels]`, `x` is
    /// `[tokens, input channels]`.
    fn linear(&mut self, at: LinearAt, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>);

    /// The output head, as [`linear`](Self::linear); comes several times, for some rows each, and the gradient is their sum.
    /// A tied head's gradient is one part of the embedding's.
    fn head(&mut self, _dy: ArrayView2<'_, f32>, _x: ArrayView2<'_, f32>) {}

    /// The weight of the norm that is read at this site, `[channels]`.
    fn norm(&mut self, _at: Site, _gradient: ArrayView1<'_, f32>) {}

    /// The embedding: the gradient of the row of each token, `[tokens, hidden]`.
    fn embedding(&mut self, _tokens: &[u32], _gradient: ArrayView2<'_, f32>) {}

    /// The lowest layer whose gradients are wanted: the way back ends there, nothing of lower ones is kept, and [`embedding`](Self::embedding) comes only
    /// where it is 0.
    fn lowest_layer(&self) -> usize {
        0
    }
}

/// Runs `texts` through the model and back; returns the loss, the mean negative log-likelihood in nats of every token but the
/// first of each text, of which `into` gets the gradients.
///
/// The texts are one batch, whose tape is in memory. Results do not depend on the number of threads.
///
/// # Errors
/// [`Error::Unsupported`] names what the backward pass does not know of this model ([`check`] says so beforehand); errors of
/// the forward pass; texts without a second token.
pub fn backward(model: &Model, texts: &[&[u32]], into: &mut impl Gradients) -> Result<f64> {
    check(model)?;
    let scored: usize = texts.iter().map(|text| text.len().saturating_sub(1)).sum();
    if scored == 0 {
        return Err(Error::Shape(
            "no text has a second token, so there is nothing to predict".into(),
        ));
    }
    let seqs: Vec<Seq<'_>> = texts.iter().map(|&text| Seq::from(text)).collect();
    let lens: Vec<usize> = texts.iter().map(|text| text.len()).collect();
    let mut tape = Tape::new(model.spec().layers.len(), into.lowest_layer());
    let rows = model.forward(&seqs, &mut tape)?;
    let (nll, dnormed) = head(model, texts, rows.view(), scored, into)?;
    drop(rows);

    let mut dresid = Array2::zeros(dnormed.dim());
    let pass = LayerPass::new(model, lens)?;
    pass.norm(
        Site::FinalNorm,
        tape.last.view(),
        dnormed.view(),
        &mut dresid,
        into,
    )?;
    for (l, kept) in tape.layers.into_iter().enumerate().rev() {
        if l < into.lowest_layer() {
            return Ok(nll);
        }
        pass.back(l, kept, &mut dresid, into)?;
    }
    if let Some(scale) = model.spec().embed_scale {
        dresid *= scale;
    }
    into.embedding(&texts.concat(), dresid.view());
    Ok(nll)
}

/// The loss, and its gradient with respect to the rows after the final norm.
fn head(
    model: &Model,
    texts: &[&[u32]],
    rows: ArrayView2<'_, f32>,
    scored: usize,
    into: &mut impl Gradients,
) -> Result<(f64, Array2<f32>)> {
    let share = 1.0 / scored as f32;
    let mut drows = Array2::zeros(rows.dim());
    let (mut nll, mut first) = (0.0, 0);
    for text in texts {
        let predicting = first..first + text.len() - 1;
        first += text.len();
        for start in predicting.clone().step_by(LOGIT_ROWS) {
            let block = Slice::from(start..predicting.end.min(start + LOGIT_ROWS));
            let x = rows.slice_axis(Axis(0), block);
            let targets = &text[1 + start - predicting.start..];
            let mut logits = model.logits(x)?;
            // d nll / d logits = softmax - onehot.
            let of_rows = logits.axis_iter_mut(Axis(0)).into_par_iter();
            let each: Vec<f64> = of_rows
                .zip(targets)
                .map(|(mut row, &target)| {
                    let row = row.as_slice_mut().unwrap_or(&mut []);
                    let sum = sw_tensor::log_sum_exp(row);
                    let own = f64::from(row[target as usize]);
                    row.iter_mut()
                        .for_each(|v| *v = share * (f64::from(*v) - sum).exp() as f32);
                    row[target as usize] -= share;
                    sum - own
                })
                .collect();
            nll += each.iter().sum::<f64>();
            into.head(logits.view(), x);
            let dx = drows.slice_axis_mut(Axis(0), block);
            to_input(logits.view(), model.head(), dx);
        }
    }
    Ok((nll / scored as f64, drows))
}

/// `dx += dy * w`: `[tokens, out] x [out, in] -> [tokens, in]`, for a matrix of any type.
fn to_input(dy: ArrayView2<'_, f32>, w: &Mat, mut dx: ArrayViewMut2<'_, f32>) {
    let panels = dx.axis_chunks_iter_mut(Axis(1), PANEL).into_par_iter();
    panels.enumerate().for_each(|(i, dx)| {
        let panel = widened(w, i * PANEL..i * PANEL + dx.ncols());
        product(1.0, dy, panel.view(), 1.0, dx);
    });
}

/// Columns of a matrix in f32.
pub(crate) fn widened(w: &Mat, cols: std::ops::Range<usize>) -> Array2<f32> {
    let mut panel = Array2::zeros((w.rows(), cols.len()));
    if let Some(panel) = panel.as_slice_mut() {
        w.widen(0..w.rows(), cols, panel);
    }
    panel
}
