//! From rows after the final norm to logits and log-probabilities.

use ndarray::{Array2, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;
use sw_tensor::{LogSumExp, all_finite, matmul_t_each};

use crate::{
    error::{Error, Result},
    forward::Seq,
    model::Model,
    site::Hook,
};

/// How the model judges one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of its probability.
    pub log_prob: f64,
    /// Whether it is the most probable token (of equals, the one with the lowest id).
    pub greedy: bool,
}

/// Logits are judged in blocks of at most so many rows: enough for an efficient product ...
const BLOCK_ROWS: usize = 1024;
/// ... and of so many tokens of the vocabulary: few enough for a block to be in the cache when it is judged. A row's score depends
/// on where its logits are cut, in its last digits; they are cut in the same places whatever other rows there are.
const BLOCK_TOKENS: usize = 2048;

impl Model {
    /// Logits of rows after the final norm: `[rows, hidden] -> [rows, vocab]`.
    ///
    /// # Errors
    /// A non-finite logit, with the tensor that is to blame.
    pub fn logits(&self, rows: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let head = &self.weights().head;
        let mut logits = Array2::zeros((rows.nrows(), head.rows()));
        // [rows, hidden] x [vocab, hidden]^T
        matmul_t_each(self.arithmetic(), rows, [(head, logits.view_mut())]);
        let rows = logits.axis_iter_mut(Axis(0)).into_par_iter();
        rows.try_for_each(|row| self.check_and_cap(row))?;
        Ok(logits)
    }

    /// What comes after the product of a row of logits.
    fn check_and_cap(&self, mut logits: ArrayViewMut1<'_, f32>) -> Result<()> {
        if !all_finite(logits.view().insert_axis(Axis(0))) {
            return Err(self.non_finite("logits".into(), None));
        }
        if let Some(cap) = self.spec().logit_softcap {
            logits.mapv_inplace(|x| cap * (x / cap).tanh());
        }
        Ok(())
    }

    /// Scores one target token per row (rows after the final norm), without keeping more than 8 MiB of logits.
    ///
    /// # Errors
    /// A target beyond the vocabulary, a non-finite logit.
    ///
    /// # Panics
    /// When there are not as many targets as rows.
    pub fn score(&self, rows: ArrayView2<'_, f32>, targets: &[u32]) -> Result<Vec<TokenScore>> {
        assert_eq!(rows.nrows(), targets.len(), "one target per row");
        let vocab_size = self.spec().vocab_size;
        if let Some(position) = targets.iter().position(|&t| t as usize >= vocab_size) {
            return Err(Error::TokenId {
                id: targets[position],
                position,
                vocab_size,
            });
        }
        let mut scratch = self.take_scratch();
        let scores = self.score_in(&mut scratch.logits, rows, targets);
        self.keep_scratch(scratch);
        scores
    }

    fn score_in(
        &self,
        logits: &mut Vec<f32>,
        rows: ArrayView2<'_, f32>,
        targets: &[u32],
    ) -> Result<Vec<TokenScore>> {
        let head = &self.weights().head;
        let mut scores = Vec::with_capacity(targets.len());
        for targets in targets.chunks(BLOCK_ROWS) {
            let first = scores.len();
            let rows = rows.slice_axis(Axis(0), Slice::from(first..first + targets.len()));
            let mut judged = vec![Judged::default(); targets.len()];
            for first in (0..head.rows()).step_by(BLOCK_TOKENS) {
                let head = head.slice_rows(first..head.rows().min(first + BLOCK_TOKENS));
                let shape = (targets.len(), head.rows());
                if logits.len() < shape.0 * shape.1 {
                    *logits = vec![0.0; shape.0 * shape.1];
                }
                let logits = &mut logits[..shape.0 * shape.1];
                let mut block = ArrayViewMut2::from_shape(shape, logits).expect("as many logits");
                // [rows, hidden] x [tokens, hidden]^T
                matmul_t_each(self.arithmetic(), rows, [(&head, block.view_mut())]);
                let logits = block.axis_iter_mut(Axis(0)).into_par_iter();
                let of_rows = logits.zip(&mut judged).zip(targets);
                of_rows.try_for_each(|((mut logits, row), &target)| -> Result<()> {
                    self.check_and_cap(logits.view_mut())?;
                    row.judge(
                        first,
                        logits.into_slice().expect("row-major"),
                        target as usize,
                    );
                    Ok(())
                })?;
            }
            scores.extend(judged.iter().map(Judged::score));
        }
        Ok(scores)
    }

    /// Scores every token of each text but its first, given all tokens before it, and a soft prompt of the model before those.
    ///
    /// # Errors
    /// As [`forward`](Self::forward) and [`score`](Self::score).
    pub fn score_texts(
        &self,
        texts: &[&[u32]],
        hook: &mut dyn Hook,
    ) -> Result<Vec<Vec<TokenScore>>> {
        let prompt = self.virtual_tokens();
        let read = |text: &&[u32]| [&prompt[..], text].concat();
        let read: Vec<Vec<u32>> = texts.iter().map(read).collect();
        let seqs: Vec<_> = read.iter().map(|tokens| Seq::from(&tokens[..])).collect();
        let rows = self.forward(&seqs, hook)?;
        let mut first = 0;
        texts
            .iter()
            .map(|tokens| {
                first += prompt.len();
                let rows = rows.slice_axis(Axis(0), (first..first + tokens.len() - 1).into());
                first += tokens.len();
                self.score(rows, &tokens[1..])
            })
            .collect()
    }
}

/// What is known of a target token from the logits that were seen so far, those of the first tokens.
#[derive(Clone, Copy, Default)]
struct Judged {
    seen: LogSumExp,
    /// The target's own logit; 0 before it was seen.
    own: f32,
    /// Whether another token is more probable, or as probable and of a lower id.
    is_beaten: bool,
}

impl Judged {
    /// Looks at the logits of the next tokens, of which the first is `first`.
    fn judge(&mut self, first: usize, logits: &[f32], target: usize) {
        let largest_before = self.seen.largest();
        let largest = self.seen.add(logits);
        match target.checked_sub(first) {
            Some(at) if at < logits.len() => {
                self.own = logits[at];
                let (before, after) = logits.split_at(at);
                self.is_beaten = largest_before >= self.own
                    || before.iter().any(|&x| x >= self.own)
                    || after.iter().any(|&x| x > self.own);
            }
            Some(_) => {}
            None => self.is_beaten |= largest > self.own,
        }
    }

    fn score(&self) -> TokenScore {
        TokenScore {
            log_prob: f64::from(self.own) - self.seen.value(),
            greedy: !self.is_beaten,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_judged_alike_wherever_its_logits_are_cut() {
        // The largest twice, in different parts.
        let logits = [1.0f32, -2.0, 3.0, 0.5, 3.0, -7.0, 2.0];
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for cut in 1..=logits.len() {
            for (target, &own) in logits.iter().enumerate() {
                let mut judged = Judged::default();
                for (i, part) in logits.chunks(cut).enumerate() {
                    judged.judge(i * cut, part, target);
                }
                let TokenScore { log_prob, greedy } = judged.score();
                assert!((log_prob - (f64::from(own) - sum.ln())).abs() < 1e-6);
                assert_eq!(greedy, target == 2, "{target}, parts of {cut}");
            }
        }
    }
}
