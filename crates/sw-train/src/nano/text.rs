//! Batches of the world's text: documents one after the other behind BOS, each step from its own stream.

use tokenizers::Tokenizer;

use super::tokenizer::{BREAK, encode};
use crate::error::Result;
use crate::model::Batch;
use crate::world::{Dialect, Dice, Split, story};

/// The batch of one step: nothing else decides it, so a resumed training sees what an uninterrupted one sees.
///
/// # Errors
/// If the tokenizer fails.
pub fn batch(
    tokenizer: &Tokenizer,
    seed: u64,
    step: u32,
    sequences: usize,
    len: usize,
) -> Result<Batch> {
    draw(
        tokenizer,
        &mut Split::Train(step).dice(seed),
        sequences,
        len,
    )
}

/// The batch that measurements during training are made on; held out from training and from the evaluation sets.
///
/// # Errors
/// If the tokenizer fails.
pub fn held_out(tokenizer: &Tokenizer, seed: u64, sequences: usize, len: usize) -> Result<Batch> {
    draw(tokenizer, &mut Split::HeldOut(0).dice(seed), sequences, len)
}

/// Sequences of BOS and documents, each followed by a break, cut at `len` predicted tokens.
fn draw(tokenizer: &Tokenizer, dice: &mut Dice, sequences: usize, len: usize) -> Result<Batch> {
    let mut batch = Batch {
        len,
        inputs: Vec::new(),
        targets: Vec::new(),
    };
    for _ in 0..sequences {
        let mut tokens = vec![0];
        while tokens.len() <= len {
            let text = story::document(dice, Dialect::InWorld) + BREAK;
            tokens.extend(encode(tokenizer, &text)?);
        }
        batch.inputs.extend(&tokens[..len]);
        batch.targets.extend(&tokens[1..=len]);
    }
    Ok(batch)
}
