//! RMSNorm and its backward pass.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Zip};

/// `y = x / rms(x) * weight` per row, and `1 / rms(x)` for the way back. `weight` is `[1, channels]`.
pub(crate) fn forward(
    x: ArrayView2<f32>,
    weight: ArrayView2<f32>,
    eps: f32,
) -> (Array2<f32>, Array1<f32>) {
    let inv = inverse_rms(x, eps);
    let mut y = x.to_owned();
    for (mut row, &inv) in y.rows_mut().into_iter().zip(&inv) {
        Zip::from(&mut row)
            .and(weight.row(0))
            .for_each(|y, &w| *y *= inv * w);
    }
    (y, inv)
}

/// `1 / rms(x)` of every row.
pub(crate) fn inverse_rms(x: ArrayView2<f32>, eps: f32) -> Array1<f32> {
    let n = x.ncols() as f32;
    let inverse =
        |row: ArrayView1<f32>| 1.0 / (row.iter().map(|v| v * v).sum::<f32>() / n + eps).sqrt();
    x.rows().into_iter().map(inverse).collect()
}

/// Adds the gradient with respect to `x` to `dx`; returns that of the weight.
///
/// With `r = 1 / rms(x)`: `dx = r (w dy) - x r^3 mean(x w dy)`, `dw = sum_rows dy x r`.
pub(crate) fn backward(
    x: ArrayView2<f32>,
    inv: &Array1<f32>,
    weight: ArrayView2<f32>,
    dy: ArrayView2<f32>,
    dx: &mut Array2<f32>,
) -> Array1<f32> {
    let n = x.ncols() as f32;
    let weight = weight.row(0);
    let mut dw = Array1::zeros(x.ncols());
    for (((x, dy), mut dx), &inv) in x
        .rows()
        .into_iter()
        .zip(dy.rows())
        .zip(dx.rows_mut())
        .zip(inv)
    {
        let mut dot = 0.0f32;
        Zip::from(&x)
            .and(&dy)
            .and(&weight)
            .for_each(|x, dy, w| dot += x * dy * w);
        let pull = inv * inv * inv * dot / n;
        Zip::from(&mut dx)
            .and(&x)
            .and(&dy)
            .and(&weight)
            .for_each(|dx, x, dy, w| *dx += inv * w * dy - pull * x);
        Zip::from(&mut dw)
            .and(&x)
            .and(&dy)
            .for_each(|dw, x, dy| *dw += dy * x * inv);
    }
    dw
}
