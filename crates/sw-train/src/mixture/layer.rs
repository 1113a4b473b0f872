//! A block's experts, forward and back.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

use super::route::{Routed, place, route};
use super::{Experts, Load, Pass};
use crate::dense;
use crate::gradient::Gradient;
use crate::params::{Params, Tensor};
use crate::swiglu::{self, Place, Swiglu};

/// What one expert did.
#[derive(Debug)]
struct ExpertTape {
    /// Places in the list of choices, of the tokens that it took.
    choices: Vec<usize>,
    /// `[taken tokens, hidden]`.
    x: Array2<f32>,
    inner: Swiglu,
    out: Array2<f32>,
}

/// What the experts of a block did.
#[derive(Debug)]
pub(crate) struct MixtureTape {
    mixture: Experts,
    routed: Routed,
    experts: Vec<ExpertTape>,
    /// Shares of experts and MLP, `[tokens, 2]`, and what the experts gave, `[tokens, hidden]`, where both are.
    mixed: Option<(Array2<f32>, Array2<f32>)>,
}

impl MixtureTape {
    pub(crate) fn load(&self, layer: usize) -> Load {
        Load {
            layer,
            choices: self.routed.loads(),
            dropped: self.routed.dropped(),
            aux: self.routed.aux(),
        }
    }

    fn token(&self, choice: usize) -> usize {
        choice / self.mixture.per_token
    }
}

/// What a block with experts adds to the residual stream, `[tokens, hidden]`: the experts' weighted outputs, and where `mlp` is the output of
/// the MLP beside them, `a * experts + b * mlp` with `(a, b) = softmax(x mix^T + bias)`.
pub(crate) fn forward(
    params: &Params,
    l: usize,
    mixture: Experts,
    x: ArrayView2<f32>,
    mlp: Option<ArrayView2<f32>>,
    pass: Option<Pass<'_>>,
) -> (MixtureTape, Array2<f32>) {
    let logits = dense::forward(x, params.get(Tensor::Router(l)).view());
    let routed = route(logits, mixture, place(pass, l));
    let mut tape = MixtureTape {
        mixture,
        routed,
        experts: Vec::with_capacity(mixture.count),
        mixed: None,
    };
    let mut taken = vec![Vec::new(); mixture.count];
    for (i, choice) in tape.routed.choices.iter().enumerate() {
        if choice.kept {
            taken[choice.expert].push(i);
        }
    }
    let mut out = Array2::zeros(x.dim());
    for (e, choices) in taken.into_iter().enumerate() {
        let tokens: Vec<usize> = choices.iter().map(|&i| tape.token(i)).collect();
        let x = x.select(Axis(0), &tokens);
        let (inner, y) = match choices.is_empty() {
            true => (Swiglu::default(), Array2::zeros(x.dim())),
            false => swiglu::forward(params, Place::Expert(l, e), x.view()),
        };
        for ((&i, &t), y) in choices.iter().zip(&tokens).zip(y.rows()) {
            out.row_mut(t).scaled_add(tape.routed.choices[i].weight, &y);
        }
        tape.experts.push(ExpertTape {
            choices,
            x,
            inner,
            out: y,
        });
    }
    let Some(mlp) = mlp else {
        return (tape, out);
    };
    let mut shares = dense::forward(x, params.get(Tensor::Mix(l)).view());
    shares += &params.get(Tensor::MixBias(l)).row(0);
    for mut row in shares.rows_mut() {
        sw_tensor::softmax(row.as_slice_mut().unwrap_or(&mut []));
    }
    let mut sum = mlp.to_owned();
    let rows = sum
        .rows_mut()
        .into_iter()
        .zip(out.rows())
        .zip(shares.rows());
    for ((mut sum, experts), share) in rows {
        sum.zip_mut_with(&experts, |m, r| *m = share[0] * r + share[1] * *m);
    }
    tape.mixed = Some((shares, out));
    (tape, sum)
}

/// Adds the gradients of experts, router and mix, and to `dx` that of `x`; returns that of the MLP's output, where one is beside the
/// experts. `dout` is the gradient of what [`forward`] returned; that of the auxiliary loss is added here.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    params: &Params,
    l: usize,
    tape: &MixtureTape,
    x: ArrayView2<f32>,
    mlp: ArrayView2<f32>,
    dout: ArrayView2<f32>,
    pass: Option<Pass<'_>>,
    gradient: &mut Gradient,
    dx: &mut Array2<f32>,
) -> Option<Array2<f32>> {
    let mut dexperts = dout.to_owned();
    let mut dmlp = None;
    if let Some((shares, experts)) = &tape.mixed {
        let mut dz = Array2::zeros(shares.dim());
        for (t, mut dz) in dz.rows_mut().into_iter().enumerate() {
            let d = dout.row(t);
            dz[0] = d.dot(&experts.row(t));
            dz[1] = d.dot(&mlp.row(t));
        }
        through_softmax(shares.view(), &mut dz);
        gradient.add_product(Tensor::Mix(l), dz.view(), x);
        let sums = dz.sum_axis(Axis(0));
        gradient.add_row(Tensor::MixBias(l), 0, sums.as_slice().unwrap_or(&[]));
        dense::to_input(
            dz.view(),
            params.get(Tensor::Mix(l)).view(),
            &mut dx.view_mut(),
        );
        let mut d = dout.to_owned();
        scale_rows(&mut dexperts, shares.column(0));
        scale_rows(&mut d, shares.column(1));
        dmlp = Some(d);
    }
    let routed = &tape.routed;
    let mut dweights = vec![0.0f32; routed.choices.len()];
    for (e, expert) in tape.experts.iter().enumerate() {
        if expert.choices.is_empty() {
            continue;
        }
        let tokens: Vec<usize> = expert.choices.iter().map(|&i| tape.token(i)).collect();
        let mut dy = dexperts.select(Axis(0), &tokens);
        let rows = dy.rows_mut().into_iter().zip(expert.out.rows());
        for ((mut dy, y), &i) in rows.zip(&expert.choices) {
            dweights[i] = dy.dot(&y);
            dy *= routed.choices[i].weight;
        }
        let place = Place::Expert(l, e);
        let of_x = swiglu::backward(
            params,
            place,
            &expert.inner,
            expert.x.view(),
            dy.view(),
            gradient,
        );
        for (&t, row) in tokens.iter().zip(of_x.rows()) {
            dx.row_mut(t).scaled_add(1.0, &row);
        }
    }
    let mut dz = to_probabilities(tape, &dweights);
    if let Some(pass) = pass {
        // Only the probabilities carry the gradient of the auxiliary loss; the shares of first choices are constants.
        let scale = pass.routing.aux * pass.share * tape.mixture.count as f32 / x.nrows() as f32;
        for mut row in dz.rows_mut() {
            row.iter_mut()
                .zip(&routed.firsts)
                .for_each(|(d, c)| *d += scale * c);
        }
    }
    through_softmax(routed.probs.view(), &mut dz);
    gradient.add_product(Tensor::Router(l), dz.view(), x);
    let router = params.get(Tensor::Router(l)).view();
    dense::to_input(dz.view(), router, &mut dx.view_mut());
    dmlp
}

