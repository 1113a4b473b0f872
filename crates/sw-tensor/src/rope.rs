//! Rotary position embedding, rotate-half layout.

use ndarray::ArrayViewMut2;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::rows::{for_rows, row_mut};

/// Rotary embedding with given frequencies: element `i` and element `i + n` of a head (`n` frequencies) turn by
/// `position * inv_freq[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    inv_freq: Vec<f32>,
    scale: f32,
}

impl Rope {
    /// `inv_freq` in radians per position; `scale` multiplies cosine and sine (1 unless the variant scales attention).
    pub fn new(inv_freq: Vec<f32>, scale: f32) -> Rope {
        Rope { inv_freq, scale }
    }

    /// Radians per position, as given.
    pub fn inv_freq(&self) -> &[f32] {
        &self.inv_freq
    }

    /// The factor on cosine and sine, as given.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Turns the first `2 * n` elements of every head of every row; the others stay.
    ///
    /// `x` is `[tokens, heads * head_dim]`. Angles are `position as f32 * inv_freq` in f32, as transformers computes them.
    ///
    /// # Panics
    /// If `head_dim` does not divide the columns, has not room for `2 * n` elements, or `positions` does not have one
    /// element per row.
    pub fn apply(&self, x: ArrayViewMut2<f32>, head_dim: usize, positions: &[u32]) {
        let mut turns = RopeTurns::new(self.inv_freq.len());
        turns.extend(self, positions);
        turns.apply(x, head_dim);
    }
}

/// Cosines and sines of the rows of a batch, for all its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTurns {
    /// Frequencies.
    n: usize,
    /// Cosine and sine, `[rows][n]`.
    turns: Vec<[f32; 2]>,
}

impl RopeTurns {
    /// For no rows yet, and that many frequencies.
    pub fn new(frequencies: usize) -> RopeTurns {
        RopeTurns {
            n: frequencies,
            turns: Vec::new(),
        }
    }

    /// Adds rows at these positions.
    ///
    /// # Panics
    /// If `rope` has another number of frequencies.
    pub fn extend(&mut self, rope: &Rope, positions: &[u32]) {
        assert_eq!(rope.inv_freq.len(), self.n, "frequencies");
        if self.n == 0 {
            return;
        }
        let start = self.turns.len();
        self.turns
            .resize(start + positions.len() * self.n, [0.0; 2]);
        let rows = self.turns[start..].par_chunks_exact_mut(self.n);
        rows.zip(positions).for_each(|(row, &position)| {
            for (turn, f) in row.iter_mut().zip(&rope.inv_freq) {
                let (sin, cos) = (position as f32 * f).sin_cos();
                *turn = [cos * rope.scale, sin * rope.scale];
            }
        });
    }

    /// The transposed turns, which take gradients of what was turned to gradients of what it was turned from.
    pub fn transposed(&self) -> RopeTurns {
        let transposed = |&[cos, sin]: &[f32; 2]| [cos, -sin];
        RopeTurns {
            n: self.n,
            turns: self.turns.iter().map(transposed).collect(),
        }
    }

    /// As [`Rope::apply`], with the rows' own positions.
    ///
    /// # Panics
    /// If `head_dim` does not divide the columns, has not room for the frequencies, or there are not as many rows.
    pub fn apply(&self, x: ArrayViewMut2<f32>, head_dim: usize) {
        let n = self.n;
        assert_eq!(
            x.nrows() * n,
            self.turns.len(),
            "positions for {} rows",
            x.nrows()
        );
        assert!(2 * n <= head_dim, "{n} frequencies in heads of {head_dim}");
        assert!(
            head_dim > 0 && x.ncols().is_multiple_of(head_dim),
            "heads of {head_dim} in {} columns",
            x.ncols()
        );
        for_rows(
            x,
            #[inline(always)]
            |t, mut x| {
                let turns = &self.turns[t * n..(t + 1) * n];
                row_mut(
                    &mut x,
                    #[inline(always)]
                    |x| {
                        for head in x.chunks_exact_mut(head_dim) {
                            let (low, high) = head[..2 * n].split_at_mut(n);
                            for ((a, b), &[cos, sin]) in low.iter_mut().zip(high).zip(turns) {
                                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                            }
                        }
                    },
                );
            },
        );
    }
}
