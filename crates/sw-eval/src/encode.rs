//! From texts to tokens, by the harness's rules: they decide numbers, so they exist once.

use sw_model::BosRule;

use crate::{
    Bos,
    error::{Error, Result},
    model::{LanguageModel, Span},
    text::is_space,
};

/// A continuation after its context, in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What is scored.
    pub span: Span,
    /// Tokens that were cut from the left to fit the model.
    pub cut: usize,
    /// Whether the continuation disappeared in the context's last tokens, so that those are scored with it.
    pub merged: bool,
}

/// A context, encoded once for all its continuations.
#[derive(Clone, Debug)]
pub struct Context<'t> {
    text: &'t str,
    /// Its tokens without the white space at its end; none of an empty text.
    head: Vec<u32>,
}

impl Context<'_> {
    /// The context itself.
    pub fn text(&self) -> &str {
        self.text
    }
}

/// A model's tokenizer under one BOS rule.
pub struct Encoder<'a> {
    lm: &'a dyn LanguageModel,
    rule: BosRule,
    /// What a text without context is conditioned on.
    prefix: u32,
}

impl<'a> Encoder<'a> {
    /// An encoder.
    ///
    /// # Errors
    /// `Bos::On` without a BOS token; a tokenizer with neither BOS nor EOS.
    pub fn new(lm: &'a dyn LanguageModel, bos: Bos) -> Result<Self> {
        lm.encode("a", true)?; // a broken tokenizer is told as such, before what it lacks
        let rule = BosRule::new(bos, lm.bos(), lm.eos(), |text, special| {
            lm.encode(text, special)
        })?;
        let prefix = rule.prefix().ok_or_else(|| {
            Error::Options(
                "the tokenizer has neither a BOS nor an EOS token, which an empty context needs; name one in tokenizer_config.json"
                    .into(),
            )
        })?;
        Ok(Self { lm, rule, prefix })
    }

    /// The most tokens the model reads at once.
    pub fn max_length(&self) -> usize {
        self.lm.max_length()
    }

