//! A Llama model's forward pass, perhaps with experts, with everything kept that the way back needs, and the way back.

use ndarray::{Array1, Array2, Array3, ArrayView2, Axis};

use crate::attention::{self, Rope};
use crate::dense;
use crate::distill::Distill;
use crate::error::{Error, Result};
use crate::gradient::{Gradient, Selection};
use crate::mixture::{self, Load, MixtureTape, Pass};
use crate::norm;
use crate::params::{Params, Part, Shape, Tensor};
use crate::swiglu::{self, Place, Swiglu};

/// A target that is not scored.
pub const IGNORE: u32 = u32::MAX;

/// Sequences of one length, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Tokens of a sequence.
    pub len: usize,
    /// `[sequences * len]` tokens.
    pub inputs: Vec<u32>,
    /// The token that follows each input, or [`IGNORE`].
    pub targets: Vec<u32>,
}

impl Batch {
    /// The batch cut into pieces of at most `sequences` sequences.
    pub fn pieces(&self, sequences: usize) -> Vec<Batch> {
        let n = self.len.saturating_mul(sequences.max(1));
        let cut = self.inputs.chunks(n).zip(self.targets.chunks(n));
        cut.map(|(i, t)| Batch {
            len: self.len,
            inputs: i.to_vec(),
            targets: t.to_vec(),
        })
        .collect()
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        let n = self.inputs.len();
        if self.len == 0 || n == 0 || !n.is_multiple_of(self.len) || self.targets.len() != n {
            return Err(Error::Shape(format!(
                "a batch of sequences of {} tokens with {n} inputs and {} targets",
                self.len,
                self.targets.len()
            )));
        }
        let targets = self.targets.iter().filter(|&&t| t != IGNORE);
        match self
            .inputs
            .iter()
            .chain(targets)
            .find(|&&t| t as usize >= shape.vocab)
        {
            Some(t) => Err(Error::Shape(format!(
                "token {t} is not below the vocabulary of {}",
                shape.vocab
            ))),
            None => Ok(()),
        }
    }
}

/// What one block computed, `[tokens, ..]` each.
#[derive(Debug)]
pub struct BlockTape {
    /// Residual stream before the block.
    pub resid_pre: Array2<f32>,
    attn_inv: Array1<f32>,
    attn_in: Array2<f32>,
    q: Array2<f32>,
    k: Array2<f32>,
    v: Array2<f32>,
    /// Attention weights, `[sequences * heads, len, len]`.
    pub probs: Array3<f32>,
    o_in: Array2<f32>,
    /// Residual stream between attention and MLP.
    pub resid_mid: Array2<f32>,
    mlp_inv: Array1<f32>,
    mlp_in: Array2<f32>,
    mlp: Swiglu,
    /// Output of `down_proj`; no rows where experts have taken the MLP's place.
    pub down_out: Array2<f32>,
    experts: Option<MixtureTape>,
}

impl BlockTape {
    /// The normed rows that queries, keys and values are made of, `[tokens, hidden]`.
    pub(crate) fn normed(&self) -> ArrayView2<'_, f32> {
        self.attn_in.view()
    }

    /// Input of `down_proj`, `[tokens, intermediate]`; no rows where experts have taken the MLP's place.
    pub fn down_in(&self) -> &Array2<f32> {
        &self.mlp.down_in
    }
}

/// A forward pass.
#[derive(Debug)]
pub struct Tape {
    /// Per block.
    pub blocks: Vec<BlockTape>,
    resid: Array2<f32>,
    inv: Array1<f32>,
    normed: Array2<f32>,
    /// `[tokens, vocab]`.
    pub logits: Array2<f32>,
}

/// Runs `batch` through the model, as at inference: experts take every token that the router sends them.
///
/// # Errors
/// If the batch's lengths do not agree or a token is beyond the vocabulary.
pub fn forward(params: &Params, batch: &Batch) -> Result<Tape> {
    forward_at(params, batch, None)
}

/// [`forward`], or where a training stands at `pass` with its capacity and noise.
fn forward_at(params: &Params, batch: &Batch, pass: Option<Pass<'_>>) -> Result<Tape> {
    let shape = params.shape();
    batch.check(shape)?;
    let rope = Rope::new(shape, batch.len);
    let tokens: Vec<usize> = batch.inputs.iter().map(|&t| t as usize).collect();
    let mut resid = params.get(Tensor::Embed).select(Axis(0), &tokens);
    let mut blocks = Vec::with_capacity(shape.layers);
    for l in 0..shape.layers {
        let (tape, next) = block(params, l, resid, &rope, batch.len, pass);
        blocks.push(tape);
        resid = next;
    }
    let (normed, inv) = norm::forward(resid.view(), params.get(Tensor::Norm).view(), shape.eps);
    let logits = dense::forward(normed.view(), params.get(Tensor::Head).view());
    Ok(Tape {
        blocks,
        resid,
        inv,
        normed,
        logits,
    })
}

