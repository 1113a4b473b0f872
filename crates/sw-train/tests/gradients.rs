//! The backward pass against finite differences of the forward pass.

mod dice;

use dice::Dice;
use ndarray::Array2;
use sw_train::{Batch, Block, Gradient, IGNORE, Params, Part, Selection, Shape, Tensor, backward};

fn shape(tied: bool) -> Shape {
    Shape {
        vocab: 11,
        hidden: 8,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        intermediate: 12,
        max_positions: 16,
        rope_theta: 100.0,
        eps: 1e-5,
        tied,
        experts: vec![],
    }
}

fn random(shape: &Shape, seed: u64) -> Params {
    let mut params = Params::blank(shape).unwrap();
    let mut dice = Dice::new(seed, 0);
    for tensor in Tensor::all(shape) {
        let w: &mut Array2<f32> = params.get_mut(tensor);
        let base = if tensor.is_norm() { 1.0 } else { 0.0 };
        w.mapv_inplace(|_| base + 0.4 * dice.normal());
    }
    params
}

fn batch() -> Batch {
    let inputs = vec![0, 3, 5, 3, 7, 1, 0, 2, 2, 10, 4, 6];
    let targets = vec![3, 5, 3, 7, 1, 9, 2, 2, IGNORE, 4, 6, 8];
    Batch {
        len: 6,
        inputs,
        targets,
    }
}

fn loss(params: &Params) -> f64 {
    let none = Selection::none(params.shape());
    let mut gradient = Gradient::zeros(params.shape(), &none);
    backward(params, &batch(), |_| 1.0, &none, &mut gradient).unwrap()
}

#[test]
fn gradients_agree_with_finite_differences() {
    for tied in [false, true] {
        let shape = shape(tied);
        let params = random(&shape, 7);
        let all = Selection::all(&shape);
        let mut gradient = Gradient::zeros(&shape, &all);
        backward(&params, &batch(), |_| 1.0, &all, &mut gradient).unwrap();
        let mut dice = Dice::new(1, 1);
        let h = 4e-3f32;
        for tensor in Tensor::all(&shape) {
            let (rows, cols) = tensor.dim(&shape);
            for _ in 0..6 {
                let at = (dice.below(rows), dice.below(cols));
                let moved = |by: f32| {
                    let mut p = params.clone();
                    p.get_mut(tensor)[at] += by;
                    loss(&p)
                };
                // Fourth-order central difference.
                let slope = (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h)))
                    / (12.0 * f64::from(h));
                let found = f64::from(gradient.get(tensor)[0].1[at]);
                let bound = 4e-3 + 4e-3 * slope.abs();
                assert!(
                    (slope - found).abs() < bound,
                    "{tensor:?} {at:?}: {found}, differences say {slope}"
                );
            }
        }
    }
}

#[test]
fn a_selected_block_has_the_gradient_it_has_among_all() {
    let shape = shape(false);
    let params = random(&shape, 3);
    let grow = |selection: &Selection| {
        let mut gradient = Gradient::zeros(&shape, selection);
        backward(&params, &batch(), |_| 1.0, selection, &mut gradient).unwrap();
        gradient
    };
    let everything = grow(&Selection::all(&shape));
    let down = Tensor::Block(1, Part::Down);
    let one = Block {
        rows: 3..4,
        cols: 5..6,
    };
    let some = Block {
        rows: 5..8,
        cols: 0..7,
    };
    let few = grow(
        &Selection::none(&shape)
            .with(&shape, down, one)
            .with(&shape, down, some),
    );
    let whole = &everything.get(down)[0].1;
    assert!((few.get(down)[0].1[(0, 0)] - whole[(3, 5)]).abs() < 1e-5);
    for ((r, c), g) in few.get(down)[1].1.indexed_iter() {
        assert!((g - whole[(5 + r, c)]).abs() < 1e-5);
    }
    assert!(few.get(Tensor::Embed).is_empty());
}

#[test]
fn the_weight_of_a_token_scales_its_part() {
    let shape = shape(false);
    let params = random(&shape, 5);
    let all = Selection::all(&shape);
    let grow = |factor: f32| {
        let mut gradient = Gradient::zeros(&shape, &all);
        backward(&params, &batch(), |_| factor, &all, &mut gradient).unwrap();
        gradient.norm()
    };
    assert!((grow(-0.5) / grow(1.0) - 0.5).abs() < 1e-5);
}

#[test]
fn bad_batches_are_refused() {
    let params = random(&shape(false), 1);
    let bad = [
        Batch {
            len: 4,
            inputs: vec![0; 6],
            targets: vec![0; 6],
        },
        Batch {
            len: 3,
            inputs: vec![0; 6],
            targets: vec![0; 5],
        },
        Batch {
            len: 3,
            inputs: vec![11; 3],
            targets: vec![0; 3],
        },
        Batch {
            len: 0,
            inputs: vec![],
            targets: vec![],
        },
    ];
    for batch in bad {
        assert!(sw_train::forward(&params, &batch).is_err(), "{batch:?}");
    }
}
