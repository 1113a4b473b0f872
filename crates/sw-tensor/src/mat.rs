//! A shared, immutable weight matrix with an optional sparse overlay.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub(crate) use blocks::{Blocks, WholeBlocks};
use half::{bf16, f16};

use crate::overlay::Overlay;
use crate::{Coding, Dtype, Error};

mod blocks;

/// Bytes that somebody keeps alive: a mapped file or a vector.
pub(crate) type Bytes = Arc<dyn Storage>;

pub(crate) trait Storage: Any + Send + Sync {
    fn bytes(&self) -> &[u8];

    /// Copies bytes that nobody has copied before from where the system keeps the file, without mapping them. Whether it did;
    /// where it did not, [`bytes`](Self::bytes) has them.
    fn copy_first(&self, _range: Range<usize>, _out: &mut [u8]) -> bool {
        false
    }
}

/// A `rows x cols` matrix of weights, stored as F32, F16 or BF16 or as blocks of a GGUF file; rows are output features,
/// columns input features.
///
/// The elements live in a mapped file or in memory and are never copied or changed: cloning, [`slice_rows`],
/// [`transposed`] and [`edited`] share them. An edited matrix is its base plus a sparse overlay of new values, applied
/// whenever elements are read, so a pruned weight is a true zero in every product. Only [`Mat::to_mut`] changes elements.
///
/// [`slice_rows`]: Mat::slice_rows
/// [`transposed`]: Mat::transposed
/// [`edited`]: Mat::edited
#[derive(Clone)]
pub struct Mat {
    bytes: Bytes,
    /// Byte offset of element (0, 0).
    offset: usize,
    dtype: Dtype,
    rows: usize,
    cols: usize,
    /// Distance between rows, and between columns, in elements.
    strides: [usize; 2],
    overlay: Option<Arc<Overlay>>,
    /// How it is read where its rows are not numbers, one row after the other. `strides` then only say whether it is
    /// transposed.
    blocks: Option<Blocks>,
}

pub(crate) struct Owned<T>(pub(crate) Vec<T>);

impl<T: bytemuck::NoUninit + Send + Sync> Storage for Owned<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Mat {
    /// A matrix over `data`, row by row.
    ///
    /// # Panics
    /// If `data` does not have `rows * cols` elements.
    pub fn from_f32(rows: usize, cols: usize, data: Vec<f32>) -> Mat {
        Mat::owned(Dtype::F32, rows, cols, data)
    }

    /// A matrix over half-precision `data`, row by row.
    ///
    /// # Panics
    /// If `data` does not have `rows * cols` elements.
    pub fn from_f16(rows: usize, cols: usize, data: Vec<f16>) -> Mat {
        Mat::owned(Dtype::F16, rows, cols, data)
    }

    /// A matrix over brain-float `data`, row by row.
    ///
    /// # Panics
    /// If `data` does not have `rows * cols` elements.
    pub fn from_bf16(rows: usize, cols: usize, data: Vec<bf16>) -> Mat {
        Mat::owned(Dtype::BF16, rows, cols, data)
    }

    fn owned<T: bytemuck::NoUninit + Send + Sync>(
        dtype: Dtype,
        rows: usize,
        cols: usize,
        data: Vec<T>,
    ) -> Mat {
        assert_eq!(
            Some(data.len()),
            rows.checked_mul(cols),
            "a {rows} x {cols} matrix from {} elements",
            data.len()
        );
        Mat::from_bytes(Arc::new(Owned(data)), 0, dtype, rows, cols)
    }

    /// A row-major matrix that starts at byte `offset` of `bytes`, at any alignment.
    pub(crate) fn from_bytes(
        bytes: Bytes,
        offset: usize,
        dtype: Dtype,
        rows: usize,
        cols: usize,
    ) -> Mat {
        let end = rows
            .checked_mul(cols)
            .and_then(|n| n.checked_mul(dtype.size()))
            .and_then(|n| n.checked_add(offset))
            .expect("size of a matrix overflows");
        assert!(
            end <= bytes.bytes().len(),
            "matrix ends at byte {end}, beyond its storage"
        );
        Mat {
            bytes,
            offset,
            dtype,
            rows,
            cols,
            strides: [cols, 1],
            overlay: None,
            blocks: None,
        }
    }

