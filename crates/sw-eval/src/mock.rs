//! A model without weights, for tests of tasks: characters are tokens, and probabilities are counted by a rule.

use std::ops::ControlFlow;

use crate::{
    error::Result,
    model::{LanguageModel, ModelInfo, Score, Sink, Span},
};

/// How a scored span's log-probability is made from its context and continuation, both as text.
pub type Rule = fn(&str, &str) -> f64;

/// A language model whose tokens are characters; `^` is its BOS.
#[derive(Clone, Debug)]
pub struct Mock {
    /// Tokens it reads at once.
    pub max_length: usize,
    /// Two texts that form one token where they meet.
    pub merge: Option<(&'static str, &'static str)>,
    /// The log-probability of a continuation; the default prefers short ones.
    pub rule: Rule,
}

impl Default for Mock {
    fn default() -> Self {
        Self {
            max_length: 1024,
            merge: None,
            rule: |_, continuation| -(continuation.chars().count() as f64),
        }
    }
}

const MERGED: u32 = 0x11_0000; // above all characters

impl Mock {
    /// The text of tokens.
    pub fn spell(&self, tokens: &[u32]) -> String {
        let (a, b) = self.merge.unwrap_or_default();
        let piece = |&t: &u32| char::from_u32(t).map_or_else(|| format!("{a}{b}"), String::from);
        tokens.iter().map(piece).collect()
    }
}

impl LanguageModel for Mock {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            name: "mock".into(),
            fingerprint: "mock".into(),
            ..Default::default()
        }
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let merged = self.merge.map(|(a, b)| {
            (
                format!("{a}{b}"),
                char::from_u32(0x10_ffff).unwrap_or_default(),
            )
        });
        let text = merged.map_or_else(
            || text.to_owned(),
            |(pair, mark)| text.replace(&pair, &mark.to_string()),
        );
        let ids = text.chars().map(|c| {
            if c == '\u{10ffff}' {
                MERGED
            } else {
                u32::from(c)
            }
        });
        Ok(special
            .then_some(u32::from('^'))
            .into_iter()
            .chain(ids)
            .collect())
    }

    fn bos(&self) -> Option<u32> {
        Some(u32::from('^'))
    }

    fn eos(&self) -> Option<u32> {
        Some(u32::from('$'))
    }

    fn max_length(&self) -> usize {
        self.max_length
    }

    fn score(&self, spans: &[Span], sink: &mut Sink<'_>) -> Result<()> {
        for (i, span) in spans.iter().enumerate() {
            let (context, continuation) = span.tokens.split_at(span.from);
            let log_prob = (self.rule)(&self.spell(context), &self.spell(continuation));
            if sink(
                i,
                Score {
                    log_prob,
                    greedy: log_prob == 0.0,
                },
            ) == ControlFlow::Break(())
            {
                break;
            }
        }
        Ok(())
    }
}
