//! `y = x * w^T` for f32 activations and weights of any dtype.

mod portable;

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::Mat;

/// Terms that are summed in one chain before the chain's sum is added to the result.
pub(crate) const K_BLOCK: usize = 512;

/// `y[t, r] = sum_k x[t, k] * w[r, k]`: `[tokens, in] x [out, in]^T -> [tokens, out]`.
///
/// The sum runs in increasing `k` within blocks of 512, block after block, so a row of `y` is bit for bit the same
/// whatever other rows the call has and however many threads work on it.
///
/// # Panics
/// If the shapes do not agree.
pub fn matmul_t(x: ArrayView2<f32>, w: &Mat, y: ArrayViewMut2<f32>) {
    check(&x, w, &y);
    portable::matmul_t(x, w, y);
}

/// [`matmul_t`] for few rows (a short prompt, a decoding step): bound by reading the weights once.
///
/// The order of summation differs from [`matmul_t`]'s.
///
/// # Panics
/// If the shapes do not agree.
pub fn matmul_t_few(x: ArrayView2<f32>, w: &Mat, y: ArrayViewMut2<f32>) {
    check(&x, w, &y);
    portable::matmul_t(x, w, y);
}

fn check(x: &ArrayView2<f32>, w: &Mat, y: &ArrayViewMut2<f32>) {
    assert_eq!(
        x.ncols(),
        w.cols(),
        "x has {} columns, w has {}",
        x.ncols(),
        w.cols()
    );
    assert_eq!(
        y.dim(),
        (x.nrows(), w.rows()),
        "y of another shape than x * w^T"
    );
}
