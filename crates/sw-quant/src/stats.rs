//! How far an approximation is from its original.

use crate::par::{self, PIECE};
use crate::{Error, Real, Scheme, error::check_shape, fake_quantize, outliers::finite};

/// Errors of an approximation, over all its values.
///
/// ```
/// let exact = sw_quant::stats::compare(&[1.0f32, 2.0], &[1.0f32, 2.0])?;
/// assert_eq!((exact.max_error, exact.mse, exact.sqnr_db), (0.0, 0.0, f64::INFINITY));
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// The largest absolute error.
    pub max_error: f64,
    /// The mean squared error.
    pub mse: f64,
    /// The signal-to-quantization-noise ratio in decibels, `10 log10(sum w^2 / sum (w - w^)^2)`; infinite without error.
    pub sqnr_db: f64,
}

/// Compares an approximation with its original.
///
/// # Errors
/// Slices of different lengths or without values, a value of either that is not finite.
///
/// ```
/// let stats = sw_quant::stats::compare(&[1.0f32, -2.0], &[1.0f32, -2.5])?;
/// assert_eq!((stats.max_error, stats.mse), (0.5, 0.125));
/// assert!((stats.sqnr_db - 13.0103).abs() < 1e-4);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn compare<T: Real, U: Real>(original: &[T], approximation: &[U]) -> Result<Stats, Error> {
    let n = check_shape("original", original.len(), [1, original.len()])?;
    check_shape("approximation", approximation.len(), [1, n])?;
    finite("original", original, n)?;
    finite("approximation", approximation, n)?;
    // Pieces of fixed size, summed in order: the same result on any number of threads.
    let pieces = par::map(n.div_ceil(PIECE), |i| {
        let at = i * PIECE..n.min((i + 1) * PIECE);
        let pairs = original[at.clone()].iter().zip(&approximation[at]);
        pairs.fold([0.0f64; 3], |[max, noise, signal], (w, v)| {
            let (w, v) = (f64::from(w.to_f32()), f64::from(v.to_f32()));
            let e = (w - v).abs();
            [max.max(e), noise + e * e, signal + w * w]
        })
    });
    let [max_error, noise, signal] = pieces.into_iter().fold([0.0f64; 3], |a, p| {
        [a[0].max(p[0]), a[1] + p[1], a[2] + p[2]]
    });
    let sqnr_db = if noise == 0.0 {
        f64::INFINITY
    } else {
        10.0 * (signal / noise).log10()
    };
    Ok(Stats {
        max_error,
        mse: noise / n as f64,
        sqnr_db,
    })
}

/// The error of a scheme on a matrix, and how many values it clips, without changing it.
///
/// # Errors
/// Those of [`fake_quantize`].
///
/// ```
/// use sw_quant::{Grouping, Levels, Scheme, stats::measure};
/// let w = [-1.0f32, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];
/// let (stats, report) = measure(&w, [1, 8], &Scheme::new(Levels::asymmetric(4), Grouping::Tensor), &[])?;
/// assert!((stats.mse - 0.00521701).abs() < 1e-7);
/// assert_eq!(report.clipped, 0);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn measure<T: Real>(
    w: &[T],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
) -> Result<(Stats, crate::Report), Error> {
    let mut copy = w.to_vec();
    let report = fake_quantize(&mut copy, shape, scheme, hold)?;
    Ok((compare(w, &copy)?, report))
}
