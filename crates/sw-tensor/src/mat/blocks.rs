//! Weights that lie in blocks of small integers with scales, as a GGUF file has them.

use std::ops::Range;

use crate::gguf::decode;
use crate::{Coding, RowOrder};

/// Rows of blocks: of a GGUF file, or in an order of their own.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    pub(super) coding: Coding,
    pub(super) row_bytes: usize,
    /// The order of the rows; `None`: as they are stored.
    pub(super) order: Option<RowOrder>,
    /// Whether rows of the matrix are stored as columns.
    pub(super) is_transposed: bool,
    /// Stored row and column, before their order, of element (0, 0).
    pub(super) first: [usize; 2],
}

impl Blocks {
    pub(crate) fn new(
        coding: Coding,
        row_bytes: usize,
        order: Option<RowOrder>,
        is_transposed: bool,
    ) -> Blocks {
        Blocks {
            coding,
            row_bytes,
            order,
            is_transposed,
            first: [0, 0],
        }
    }

    pub(crate) fn has_order(&self) -> bool {
        self.order.is_some()
    }

    /// Where some stored rows lie, counted from the first byte of the matrix, with rows that their order puts between them.
    pub(super) fn extent(&self, rows: Range<usize>) -> Range<usize> {
        let [start, end] = [rows.start, rows.end].map(|row| self.first[0] + row);
        let period = self.order.map_or(1, |order| order.period());
        start / period * period * self.row_bytes..end.next_multiple_of(period) * self.row_bytes
    }

    /// The bytes of a stored row, counted from the first of the matrix.
    fn row<'a>(&self, base: &'a [u8], row: usize) -> &'a [u8] {
        let row = self.first[0] + row;
        let stored = self.order.map_or(row, |order| order.stored(row));
        &base[stored * self.row_bytes..][..self.row_bytes]
    }

    /// Columns that are whole blocks, if they are.
    pub(super) fn whole<'a>(
        &'a self,
        base: &'a [u8],
        cols: Range<usize>,
    ) -> Option<WholeBlocks<'a>> {
        let (len, bytes) = (self.coding.block_len(), self.coding.block_bytes());
        let [start, end] = [cols.start, cols.end].map(|col| self.first[1] + col);
        let is_whole = start.is_multiple_of(len) && end.is_multiple_of(len);
        (is_whole && !self.is_transposed).then(|| WholeBlocks {
            blocks: self,
            base,
            bytes: start / len * bytes..end / len * bytes,
        })
    }

    /// Part of a row of the matrix.
    pub(super) fn widen_row(&self, base: &[u8], row: usize, col: usize, out: &mut [f32]) {
        if self.is_transposed {
            let at = self.first[1] + row;
            for (i, out) in out.iter_mut().enumerate() {
                let bytes = self.row(base, col + i);
                decode(self.coding, bytes, at..at + 1, std::slice::from_mut(out));
            }
        } else {
            let at = self.first[1] + col;
            decode(self.coding, self.row(base, row), at..at + out.len(), out);
        }
    }
}

/// Columns of a matrix that are whole blocks, one after the other in every row.
pub(crate) struct WholeBlocks<'a> {
    blocks: &'a Blocks,
    base: &'a [u8],
    /// Where they are in a stored row.
    bytes: Range<usize>,
}

impl<'a> WholeBlocks<'a> {
    pub(crate) fn coding(&self) -> Coding {
        self.blocks.coding
    }

    /// The blocks of a row of the matrix.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.blocks.row(self.base, row)[self.bytes.clone()]
    }
}
