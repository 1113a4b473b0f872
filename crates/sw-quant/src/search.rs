//! Choosing the clip threshold. The paper picks `z` by the least reconstruction error and does not publish how; the two
//! readings are here, one that needs no data and one that needs calibration inputs.

use crate::{
    Clip, Error, Real, Scheme, error::check_shape, fake_quantize, outliers::finite, par,
    simd::vectorized,
};

/// Candidates of a search over `z`, ascending: thresholds from well inside a Gaussian's bulk (z = 1.5 is 1.7 sigma) to the release's largest.
///
/// ```
/// assert!(sw_quant::search::ZS.contains(&9.0) && sw_quant::search::ZS.is_sorted());
/// ```
pub const ZS: [f32; 14] = [
    1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 9.0, 11.0, 12.0, 15.0, 20.0,
];

/// What a search found.
///
/// ```
/// use sw_quant::{Scheme, search};
/// let found = search::weight_error(&[0.0f32, 0.4, 1.0], [1, 3], &Scheme::default(), &[], &[1.0, 9.0])?;
/// assert_eq!((found.best, found.error), (9.0, found.baseline)); // z = 9 clips nothing here
/// assert_eq!(found.curve[1], (9.0, found.error));
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Search {
    /// The best candidate; the first one at a tie.
    pub best: f32,
    /// Its error, a sum of squares.
    pub error: f64,
    /// The error without clipping (without smoothing, for alpha).
    pub baseline: f64,
    /// Every candidate with its error, in the order given.
    pub curve: Vec<(f32, f64)>,
}

impl Search {
    /// The outcome of candidates whose errors are known, and of the error without any of them. Where there are no
    /// candidates, or none has an error below infinity, `best` is NaN.
    ///
    /// ```
    /// use sw_quant::search::Search;
    /// let found = Search::of(4.0, vec![(6.0, 3.0), (9.0, 2.0), (12.0, 2.0)]);
    /// assert_eq!((found.best, found.error, found.at(6.0)), (9.0, 2.0, Some(3.0)));
    /// ```
    #[must_use]
    pub fn of(baseline: f64, curve: Vec<(f32, f64)>) -> Self {
        let none = (f32::NAN, f64::INFINITY);
        let (best, error) = curve
            .iter()
            .fold(none, |a, &b| if b.1 < a.1 { b } else { a });
        Self {
            best,
            error,
            baseline,
            curve,
        }
    }

    /// The error of one candidate; `None` where it was not tried.
    #[must_use]
    pub fn at(&self, candidate: f32) -> Option<f64> {
        self.curve.iter().find(|c| c.0 == candidate).map(|c| c.1)
    }
}

/// The `z` of [`Clip::ZScore`] with the least weight error `|W - W^|^2`; held coordinates are exact, so they count
/// nothing. The scheme's own clip rule is replaced by each candidate, and by none for the baseline.
///
/// # Errors
/// Those of [`fake_quantize`]; no candidates, or one that is not above 0 and finite.
///
/// ```
/// use sw_quant::{Grouping, Levels, Scheme, search};
/// let mut w: Vec<f32> = (0..4096).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
/// w[77] = 30.0;
/// let scheme = Scheme::new(Levels::asymmetric(4), Grouping::Tensor);
/// let found = search::weight_error(&w, [64, 64], &scheme, &[(1, 13)], &search::ZS)?;
/// assert!(found.error * 5.0 < found.baseline);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn weight_error<T: Real>(
    w: &[T],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
    zs: &[f32],
) -> Result<Search, Error> {
    check_zs(zs)?;
    search_z(w, shape, scheme, hold, zs, |copy| squared_distance(w, copy))
}

/// The `z` of [`Clip::ZScore`] with the least output error `|X W^T - X W^^T|^2` on the row-major `[n, cols]` calibration
/// inputs `x`.
///
/// Costs `2*n*rows*cols` operations per candidate, beside quantizing.
///
/// # Errors
/// Those of [`weight_error`], and a shape of `x` that does not meet `w`.
///
/// ```
/// use sw_quant::{Grouping, Levels, Scheme, search};
/// let w: Vec<f32> = (0..64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
/// let x = [1.0f32, 0.5, -0.25, 0.0, 1.0, 1.0, 0.0, -1.0]; // one input of 8 channels
/// let scheme = Scheme::new(Levels::asymmetric(4), Grouping::Row);
/// let found = search::output_error(&w, [8, 8], &x, [1, 8], &scheme, &[], &[2.0, 9.0])?;
/// assert_eq!(found.curve.len(), 2);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn output_error<T: Real>(
    w: &[T],
    shape: [usize; 2],
    x: &[f32],
    x_shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
    zs: &[f32],
) -> Result<Search, Error> {
    check_zs(zs)?;
    check_shape("x", x.len(), x_shape)?;
    finite("x", x, x_shape[1])?;
    if x_shape[1] != shape[1] {
        return Err(Error::argument(
            "x_shape",
            "as many columns as w has",
            x_shape,
        ));
    }
    search_z(w, shape, scheme, hold, zs, |copy| {
        let errors: Vec<f32> = w
            .iter()
            .zip(copy)
            .map(|(w, v)| w.to_f32() - v.to_f32())
            .collect();
        // |X E^T|^2 for E = W - W^, exact where subtracting two products would cancel.
        par::map(shape[0], |r| {
            let error = &errors[r * shape[1]..(r + 1) * shape[1]];
            vectorized(
                #[inline(always)]
                || {
                    x.chunks_exact(shape[1])
                        .map(|x| dot(x, error).powi(2))
                        .sum::<f64>()
                },
            )
        })
        .into_iter()
        .sum()
    })
}