    /// A matrix of blocks whose first stored row starts at byte `offset` of `bytes`; `rows x cols` as it is read.
    pub(crate) fn from_blocks(
        bytes: Bytes,
        offset: usize,
        blocks: Blocks,
        rows: usize,
        cols: usize,
    ) -> Mat {
        let [stored_rows, stored_cols] = match blocks.is_transposed {
            true => [cols, rows],
            false => [rows, cols],
        };
        let end = stored_rows
            .checked_mul(blocks.row_bytes)
            .and_then(|n| n.checked_add(offset))
            .expect("size of a matrix overflows");
        assert!(
            end <= bytes.bytes().len()
                && blocks.coding.row_bytes(stored_cols) == Some(blocks.row_bytes),
            "matrix ends at byte {end}, beyond its storage"
        );
        let strides = match blocks.is_transposed {
            true => [1, stored_cols],
            false => [stored_cols, 1],
        };
        Mat {
            bytes,
            offset,
            dtype: Dtype::F32,
            rows,
            cols,
            strides,
            overlay: None,
            blocks: Some(blocks),
        }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Element type of the base, and of blocks F32, as which they are widened; the overlay is always f32.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How its weights are coded where they lie.
    pub fn coding(&self) -> Coding {
        match (&self.blocks, self.dtype) {
            (Some(blocks), _) => blocks.coding,
            (None, Dtype::F32) => Coding::F32,
            (None, Dtype::F16) => Coding::F16,
            (None, Dtype::BF16) => Coding::BF16,
        }
    }

    /// Whether it is read through blocks, and not as numbers in a row.
    pub(crate) fn is_blocks(&self) -> bool {
        self.blocks.is_some()
    }

    /// Some columns of all rows as they are coded, without edits; `None` where they are not whole blocks, one after the other.
    pub(crate) fn whole_blocks(&self, cols: Range<usize>) -> Option<WholeBlocks<'_>> {
        self.blocks.as_ref()?.whole(self.base(), cols)
    }

    /// How many weights the overlay replaces.
    pub fn overlay_len(&self) -> usize {
        self.overlay.as_ref().map_or(0, |overlay| overlay.len())
    }