fn block(
    params: &Params,
    l: usize,
    resid_pre: Array2<f32>,
    rope: &Rope,
    len: usize,
    pass: Option<Pass<'_>>,
) -> (BlockTape, Array2<f32>) {
    let shape = params.shape();
    let weight = |part| params.part(l, part).view();
    let (attn_in, attn_inv) = norm::forward(resid_pre.view(), weight(Part::AttnNorm), shape.eps);
    let mut q = dense::forward(attn_in.view(), weight(Part::Q));
    let mut k = dense::forward(attn_in.view(), weight(Part::K));
    let v = dense::forward(attn_in.view(), weight(Part::V));
    rope.rotate(&mut q, shape.head_dim, len, false);
    rope.rotate(&mut k, shape.head_dim, len, false);
    let (o_in, probs) = attention::forward(q.view(), k.view(), v.view(), shape, len);
    let resid_mid = &resid_pre + &dense::forward(o_in.view(), weight(Part::O));
    let (mlp_in, mlp_inv) = norm::forward(resid_mid.view(), weight(Part::MlpNorm), shape.eps);
    let (mlp, down_out) = match shape.has_mlp(l) {
        true => swiglu::forward(params, Place::Block(l), mlp_in.view()),
        false => Default::default(),
    };
    let (experts, next) = match shape.mixture(l) {
        None => (None, &resid_mid + &down_out),
        Some(mixture) => {
            let beside = mixture.residual.then_some(down_out.view());
            let (tape, out) = mixture::forward(params, l, mixture, mlp_in.view(), beside, pass);
            (Some(tape), &resid_mid + &out)
        }
    };
    let tape = BlockTape {
        resid_pre,
        attn_inv,
        attn_in,
        q,
        k,
        v,
        probs,
        o_in,
        resid_mid,
        mlp_inv,
        mlp_in,
        mlp,
        down_out,
        experts,
    };
    (tape, next)
}

/// Log-probability of each target under the logits, and whether it is the most probable token (the first one on a
/// tie); zero and false where the target is [`IGNORE`].
pub fn scores(logits: ArrayView2<f32>, targets: &[u32]) -> Vec<(f32, bool)> {
    let score = |row: ndarray::ArrayView1<f32>, target: u32| {
        if target == IGNORE {
            return (0.0, false);
        }
        let at = row[target as usize];
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|v| (v - max).exp()).sum();
        let first = row.iter().position(|&v| v == max);
        (at - max - sum.ln(), first == Some(target as usize))
    };
    logits
        .rows()
        .into_iter()
        .zip(targets)
        .map(|(row, &t)| score(row, t))
        .collect()
}

/// Adds to `gradient` the gradient of `sum_t weight(nll_t) * nll_t`, the weights taken as constants; returns the plain
/// sum of the targets' negative log-likelihoods.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    params: &Params,
    batch: &Batch,
    weight: impl Fn(f32) -> f32,
    selection: &Selection,
    gradient: &mut Gradient,
) -> Result<f64> {
    let plain = Extra::default();
    Ok(backward_with(params, batch, weight, plain, selection, gradient)?.nll)
}

/// What a training adds to the text's loss.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extra<'a> {
    pub(crate) pass: Option<Pass<'a>>,
    /// A teacher, and how much each target counts.
    pub(crate) distill: Option<(Distill<'a>, f32)>,
}

/// Sums over the targets, and what routing came to.
pub(crate) struct Sums {
    pub(crate) nll: f64,
    /// `temperature^2 * KL`.
    pub(crate) kl: f64,
    pub(crate) loads: Vec<Load>,
}

