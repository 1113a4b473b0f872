//! Sums over rows of activations.

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::rows::{for_rows, row, row_mut};

/// `y[t, :] += bias` for every row.
///
/// # Panics
/// If `bias` does not have as many elements as `y` columns.
pub fn add_bias(y: ArrayViewMut2<f32>, bias: &[f32]) {
    assert_eq!(y.ncols(), bias.len(), "bias for {} columns", y.ncols());
    for_rows(y, |_, mut y| {
        row_mut(&mut y, |y| {
            for (y, b) in y.iter_mut().zip(bias) {
                *y += b;
            }
        });
    });
}

/// `acc += x`.
///
/// # Panics
/// If the shapes differ.
pub fn add(acc: ArrayViewMut2<f32>, x: ArrayView2<f32>) {
    assert_eq!(acc.dim(), x.dim(), "sum of different shapes");
    for_rows(acc, |t, mut acc| {
        let x = row(x.row(t));
        row_mut(&mut acc, |acc| {
            for (acc, x) in acc.iter_mut().zip(x.iter()) {
                *acc += x;
            }
        });
    });
}