/// The gradient of the probabilities from that of the weights of choices: `w = p`, or `w_i = p_i / sum of the chosen p`.
fn to_probabilities(tape: &MixtureTape, dweights: &[f32]) -> Array2<f32> {
    let routed = &tape.routed;
    let mut dp = Array2::zeros(routed.probs.dim());
    let k = tape.mixture.per_token;
    for (t, (choices, dw)) in routed.choices.chunks(k).zip(dweights.chunks(k)).enumerate() {
        let (mut mean, mut sum) = (0.0, 1.0);
        if tape.mixture.normalize() {
            mean = choices.iter().zip(dw).map(|(c, d)| c.weight * d).sum();
            sum = choices.iter().map(|c| routed.probs[[t, c.expert]]).sum();
        }
        for (c, d) in choices.iter().zip(dw) {
            dp[[t, c.expert]] += (d - mean) / sum;
        }
    }
    dp
}

/// Turns the gradient of probabilities into that of logits: `p (d - sum(p d))`.
fn through_softmax(p: ArrayView2<f32>, d: &mut Array2<f32>) {
    for (p, mut d) in p.rows().into_iter().zip(d.rows_mut()) {
        let dot = p.dot(&d);
        d.zip_mut_with(&p, |d, p| *d = p * (*d - dot));
    }
}

fn scale_rows(x: &mut Array2<f32>, by: ArrayView1<f32>) {
    for (mut row, &s) in x.rows_mut().into_iter().zip(by) {
        row *= s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;
    use crate::gradient::{Block, Selection};
    use crate::params::{MLP, Shape};

    #[test]
    fn one_expert_is_the_mlp_bit_for_bit() {
        let copied = Experts {
            copied: true,
            ..Experts::new(2, 1)
        };
        let mixed = Shape {
            vocab: 5,
            hidden: 12,
            layers: 1,
            heads: 2,
            kv_heads: 2,
            head_dim: 6,
            intermediate: 20,
            max_positions: 8,
            rope_theta: 1e4,
            eps: 1e-5,
            tied: true,
            experts: vec![copied],
        };
        let dense = Shape {
            experts: vec![],
            ..mixed.clone()
        };
        let mlp = Params::random(&dense, 1, 0.3).unwrap();
        let mut experts = Params::random(&mixed, 1, 0.3).unwrap();
        // A router with one row: the softmax of one logit, which is 1 whatever the logit.
        let router = experts.get(Tensor::Router(0)).select(Axis(0), &[1]);
        *experts.get_mut(Tensor::Router(0)) = router;
        let one = Experts { count: 1, ..copied };
        let mut draw = Draw::new(1, 1);
        let mut rows = || Array2::from_shape_simple_fn((33, 12), || draw.normal() as f32);
        let (x, dy) = (rows(), rows());

        let (inner, expected) = swiglu::forward(&mlp, Place::Block(0), x.view());
        let (tape, found) = forward(&experts, 0, one, x.view(), None, None);
        assert_eq!(expected, found);

        let whole = |shape: &Shape, tensors: [Tensor; 3]| {
            let with = |selection: Selection, tensor: Tensor| {
                let (rows, cols) = tensor.dim(shape);
                let block = Block {
                    rows: 0..rows,
                    cols: 0..cols,
                };
                selection.with(shape, tensor, block)
            };
            let all = tensors.into_iter().fold(Selection::none(shape), with);
            Gradient::zeros(shape, &all)
        };
        let [ours, theirs] = [
            MLP.map(|part| Tensor::Expert(0, 0, part)),
            MLP.map(|part| Tensor::Block(0, part)),
        ];
        let (mut a, mut b) = (whole(&mixed, ours), whole(&dense, theirs));
        let mut dx = Array2::zeros(x.dim());
        let none = Array2::zeros((0, 0));
        let (x, dy) = (x.view(), dy.view());
        backward(
            &experts,
            0,
            &tape,
            x,
            none.view(),
            dy,
            None,
            &mut a,
            &mut dx,
        );
        let expected = swiglu::backward(&mlp, Place::Block(0), &inner, x, dy, &mut b);
        assert_eq!(expected, dx);
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            assert_eq!(a.get(ours)[0].1, b.get(theirs)[0].1);
        }
    }
}
