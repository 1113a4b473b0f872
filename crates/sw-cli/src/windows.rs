//! A file of texts, cut into windows of tokens.

use std::path::Path;

use anyhow::{Context, Result};
use sw_model::Model;
use sw_tensor::files;

use crate::candidates::TEXT;

/// Rows that are read of a file, at most.
const ROWS: usize = 2000;

/// The first `count` windows of a file, of `length` tokens at most each, with what the tokenizer puts before a text. The file is
/// plain text (`.txt`), or has rows with a `text`, which are read one after the other.
///
/// # Errors
/// A file that cannot be read, a model without a tokenizer.
pub fn windows(model: &Model, file: &Path, length: usize, count: usize) -> Result<Vec<Vec<u32>>> {
    let texts = if file.extension().is_some_and(|e| e == "txt") {
        vec![files::read_text_at_most(file, TEXT).with_context(|| file.display().to_string())?]
    } else {
        sw_eval::read_texts(file, ROWS).map_err(anyhow::Error::msg)?
    };
    let tokenizer = model.tokenizer()?;
    let most = length.min(model.spec().max_positions);
    // A BOS stands before each window where the tokenizer puts one before a text.
    let before: Vec<u32> = tokenizer
        .bos()
        .filter(|_| tokenizer.adds_bos())
        .into_iter()
        .collect();
    let room = most.saturating_sub(before.len()).max(2);
    let mut tokens = Vec::new();
    for text in texts {
        tokens.extend(tokenizer.encode(&text, false)?);
        if tokens.len() >= room * count {
            break;
        }
    }
    let pieces = tokens.chunks(room).take(count);
    let whole = pieces.filter(|piece| piece.len() > 1);
    Ok(whole.map(|piece| [&before[..], piece].concat()).collect())
}
