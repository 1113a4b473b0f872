//! A byte-level BPE tokenizer trained on the micro-world.

use std::path::Path;

use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel as ByteDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split as SplitAt, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, DecoderWrapper, PostProcessorWrapper, SplitDelimiterBehavior, TokenizerBuilder,
};

pub use tokenizers::Tokenizer;

use sw_train::checkpoint;

use crate::error::{Error, Result};
use crate::world::{Dialect, Split, story};

/// The token that opens every sequence; its number is 0.
pub const BOS: &str = "<s>";

/// What stands between two documents: one token.
pub const BREAK: &str = "\n\n";

/// Words with their space before, line breaks together, everything else by kind.
const PATTERN: &str = r"\n+| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s";

/// Trains a tokenizer of at most `vocab` tokens on `documents` documents of the world under `seed`.
///
/// # Errors
/// If the tokenizers library refuses.
pub fn train(seed: u64, documents: usize, vocab: usize) -> Result<Tokenizer> {
    let failed = |e: tokenizers::Error| Error::Tokenizer(e.to_string());
    let split = cut()?;
    let bytes = ByteLevel::new(false, false, false);
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab)
        .special_tokens(vec![AddedToken::from(BOS, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer =
        TokenizerBuilder::<BPE, NormalizerWrapper, _, PostProcessorWrapper, _>::new()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
                split.into(),
                bytes.into(),
            ]))))
            .with_post_processor(None)
            .with_decoder(Some(DecoderWrapper::ByteLevel(ByteDecoder::default())))
            .build()
            .map_err(failed)?;
    let mut dice = Split::Tokenizer.dice(seed);
    let text = (0..documents).map(|_| story::document(&mut dice, Dialect::Shifted) + BREAK);
    tokenizer.train(&mut trainer, text).map_err(failed)?;
    tokenizer.with_post_processor(Some(open_with_bos()?));
    Ok(tokenizer.into())
}

/// Cuts a text by [`PATTERN`].
pub(crate) fn cut() -> Result<SplitAt> {
    let pattern = SplitPattern::Regex(PATTERN.to_string());
    SplitAt::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| Error::Tokenizer(e.to_string()))
}

/// Puts [`BOS`] before a text.
pub(crate) fn open_with_bos() -> Result<PostProcessorWrapper> {
    let bos = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))
        .and_then(|t| {
            t.try_pair(format!("{BOS} $A $B"))
                .map(|t| t.special_tokens(vec![(BOS, 0)]))
        })
        .map_err(Error::Tokenizer)?
        .build()
        .map_err(|e| Error::Tokenizer(e.to_string()))?;
    Ok(PostProcessorWrapper::Template(bos))
}

/// Writes `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`.
///
/// # Errors
/// If a file cannot be written.
pub fn save(tokenizer: &Tokenizer, max_positions: usize, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::file(dir))?;
    let text = tokenizer
        .to_string(true)
        .map_err(|e| Error::Tokenizer(e.to_string()))?
        + "\n";
    checkpoint::write(&dir.join("tokenizer.json"), text.as_bytes())?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": true,
        "add_eos_token": false,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": false,
        "model_max_length": max_positions,
    });
    let generation = json!({ "bos_token_id": 0, "do_sample": false, "max_length": max_positions });
    for (name, value) in [
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
    ] {
        let text = serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
        checkpoint::write(&dir.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Reads `tokenizer.json` of a checkpoint.
///
/// # Errors
/// If the file is missing or no tokenizer.
pub fn load(dir: &Path) -> Result<Tokenizer> {
    let path = dir.join("tokenizer.json");
    let refused = |e: tokenizers::Error| Error::Tokenizer(format!("{}: {e}", path.display()));
    Tokenizer::from_file(&path).map_err(refused)
}

/// The tokens of `text`, without BOS.
///
/// # Errors
/// If the tokenizer fails.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer
        .encode(text, false)
        .map_err(|e| Error::Tokenizer(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_breaks_are_one_token_each() {
        let tokenizer = train(1, 3000, 1024).unwrap();
        let ids = encode(&tokenizer, "Anna has the ball.\n\nTom is in the kitchen.").unwrap();
        assert_eq!(ids.len(), 12);
        let with_bos = tokenizer.encode("Anna has the ball.", true).unwrap();
        assert_eq!(with_bos.get_ids()[0], 0);
        let back = tokenizer.decode(&ids, true).unwrap();
        assert_eq!(back, "Anna has the ball.\n\nTom is in the kitchen.");
        assert!(encode(&tokenizer, "Äther 42 \t?").unwrap().len() > 5);
    }
}
