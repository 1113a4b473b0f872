//! What is measured at every saved step: loss, the strongest spike, what its weight is worth, and the sinks.

use std::fmt::Write as _;

use ndarray::{Array2, ArrayView2, Axis};

use crate::error::Result;
use sw_train::{Batch, Tape, forward, scores};
use sw_train::{Params, Part, Tensor};

/// One row of `emergence.csv`.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Steps done.
    pub step: usize,
    /// Tokens seen.
    pub tokens: usize,
    /// Mean negative log-likelihood of the held-out batch, in nats.
    pub nll: f64,
    /// Share of its tokens that are the most probable ones.
    pub greedy: f64,
    /// Block of the candidate: the `down_proj` entry behind the largest output spike at BOS.
    pub layer: usize,
    /// Output channel of the candidate.
    pub row: usize,
    /// Input channel of the candidate.
    pub col: usize,
    /// The candidate's value.
    pub value: f32,
    /// `down_proj` input at BOS in the candidate's channel.
    pub down_in: f32,
    /// `down_proj` output at BOS in the candidate's channel.
    pub down_out: f32,
    /// The largest |output| of the block over the median |output| of all its tokens and channels.
    pub spike_ratio: f32,
    /// Loss with the candidate at zero.
    pub nll_pruned: f64,
    /// Greedy share with the candidate at zero.
    pub greedy_pruned: f64,
    /// Loss with the 100 largest other entries of the linear maps at zero.
    pub nll_others: f64,
    /// Per block, mean attention that tokens from the eighth on pay to BOS and breaks.
    pub sinks: Vec<f64>,
}

impl Measurement {
    /// The CSV's header for a model with this many blocks.
    pub fn header(layers: usize) -> String {
        let mut text = String::from(
            "step,tokens,nll,greedy,layer,row,col,value,down_in,down_out,spike_ratio,nll_pruned,greedy_pruned,perplexity_factor,nll_100_others",
        );
        for l in 0..layers {
            let _ = write!(text, ",sink_{l}");
        }
        text
    }

    /// How many times the perplexity grows without the candidate.
    pub fn factor(&self) -> f64 {
        (self.nll_pruned - self.nll).exp()
    }

    /// The CSV's line.
    pub fn line(&self) -> String {
        let mut text = format!(
            "{},{},{:.5},{:.4},{},{},{},{:.5},{:.3},{:.3},{:.1},{:.5},{:.4},{:.3},{:.5}",
            self.step,
            self.tokens,
            self.nll,
            self.greedy,
            self.layer,
            self.row,
            self.col,
            self.value,
            self.down_in,
            self.down_out,
            self.spike_ratio,
            self.nll_pruned,
            self.greedy_pruned,
            self.factor(),
            self.nll_others
        );
        for sink in &self.sinks {
            let _ = write!(text, ",{sink:.4}");
        }
        text
    }
}

/// Measures `params` on `batch`, whose sequences begin with BOS; `breaks` is the token between documents.
///
/// # Errors
/// If the batch does not fit the model.
pub fn measure(
    params: &Params,
    batch: &Batch,
    breaks: u32,
    step: usize,
    tokens: usize,
) -> Result<Measurement> {
    let tape = forward(params, batch)?;
    let (nll, greedy) = summary(&tape, batch);
    // The earliest block whose largest output at BOS stands out most against its other outputs.
    let mut best = (0, 0, 0, 0.0f32);
    for (l, block) in tape.blocks.iter().enumerate() {
        let out = block.down_out.row(0);
        let row = largest(out.iter().copied());
        let ratio = out[row].abs() / median(block.down_out.view()).max(f32::MIN_POSITIVE);
        if ratio > best.3 {
            best = (l, row, 0, ratio);
        }
    }
    let (layer, row, _, spike_ratio) = best;
    let block = &tape.blocks[layer];
    let down = params.part(layer, Part::Down);
    let terms = block
        .down_in()
        .row(0)
        .iter()
        .zip(down.row(row))
        .map(|(x, w)| x * w)
        .collect::<Vec<_>>();
    let col = largest(terms.into_iter());
    let (value, down_in, down_out) = (
        down[(row, col)],
        block.down_in()[(0, col)],
        block.down_out[(0, row)],
    );
    let sinks = tape
        .blocks
        .iter()
        .map(|block| sink(block.probs.view(), batch, breaks, params.shape().heads));
    let sinks = sinks.collect();
    drop(tape);

    let mut pruned = params.clone();
    pruned.get_mut(Tensor::Block(layer, Part::Down))[(row, col)] = 0.0;
    let (nll_pruned, greedy_pruned) = summary(&forward(&pruned, batch)?, batch);
    let others = without_largest(&pruned, 100, (layer, row, col, value));
    let (nll_others, _) = summary(&forward(&others, batch)?, batch);
    Ok(Measurement {
        step,
        tokens,
        nll,
        greedy,
        layer,
        row,
        col,
        value,
        down_in,
        down_out,
        spike_ratio,
        nll_pruned,
        greedy_pruned,
        nll_others,
        sinks,
    })
}

/// Mean loss and greedy share.
fn summary(tape: &Tape, batch: &Batch) -> (f64, f64) {
    let scored = scores(tape.logits.view(), &batch.targets);
    let n = scored.len().max(1) as f64;
    let nll = scored.iter().map(|s| -f64::from(s.0)).sum::<f64>() / n;
    (nll, scored.iter().filter(|s| s.1).count() as f64 / n)
}

/// The weights with the `n` largest entries of the linear maps at zero and the entry `keep` back at its value.
fn without_largest(pruned: &Params, n: usize, keep: (usize, usize, usize, f32)) -> Params {
    let mut params = pruned.clone();
    let mut all: Vec<(f32, Tensor, usize)> = Vec::new();
    for (tensor, w) in pruned.iter().filter(|(tensor, _)| tensor.is_linear()) {
        all.extend(w.iter().enumerate().map(|(i, v)| (v.abs(), tensor, i)));
    }
    let n = n.min(all.len());
    if n > 0 {
        all.select_nth_unstable_by(n - 1, |a, b| b.0.total_cmp(&a.0));
    }
    for &(_, tensor, i) in &all[..n] {
        let w = params.get_mut(tensor);
        let at = (i / w.ncols(), i % w.ncols());
        w[at] = 0.0;
    }
    let (layer, row, col, value) = keep;
    params.get_mut(Tensor::Block(layer, Part::Down))[(row, col)] = value;
    params
}

fn sink(probs: ndarray::ArrayView3<f32>, batch: &Batch, breaks: u32, heads: usize) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for (i, p) in probs.axis_iter(Axis(0)).enumerate() {
        let tokens = &batch.inputs[i / heads * batch.len..][..batch.len];
        let marked: Vec<usize> = (0..batch.len)
            .filter(|&t| tokens[t] == 0 || tokens[t] == breaks)
            .collect();
        for row in p.rows().into_iter().skip(8) {
            sum += marked.iter().map(|&t| f64::from(row[t])).sum::<f64>();
            count += 1;
        }
    }
    sum / count.max(1) as f64
}

fn largest(values: impl Iterator<Item = f32>) -> usize {
    let best = values.enumerate().fold((0, -1.0f32), |best, (i, v)| {
        if v.abs() > best.1 { (i, v.abs()) } else { best }
    });
    best.0
}

fn median(values: ArrayView2<f32>) -> f32 {
    let values: Array2<f32> = values.mapv(f32::abs);
    let mut values: Vec<f32> = values.into_iter().collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}
