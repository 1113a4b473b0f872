//! SmoothQuant (arXiv 2211.10438), the comparator: moving the range of activations into the weights they meet.
//!
//! For the linears fed by one norm, per input channel `j`
//!
//! ```text
//! s_j = max|X_j|^a / max|W_j|^(1-a)        both maxima and s_j itself at least 1e-5
//! norm weight (and bias) j /= s_j,  column j of every W *= s_j
//! ```
//!
//! so that `X diag(s)^-1 (W diag(s))^T = X W^T`. Its repository smooths q, k, v (with the input norm) and gate, up (with
//! the norm after attention), not o and down.

use crate::search::{Search, best, candidates_within, product_error};
use crate::{Activation, Error, Real, Scheme, error::check_shape, fake_quantize, outliers::finite};

/// What the maxima and the scale are at least, as in SmoothQuant's repository.
///
/// ```
/// use sw_quant::smooth::{FLOOR, scales};
/// assert_eq!(scales(&[0.0], &[1.0], 1.0).unwrap(), [FLOOR]); // a silent channel
/// ```
pub const FLOOR: f32 = 1e-5;

/// Adds the magnitudes of a row-major `[rows, channels]` matrix to the running maxima of its columns: tokens of a
/// calibration set, or the weights fed by one norm one after the other.
///
/// # Errors
/// A shape that does not match, a value that is not finite.
///
/// ```
/// let mut maxima = [0.0; 2];
/// sw_quant::smooth::column_maxima(&[1.0f32, -2.0, -3.0, 0.5], [2, 2], &mut maxima)?;
/// assert_eq!(maxima, [3.0, 2.0]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn column_maxima<T: Real>(x: &[T], shape: [usize; 2], maxima: &mut [f32]) -> Result<(), Error> {
    check_shape("x", x.len(), shape)?;
    check_shape("maxima", maxima.len(), [1, shape[1]])?;
    finite("x", x, shape[1])?;
    for row in x.chunks_exact(shape[1]) {
        maxima
            .iter_mut()
            .zip(row)
            .for_each(|(m, v)| *m = m.max(v.to_f32().abs()));
    }
    Ok(())
}

/// `s_j = act_j^a / weight_j^(1-a)` from the column maxima of activations and weights.
///
/// # Errors
/// Different lengths, maxima that are negative or not finite, `alpha` outside 0 to 1.
///
/// ```
/// assert_eq!(sw_quant::smooth::scales(&[16.0, 1.0], &[1.0, 4.0], 0.5)?, [4.0, 0.5]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn scales(act: &[f32], weight: &[f32], alpha: f32) -> Result<Vec<f32>, Error> {
    let n = check_shape("act", act.len(), [1, act.len()])?;
    check_shape("weight", weight.len(), [1, n])?;
    if !(0.0..=1.0).contains(&alpha) {
        return Err(Error::argument("alpha", "a number from 0 to 1", alpha));
    }
    for (name, maxima) in [("act", act), ("weight", weight)] {
        finite(name, maxima, n)?;
        if let Some(m) = maxima.iter().find(|m| **m < 0.0) {
            return Err(Error::argument(name, "maxima of magnitudes, at least 0", m));
        }
    }
    let scale = |(a, w): (&f32, &f32)| {
        (a.max(FLOOR).powf(alpha) / w.max(FLOOR).powf(1.0 - alpha)).max(FLOOR)
    };
    Ok(act.iter().zip(weight).map(scale).collect())
}

/// Divides a norm's weight, or its bias, by the scales.
///
/// # Errors
/// Different lengths, a scale that is not above 0 and finite, a value that is not finite or would not be any more in its
/// type. `norm` is unchanged then.
///
/// ```
/// let mut norm = [1.0f32, 1.0];
/// sw_quant::smooth::fold_into_norm(&mut norm, &[4.0, 0.5])?;
/// assert_eq!(norm, [0.25, 2.0]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn fold_into_norm<T: Real>(norm: &mut [T], scales: &[f32]) -> Result<(), Error> {
    let n = check_shape("norm", norm.len(), [1, norm.len()])?;
    check_scales(scales, n)?;
    change_columns("norm", norm, scales, |v, s| v / s)
}

/// Multiplies the columns of a row-major `[out, in]` weight by the scales.
///
/// # Errors
/// Different lengths, a scale that is not above 0 and finite, a value that is not finite or would not be any more in its
/// type. `w` is unchanged then.
///
/// ```
/// let mut w = [1.0f32, 1.0, 2.0, 2.0];
/// sw_quant::smooth::scale_columns(&mut w, [2, 2], &[4.0, 0.5])?;
/// assert_eq!(w, [4.0, 0.5, 8.0, 1.0]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn scale_columns<T: Real>(w: &mut [T], shape: [usize; 2], scales: &[f32]) -> Result<(), Error> {
    check_shape("w", w.len(), shape)?;
    check_scales(scales, shape[1])?;
    change_columns("w", w, scales, |v, s| v * s)
}

