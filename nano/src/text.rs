//! Batches of the world's text: documents one after the other behind an opener (BOS, or in every second sequence a blank
//! line, as windows of a longer text have it), each step from its own stream.

use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::tokenizer::encode;
use crate::world::{Dialect, Dice, Split, World, story};
use sw_train::Batch;

/// What texts are made of: documents of a world. A [`World`] or [`Dialect`] alone stands for documents of all kinds.
#[derive(Clone, Copy)]
pub struct Source {
    /// Draws one document: [`story::document`] or [`story::on_lore`].
    pub document: fn(&mut Dice, World) -> String,
    /// What they are about.
    pub world: World,
}

impl From<World> for Source {
    fn from(world: World) -> Source {
        Source {
            document: story::document,
            world,
        }
    }
}

impl From<Dialect> for Source {
    fn from(dialect: Dialect) -> Source {
        World::from(dialect).into()
    }
}

/// The batch of one step: nothing else decides it, so a resumed training sees what an uninterrupted one sees.
///
/// # Errors
/// If the tokenizer fails.
pub fn batch(
    tokenizer: &Tokenizer,
    source: impl Into<Source>,
    seed: u64,
    breaks: u32,
    step: u32,
    sequences: usize,
    len: usize,
) -> Result<Batch> {
    draw(
        tokenizer,
        source.into(),
        &mut Split::Train(step).dice(seed),
        breaks,
        sequences,
        len,
    )
}

/// The batch that measurements during training are made on; held out from training and from the evaluation sets.
///
/// # Errors
/// If the tokenizer fails.
pub fn held_out(
    tokenizer: &Tokenizer,
    source: impl Into<Source>,
    seed: u64,
    breaks: u32,
    sequences: usize,
    len: usize,
) -> Result<Batch> {
    let mut dice = Split::HeldOut(0).dice(seed);
    let source = source.into();
    draw(tokenizer, source, &mut dice, breaks, sequences, len)
}

/// Sequences of an opener and documents, each on lines of its own, cut at `len` predicted tokens.
fn draw(
    tokenizer: &Tokenizer,
    source: Source,
    dice: &mut Dice,
    breaks: u32,
    sequences: usize,
    len: usize,
) -> Result<Batch> {
    let mut batch = Batch {
        len,
        inputs: Vec::new(),
        targets: Vec::new(),
    };
    for i in 0..sequences {
        let mut tokens = vec![if i % 2 == 0 { 0 } else { breaks }];
        while tokens.len() <= len {
            let text = (source.document)(dice, source.world) + "\n";
            tokens.extend(encode(tokenizer, &text)?);
        }
        batch.inputs.extend(&tokens[..len]);
        batch.targets.extend(&tokens[1..=len]);
    }
    Ok(batch)
}

/// Documents, each on lines of its own, that are exactly `len` tokens, and stay so between blank lines and spaces.
///
/// # Errors
/// If the tokenizer fails, or does not read back what it decodes.
pub fn passage(tokenizer: &Tokenizer, dice: &mut Dice, world: World, len: usize) -> Result<String> {
    const DRAWS: usize = 100;
    for _ in 0..DRAWS {
        let mut tokens = Vec::new();
        while tokens.len() < len {
            tokens.extend(encode(tokenizer, &(story::document(dice, world) + "\n"))?);
        }
        tokens.truncate(len);
        let text = tokenizer
            .decode(&tokens, false)
            .map_err(|e| Error::Tokenizer(e.to_string()))?;
        if text.trim() == text && encode(tokenizer, &text)? == tokens {
            return Ok(text);
        }
    }
    Err(Error::Tokenizer(format!(
        "none of {DRAWS} texts is {len} tokens long and reads back as it was cut"
    )))
}
