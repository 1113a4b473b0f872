//! Packing a block of weights without intrinsics: tails, unusual layouts, and the portable kernels.

use std::ops::Range;

use crate::{Dtype, Mat};

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
