//! RMSNorm and LayerNorm, alone or after a sum.

use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::elementwise::{add_row, row_is_finite};
use crate::rows::{for_row_pairs, for_rows, row, row_mut};
use crate::sum::sum_by;

/// A norm over the channels of a row, with its parameters, `[channels]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm<'a> {
    /// `x[i] / sqrt(mean_i(x[i]^2) + eps) * weight[i]`, all of it in f32 as the reference implementations do.
    Rms {
        /// A factor for each channel.
        weight: &'a [f32],
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]`, with the variance over n (not n - 1).
    Layer {
        /// A factor for each channel.
        weight: Option<&'a [f32]>,
        /// A summand for each channel.
        bias: Option<&'a [f32]>,
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm<'_> {
    /// `out[t, :] = norm(x[t, :])`.
    ///
    /// # Panics
    /// If `x`, `out` and the parameters do not agree in shape.
    pub fn apply(self, x: ArrayView2<f32>, out: ArrayViewMut2<f32>) {
        self.check(&x, &out);
        for_rows(
            out,
            #[inline(always)]
            |t, mut out| {
                let x = row(x.row(t));
                row_mut(
                    &mut out,
                    #[inline(always)]
                    |out| self.of_row(&x, out),
                );
            },
        );
    }

    /// `acc += x`, and `out[t, :] = norm(acc[t, :])`, in one sweep over the rows; whether every sum is finite. The same, bit
    /// for bit, as [`add`](crate::add), [`apply`](Self::apply) and [`all_finite`](crate::all_finite).
    ///
    /// # Panics
    /// If `acc`, `x`, `out` and the parameters do not agree in shape.
    pub fn apply_to_sum(
        self,
        acc: ArrayViewMut2<f32>,
        x: ArrayView2<f32>,
        out: ArrayViewMut2<f32>,
    ) -> bool {
        assert_eq!(acc.dim(), x.dim(), "sum of different shapes");
        self.check(&x, &out);
        let finite = AtomicBool::new(true);
        for_row_pairs(
            acc,
            out,
            #[inline(always)]
            |t, [mut acc, mut out]| {
                let x = row(x.row(t));
                let good = row_mut(
                    &mut acc,
                    #[inline(always)]
                    |acc| {
                        add_row(acc, &x);
                        row_mut(
                            &mut out,
                            #[inline(always)]
                            |out| self.of_row(acc, out),
                        );
                        row_is_finite(acc)
                    },
                );
                if !good {
                    finite.store(false, Ordering::Relaxed);
                }
            },
        );
        finite.into_inner()
    }

    fn check(&self, x: &ArrayView2<f32>, out: &ArrayViewMut2<f32>) {
        assert_eq!(x.dim(), out.dim(), "norm into another shape");
        let (weight, bias) = match *self {
            Norm::Rms { weight, .. } => (Some(weight), None),
            Norm::Layer { weight, bias, .. } => (weight, bias),
        };
        for (name, part) in [("weight", weight), ("bias", bias)] {
            assert!(
                part.is_none_or(|p| p.len() == x.ncols()),
                "norm {name} for {} columns",
                x.ncols()
            );
        }
    }

    #[inline(always)]
    fn of_row(&self, x: &[f32], out: &mut [f32]) {
        let n = x.len() as f32;
        match *self {
            Norm::Rms { weight, eps } => {
                let mean = sum_by(x, |x| x * x) / n;
                let scale = 1.0 / (mean + eps).sqrt();
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * scale * w;
                }
            }
            Norm::Layer { weight, bias, eps } => {
                let mean = sum_by(x, |x| x) / n;
                let variance = sum_by(x, |x| (x - mean) * (x - mean)) / n;
                let scale = 1.0 / (variance + eps).sqrt();
                for (out, x) in out.iter_mut().zip(x) {
                    *out = (x - mean) * scale;
                }
                if let Some(weight) = weight {
                    for (out, w) in out.iter_mut().zip(weight) {
                        *out *= w;
                    }
                }
                if let Some(bias) = bias {
                    add_row(out, bias);
                }
            }
        }
    }
}
