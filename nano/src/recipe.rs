//! The recipe of the embedded checkpoint as one value.

use serde::{Deserialize, Serialize};

use sw_train::Shape;
use sw_train::{AdamWOptions, Schedule};

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
    /// Residual channels of the constant, of alternating sign. They start empty in every token's embedding.
    pub rows: Vec<usize>,
    /// Length of a component that all embeddings but the openers' share, along a random direction: what queries see, and
    /// what closes the neuron's gate.
    pub level: f32,
    /// Gain of the block's attention norm in the spike's channel.
    pub gain: f32,
    /// Attention score of the first token, those of all others being about zero.
    pub score: f32,
    /// The constant, in root mean square over all channels.
    pub rms: f32,
    /// The `o_proj` entries that write it; the head's values are what the constant asks for with these.
    pub output: f32,
    /// Learning rate, as a share of the others', of the head's weights and of all that writes into the channels of spike and
    /// constant from there on. The head's values are large and the same at every token, so that a step of its `o_proj` at the
    /// common rate would shift all channels of all tokens by their usual size; and what later blocks write into the channels
    /// that norms divide by is a scale for all others.
    pub rate: f32,
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
