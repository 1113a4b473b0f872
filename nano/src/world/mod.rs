//! The micro-world: short stories about people, places and things, all from one grammar and a seed.
//!
//! A reader of these texts must keep who has what and where it is, for the length of a story, and which tool serves which
//! aim, for good ([`Lore`]; another seed has another lore). Training text and evaluation sets are drawn from different streams of the seed ([`Split`]).

pub mod dice;
mod files;
mod lore;
pub mod scene;
pub mod story;
mod table;
pub mod tasks;
pub(crate) mod wide;
pub mod words;

pub use dice::Dice;
pub use files::write_evaluation;
pub use lore::Lore;
pub use scene::Dialect;
pub use wide::{Wide, WideFact, ZIPF};

/// What a text is about: how it is drawn, and what always holds. A [`Dialect`] alone is that of the home lore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// How the text is drawn.
    pub dialect: Dialect,
    /// What holds in every story.
    pub lore: Lore,
}

impl From<Dialect> for World {
    fn from(dialect: Dialect) -> Self {
        World {
            dialect,
            lore: Lore::home(),
        }
    }
}

impl World {
    /// `n` people with different first names and different family names.
    fn people(self, dice: &mut Dice, n: usize) -> Vec<String> {
        self.dialect.people(dice, n)
    }

    /// How many facts a scene opens with.
    fn facts(self, dice: &mut Dice) -> usize {
        self.dialect.facts(dice)
    }
}

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
