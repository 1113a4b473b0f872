//! RMSNorm and LayerNorm.

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::rows::{for_rows, row, row_mut};
use crate::sum::sum_by;

/// `out[t, i] = x[t, i] / sqrt(mean_i(x[t, i]^2) + eps) * weight[i]`, all of it in f32 as the reference
/// implementations do.
///
/// # Panics
/// If `x`, `out` and `weight` do not agree in shape.
pub fn rms_norm(x: ArrayView2<f32>, weight: &[f32], eps: f32, out: ArrayViewMut2<f32>) {
    assert_eq!(x.dim(), out.dim(), "norm into another shape");
    assert_eq!(
        x.ncols(),
        weight.len(),
        "norm weight for {} columns",
        x.ncols()
    );
    for_rows(
        out,
        #[inline(always)]
        |t, mut out| {
            let x = row(x.row(t));
            let mean = sum_by(&x, |x| x * x) / x.len() as f32;
            let scale = 1.0 / (mean + eps).sqrt();
            row_mut(
                &mut out,
                #[inline(always)]
                |out| {
                    for ((out, x), w) in out.iter_mut().zip(x.iter()).zip(weight) {
                        *out = x * scale * w;
                    }
                },
            );
        },
    );
}

/// `out[t, i] = (x[t, i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]`, with the variance over n (not n - 1).
///
/// # Panics
/// If `x`, `out`, `weight` and `bias` do not agree in shape.
pub fn layer_norm(
    x: ArrayView2<f32>,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: ArrayViewMut2<f32>,
) {
    assert_eq!(x.dim(), out.dim(), "norm into another shape");
    for (name, part) in [("weight", weight), ("bias", bias)] {
        assert!(
            part.is_none_or(|p| p.len() == x.ncols()),
            "norm {name} for {} columns",
            x.ncols()
        );
    }
    for_rows(
        out,
        #[inline(always)]
        |t, mut out| {
            let x = row(x.row(t));
            let n = x.len() as f32;
            let mean = sum_by(&x, |x| x) / n;
            let variance = sum_by(&x, |x| (x - mean) * (x - mean)) / n;
            let scale = 1.0 / (variance + eps).sqrt();
            row_mut(
                &mut out,
                #[inline(always)]
                |out| {
                    for (out, x) in out.iter_mut().zip(x.iter()) {
                        *out = (x - mean) * scale;
                    }
                    if let Some(weight) = weight {
                        for (out, w) in out.iter_mut().zip(weight) {
                            *out *= w;
                        }
                    }
                    if let Some(bias) = bias {
                        for (out, b) in out.iter_mut().zip(bias) {
                            *out += b;
                        }
                    }
                },
            );
        },
    );
}
