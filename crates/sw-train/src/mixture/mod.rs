//! Mixtures of experts in training: how many a block has, how tokens are routed to them, and what that is steered by.
//!
//! Sources: DeepSpeed-MoE (arXiv 2201.05596), section 4.1 for pyramid and residual experts, section 4.2 for distillation; the rules
//! of routing (capacity, random token selection, auxiliary loss) are those of its release. Inference ([`crate::forward`]) never
//! drops a token: capacity is a matter of training alone, so that a document's score does not depend on its neighbours.

mod layer;
mod route;

use serde::{Deserialize, Serialize};

pub(crate) use layer::{MixtureTape, backward, forward};
pub use route::{Choice, Routed, balance, capacity, route};

/// The experts of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experts {
    /// How many; one is a dense block without a router.
    pub count: usize,
    /// Experts that a token runs through.
    pub per_token: usize,
    /// Whether the block's MLP stays beside them, and a learned two-way softmax mixes both.
    pub residual: bool,
    /// Whether they begin as copies of the MLP of their block, as in the release; else each is drawn by itself.
    pub copied: bool,
}

impl Experts {
    /// Experts in the MLP's place, each drawn by itself.
    pub fn new(count: usize, per_token: usize) -> Experts {
        Experts {
            count,
            per_token,
            residual: false,
            copied: false,
        }
    }

    /// Whether the probabilities of a token's experts are scaled to sum 1. With one expert per token they are not: the share
    /// would be the constant 1, and the loss would say nothing to the router.
    pub fn normalize(self) -> bool {
        self.per_token > 1
    }
}

/// Which tokens an expert with too many of them turns away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// Those with the smallest of uniform draws.
    Random,
    /// Those that stand last; second choices after all first ones.
    Position,
}

/// How tokens are routed in training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// An expert takes at most this many times its equal share of the choices; `None`: it takes all.
    pub capacity: Option<f32>,
    /// But it takes so many in any case.
    pub least: usize,
    /// Factor of the auxiliary loss, which is summed over blocks: `experts * sum_e mean_t(p[t, e]) * share_e`, where `share_e` is
    /// the part of the tokens whose most probable expert is `e`, before dropping. Equal loads give 1.
    pub aux: f32,
    /// Who is turned away.
    pub drop: Drop,
    /// Whether choices after the first are of the logits plus Gumbel noise.
    pub noise: bool,
    /// Sequences that are routed together: the unit of capacity and auxiliary loss. Their number decides the result.
    pub sequences: usize,
    /// What random choices are drawn from, in a stream for each step, piece of a batch and block.
    pub seed: u64,
}

impl Default for Routing {
    fn default() -> Self {
        Routing {
            capacity: Some(1.0),
            least: 4,
            aux: 0.01,
            drop: Drop::Random,
            noise: true,
            sequences: 2,
            seed: 0,
        }
    }
}

/// Where in a training a forward pass stands.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) routing: &'a Routing,
    pub(crate) step: usize,
    pub(crate) piece: usize,
    /// Tokens of this piece, as a share of the batch's.
    pub(crate) share: f32,
}

/// What routing came to in one block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The block.
    pub layer: usize,
    /// Choices of each expert, before dropping.
    pub choices: Vec<u64>,
    /// Choices that were turned away.
    pub dropped: u64,
    /// The auxiliary loss before its factor.
    pub aux: f64,
}

impl Load {
    /// The largest part of the choices that one expert had.
    pub fn largest(&self) -> f64 {
        let all: u64 = self.choices.iter().sum();
        let most = self.choices.iter().max().copied().unwrap_or(0);
        most as f64 / all.max(1) as f64
    }

    /// Adds what routing came to in another piece of a batch, or in another batch.
    pub fn add(&mut self, other: &Load) {
        for (mine, theirs) in self.choices.iter_mut().zip(&other.choices) {
            *mine += theirs;
        }
        self.dropped += other.dropped;
        self.aux += other.aux;
    }
}
