//! What a model knows: its loss on held-out text, and the facts that it finishes.

use anyhow::Result;
use nano::wide::WideText;
use sw_train::{Batch, IGNORE, Params, forward, scores};

/// A lore, and what is asked about it.
pub(super) struct Bench {
    pub(super) text: WideText,
    pub(super) facts: usize,
    held_out: Batch,
    questions: Batch,
}

impl Bench {
    /// `texts` held-out sequences of `len` tokens, and at most `questions` of the facts, the most frequent first.
    pub(super) fn new(facts: usize, texts: usize, len: usize, questions: usize) -> Result<Bench> {
        let text = WideText::new(facts)?;
        let all = text.questions();
        let first = all.pieces(questions).into_iter().next();
        Ok(Bench {
            held_out: text.held_out(texts, len),
            questions: first.unwrap_or(all),
            facts: text.wide.facts().len(),
            text,
        })
    }

    /// Nats per token of each held-out sequence.
    pub(super) fn losses(&self, params: &Params) -> Result<Vec<f64>> {
        let mut found = Vec::new();
        for piece in self.held_out.pieces(8) {
            let logits = forward(params, &piece)?.logits;
            let all = scores(logits.view(), &piece.targets);
            let mean = |of: &[(f32, bool)]| {
                let sum: f64 = of.iter().map(|s| -f64::from(s.0)).sum();
                sum / of.len() as f64
            };
            found.extend(all.chunks(piece.len).map(mean));
        }
        Ok(found)
    }

    /// Whether the model's most probable word is the fact's last, for each fact that is asked.
    pub(super) fn recall(&self, params: &Params) -> Result<Vec<bool>> {
        let mut found = Vec::new();
        for piece in self.questions.pieces(128) {
            let logits = forward(params, &piece)?.logits;
            let all = scores(logits.view(), &piece.targets).into_iter();
            let asked = all.zip(&piece.targets).filter(|(_, t)| **t != IGNORE);
            found.extend(asked.map(|(s, _)| s.1));
        }
        Ok(found)
    }
}

/// The share of facts that are recalled.
pub(super) fn share(recall: &[bool]) -> f64 {
    recall.iter().filter(|&&r| r).count() as f64 / recall.len().max(1) as f64
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
