//! `down(silu(gate(x)) * up(x))`, and its way back: a block's MLP, or an expert.

use ndarray::{Array2, ArrayView2, Zip};

use crate::dense;
use crate::gradient::Gradient;
use crate::params::{MLP, Params, Part, Tensor};

/// Which MLP.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// The own of a block.
    Block(usize),
    /// An expert of a block.
    Expert(usize, usize),
}

impl Place {
    fn tensor(self, part: Part) -> Tensor {
        match self {
            Place::Block(l) => Tensor::Block(l, part),
            Place::Expert(l, e) => Tensor::Expert(l, e, part),
        }
    }
}

/// What the way back needs, `[tokens, intermediate]` each.
#[derive(Debug, Default)]
pub(crate) struct Swiglu {
    gate: Array2<f32>,
    up: Array2<f32>,
    /// Input of `down_proj`.
    pub(crate) down_in: Array2<f32>,
}

/// Runs `x`, `[tokens, hidden]`; the output of `down_proj` comes second.
pub(crate) fn forward(params: &Params, place: Place, x: ArrayView2<f32>) -> (Swiglu, Array2<f32>) {
    let [gate, up, down] = MLP.map(|part| params.get(place.tensor(part)).view());
    let (gate, up) = (dense::forward(x, gate), dense::forward(x, up));
    let mut down_in = gate.clone();
    Zip::from(&mut down_in)
        .and(&up)
        .for_each(|g, &u| *g *= sigmoid(*g) * u); // silu(gate) * up
    let down_out = dense::forward(down_in.view(), down);
    (Swiglu { gate, up, down_in }, down_out)
}

/// Adds the gradients of the three matrices; returns that of `x`.
pub(crate) fn backward(
    params: &Params,
    place: Place,
    tape: &Swiglu,
    x: ArrayView2<f32>,
    dy: ArrayView2<f32>,
    gradient: &mut Gradient,
) -> Array2<f32> {
    let [gate, up, down] = MLP.map(|part| place.tensor(part));
    let weight = |tensor| params.get(tensor).view();
    gradient.add_product(down, dy, tape.down_in.view());
    let mut dact = Array2::zeros(tape.gate.dim());
    dense::to_input(dy, weight(down), &mut dact.view_mut());
    let mut dup = Array2::zeros(tape.gate.dim());
    Zip::from(&mut dact)
        .and(&mut dup)
        .and(&tape.gate)
        .and(&tape.up)
        .for_each(|d, dup, &g, &u| {
            let s = sigmoid(g);
            *dup = *d * g * s;
            *d *= u * s * (1.0 + g * (1.0 - s)); // now the gradient of the gate
        });
    gradient.add_product(gate, dact.view(), x);
    gradient.add_product(up, dup.view(), x);
    let mut dx = Array2::zeros(x.dim());
    dense::to_input(dact.view(), weight(gate), &mut dx.view_mut());
    dense::to_input(dup.view(), weight(up), &mut dx.view_mut());
    dx
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
