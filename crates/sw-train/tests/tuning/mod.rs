//! What the tests of fine-tuning share: a small model, texts whose next token can be learned, and bits to compare.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;

use ndarray::Array2;
use sw_model::{Model, Seq, TensorAt};
use sw_train::checkpoint::save;
pub(crate) use sw_train::mapped::MAPS;
use sw_train::mapped::Text;
use sw_train::tune::{AdapterOptions, Example, Trained, Trainer};
use sw_train::{AdamWOptions, Params, Precision, Result, Shape, Tensor};
use tempfile::TempDir;

use crate::dice::Dice;

pub(crate) const VOCAB: usize = 13;
pub(crate) const CLIP: f64 = 1.0;
pub(crate) const ADAM: AdamWOptions = AdamWOptions {
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.0,
};
pub(crate) fn model(tied: bool) -> (TempDir, Model) {
    let shape = Shape {
        vocab: VOCAB,
        hidden: 16,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        intermediate: 24,
        max_positions: 16,
        rope_theta: 100.0,
        eps: 1e-5,
        tied,
        experts: vec![],
    };
    let mut params = Params::blank(&shape).unwrap();
    let mut dice = Dice::new(6, 0);
    for tensor in Tensor::all(&shape).into_iter().filter(|t| !t.is_norm()) {
        params.get_mut(tensor).mapv_inplace(|_| 0.3 * dice.normal());
    }
    let dir = tempfile::tempdir().unwrap();
    save(&params, Precision::Bf16, dir.path()).unwrap();
    let model = Model::open(dir.path()).unwrap();
    (dir, model)
}

/// The texts of a step, in which the next token can be learned.
pub(crate) fn batch(step: usize) -> Result<Vec<Example>> {
    let mut dice = Dice::new(step as u64, 1);
    let one = |len: usize, given: usize, dice: &mut Dice| {
        let first = dice.below(VOCAB);
        let tokens = (0..len).map(|i| ((first + 5 * i) % VOCAB) as u32).collect();
        Example { tokens, given }
    };
    Ok(vec![one(9, 1, &mut dice), one(6, 3, &mut dice)])
}

pub(crate) fn train(trainer: &mut Trainer, steps: std::ops::Range<usize>) -> Vec<f64> {
    steps
        .map(|step| {
            let examples = batch(step).unwrap();
            let texts: Vec<Text<'_>> = examples.iter().map(Text::from).collect();
            trainer.step(&texts, 8, 0.01).unwrap().loss
        })
        .collect()
}

pub(crate) fn trained(model: &Model, what: &Trained, steps: usize) -> Trainer {
    let mut trainer = Trainer::new(model, what, ADAM, CLIP).unwrap();
    train(&mut trainer, 0..steps);
    trainer
}

/// Every tensor's bits.
pub(crate) fn bits(model: &Model) -> BTreeMap<TensorAt, Vec<u32>> {
    let of = |at: TensorAt| {
        let values = model.tensor(at).unwrap();
        (at, values.into_iter().map(f32::to_bits).collect())
    };
    model.tensors().into_iter().map(of).collect()
}

pub(crate) fn logits(model: &Model, texts: &[&[u32]]) -> Array2<f32> {
    let seqs: Vec<Seq<'_>> = texts.iter().map(|&t| Seq::from(t)).collect();
    let rows = model.forward(&seqs, &mut ()).unwrap();
    model.logits(rows.view()).unwrap()
}

pub(crate) const TEXTS: [&[u32]; 2] = [&[0, 3, 5, 3, 7, 1, 9], &[2, 12, 4]];

pub(crate) fn adapters(dora: bool) -> AdapterOptions {
    AdapterOptions {
        rank: 2,
        alpha: 3.0,
        targets: MAPS.to_vec(),
        dora,
    }
}
