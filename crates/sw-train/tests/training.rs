//! Optimiser steps: independent of the thread count, resumable, and confined to the selected weights.

mod dice;

use dice::Dice;
use sw_train::checkpoint::{load, load_state, save, save_state};
use sw_train::{
    AdamW, AdamWOptions, Batch, Block, Params, Part, Precision, Selection, Shape, Tensor, gradient,
    step,
};

fn shape() -> Shape {
    Shape {
        vocab: 16,
        hidden: 16,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        intermediate: 24,
        max_positions: 8,
        rope_theta: 1e4,
        eps: 1e-5,
        tied: false,
        experts: vec![],
    }
}

fn start() -> Params {
    let shape = shape();
    let mut params = Params::blank(&shape).unwrap();
    let mut dice = Dice::new(2, 0);
    for tensor in Tensor::all(&shape).into_iter().filter(|t| !t.is_norm()) {
        params.get_mut(tensor).mapv_inplace(|_| 0.2 * dice.normal());
    }
    params
}

/// Counting upwards from a random number.
fn batch(number: u64) -> Batch {
    let mut dice = Dice::new(number, 1);
    let rows: Vec<Vec<u32>> = (0..6)
        .map(|_| dice.below(16) as u32)
        .map(|s| (0..9).map(|i| (s + i) % 16).collect())
        .collect();
    let inputs = rows.iter().flat_map(|r| r[..8].to_vec()).collect();
    let targets = rows.iter().flat_map(|r| r[1..].to_vec()).collect();
    Batch {
        len: 8,
        inputs,
        targets,
    }
}

fn run(
    params: &mut Params,
    optimizer: &mut AdamW,
    selection: &Selection,
    steps: std::ops::Range<usize>,
) -> f64 {
    let mut last = f64::NAN;
    for number in steps {
        let (loss, grad) = gradient(params, &batch(number as u64), |_| 1.0, selection).unwrap();
        step(params, optimizer, grad, 1.0, 1e-2, number).unwrap();
        last = loss;
    }
    last
}

#[test]
fn the_loss_falls_and_threads_do_not_matter() {
    let all = Selection::all(&shape());
    let train = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let (mut params, mut optimizer) =
                (start(), AdamW::new(&shape(), &all, AdamWOptions::default()));
            let loss = run(&mut params, &mut optimizer, &all, 0..60);
            (params, loss)
        })
    };
    let ((one, loss), (three, _)) = (train(1), train(3));
    assert_eq!(one, three);
    assert!(loss < 0.3, "loss {loss} after 60 steps");
}

#[test]
fn going_on_from_a_state_is_going_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let all = Selection::all(&shape());
    let fresh = || (start(), AdamW::new(&shape(), &all, AdamWOptions::default()));
    let (mut whole, mut optimizer) = fresh();
    run(&mut whole, &mut optimizer, &all, 0..8);
    let (mut half, mut optimizer) = fresh();
    run(&mut half, &mut optimizer, &all, 0..5);
    save_state(&half, &optimizer, 5, &path).unwrap();
    let (mut resumed, mut optimizer) = fresh();
    let begun = load_state(&mut resumed, &mut optimizer, &path).unwrap();
    run(&mut resumed, &mut optimizer, &all, begun..8);
    assert_eq!(whole, resumed);
}

#[test]
fn only_selected_weights_move() {
    let down = Tensor::Block(1, Part::Down);
    let one = Selection::none(&shape()).with(
        &shape(),
        down,
        Block {
            rows: 3..4,
            cols: 7..8,
        },
    );
    let (before, mut params) = (start(), start());
    let mut optimizer = AdamW::new(&shape(), &one, AdamWOptions::default());
    run(&mut params, &mut optimizer, &one, 0..3);
    for (tensor, w) in params.iter() {
        for (at, v) in w.indexed_iter() {
            let same = *v == before.get(tensor)[at];
            assert_eq!(same, !(tensor == down && at == (3, 7)), "{tensor:?} {at:?}");
        }
    }
}

#[test]
fn a_checkpoint_reads_back_rounded() {
    let dir = tempfile::tempdir().unwrap();
    let params = start();
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        save(&params, precision, dir.path()).unwrap();
        let back = load(&shape(), dir.path()).unwrap();
        for ((_, a), (_, b)) in params.iter().zip(back.iter()) {
            assert!(a.iter().zip(b).all(|(a, b)| precision.round(*a) == *b));
        }
    }
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    assert!(config.contains("\"LlamaForCausalLM\""));
    let other = Shape {
        hidden: 8,
        ..shape()
    };
    let error = load(&other, dir.path()).unwrap_err().to_string();
    assert!(error.contains("expected [16, 8]"), "{error}");
}