/// [`backward`] with more than the text's loss.
pub(crate) fn backward_with(
    params: &Params,
    batch: &Batch,
    weight: impl Fn(f32) -> f32,
    extra: Extra<'_>,
    selection: &Selection,
    gradient: &mut Gradient,
) -> Result<Sums> {
    let shape = params.shape().clone();
    let Tape {
        blocks,
        resid,
        inv,
        normed,
        mut logits,
    } = forward_at(params, batch, extra.pass)?;
    let taught = extra
        .distill
        .map(|(d, share)| d.gradient(batch, logits.view(), share));
    let taught = taught.transpose()?;
    let load = |(l, tape): (usize, &BlockTape)| Some(tape.experts.as_ref()?.load(l));
    let loads = blocks.iter().enumerate().filter_map(load).collect();
    let scored = scores(logits.view(), &batch.targets);
    // d nll / d logits = softmax - onehot.
    for ((mut row, &target), &(log_prob, _)) in logits
        .rows_mut()
        .into_iter()
        .zip(&batch.targets)
        .zip(&scored)
    {
        if target == IGNORE {
            row.fill(0.0);
            continue;
        }
        let (w, shift) = (weight(-log_prob), row[target as usize] - log_prob);
        row.mapv_inplace(|v| w * (v - shift).exp());
        row[target as usize] -= w;
    }
    let nll = scored.iter().map(|&(log_prob, _)| -f64::from(log_prob));
    let sums = Sums {
        nll: nll.sum(),
        kl: taught.as_ref().map_or(0.0, |(_, kl)| *kl),
        loads,
    };
    if let Some((gradient, _)) = &taught {
        logits += gradient;
    }

    let dlogits = logits;
    gradient.add_product(Tensor::Head, dlogits.view(), normed.view());
    let mut dnormed = Array2::zeros(normed.dim());
    dense::to_input(
        dlogits.view(),
        params.get(Tensor::Head).view(),
        &mut dnormed.view_mut(),
    );
    let mut dresid = Array2::zeros(resid.dim());
    let norm = params.get(Tensor::Norm).view();
    let dnorm = norm::backward(resid.view(), &inv, norm, dnormed.view(), &mut dresid);
    gradient.add_row(Tensor::Norm, 0, dnorm.as_slice().unwrap_or(&[]));
    if selection.lowest() > shape.layers {
        return Ok(sums);
    }
    let rope = Rope::new(&shape, batch.len);
    for (l, tape) in blocks.into_iter().enumerate().rev() {
        if selection.lowest() > l + 1 {
            return Ok(sums);
        }
        let at = (l, extra.pass);
        block_backward(params, at, &tape, &mut dresid, &rope, batch.len, gradient);
    }
    for (row, &token) in dresid.rows().into_iter().zip(&batch.inputs) {
        gradient.add_row(Tensor::Embed, token as usize, row.as_slice().unwrap_or(&[]));
    }
    Ok(sums)
}

/// Turns the gradient of the residual stream after the block `l` into that before it.
fn block_backward(
    params: &Params,
    (l, pass): (usize, Option<Pass<'_>>),
    tape: &BlockTape,
    dresid: &mut Array2<f32>,
    rope: &Rope,
    len: usize,
    gradient: &mut Gradient,
) {
    let shape = params.shape();
    let weight = |part| params.part(l, part).view();
    let tokens = dresid.nrows();
    let rows = |channels| Array2::<f32>::zeros((tokens, channels));

    // resid_post = resid_mid + mlp(x), or what experts make of it, x = norm(resid_mid)
    let x = tape.mlp_in.view();
    let dx = match &tape.experts {
        None => swiglu::backward(
            params,
            Place::Block(l),
            &tape.mlp,
            x,
            dresid.view(),
            gradient,
        ),
        Some(experts) => {
            let mut dx = rows(shape.hidden);
            let (mlp, dout) = (tape.down_out.view(), dresid.view());
            let dmlp = mixture::backward(params, l, experts, x, mlp, dout, pass, gradient, &mut dx);
            if let Some(d) = dmlp {
                dx += &swiglu::backward(params, Place::Block(l), &tape.mlp, x, d.view(), gradient);
            }
            dx
        }
    };
    let norm = weight(Part::MlpNorm);
    let dnorm = norm::backward(
        tape.resid_mid.view(),
        &tape.mlp_inv,
        norm,
        dx.view(),
        dresid,
    );
    gradient.add_row(
        Tensor::Block(l, Part::MlpNorm),
        0,
        dnorm.as_slice().unwrap_or(&[]),
    );

    // resid_mid = resid_pre + o(attention(q(x), k(x), v(x))), x = norm(resid_pre)
    gradient.add_product(Tensor::Block(l, Part::O), dresid.view(), tape.o_in.view());
    let mut dout = rows(shape.heads * shape.head_dim);
    dense::to_input(dresid.view(), weight(Part::O), &mut dout.view_mut());
    let (q, k, v) = (tape.q.view(), tape.k.view(), tape.v.view());
    let (mut dq, mut dk, dv) = attention::backward(q, k, v, &tape.probs, dout.view(), shape, len);
    rope.rotate(&mut dq, shape.head_dim, len, true);
    rope.rotate(&mut dk, shape.head_dim, len, true);
    let mut dx = rows(shape.hidden);
    for (part, d) in [(Part::Q, &dq), (Part::K, &dk), (Part::V, &dv)] {
        gradient.add_product(Tensor::Block(l, part), d.view(), tape.attn_in.view());
        dense::to_input(d.view(), weight(part), &mut dx.view_mut());
    }
    let norm = weight(Part::AttnNorm);
    let dnorm = norm::backward(
        tape.resid_pre.view(),
        &tape.attn_inv,
        norm,
        dx.view(),
        dresid,
    );
    gradient.add_row(
        Tensor::Block(l, Part::AttnNorm),
        0,
        dnorm.as_slice().unwrap_or(&[]),
    );
}
