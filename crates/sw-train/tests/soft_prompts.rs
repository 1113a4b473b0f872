//! Soft prompts before the last block: what a row is, its gradient, and what it learns.

mod dice;
mod slopes;

use dice::Dice;
use ndarray::{Array2, Axis};
use slopes::check_gradient;
use sw_train::grow::{
    Encoder, Learner, Optimiser, Policy, Question, Recipe, Samples, SoftPrompts, Split,
};
use sw_train::{Batch, IGNORE, Params, Part, Result, Shape, Tensor, forward};

/// A small model and two tasks of three answers each.
fn soft(rows: usize) -> Result<(Params, SoftPrompts)> {
    let shape = Shape {
        vocab: 17,
        hidden: 12,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        intermediate: 10,
        max_positions: 16,
        rope_theta: 100.0,
        eps: 1e-5,
        tied: false,
        experts: vec![],
    };
    let mut params = Params::blank(&shape)?;
    let mut dice = Dice::new(8, 0);
    for tensor in Tensor::all(&shape) {
        let norm = f32::from(u8::from(tensor.is_norm()));
        params
            .get_mut(tensor)
            .mapv_inplace(|_| norm + 0.4 * dice.normal());
    }
    let question = |i: usize| Question {
        tokens: (0..4 + i % 3)
            .map(|t| ((3 * i + 5 * t) % 13) as u32)
            .collect(),
        answer: i % 3,
    };
    let task = |kind: usize| {
        let all = |from: usize| (from..from + 6).map(question).collect::<Vec<_>>();
        (kind, [all(7 * kind), all(7 * kind + 30)])
    };
    let texts = [vec![1, 2, 3, 4, 5], vec![6, 7]];
    let prompts = SoftPrompts::new(&params, rows, &[14, 15, 16], &[task(0), task(1)], &texts)?;
    Ok((params, prompts))
}

#[test]
fn soft_prompts_have_the_gradients_that_differences_show() {
    check_gradient(&soft(3).unwrap().1, 1e-7);
}

/// A prompt row that is the normed row of a token at position 0 is that token before the text, for the last block.
#[test]
fn a_soft_prompt_is_what_a_token_before_the_text_is() {
    let (params, prompts) = soft(1).unwrap();
    let one_block = {
        let shape = Shape {
            layers: 1,
            ..params.shape().clone()
        };
        let mut one = Params::blank(&shape).unwrap();
        for tensor in Tensor::all(&shape) {
            let from = match tensor {
                Tensor::Block(_, part) => Tensor::Block(1, part),
                other => other,
            };
            one.get_mut(tensor).assign(params.get(from));
        }
        one
    };
    // In a model of the last block alone, residual rows are embeddings.
    let tokens = [9, 3, 8, 1];
    let question = Question {
        tokens: tokens[1..].to_vec(),
        answer: 0,
    };
    let task = (0, [vec![question.clone()], vec![question]]);
    let alone = SoftPrompts::new(&one_block, 1, &[14, 15, 16], &[task], &[vec![1]]).unwrap();
    let row = one_block.get(Tensor::Embed).row(9).mapv(f64::from);
    let rms = (row.dot(&row) / 12.0 + 1e-5).sqrt();
    let norm = one_block
        .get(Tensor::Block(0, Part::AttnNorm))
        .row(0)
        .mapv(f64::from);
    let prompt = (&row / rms * &norm).insert_axis(Axis(0));
    let samples = Samples {
        task: 0,
        split: Split::Test,
        count: 1,
    };
    let (logits, _) = alone.forward(samples, &prompt, &Array2::zeros((3, 0)), &[0, 1, 2]);
    let batch = Batch {
        len: 4,
        inputs: tokens.to_vec(),
        targets: vec![IGNORE; 4],
    };
    let expected = forward(&one_block, &batch).unwrap().logits;
    for (i, token) in [14, 15, 16].into_iter().enumerate() {
        let difference = logits[(0, i)] - f64::from(expected[(3, token)]);
        assert!(difference.abs() < 1e-4, "{token}: {difference}");
    }

    // A feature for each head: of the last tokens of two questions, and of all seven tokens of the texts.
    assert_eq!(
        prompts
            .features(Samples {
                task: 1,
                count: 2,
                ..samples
            })
            .dim(),
        (2 * 4, 12)
    );
    assert_eq!(prompts.pretrained().dim(), (7 * 4, 12));
}

#[test]
fn soft_prompts_learn_answers_and_refuse_what_is_no_question() {
    let (params, prompts) = soft(4).unwrap();
    let recipe = Recipe {
        policy: Policy::Always,
        optimiser: Optimiser::Adam { rate: 0.1 },
        steps: 60,
        ..Recipe::default()
    };
    let mut learner = Learner::new(&prompts, recipe).unwrap();
    assert_eq!(learner.learn(0).unwrap().set, 0);
    assert_eq!(learner.learn(1).unwrap().set, 1);
    let scores = learner.scores().unwrap();
    assert_eq!((scores.sets, scores.forgetting), (2, 0.0));
    let refused = |answers: &[u32], answer: usize, tokens: &[u32]| {
        let question = Question {
            tokens: tokens.to_vec(),
            answer,
        };
        let task = (0, [vec![question.clone()], vec![question]]);
        SoftPrompts::new(&params, 1, answers, &[task], &[vec![1]]).is_err()
    };
    assert!(!refused(&[14], 0, &[1]));
    assert!(refused(&[14], 1, &[1]) && refused(&[17], 0, &[1]));
    assert!(refused(&[14], 0, &[]) && refused(&[14], 0, &[17]) && refused(&[], 0, &[1]));
}