/// `f(value, scale of its column)` for all values of a matrix of `scales.len()` columns, or for none of them.
fn change_columns<T: Real>(
    what: &'static str,
    values: &mut [T],
    scales: &[f32],
    f: impl Fn(f32, f32) -> f32,
) -> Result<(), Error> {
    let cols = scales.len();
    finite(what, values, cols)?;
    let changed = |v: &T, s: &f32| T::from_f32(f(v.to_f32(), *s));
    for (row, part) in values.chunks_exact(cols).enumerate() {
        let overflows = |(v, s)| !changed(v, s).to_f32().is_finite();
        if let Some(col) = part.iter().zip(scales).position(overflows) {
            let (value, scale) = (part[col].to_f32(), scales[col]);
            return Err(Error::Argument {
                name: "scales",
                expected: "results that fit the type of the matrix",
                found: format!(
                    "{scale} for {what} [{row}, {col}] = {value}, which overflows {:?}",
                    T::DTYPE
                ),
            });
        }
    }
    for part in values.chunks_exact_mut(cols) {
        part.iter_mut()
            .zip(scales)
            .for_each(|(v, s)| *v = changed(v, s));
    }
    Ok(())
}

fn check_scales(scales: &[f32], n: usize) -> Result<(), Error> {
    check_shape("scales", scales.len(), [1, n])?;
    match scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        Some(s) => Err(Error::argument("scales", "finite numbers above 0", s)),
        None => Ok(()),
    }
}

/// The alphas searched: 0, 0.05, ... 1, all that SmoothQuant's equation allows at this distance.
///
/// ```
/// assert!(sw_quant::smooth::ALPHAS.contains(&0.85)); // the one the paper compares with
/// ```
pub const ALPHAS: [f32; 21] = [
    0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8,
    0.85, 0.9, 0.95, 1.0,
];

/// The `alpha` among `alphas` with the least output error `|Q(X/s) Q(W s)^T - X W^T|^2`, summed over the weights that
/// share the input. `x` is a row-major `[tokens, in]` calibration input, each weight `(values, [out, in])`.
///
/// # Errors
/// Shapes that do not match, values that are not finite, a quantizer outside its domain, no candidates.
///
/// ```
/// use sw_quant::{Activation, Grouping, Levels, Scheme, smooth};
/// // One loud input channel, weights all alike: smoothing pays.
/// let x: Vec<f32> = (0..64).map(|i| (i as f32).sin() * if i % 8 == 3 { 60.0 } else { 1.0 }).collect();
/// let w: Vec<f32> = (0..32).map(|i| (i as f32 * 1.7).cos()).collect();
/// let (act, weight) = (Activation::naive(8), Scheme::new(Levels::symmetric(8), Grouping::Tensor));
/// let search = smooth::search_alpha(&x, [8, 8], &[(&w, [4, 8])], &act, &weight, &smooth::ALPHAS)?;
/// assert!(search.error < search.baseline);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn search_alpha(
    x: &[f32],
    x_shape: [usize; 2],
    weights: &[(&[f32], [usize; 2])],
    activation: &Activation,
    scheme: &Scheme,
    alphas: &[f32],
) -> Result<Search, Error> {
    check_shape("x", x.len(), x_shape)?;
    candidates_within("alphas", "numbers from 0 to 1", alphas, |a| {
        (0.0..=1.0).contains(&a)
    })?;
    let mut act = vec![0.0; x_shape[1]];
    column_maxima(x, x_shape, &mut act)?;
    let mut weight = vec![0.0; x_shape[1]];
    for (w, shape) in weights {
        if shape[1] != x_shape[1] {
            return Err(Error::argument(
                "weights",
                "as many columns as x has",
                shape,
            ));
        }
        column_maxima(w, *shape, &mut weight)?;
    }
    let error = |scales: &[f32]| -> Result<f64, Error> {
        let mut xq = x.to_vec();
        xq.chunks_exact_mut(x_shape[1])
            .for_each(|row| row.iter_mut().zip(scales).for_each(|(v, s)| *v /= s));
        activation.apply(&mut xq, x_shape)?;
        let mut total = 0.0;
        for (w, shape) in weights {
            let mut wq = w.to_vec();
            scale_columns(&mut wq, *shape, scales)?;
            fake_quantize(&mut wq, *shape, scheme, &[])?;
            total += product_error(x, w, &xq, &wq, x_shape[1]);
        }
        Ok(total)
    };
    let baseline = error(&vec![1.0; x_shape[1]])?;
    best(alphas, baseline, |alpha| {
        error(&scales(&act, &weight, alpha)?)
    })
}
