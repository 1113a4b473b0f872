//! What a pass is given to predict, and what of it a way back needs.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, s};

/// Tokens, and how many of them are given and not predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'t> {
    /// The tokens.
    pub tokens: &'t [u32],
    /// Tokens of the prompt: those after it are predicted. The first token of a text is never predicted.
    pub given: usize,
}

impl<'t> From<&'t [u32]> for Text<'t> {
    fn from(tokens: &'t [u32]) -> Self {
        Text { tokens, given: 1 }
    }
}

impl Text<'_> {
    /// Places of the tokens that are predicted.
    pub(super) fn predicted(&self) -> Range<usize> {
        self.given.clamp(1, self.tokens.len().max(1))..self.tokens.len().max(1)
    }

    /// How many tokens are predicted.
    pub fn scored(&self) -> usize {
        self.predicted().len()
    }
}

/// Which columns of a linear map's input are needed for its gradient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None: its gradient is not asked for.
    Nothing,
    /// These; disjoint and in order. The others may be given as zeros.
    Columns(Vec<Range<usize>>),
    /// All of them.
    All,
}

impl Keep {
    /// The columns that are kept of `x`, side by side.
    pub(super) fn of(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        match self {
            Keep::Nothing => Array2::default((0, 0)),
            Keep::All => x.to_owned(),
            Keep::Columns(columns) => {
                let of = |cols: &Range<usize>| x.slice(s![.., cols.clone()]);
                let parts: Vec<_> = columns.iter().map(of).collect();
                ndarray::concatenate(Axis(1), &parts).unwrap_or_default()
            }
        }
    }

    /// What [`of`](Self::of) kept, each column in its place among `width`.
    pub(super) fn whole(&self, kept: Array2<f32>, width: usize) -> Array2<f32> {
        let Keep::Columns(columns) = self else {
            return kept;
        };
        let mut whole = Array2::zeros((kept.nrows(), width));
        let mut first = 0;
        for cols in columns {
            let part = kept.slice(s![.., first..first + cols.len()]);
            whole.slice_mut(s![.., cols.clone()]).assign(&part);
            first += cols.len();
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_columns_come_back_to_their_places() {
        let x = ndarray::array![[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]];
        let keep = Keep::Columns(vec![0..1, 2..4]);
        let kept = keep.of(x.view());
        assert_eq!(kept, ndarray::array![[1.0, 3.0, 4.0], [5.0, 7.0, 8.0]]);
        let whole = keep.whole(kept, 4);
        assert_eq!(
            whole,
            ndarray::array![[1.0, 0.0, 3.0, 4.0], [5.0, 0.0, 7.0, 8.0]]
        );
    }

    #[test]
    fn the_first_token_and_the_prompt_are_not_predicted() {
        let text = |given| Text {
            tokens: &[4, 5, 6],
            given,
        };
        assert_eq!(text(0).predicted(), 1..3);
        assert_eq!(text(2).predicted(), 2..3);
        assert_eq!(text(9).scored(), 0);
        assert_eq!(Text::from(&[][..]).scored(), 0);
    }
}
