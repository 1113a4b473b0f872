//! The three matrix products of training, in one place: forward, back to the input, back to the weight.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};
use sw_tensor::product;

/// `x * w^T`: `[tokens, in] x [out, in]^T -> [tokens, out]`.
pub(crate) fn forward(x: ArrayView2<f32>, w: ArrayView2<f32>) -> Array2<f32> {
    let mut y = Array2::zeros((x.nrows(), w.nrows()));
    product(1.0, x, w.t(), 0.0, y.view_mut());
    y
}

/// `dx += dy * w`: `[tokens, out] x [out, in] -> [tokens, in]`.
pub(crate) fn to_input(dy: ArrayView2<f32>, w: ArrayView2<f32>, dx: &mut ArrayViewMut2<f32>) {
    product(1.0, dy, w, 1.0, dx.view_mut());
}

/// `dw += dy^T * x`: `[tokens, out]^T x [tokens, in] -> [out, in]`.
pub(crate) fn to_weight(dy: ArrayView2<f32>, x: ArrayView2<f32>, dw: &mut ArrayViewMut2<f32>) {
    product(1.0, dy.t(), x, 1.0, dw.view_mut());
}
