//! The micro-world: short stories about people, places and things, all from one grammar and a seed.
//!
//! A reader of these texts must keep who has what and where it is, for the length of a story, and which tool serves which
//! aim, for good. Training text and evaluation sets are drawn from different streams of the seed ([`Split`]).

pub mod dice;
mod files;
mod lore;
pub mod scene;
pub mod story;
mod table;
pub mod tasks;
pub mod words;

pub use dice::Dice;
pub use files::write_evaluation;
pub use scene::Dialect;

/// Which text of the world: each has its own stream of the seed, so no evaluation text is a training text but by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Text the tokenizer is trained on.
    Tokenizer,
    /// Text the model is trained on, in numbered shards.
    Train(u32),
    /// Text and items for evaluation, one number per set.
    HeldOut(u32),
}

impl Split {
    /// The choices of this split under `seed`.
    pub fn dice(self, seed: u64) -> Dice {
        let stream = match self {
            Split::Tokenizer => 0,
            Split::Train(shard) => (1 << 32) | u64::from(shard),
            Split::HeldOut(set) => (2 << 32) | u64::from(set),
        };
        Dice::new(seed, stream)
    }
}
