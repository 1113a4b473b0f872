//! Sparse edits of a matrix: absolute new values at a few places.

use std::collections::BTreeMap;
use std::ops::Range;

/// Edited weights of one matrix, sorted by row, then column; each place at most once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlay {
    edits: Vec<(usize, usize, f32)>,
}

impl Overlay {
    /// `self` with `edits` on top; where several name one place the last wins.
    pub(crate) fn with(&self, edits: &[(usize, usize, f32)]) -> Overlay {
        let all = self.edits.iter().chain(edits);
        let merged: BTreeMap<_, _> = all.map(|&(row, col, value)| ((row, col), value)).collect();
        Overlay {
            edits: merged
                .into_iter()
                .map(|((row, col), value)| (row, col, value))
                .collect(),
        }
    }

    /// The edits inside a block, in order, with their absolute coordinates.
    pub(crate) fn within(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> impl Iterator<Item = (usize, usize, f32)> + '_ {
        let first = self.edits.partition_point(|&(row, ..)| row < rows.start);
        self.edits[first..]
            .iter()
            .take_while(move |&&(row, ..)| row < rows.end)
            .filter(move |&&(_, col, _)| cols.contains(&col))
            .copied()
    }

    /// The edits of some rows as an overlay of that slice.
    pub(crate) fn slice_rows(&self, rows: Range<usize>) -> Overlay {
        let start = rows.start;
        Overlay {
            edits: self
                .within(rows, 0..usize::MAX)
                .map(|(r, c, v)| (r - start, c, v))
                .collect(),
        }
    }

    /// The edits of the transposed matrix.
    pub(crate) fn transposed(&self) -> Overlay {
        let swapped: Vec<_> = self.edits.iter().map(|&(r, c, v)| (c, r, v)).collect();
        Overlay::default().with(&swapped)
    }

    pub(crate) fn len(&self) -> usize {
        self.edits.len()
    }
}