/// The `z` of [`Clip::ZScore`] with the least weight error in which each input channel counts as much as `importance` says:
/// the sum of `importance[col] * (W - W^)[row, col]^2`. With the second moments of the input channels (the mean of `x^2`) this
/// is the expected output error of a map whose channels do not correlate, as importance matrices take it.
///
/// # Errors
/// Those of [`weight_error`], and an importance that is not one finite number of at least 0 for each column.
///
/// ```
/// use sw_quant::{Grouping, Levels, Scheme, search};
/// let w = [0.1f32, -0.2, 0.3, 4.0];
/// let scheme = Scheme::new(Levels::asymmetric(2), Grouping::Row);
/// // Where only the outlier's channel is read, clipping it is the worst one can do.
/// let found = search::channel_error(&w, [1, 4], &[0.0, 0.0, 0.0, 1.0], &scheme, &[], &[1.0])?;
/// assert!(found.baseline < found.error);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn channel_error<T: Real>(
    w: &[T],
    shape: [usize; 2],
    importance: &[f32],
    scheme: &Scheme,
    hold: &[(usize, usize)],
    zs: &[f32],
) -> Result<Search, Error> {
    check_zs(zs)?;
    if importance.len() != shape[1] || importance.iter().any(|v| !(*v >= 0.0 && v.is_finite())) {
        let expected = "a finite number of at least 0 for each column";
        return Err(Error::argument("importance", expected, importance.len()));
    }
    search_z(w, shape, scheme, hold, zs, |copy| {
        par::map(shape[0], |r| {
            let at = r * shape[1]..(r + 1) * shape[1];
            let pairs = w[at.clone()].iter().zip(&copy[at]).zip(importance);
            pairs
                .map(|((w, v), i)| f64::from(*i) * f64::from(w.to_f32() - v.to_f32()).powi(2))
                .sum::<f64>()
        })
        .into_iter()
        .sum()
    })
}

fn check_zs(zs: &[f32]) -> Result<(), Error> {
    candidates_within("zs", "finite numbers above 0", zs, |z| {
        z > 0.0 && z.is_finite()
    })
}

fn search_z<T: Real>(
    w: &[T],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
    zs: &[f32],
    error: impl Fn(&[T]) -> f64,
) -> Result<Search, Error> {
    let mut copy = w.to_vec();
    let mut error_with = |clip: Clip| {
        copy.copy_from_slice(w);
        fake_quantize(&mut copy, shape, &scheme.with_clip(clip), hold)?;
        Ok(error(&copy))
    };
    let baseline = error_with(Clip::None)?;
    best(zs, baseline, |z| error_with(Clip::ZScore { z }))
}

pub(crate) fn candidates_within(
    name: &'static str,
    expected: &'static str,
    candidates: &[f32],
    within: impl Fn(f32) -> bool,
) -> Result<(), Error> {
    match candidates.iter().find(|c| !within(**c)) {
        Some(c) => Err(Error::argument(name, expected, c)),
        None if candidates.is_empty() => {
            Err(Error::argument(name, "at least one candidate", candidates))
        }
        None => Ok(()),
    }
}

/// The candidate of least error; `candidates` are not empty.
pub(crate) fn best(
    candidates: &[f32],
    baseline: f64,
    mut error: impl FnMut(f32) -> Result<f64, Error>,
) -> Result<Search, Error> {
    let curve = candidates
        .iter()
        .map(|&c| Ok((c, error(c)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(Search::of(baseline, curve))
}

fn squared_distance<T: Real>(w: &[T], v: &[T]) -> f64 {
    let n = w.len();
    par::map(n.div_ceil(par::PIECE), |i| {
        let at = i * par::PIECE..n.min((i + 1) * par::PIECE);
        let pairs = w[at.clone()].iter().zip(&v[at]);
        pairs
            .map(|(a, b)| f64::from(a.to_f32() - b.to_f32()).powi(2))
            .sum::<f64>()
    })
    .into_iter()
    .sum()
}

/// `|Xa Wa^T - Xb Wb^T|^2`, all with `cols` columns.
pub(crate) fn product_error(xa: &[f32], wa: &[f32], xb: &[f32], wb: &[f32], cols: usize) -> f64 {
    par::map(wa.len() / cols, |r| {
        let at = r * cols..(r + 1) * cols;
        let (wa, wb) = (&wa[at.clone()], &wb[at]);
        let tokens = xa.chunks_exact(cols).zip(xb.chunks_exact(cols));
        vectorized(
            #[inline(always)]
            || {
                tokens
                    .map(|(xa, xb)| (dot(xa, wa) - dot(xb, wb)).powi(2))
                    .sum::<f64>()
            },
        )
    })
    .into_iter()
    .sum()
}

/// Products in `f32` lanes, folded into `f64` every 1024 values.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut total = 0.0;
    for (a, b) in a.chunks(1024).zip(b.chunks(1024)) {
        let mut lanes = [0.0f32; 16];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
        for (a, b) in a.iter().zip(b) {
            for i in 0..16 {
                lanes[i] += a[i] * b[i];
            }
        }
        for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
            *lane += a * b;
        }
        total += lanes.iter().map(|&l| f64::from(l)).sum::<f64>();
    }
    total
}