    /// A view of some rows; the overlay follows. No copy.
    ///
    /// # Panics
    /// If `rows` is not inside the matrix.
    pub fn slice_rows(&self, rows: Range<usize>) -> Mat {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of a matrix of {} rows",
            self.rows
        );
        let mut view = self.clone();
        view.rows = rows.len();
        if let Some(blocks) = &mut view.blocks {
            blocks.first[usize::from(blocks.is_transposed)] += rows.start;
            view.overlay = share(
                self.overlay
                    .as_ref()
                    .map(|overlay| overlay.slice_rows(rows)),
            );
            return view;
        }
        // An empty slice at the end must not point beyond the storage.
        view.offset += if rows.is_empty() {
            0
        } else {
            rows.start * self.strides[0] * self.dtype.size()
        };
        view.overlay = share(
            self.overlay
                .as_ref()
                .map(|overlay| overlay.slice_rows(rows)),
        );
        view
    }

    /// The transposed view (a convolution-style layout `[in, out]` read as `[out, in]`); the overlay follows. No copy.
    pub fn transposed(&self) -> Mat {
        let mut view = self.clone();
        (view.rows, view.cols) = (self.cols, self.rows);
        view.strides = [self.strides[1], self.strides[0]];
        if let Some(blocks) = &mut view.blocks {
            blocks.is_transposed = !blocks.is_transposed;
        }
        view.overlay = share(self.overlay.as_ref().map(|overlay| overlay.transposed()));
        view
    }

    /// This matrix with absolute new values `(row, col, value)` at a few places; where several edits name one
    /// place, the last wins. Edits of an edited matrix compose. The base is shared.
    ///
    /// # Errors
    /// [`Error::EditOutside`] if a place is not inside the matrix.
    pub fn edited(&self, edits: &[(usize, usize, f32)]) -> Result<Mat, Error> {
        if let Some(&(row, col, _)) = edits
            .iter()
            .find(|&&(row, col, _)| row >= self.rows || col >= self.cols)
        {
            return Err(Error::EditOutside {
                row,
                col,
                rows: self.rows,
                cols: self.cols,
            });
        }
        let mut view = self.clone();
        view.overlay = share(Some(
            self.overlay
                .as_deref()
                .cloned()
                .unwrap_or_default()
                .with(edits),
        ));
        Ok(view)
    }

    /// The elements in f32, row by row, to be changed in place. A matrix that is mapped, shared with a clone or a view, edited
    /// or of another type becomes a widened copy of itself first.
    pub fn to_mut(&mut self) -> &mut [f32] {
        let len = self.rows * self.cols;
        let plain = self.strides == [self.cols, 1] && self.blocks.is_none();
        let plain = plain && self.overlay.is_none() && self.offset == 0;
        if !plain || own(&mut self.bytes).is_none_or(|own| own.len() != len) {
            let mut wide = vec![0.0; len];
            self.widen(0..self.rows, 0..self.cols, &mut wide);
            *self = Mat::from_f32(self.rows, self.cols, wide);
        }
        own(&mut self.bytes).expect("just made, so nobody shares it")
    }

    /// One weight, overlay applied.
    ///
    /// # Panics
    /// If the place is not inside the matrix.
    pub fn get(&self, row: usize, col: usize) -> f32 {
        let mut value = [0.0];
        self.widen(row..row + 1, col..col + 1, &mut value);
        value[0]
    }

    /// One row, overlay applied.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not [`Mat::cols`] long.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        self.widen(row..row + 1, 0..self.cols, out);
    }

    /// The whole matrix as f32, row by row, overlay applied. Exact.
    #[must_use]
    pub fn to_f32_vec(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.cols];
        self.widen(0..self.rows, 0..self.cols, &mut values);
        values
    }

    /// A block of the matrix as f32, row by row, overlay applied. Exact.
    ///
    /// # Panics
    /// If the block is not inside the matrix, or `out` does not have exactly its size.
    pub fn widen(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        let inside = |part: &Range<usize>, end| part.start <= part.end && part.end <= end;
        assert!(
            inside(&rows, self.rows) && inside(&cols, self.cols),
            "block {rows:?} x {cols:?} of a {} x {} matrix",
            self.rows,
            self.cols
        );
        let width = cols.len();
        assert_eq!(
            out.len(),
            rows.len() * width,
            "buffer for a block of {} x {width}",
            rows.len()
        );
        if width == 0 {
            return;
        }
        for (row, out) in rows.clone().zip(out.chunks_exact_mut(width)) {
            self.widen_row(row, cols.start, out);
        }
        for (row, col, value) in self.edits(rows.clone(), cols.clone()) {
            out[(row - rows.start) * width + (col - cols.start)] = value;
        }
    }

    /// Part of one row of the base.
    fn widen_row(&self, row: usize, col: usize, out: &mut [f32]) {
        if let Some(blocks) = &self.blocks {
            return blocks.widen_row(self.base(), row, col, out);
        }
        let size = self.dtype.size();
        let base = self.base();
        let start = (row * self.strides[0] + col * self.strides[1]) * size;
        if self.strides[1] != 1 {
            for (i, out) in out.iter_mut().enumerate() {
                let at = start + i * self.strides[1] * size;
                *out = self.dtype.decode(&base[at..at + size]);
            }
            return;
        }
        let base = &base[start..start + out.len() * size];
        match self.dtype {
            Dtype::F32 => {
                for (out, b) in out.iter_mut().zip(base.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*b);
                }
            }
            Dtype::F16 => {
                for (out, b) in out.iter_mut().zip(base.as_chunks::<2>().0) {
                    *out = f16::from_le_bytes(*b).to_f32();
                }
            }
            Dtype::BF16 => {
                for (out, b) in out.iter_mut().zip(base.as_chunks::<2>().0) {
                    *out = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
        }
    }

    /// Has the system read the weights from a disk, where they are a file's and not in memory yet, and waits for it.
    pub fn bring_in(&self) {
        self.touch(0..self.rows);
    }

    /// Has the system map the pages of some rows now, by reading a byte of each piece that it maps at a time (64 KiB on Linux):
    /// what is not mapped yet cannot be prefetched.
    pub(crate) fn touch(&self, rows: Range<usize>) {
        const PIECE: usize = 64 << 10;
        let bytes = self.bytes.bytes().get(self.extent(rows));
        for byte in bytes.unwrap_or_default().iter().step_by(PIECE) {
            std::hint::black_box(*byte);
        }
    }

    /// Copies the stored bytes of some rows, from the first that is one of theirs to the last, where they are a file's and are
    /// copied for the first time: to read a file once, the system needs less time for a copy than for mapping it. Whether it did.
    ///
    /// # Panics
    /// If `out` is shorter than that.
    pub(crate) fn copy_first(&self, rows: Range<usize>, out: &mut [u8]) -> bool {
        let extent = self.extent(rows);
        let out = &mut out[..extent.len()];
        self.bytes.copy_first(extent, out)
    }

    /// Where the stored bytes of some rows lie: from the first that is one of theirs to the last.
    fn extent(&self, rows: Range<usize>) -> Range<usize> {
        let extent = if rows.is_empty() || self.cols == 0 {
            0..0
        } else if let Some(blocks) = &self.blocks {
            blocks.extent(if blocks.is_transposed {
                0..self.cols
            } else {
                rows
            })
        } else {
            let [pitch, step] = self.strides;
            let last = (rows.end - 1) * pitch + (self.cols - 1) * step;
            let size = self.dtype.size();
            rows.start * pitch * size..(last + 1) * size
        };
        self.offset + extent.start..self.offset + extent.end
    }

    /// The stored bytes from element (0, 0) on.
    pub(crate) fn base(&self) -> &[u8] {
        &self.bytes.bytes()[self.offset..]
    }

    /// Distance between rows, and between columns, in elements.
    pub(crate) fn strides(&self) -> [usize; 2] {
        self.strides
    }

    /// The overlay's part of a block.
    pub(crate) fn edits(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> impl Iterator<Item = (usize, usize, f32)> + '_ {
        self.overlay
            .iter()
            .flat_map(move |overlay| overlay.within(rows.clone(), cols.clone()))
    }
}

/// Numbers in memory that nobody else has.
fn own(bytes: &mut Bytes) -> Option<&mut Vec<f32>> {
    let storage: &mut dyn Any = Arc::get_mut(bytes)?;
    Some(&mut storage.downcast_mut::<Owned<f32>>()?.0)
}

fn share(overlay: Option<Overlay>) -> Option<Arc<Overlay>> {
    overlay.filter(|overlay| overlay.len() > 0).map(Arc::new)
}

impl fmt::Debug for Mat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Mat({} x {} {}, {} edited)",
            self.rows,
            self.cols,
            self.dtype,
            self.overlay_len()
        )
    }
}
