//! Rotary position embedding, rotate-half layout.

use ndarray::ArrayViewMut2;

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
        let n = self.inv_freq.len();
        assert_eq!(
            x.nrows(),
            positions.len(),
            "positions for {} rows",
            x.nrows()
        );
        assert!(2 * n <= head_dim, "{n} frequencies in heads of {head_dim}");
        assert!(
            head_dim > 0 && x.ncols().is_multiple_of(head_dim),
            "heads of {head_dim} in {} columns",
            x.ncols()
        );
        for_rows(x, |t, mut x| {
            let position = positions[t] as f32;
            let turns: Vec<(f32, f32)> = self
                .inv_freq
                .iter()
                .map(|f| {
                    let (sin, cos) = (position * f).sin_cos();
                    (cos * self.scale, sin * self.scale)
                })
                .collect();
            row_mut(&mut x, |x| {
                for head in x.chunks_exact_mut(head_dim) {
                    let (low, high) = head[..2 * n].split_at_mut(n);
                    for ((a, b), &(cos, sin)) in low.iter_mut().zip(high).zip(&turns) {
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
            });
        });
    }
}
