//! The backward pass of an opened model: weights stay where they are mapped, in whatever type they are stored.
//!
//! The forward pass is sw-model's own, with a hook that keeps what the way back needs; the way back reads each matrix a few
//! columns at a time. In memory are the tape (per layer and token twice the hidden channels, twice those of the queries and twice
//! those of the keys, in f32), what one layer works in, logits of 128 rows, and never more than one matrix in f32. What the
//! attention's output projection reads is a part of the tape as far as its gradient is asked for ([`Keep`]).
//!
//! Gradients go to a [`Gradients`], as the two factors of their product: who wants some of a matrix computes no more.

mod attention;
mod layer;
mod supported;
mod tape;
mod text;

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;
use sw_model::{LinearAt, Mat, Model, Seq, Site};
use sw_tensor::product;

use crate::error::{Error, Result};
use layer::LayerPass;
use tape::Tape;

pub use supported::{MAPS, check};
pub use text::{Keep, Text};

/// Columns of a matrix that a thread widens at a time; fixed, so that sums do not depend on the number of threads.
pub(crate) const PANEL: usize = 64;

/// Rows of logits that are in memory at a time.
const LOGIT_ROWS: usize = 128;

/// Who takes the gradients of a pass. They come from the output back to the input; what is not overridden is not kept.
pub trait Gradients {
    /// A linear map `y = x w^T`, whose gradient is `dy^T x`: `dy` is `[tokens, output channels]`, `x` is
    /// `[tokens, input channels]`.
    fn linear(&mut self, at: LinearAt, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>);

    /// What of a linear map's input its gradient needs; where nothing, [`linear`](Self::linear) does not come.
    fn keep(&self, _at: LinearAt) -> Keep {
        Keep::All
    }

    /// The output head, as [`linear`](Self::linear); comes several times, for some rows each, and the gradient is their sum.
    /// A tied head's gradient is one part of the embedding's.
    fn head(&mut self, _dy: ArrayView2<'_, f32>, _x: ArrayView2<'_, f32>) {}

    /// The weight of the norm that is read at this site, `[channels]`.
    fn norm(&mut self, _at: Site, _gradient: ArrayView1<'_, f32>) {}

    /// The embedding: the gradient of the row of each token, `[tokens, hidden]`. Tokens from the vocabulary's size on are
    /// [virtual](Model::virtual_tokens).
    fn embedding(&mut self, _tokens: &[u32], _gradient: ArrayView2<'_, f32>) {}

    /// Bytes of the tape of the pass, which comes between the way forth and the way back.
    fn tape(&mut self, _bytes: usize) {}

    /// The lowest layer whose gradients are wanted: the way back ends there, nothing of lower ones is kept, and
    /// [`embedding`](Self::embedding) comes only where it is 0. Where it is `usize::MAX`, there is no way back, and only
    /// [`head`](Self::head) comes.
    fn lowest_layer(&self) -> usize {
        0
    }
}

/// Runs `texts` through the model and back; returns the loss, the mean negative log-likelihood in nats of every token that is
/// predicted (all but the first of each text, and the prompt of a [`Text`]), of which `into` gets the gradients.
///
/// The texts are one batch, whose tape is in memory. Results do not depend on the number of threads.
///
/// # Errors
/// [`Error::Unsupported`] names what the backward pass does not know of this model ([`check`] says so beforehand); errors of
/// the forward pass; texts of which no token is predicted.
pub fn backward<'t, T: Copy + Into<Text<'t>>>(
    model: &Model,
    texts: &[T],
    into: &mut impl Gradients,
) -> Result<f64> {
    let scored = texts.iter().map(|&text| text.into().scored()).sum();
    backward_part(model, texts, scored, into)
}

/// [`backward`] of a part of a batch of which `scored` tokens are predicted in all: losses and gradients of the parts add up to
/// those of the batch.
///
/// # Errors
/// As [`backward`].
pub fn backward_part<'t, T: Copy + Into<Text<'t>>>(
    model: &Model,
    texts: &[T],
    scored: usize,
    into: &mut impl Gradients,
) -> Result<f64> {
    check(model)?;
    let texts: Vec<Text<'t>> = texts.iter().map(|&text| text.into()).collect();
    if scored == 0 || texts.iter().all(|text| text.scored() == 0) {
        return Err(Error::Shape(
            "no text has a second token, or one after its prompt, so there is nothing to predict"
                .into(),
        ));
    }
    let vocab = model.spec().vocab_size;
    let predicted = |text: &Text<'t>| text.tokens[text.predicted()].iter().copied();
    if let Some(id) = texts
        .iter()
        .flat_map(predicted)
        .find(|&id| id as usize >= vocab)
    {
        return Err(Error::Shape(format!(
            "token id {id}, which is to be predicted, is virtual or beyond the vocabulary of {vocab} tokens"
        )));
    }
    let seqs: Vec<Seq<'_>> = texts.iter().map(|text| Seq::from(text.tokens)).collect();
    let lens: Vec<usize> = texts.iter().map(|text| text.tokens.len()).collect();
    let lowest = into.lowest_layer();
    let mut tape = Tape::new(model.spec().layers.len(), lowest, |at| into.keep(at));
    let rows = model.forward(&seqs, &mut tape)?;
    into.tape(tape.bytes());
    let (nll, dnormed) = head(model, &texts, rows.view(), scored, into)?;
    drop(rows);
    if lowest == usize::MAX {
        return Ok(nll);
    }

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
        if l < lowest {
            return Ok(nll);
        }
        pass.back(l, kept, &mut dresid, into)?;
    }
    if let Some(scale) = model.spec().embed_scale {
        dresid *= scale;
    }
    let tokens: Vec<u32> = texts.iter().flat_map(|text| text.tokens).copied().collect();
    into.embedding(&tokens, dresid.view());
    Ok(nll)
}

/// The loss, and its gradient with respect to the rows after the final norm.
fn head(
    model: &Model,
    texts: &[Text<'_>],
    rows: ArrayView2<'_, f32>,
    scored: usize,
    into: &mut impl Gradients,
) -> Result<(f64, Array2<f32>)> {
    let share = 1.0 / scored as f32;
    let mut drows = Array2::zeros(rows.dim());
    let (mut nll, mut first) = (0.0, 0);
    for text in texts {
        let predicted = text.predicted();
        // The row of a token predicts the next one.
        let predicting = first + predicted.start - 1..first + predicted.end - 1;
        first += text.tokens.len();
        for start in predicting.clone().step_by(LOGIT_ROWS) {
            let block = Slice::from(start..predicting.end.min(start + LOGIT_ROWS));
            let x = rows.slice_axis(Axis(0), block);
            let targets = &text.tokens[predicted.start + start - predicting.start..];
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
pub(crate) fn to_input(dy: ArrayView2<'_, f32>, w: &Mat, mut dx: ArrayViewMut2<'_, f32>) {
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
