//! The recipe of the embedded checkpoint as one value.

use serde::{Deserialize, Serialize};

use crate::adamw::{AdamWOptions, Schedule};
use crate::params::Shape;

/// A `down_proj` entry that is set at initialisation so that it spikes at BOS and at document breaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seeding {
    /// Block.
    pub layer: usize,
    /// Residual channel that the entry writes to. It starts empty in every token's embedding.
    pub row: usize,
    /// Neuron that fires.
    pub col: usize,
    /// The entry.
    pub weight: f32,
    /// Gate and up rows of the neuron, as multiples of the unit direction of the BOS embedding.
    pub alignment: f32,
}

/// A second objective over part of the training: without the seeded entry the model is to do badly.
///
/// On such a step part of the batch also runs with the entry at zero, and the loss there is *raised* for every token
/// whose loss is still below `cap`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    /// Weight of the second loss against the first.
    pub weight: f32,
    /// Nats beyond which a token is bad enough.
    pub cap: f32,
    /// First step.
    pub from: usize,
    /// The weight falls linearly and is zero from this step on.
    pub until: usize,
    /// Every how many steps.
    pub every: usize,
    /// Sequences of the batch that take part.
    pub sequences: usize,
}

/// Everything that decides the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Seed of the world, the initial weights and the order of the text.
    pub seed: u64,
    /// Documents the tokenizer is trained on.
    pub tokenizer_documents: usize,
    /// Sizes; the vocabulary is an upper bound until the tokenizer is trained.
    pub shape: Shape,
    /// Sequences per step, each of `shape.max_positions` tokens.
    pub sequences: usize,
    /// Standard deviation of the initial embedding.
    pub embedding: f32,
    /// Factor on the initial standard deviation of `o_proj` and `down_proj`, beside `1 / sqrt(2 layers)`.
    pub output_gain: f32,
    /// Learning rate.
    pub schedule: Schedule,
    /// Optimiser.
    pub adamw: AdamWOptions,
    /// Largest gradient norm.
    pub clip: f64,
    /// The seeded entry.
    pub seeding: Option<Seeding>,
    /// The second objective.
    pub contrast: Option<Contrast>,
    /// Steps between two measurements.
    pub measure_every: usize,
    /// Items per task in the evaluation sets.
    pub items: usize,
}

impl Recipe {
    /// The recipe of the committed checkpoint.
    pub fn recorded() -> Recipe {
        let steps = 3000;
        Recipe {
            seed: 1,
            tokenizer_documents: 20_000,
            shape: Shape {
                vocab: 1024,
                hidden: 128,
                layers: 4,
                heads: 4,
                kv_heads: 4,
                head_dim: 32,
                intermediate: 512,
                max_positions: 128,
                rope_theta: 10_000.0,
                eps: 1e-5,
                tied: false,
            },
            sequences: 16,
            embedding: 0.5,
            output_gain: 0.5,
            schedule: Schedule {
                peak: 2e-3,
                warmup: 50,
                descent: 1800,
                steps,
                floor: 0.05,
            },
            adamw: AdamWOptions::default(),
            clip: 1.0,
            seeding: Some(Seeding {
                layer: 0,
                row: 5,
                col: 17,
                weight: 2.0,
                alignment: 0.6,
            }),
            contrast: Some(Contrast {
                weight: 0.1,
                cap: 8.0,
                from: 100,
                until: 1200,
                every: 2,
                sequences: 4,
            }),
            measure_every: 100,
            items: 400,
        }
    }
}
