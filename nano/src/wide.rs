//! Text of a wide lore as batches, with a tokenizer that has one token for each word.

use std::collections::HashMap;

use tokenizers::models::wordlevel::WordLevel;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{DecoderWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerBuilder};

use crate::error::{Error, Result};
use crate::tokenizer::{BOS, Tokenizer, cut, open_with_bos};
use crate::world::wide::pieces;
use crate::world::{Dice, Lore, Split, Wide};
use sw_train::{Batch, IGNORE};

/// What stands for a word that the tokenizer does not know; its number is 1.
const UNKNOWN: &str = "<unk>";
/// Held-out text of a wide lore; the sets of the small world have other numbers.
const HELD_OUT: u32 = 100;

/// A wide lore and its tokens.
pub struct WideText {
    /// The facts.
    pub wide: Wide,
    /// One token for each word.
    pub tokenizer: Tokenizer,
    numbers: HashMap<String, u32>,
}

impl WideText {
    /// The lore of `facts` facts.
    ///
    /// # Errors
    /// If the tokenizers library refuses.
    pub fn new(facts: usize) -> Result<WideText> {
        let wide = Lore::wide(facts);
        let words = [BOS, UNKNOWN].map(String::from).into_iter();
        let numbers: HashMap<String, u32> = words.chain(wide.vocabulary()).zip(0..).collect();
        Ok(WideText {
            tokenizer: tokenizer(&numbers)?,
            wide,
            numbers,
        })
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.numbers.len()
    }

    /// The tokens of a text, without BOS; what the tokenizer gives, faster.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let number = |piece| self.numbers.get(piece).copied().unwrap_or(1);
        pieces(text).into_iter().map(number).collect()
    }

    /// The batch of one step: nothing else decides it.
    pub fn batch(&self, seed: u64, step: u32, sequences: usize, len: usize) -> Batch {
        self.draw(&mut Split::Train(step).dice(seed), sequences, len)
    }

    /// Text that no training sees.
    pub fn held_out(&self, sequences: usize, len: usize) -> Batch {
        self.draw(&mut Split::HeldOut(HELD_OUT).dice(0), sequences, len)
    }

    /// Held-out sequences as text, one string for each.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn held_out_texts(&self, sequences: usize, len: usize) -> Result<Vec<String>> {
        let batch = self.held_out(sequences, len);
        let text = |tokens: &[u32]| {
            let text = self.tokenizer.decode(&tokens[1..], true);
            text.map_err(|e| Error::Tokenizer(e.to_string()))
        };
        batch.inputs.chunks(len).map(text).collect()
    }

    /// Every fact, the most frequent first, as a sequence whose last target is its value; nothing else is scored.
    pub fn questions(&self) -> Batch {
        let mut batch = Batch {
            len: 0,
            inputs: Vec::new(),
            targets: Vec::new(),
        };
        for &fact in self.wide.facts() {
            let (asked, value) = self.wide.question(fact);
            let asked = self.encode(&asked);
            batch.len = asked.len() + 1;
            batch.inputs.push(0);
            batch.inputs.extend(&asked);
            batch.targets.extend(asked.iter().map(|_| IGNORE));
            batch.targets.extend(self.encode(&value));
        }
        batch
    }

    /// Sequences of BOS and documents, each on a line of its own, cut at `len` predicted tokens.
    fn draw(&self, dice: &mut Dice, sequences: usize, len: usize) -> Batch {
        let mut batch = Batch {
            len,
            inputs: Vec::new(),
            targets: Vec::new(),
        };
        for _ in 0..sequences {
            let mut tokens = vec![0];
            while tokens.len() <= len {
                tokens.extend(self.encode(&(self.wide.document(dice) + "\n")));
            }
            batch.inputs.extend(&tokens[..len]);
            batch.targets.extend(&tokens[1..=len]);
        }
        batch
    }
}

fn tokenizer(numbers: &HashMap<String, u32>) -> Result<Tokenizer> {
    let failed = |e: tokenizers::Error| Error::Tokenizer(e.to_string());
    let vocab = numbers.iter().map(|(word, &n)| (word.clone(), n)).collect();
    let model = WordLevel::builder()
        .vocab(vocab)
        .unk_token(UNKNOWN.to_string())
        .build()
        .map_err(failed)?;
    let mut tokenizer =
        TokenizerBuilder::<WordLevel, NormalizerWrapper, _, PostProcessorWrapper, _>::new()
            .with_model(model)
            .with_normalizer(None)
            .with_pre_tokenizer(Some(PreTokenizerWrapper::Split(cut()?)))
            .with_post_processor(None)
            .with_decoder(Some(DecoderWrapper::Fuse(Default::default())))
            .build()
            .map_err(failed)?;
    let special = [tokenizers::AddedToken::from(BOS, true)];
    tokenizer.add_special_tokens(special).map_err(failed)?;
    tokenizer.with_post_processor(Some(open_with_bos()?));
    Ok(tokenizer.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::encode;

    #[test]
    fn the_tokenizer_cuts_as_the_batches_are_cut() {
        let text = WideText::new(96).unwrap();
        let mut dice = Dice::new(8, 0);
        let mut unknown = 0;
        for _ in 0..200 {
            let document = text.wide.document(&mut dice) + "\n";
            let tokens = text.encode(&document);
            assert_eq!(encode(&text.tokenizer, &document).unwrap(), tokens);
            assert_eq!(text.tokenizer.decode(&tokens, true).unwrap(), document);
            unknown += tokens.iter().filter(|&&t| t == 1).count();
        }
        assert_eq!(unknown, 0);
        for odd in ["a  b", " \n\n x", "12 3.5!? ", "", "\t(Tom)", "é'è"] {
            let ids = encode(&text.tokenizer, odd).unwrap();
            assert_eq!(ids, text.encode(odd), "{odd:?}");
        }
        let with_bos = text.tokenizer.encode("The", true).unwrap();
        assert_eq!(with_bos.get_ids()[0], 0);
    }

    #[test]
    fn questions_ask_for_one_token() {
        let text = WideText::new(96).unwrap();
        let batch = text.questions();
        assert_eq!((batch.len, batch.inputs.len()), (4, 96 * 4));
        let scored = batch.targets.iter().filter(|&&t| t != IGNORE);
        assert_eq!(scored.count(), 96);
        assert!(!batch.inputs.contains(&1) && !batch.targets.contains(&1));
        assert_eq!(text.batch(1, 5, 3, 64), text.batch(1, 5, 3, 64));
        assert_ne!(text.batch(1, 5, 3, 64), text.batch(1, 6, 3, 64));
    }
}
