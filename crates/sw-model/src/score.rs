//! From rows after the final norm to logits and log-probabilities.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;
use sw_tensor::{all_finite, log_sum_exp, matmul_t_each};

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

/// Logits are made in blocks of about this many bytes, so that they are still in the cache when they are judged ...
const LOGIT_BLOCK: usize = 2 << 20;
/// ... but of rows enough for an efficient product ...
const LOGIT_ROWS: usize = 512;
/// ... as long as it is no more than this.
const LOGIT_BLOCK_MOST: usize = 64 << 20;

impl Model {
    /// Logits of rows after the final norm: `[rows, hidden] -> [rows, vocab]`.
    ///
    /// # Errors
    /// A non-finite logit, with the tensor that is to blame.
    pub fn logits(&self, rows: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let mut logits = Array2::zeros((rows.nrows(), self.weights().head.rows()));
        self.logits_into(rows, logits.view_mut())?;
        Ok(logits)
    }

    fn logits_into(
        &self,
        rows: ArrayView2<'_, f32>,
        mut logits: ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        // [rows, hidden] x [vocab, hidden]^T
        let product = [(&self.weights().head, logits.view_mut())];
        matmul_t_each(self.arithmetic(), rows, product);
        if !all_finite(logits.view()) {
            return Err(self.non_finite("logits".into(), None));
        }
        if let Some(cap) = self.spec().logit_softcap {
            logits.par_mapv_inplace(|x| cap * (x / cap).tanh());
        }
        Ok(())
    }

    /// Scores one target token per row (rows after the final norm), without keeping more than 64 MB of logits.
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
        let rows_in = |bytes: usize| bytes / (size_of::<f32>() * vocab_size);
        let block = LOGIT_ROWS.max(rows_in(LOGIT_BLOCK));
        let block = block.min(rows_in(LOGIT_BLOCK_MOST)).max(1);
        let mut scores = Vec::with_capacity(targets.len());
        let mut logits = vec![0.0; block.min(targets.len()) * vocab_size];
        for (start, targets) in (0..).step_by(block).zip(targets.chunks(block)) {
            let logits = &mut logits[..targets.len() * vocab_size];
            let shape = (targets.len(), vocab_size);
            self.logits_into(
                rows.slice_axis(Axis(0), (start..start + targets.len()).into()),
                ArrayViewMut2::from_shape(shape, &mut *logits).expect("as many logits"),
            )?;
            scores.par_extend(
                logits
                    .par_chunks(vocab_size)
                    .zip(targets)
                    .map(|(row, &target)| token_score(row, target)),
            );
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

fn token_score(logits: &[f32], target: u32) -> TokenScore {
    let (before, from) = logits.split_at(target as usize);
    let own = from[0];
    let greedy = !before.iter().any(|&x| x >= own) && !from.iter().any(|&x| x > own);
    TokenScore {
        log_prob: f64::from(own) - log_sum_exp(logits),
        greedy,
    }
}
