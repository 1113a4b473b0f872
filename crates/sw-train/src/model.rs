//! A Llama model's forward pass with everything kept that the way back needs, and the way back.

use ndarray::{Array1, Array2, Array3, ArrayView2, Axis, Zip};

use crate::attention::{self, Rope};
use crate::dense;
use crate::error::{Error, Result};
use crate::gradient::{Gradient, Selection};
use crate::norm;
use crate::params::{Params, Part, Shape, Tensor};

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
        let n = self.len * sequences.max(1);
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
    gate: Array2<f32>,
    up: Array2<f32>,
    /// Input of `down_proj`.
    pub down_in: Array2<f32>,
    /// Output of `down_proj`.
    pub down_out: Array2<f32>,
}

impl BlockTape {
    /// The normed rows that queries, keys and values are made of, `[tokens, hidden]`.
    pub(crate) fn normed(&self) -> ArrayView2<'_, f32> {
        self.attn_in.view()
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

/// Runs `batch` through the model.
///
/// # Errors
/// If the batch's lengths do not agree or a token is beyond the vocabulary.
pub fn forward(params: &Params, batch: &Batch) -> Result<Tape> {
    let shape = params.shape();
    batch.check(shape)?;
    let rope = Rope::new(shape, batch.len);
    let tokens: Vec<usize> = batch.inputs.iter().map(|&t| t as usize).collect();
    let mut resid = params.get(Tensor::Embed).select(Axis(0), &tokens);
    let mut blocks = Vec::with_capacity(shape.layers);
    for l in 0..shape.layers {
        let (tape, next) = block(params, l, resid, &rope, batch.len);
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
    let gate = dense::forward(mlp_in.view(), weight(Part::Gate));
    let up = dense::forward(mlp_in.view(), weight(Part::Up));
    let mut down_in = gate.clone();
    Zip::from(&mut down_in)
        .and(&up)
        .for_each(|g, &u| *g *= sigmoid(*g) * u); // silu(gate) * up
    let down_out = dense::forward(down_in.view(), weight(Part::Down));
    let next = &resid_mid + &down_out;
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
        gate,
        up,
        down_in,
        down_out,
    };
    (tape, next)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
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
    let shape = params.shape().clone();
    let Tape {
        blocks,
        resid,
        inv,
        normed,
        mut logits,
    } = forward(params, batch)?;
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
    let nll = scored
        .iter()
        .map(|&(log_prob, _)| -f64::from(log_prob))
        .sum();

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
        return Ok(nll);
    }
    let rope = Rope::new(&shape, batch.len);
    for (l, tape) in blocks.into_iter().enumerate().rev() {
        if selection.lowest() > l + 1 {
            return Ok(nll);
        }
        block_backward(params, l, &tape, &mut dresid, &rope, batch.len, gradient);
    }
    for (row, &token) in dresid.rows().into_iter().zip(&batch.inputs) {
        gradient.add_row(Tensor::Embed, token as usize, row.as_slice().unwrap_or(&[]));
    }
    Ok(nll)
}

/// Turns the gradient of the residual stream after the block `l` into that before it.
fn block_backward(
    params: &Params,
    l: usize,
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

    // resid_post = resid_mid + down(silu(gate(x)) * up(x)), x = norm(resid_mid)
    gradient.add_product(
        Tensor::Block(l, Part::Down),
        dresid.view(),
        tape.down_in.view(),
    );
    let mut dact = rows(shape.intermediate);
    dense::to_input(dresid.view(), weight(Part::Down), &mut dact.view_mut());
    let mut dup = rows(shape.intermediate);
    Zip::from(&mut dact)
        .and(&mut dup)
        .and(&tape.gate)
        .and(&tape.up)
        .for_each(|d, dup, &g, &u| {
            let s = sigmoid(g);
            *dup = *d * g * s;
            *d *= u * s * (1.0 + g * (1.0 - s)); // now the gradient of the gate
        });
    gradient.add_product(
        Tensor::Block(l, Part::Gate),
        dact.view(),
        tape.mlp_in.view(),
    );
    gradient.add_product(Tensor::Block(l, Part::Up), dup.view(), tape.mlp_in.view());
    let mut dx = rows(shape.hidden);
    dense::to_input(dact.view(), weight(Part::Gate), &mut dx.view_mut());
    dense::to_input(dup.view(), weight(Part::Up), &mut dx.view_mut());
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
