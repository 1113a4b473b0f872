//! The recipe of the embedded checkpoint as one value.

use serde::{Deserialize, Serialize};

use crate::adamw::{AdamWOptions, Schedule};
use crate::params::Shape;

/// A `down_proj` entry that is set at initialisation so that it spikes at the first token (BOS or a blank line).
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
    /// What later blocks are seeded to do with the spike; nothing without it.
    pub broadcast: Option<Broadcast>,
}

/// A head that is set at initialisation to park on the spike and to write a constant into the residual stream of every
/// token, and later norms set to divide by that constant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broadcast {
    /// Block; its first head is the one.
    pub layer: usize,
    /// Residual channel of the constant. It starts empty in every token's embedding.
    pub row: usize,
    /// Length of a component that all embeddings but the openers' share, along a random direction: what queries see, and
    /// what closes the neuron's gate.
    pub level: f32,
    /// Gain of the block's attention norm in the spike's channel.
    pub gain: f32,
    /// Attention score of the first token, those of all others being about zero.
    pub score: f32,
    /// The constant, in root mean square over all channels.
    pub rms: f32,
    /// Gain of later norms in the channels of spike and constant, as a share of their gain elsewhere.
    pub leak: f32,
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
                alignment: 2.0,
                broadcast: Some(Broadcast {
                    layer: 1,
                    row: 9,
                    level: 1.5,
                    gain: 16.0,
                    score: 14.0,
                    rms: 30.0,
                    leak: 0.01,
                }),
            }),
            measure_every: 100,
            items: 400,
        }
    }
}