    /// A text's tokens, with BOS as the rule says; none is added where the text begins with one.
    ///
    /// # Errors
    /// When the text cannot be encoded.
    pub fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.rule
            .encode(text, |text, special| self.lm.encode(text, special))
    }

    fn plain(&self, text: &str) -> Result<Vec<u32>> {
        self.lm.encode(text, false)
    }

    /// A context for [`pair`](Self::pair).
    ///
    /// # Errors
    /// When the text cannot be encoded.
    pub fn context<'t>(&self, text: &'t str) -> Result<Context<'t>> {
        let head = match text {
            "" => Vec::new(),
            _ => self.text(text.trim_end_matches(is_space))?,
        };
        Ok(Context { text, head })
    }

    /// `log p(continuation | context)`.
    ///
    /// White space at the context's end moves to the continuation; both are encoded as one string, and what follows the
    /// length of the encoded context is the continuation (the context itself is read as encoded alone); an empty context
    /// becomes the prefix token; what does not fit the model is cut from the left.
    ///
    /// Where the tokenizer merges so much across the boundary that nothing is left after the context's length (the
    /// harness stops there), the split moves to the first token that differs from the context's own.
    ///
    /// # Errors
    /// A continuation without tokens, or one longer than the model's context.
    pub fn pair(&self, context: &Context<'_>, continuation: &str) -> Result<Pair, String> {
        let text = |e: Error| e.to_string();
        let mut merged = false;
        let (tokens, from) = if context.text.is_empty() {
            let plain = self.plain(continuation).map_err(text)?;
            if plain.first() == Some(&self.prefix) {
                (plain, 1)
            } else {
                ([&[self.prefix], &plain[..]].concat(), 1)
            }
        } else {
            let head = &context.head;
            let whole = self
                .text(&format!("{}{continuation}", context.text))
                .map_err(text)?;
            let (head, rest) = if head.len() >= whole.len() && whole != *head {
                merged = true;
                let from = whole.iter().zip(head).take_while(|(a, b)| a == b).count();
                (&whole[..from], &whole[from..])
            } else {
                (&head[..], whole.get(head.len()..).unwrap_or_default())
            };
            // A context of white space only, without BOS, leaves nothing to condition on.
            let head = if head.is_empty() {
                &[self.prefix][..]
            } else {
                head
            };
            ([head, rest].concat(), head.len())
        };
        if from >= tokens.len() {
            return Err(format!(
                "the continuation {continuation:?} has no token of its own"
            ));
        }
        let max = self.max_length();
        let scored = tokens.len() - from;
        if scored > max {
            return Err(format!(
                "a continuation of {scored} tokens is longer than the model's context of {max}"
            ));
        }
        let cut = tokens.len().saturating_sub(max + 1);
        let span = Span {
            tokens: tokens[cut..].to_vec(),
            from: from - cut,
        };
        Ok(Pair { span, cut, merged })
    }

    /// Windows in which each token of a text is predicted once, the first from the prefix token, each with as much
    /// context as the model can read.
    ///
    /// # Errors
    /// When the text cannot be encoded.
    pub fn rolling(&self, text: &str) -> Result<Vec<Span>> {
        let tokens = self.text(text)?;
        let max = self.max_length();
        let all = [&[self.prefix], &tokens[..]].concat();
        // all[k] predicts all[k + 1]; a window reads at most `max` tokens and predicts those not predicted before.
        let mut spans = Vec::new();
        let mut predicted = 0;
        while predicted < tokens.len() {
            let end = tokens.len().min(predicted + max);
            let start = if predicted == 0 { 0 } else { end - max };
            spans.push(Span {
                tokens: all[start..=end].to_vec(),
                from: predicted + 1 - start,
            });
            predicted = end;
        }
        Ok(spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;

    fn pair(lm: &Mock, bos: Bos, context: &str, continuation: &str) -> (String, usize) {
        let encoder = Encoder::new(lm, bos).unwrap();
        let context = encoder.context(context).unwrap();
        let span = encoder.pair(&context, continuation).unwrap().span;
        (lm.spell(&span.tokens), span.from)
    }

    #[test]
    fn white_space_moves_to_the_continuation() {
        let lm = Mock::default();
        assert_eq!(pair(&lm, Bos::Off, "ab \n", " c"), ("ab \n c".into(), 2));
        assert_eq!(pair(&lm, Bos::On, "ab \n", " c"), ("^ab \n c".into(), 3));
    }

    #[test]
    fn an_empty_context_becomes_the_prefix_token() {
        let lm = Mock::default();
        assert_eq!(pair(&lm, Bos::Off, "", " c"), ("^ c".into(), 1));
        assert_eq!(pair(&lm, Bos::On, "", " c"), ("^ c".into(), 1));
        assert_eq!(pair(&lm, Bos::On, "", "^c"), ("^c".into(), 1));
        assert_eq!(pair(&lm, Bos::Off, " ", "c"), ("^ c".into(), 1));
    }

    #[test]
    fn the_split_is_at_the_length_of_the_encoded_context() {
        // "e " is one token, so the context's last token differs from the whole's: the split counts tokens, and what is
        // read before it is the context's own "e".
        let lm = Mock {
            merge: Some(("e", " ")),
            ..Mock::default()
        };
        assert_eq!(pair(&lm, Bos::Off, "one", " x"), ("onex".into(), 3));
        assert_eq!(pair(&lm, Bos::Off, "one", " xy"), ("onexy".into(), 3));
    }

    #[test]
    fn a_bos_in_the_text_is_not_doubled() {
        let lm = Mock::default();
        assert_eq!(pair(&lm, Bos::On, "^a", "b"), ("^ab".into(), 2));
        assert_eq!(pair(&lm, Bos::Auto, "^a", "b"), ("^ab".into(), 2));
    }

    /// Bytes are tokens, but `", x"` is one.
    struct Merging;

    impl LanguageModel for Merging {
        fn info(&self) -> crate::ModelInfo {
            crate::ModelInfo::default()
        }
        fn encode(&self, text: &str, _: bool) -> Result<Vec<u32>> {
            let merged = text.replace(", x", "\u{1}");
            Ok(merged.bytes().map(u32::from).collect())
        }
        fn bos(&self) -> Option<u32> {
            None
        }
        fn eos(&self) -> Option<u32> {
            Some(0)
        }
        fn max_length(&self) -> usize {
            8
        }
        fn score(&self, _: &[Span], _: &mut crate::Sink<'_>) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_continuation_that_merges_into_the_context_is_scored_with_it() {
        let encoder = Encoder::new(&Merging, Bos::Auto).unwrap();
        let context = encoder.context("ab,").unwrap();
        let pair = encoder.pair(&context, " x").unwrap();
        let span = Span {
            tokens: vec![97, 98, 1],
            from: 2,
        };
        assert_eq!((pair.span, pair.merged), (span, true));
        assert!(!encoder.pair(&context, " y").unwrap().merged);
    }

    #[test]
    fn what_does_not_fit_is_cut_from_the_left() {
        let lm = Mock {
            max_length: 4,
            ..Mock::default()
        };
        let encoder = Encoder::new(&lm, Bos::On).unwrap();
        let context = |text| encoder.context(text).unwrap();
        let Pair { span, cut, .. } = encoder.pair(&context("abcdef"), "gh").unwrap();
        assert_eq!(
            (lm.spell(&span.tokens), span.from, cut),
            ("defgh".into(), 3, 4)
        );
        assert!(
            encoder
                .pair(&context("a"), "bcdef")
                .unwrap_err()
                .contains("longer than the model's context of 4")
        );
        assert!(
            encoder
                .pair(&context("a"), "")
                .unwrap_err()
                .contains("no token of its own")
        );
    }

    #[test]
    fn rolling_windows_predict_each_token_once() {
        let lm = Mock {
            max_length: 4,
            ..Mock::default()
        };
        let encoder = Encoder::new(&lm, Bos::Off).unwrap();
        let spans = encoder.rolling("0123456789").unwrap();
        let shown: Vec<_> = spans
            .iter()
            .map(|s| (lm.spell(&s.tokens), s.from))
            .collect();
        assert_eq!(
            shown,
            [
                ("^0123".into(), 1),
                ("34567".into(), 1),
                ("56789".into(), 3)
            ]
        );
        assert_eq!(encoder.rolling("").unwrap(), []);
        assert_eq!(encoder.rolling("ab").unwrap().len(), 1);
    }
}
