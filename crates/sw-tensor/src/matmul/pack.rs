//! Packing a block of weights: what vectors do not do (tails, unusual layouts), and the portable kernels.

use std::ops::Range;

use super::K_BLOCK;
use super::kernel::{Kernel, with_scratch};
use crate::{Dtype, Mat};

/// A kernel that packs with vectors, which take groups of rows.
pub(super) trait Groups: Kernel {
    /// Rows of a group; a divisor of NR.
    const ROWS: usize;

    /// Columns that vectors take come in multiples of this.
    fn step(dtype: Dtype) -> usize;

    /// `ks` elements, a positive multiple of [`Self::step`], of each row of a group, transposed: rows lie `pitch` elements apart
    /// in `base`, and columns `NR` floats apart in `out`.
    ///
    /// # Panics
    /// If `base` or `out` is too short.
    fn group(self, dtype: Dtype, base: &[u8], pitch: usize, ks: usize, out: &mut [f32]);

    /// [`Kernel::pack`]: full groups by full steps with vectors, the remainder without.
    fn pack_groups(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
        let (nr, dtype, [pitch, step]) = (Self::NR, w.dtype(), w.strides());
        let out = &mut out[..ks.len() * nr];
        assert!(rows.len() <= nr && rows.end <= w.rows() && ks.end <= w.cols());
        if w.is_blocks() {
            return self.pack_blocks(w, rows, ks, out);
        }
        let full_rows = if step == 1 {
            rows.len() / Self::ROWS * Self::ROWS
        } else {
            0
        };
        let full_ks = ks.len() / Self::step(dtype) * Self::step(dtype);
        let split = (rows.start + full_rows, ks.start + full_ks);
        if full_ks > 0 {
            for group in (0..full_rows).step_by(Self::ROWS) {
                let start = (rows.start + group) * pitch + ks.start;
                let base = &w.base()[start * dtype.size()..];
                self.group(dtype, base, pitch, full_ks, &mut out[group..]);
            }
        }
        let tail = &mut out[full_ks * nr..];
        pack_scalar(
            w,
            nr,
            rows.start,
            rows.start..split.0,
            split.1..ks.end,
            tail,
        );
        pack_scalar(w, nr, rows.start, split.0..rows.end, ks.clone(), out);
        zero_missing(nr, rows.len(), out);
        apply_edits(w, nr, rows, ks, out);
    }

    /// [`Kernel::pack`] of a matrix of blocks, which are widened first, with the overlay.
    fn pack_blocks(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
        let (nr, depth, height) = (Self::NR, ks.len(), rows.len());
        let full_rows = height / Self::ROWS * Self::ROWS;
        let full_ks = depth / Self::step(Dtype::F32) * Self::step(Dtype::F32);
        with_scratch([height * depth], |[wide]| {
            w.widen(rows, ks, wide);
            let transpose = |wide: &[f32], row: usize, ks: Range<usize>, out: &mut [f32]| {
                for k in ks {
                    out[k * nr + row] = wide[row * depth + k];
                }
            };
            for row in 0..full_rows {
                transpose(wide, row, full_ks..depth, out);
            }
            for row in full_rows..height {
                transpose(wide, row, 0..depth, out);
            }
            if full_ks > 0 {
                for group in (0..full_rows).step_by(Self::ROWS) {
                    let base = bytemuck::cast_slice(&wide[group * depth..]);
                    self.group(Dtype::F32, base, depth, full_ks, &mut out[group..]);
                }
            }
        });
        zero_missing(nr, height, out);
    }

    /// [`Kernel::pack_f32`] in the same way.
    fn pack_f32_groups(self, src: &[f32], pitch: usize, depth: usize, out: &mut [f32]) {
        let nr = Self::NR;
        let out = &mut out[..nr * depth];
        let full = depth / Self::step(Dtype::F32) * Self::step(Dtype::F32);
        for group in (0..nr).step_by(Self::ROWS) {
            let (src, out) = (&src[group * pitch..], &mut out[group..]);
            if full > 0 {
                self.group(Dtype::F32, bytemuck::cast_slice(src), pitch, full, out);
            }
            for row in 0..Self::ROWS {
                for (k, value) in (full..depth).zip(&src[row * pitch..][full..depth]) {
                    out[k * nr + row] = *value;
                }
            }
        }
    }
}

/// Zeroes the packed columns of rows that do not exist.
pub(super) fn zero_missing(nr: usize, have: usize, out: &mut [f32]) {
    if have < nr {
        for k in out.chunks_exact_mut(nr) {
            k[have..].fill(0.0);
        }
    }
}

/// Writes `w[rows, ks]` of the base to `out[k][row - first]`, where `out` starts at the first of `ks`.
pub(super) fn pack_scalar(
    w: &Mat,
    nr: usize,
    first: usize,
    rows: Range<usize>,
    ks: Range<usize>,
    out: &mut [f32],
) {
    if w.is_blocks() {
        for row in rows {
            let mut wide = [0.0; K_BLOCK];
            for (part, out) in ks
                .clone()
                .step_by(K_BLOCK)
                .zip(out.chunks_mut(K_BLOCK * nr))
            {
                let wide = &mut wide[..K_BLOCK.min(ks.end - part)];
                w.widen(row..row + 1, part..part + wide.len(), wide);
                for (value, out) in wide.iter().zip(out.chunks_exact_mut(nr)) {
                    out[row - first] = *value;
                }
            }
        }
        return;
    }
    let [row_stride, k_stride] = w.strides();
    let (base, dtype, size) = (w.base(), w.dtype(), w.dtype().size());
    if row_stride == 1 && dtype == Dtype::F32 {
        // Already k-major: the transposed view of an `[in, out]` matrix.
        for (k, out) in ks.zip(out.chunks_exact_mut(nr)) {
            let line = &base[(k * k_stride + rows.start) * size..][..rows.len() * size];
            for (out, bytes) in out[rows.start - first..]
                .iter_mut()
                .zip(line.as_chunks::<4>().0)
            {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        return;
    }
    for (k, out) in ks.zip(out.chunks_exact_mut(nr)) {
        for row in rows.clone() {
            let at = (row * row_stride + k * k_stride) * size;
            out[row - first] = dtype.decode(&base[at..at + size]);
        }
    }
}

/// Applies the overlay to a packed block.
pub(super) fn apply_edits(
    w: &Mat,
    nr: usize,
    rows: Range<usize>,
    ks: Range<usize>,
    out: &mut [f32],
) {
    for (row, k, value) in w.edits(rows.clone(), ks.clone()) {
        out[(k - ks.start) * nr + (row - rows.start)] = value;
    }
}
