//! Worked examples before a question, drawn as the harness draws them.

use crate::{data::Doc, random::PyRandom};

/// Draws examples for one document after the other, from one generator.
pub(crate) struct Sampler<'a> {
    pool: &'a [Doc],
    random: PyRandom,
    /// Whether the document under evaluation may be among the pool and must be left out.
    exclude: bool,
}

impl<'a> Sampler<'a> {
    pub(crate) fn new(pool: &'a [Doc], seed: u64, exclude: bool) -> Self {
        Self {
            pool,
            random: PyRandom::new(seed),
            exclude,
        }
    }

    /// How many documents the pool must hold for `n` examples.
    pub(crate) fn needs(&self, n: usize) -> usize {
        n.saturating_add(usize::from(self.exclude))
    }

    /// `n` examples for a document, as indices of the pool.
    ///
    /// Where the document itself may be in the pool, one more is drawn and every copy of the document removed; if that
    /// leaves too few, the draw is repeated from the pool without it.
    pub(crate) fn draw(&mut self, n: usize, doc: &Doc) -> Vec<usize> {
        if n == 0 {
            return Vec::new();
        }
        if !self.exclude {
            return self.random.sample(self.pool.len(), n);
        }
        let mut drawn = self.random.sample(self.pool.len(), n + 1);
        drawn.retain(|&i| self.pool[i] != *doc);
        if drawn.len() < n {
            let others: Vec<usize> = (0..self.pool.len())
                .filter(|&i| self.pool[i] != *doc)
                .collect();
            return self
                .random
                .sample(others.len(), n.min(others.len()))
                .into_iter()
                .map(|i| others[i])
                .collect();
        }
        drawn.truncate(n);
        drawn
    }
}
