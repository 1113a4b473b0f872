//! The textbook: every formula in `f64`, one obvious loop each, for reading and for testing the fast path against.
//!
//! Eq. 2 of the paper (arXiv 2411.07191), per block, with `N`-bit asymmetric levels as its released code computes them:
//!
//! ```text
//! t  = mean|w| + z*std|w|                  CLIP_z: w is clamped to [-t, t]
//! s  = (2^N - 1) / (max w - min w)
//! q  = round_half_even((w - min w)*s)      Q
//! w^ = q/s + min w                         Q^-1
//! w^[i] = w[i] for the held i              RESTORE
//! ```
//!
//! Nothing here is rounded to `f32` or `fp16`, so the fast path's codes may differ by one where a value lies within its
//! rounding error of the midpoint between two codes.

use crate::{
    Blocks, Clip, Error, Levels, Scheme, Scope, ZeroPoint, block_params::places, clip::FRACTIONS,
    error::check_shape,
};

/// One block: the codes and the values they stand for.
///
/// ```
/// use sw_quant::{Levels, reference};
/// let w = [0.0, 1.0, 3.0];
/// let block = reference::block(&w, &w, &Levels::asymmetric(2), f64::INFINITY);
/// assert_eq!((block.step, block.codes, block.values), (1.0, vec![0, 1, 3], w.to_vec()));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The clip threshold; infinite where nothing is clipped.
    pub threshold: f64,
    /// The distance of neighbouring values; for NF levels half of the range.
    pub step: f64,
    /// One code per value.
    pub codes: Vec<u8>,
    /// One value per value, nothing restored.
    pub values: Vec<f64>,
}

/// Quantizes the values of one block, `ranged` being those that the range is taken from (all of them, except under
/// [`Clip::HeldOut`]).
///
/// ```
/// use sw_quant::{Levels, reference::block};
/// let w = [-1.0, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];
/// assert_eq!(block(&w, &w, &Levels::asymmetric(3), f64::INFINITY).codes, [0, 1, 2, 2, 3, 7, 2, 3]);
/// ```
pub fn block(w: &[f64], ranged: &[f64], levels: &Levels, threshold: f64) -> Block {
    let clip = |v: &f64| v.clamp(-threshold, threshold);
    let lo = ranged.iter().map(clip).fold(f64::INFINITY, f64::min);
    let hi = ranged.iter().map(clip).fold(f64::NEG_INFINITY, f64::max);
    let clipped: Vec<f64> = w.iter().map(|v| v.clamp(lo, hi)).collect();
    let steps = f64::from(levels.steps());
    let max = f64::from(levels.max_code());

    // (step, code of a value, value of a code)
    type Map = Box<dyn Fn(f64) -> f64>;
    let (step, encode, decode): (f64, Map, Map) = match *levels {
        _ if lo == hi => (0.0, Box::new(|_| 0.0), Box::new(move |_| lo)),
        Levels::Asymmetric {
            zero: ZeroPoint::Float,
            ..
        } => {
            let step = (hi - lo) / steps;
            (
                step,
                Box::new(move |v| ((v - lo) / step).round_ties_even()),
                Box::new(move |q| q * step + lo),
            )
        }
        Levels::Asymmetric {
            zero: ZeroPoint::Integer,
            ..
        } => {
            let (lo, hi) = (lo.min(0.0), hi.max(0.0));
            let step = (hi - lo) / steps;
            let zero = (-lo / step).round_ties_even();
            let encode = move |v: f64| ((v / step).round_ties_even() + zero).clamp(0.0, max);
            (step, Box::new(encode), Box::new(move |q| (q - zero) * step))
        }
        Levels::Symmetric { bits } => {
            let bias = f64::from(1 << (bits - 1));
            let step = hi.max(-lo) / (bias - 1.0);
            (
                step,
                Box::new(move |v| (v / step).round_ties_even() + bias),
                Box::new(move |q| (q - bias) * step),
            )
        }
        Levels::Nf4 | Levels::Nf3 => {
            let table = levels.table().unwrap_or(&[]);
            let (step, mid) = ((hi - lo) / 2.0, lo + (hi - lo) / 2.0);
            let encode = move |v: f64| {
                let distance = |q: &usize| ((v - mid) / step - f64::from(table[*q])).abs();
                (0..table.len())
                    .min_by(|a, b| distance(a).total_cmp(&distance(b)))
                    .unwrap_or(0) as f64
            };
            (
                step,
                Box::new(encode),
                Box::new(move |q| f64::from(table[q as usize]) * step + mid),
            )
        }
    };
    let codes: Vec<u8> = clipped.iter().map(|&v| encode(v) as u8).collect();
    let values = codes.iter().map(|&q| decode(f64::from(q))).collect();
    Block {
        threshold,
        step,
        codes,
        values,
    }
}

/// The clip threshold of one block; `all` are the values of the tensor, for [`Scope::Tensor`].
///
/// ```
/// use sw_quant::{Clip, reference::threshold};
/// let w = [-1.0, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];
/// assert!((threshold(&Clip::ZScore { z: 1.0 }, &w, &w) - 1.72562291).abs() < 1e-8);
/// ```
pub fn threshold(clip: &Clip, w: &[f64], all: &[f64]) -> f64 {
    let sorted = |w: &[f64]| {
        let mut sorted: Vec<f64> = w.iter().map(|v| v.abs()).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    match *clip {
        Clip::None | Clip::HeldOut | Clip::LeastError => f64::INFINITY,
        Clip::ZScore { .. } if w.len() < 2 => f64::INFINITY,
        Clip::ZScore { z } => {
            let n = w.len() as f64;
            let mean = w.iter().map(|v| v.abs()).sum::<f64>() / n;
            let variance = w.iter().map(|v| (v.abs() - mean).powi(2)).sum::<f64>() / (n - 1.0);
            mean + f64::from(z) * variance.sqrt()
        }
        Clip::TopFraction { fraction, scope } => {
            let sorted = sorted(if scope == Scope::Tensor { all } else { w });
            match (fraction * sorted.len() as f64).floor() as usize {
                0 => f64::INFINITY,
                k => sorted[sorted.len() - 1 - k],
            }
        }
        Clip::Iqr { factor } => {
            let sorted = sorted(w);
            let quantile = |q: f64| {
                let at = q * (sorted.len() - 1) as f64;
                let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
                below + (above - below) * at.fract()
            };
            quantile(0.75) + f64::from(factor) * (quantile(0.75) - quantile(0.25))
        }
    }
}

/// The threshold of [`Clip::LeastError`] for the values of one block, which are all not held, and its error: the sum of
/// `importance * (w - w^)^2`.
///
/// ```
/// use sw_quant::{Levels, reference::least_error};
/// let w = [-1.0, -0.5, 0.0, 0.25, 0.75, 8.0, -0.125, 0.5];
/// let unread = [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0];
/// assert!((least_error(&w, &unread, &Levels::asymmetric(3)).0 - 2.4).abs() < 1e-6); // 0.3 of the largest
/// ```
pub fn least_error(w: &[f64], importance: &[f64], levels: &Levels) -> (f64, f64) {
    let largest = w.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let mut best = (largest, f64::INFINITY);
    for fraction in FRACTIONS {
        let t = largest * f64::from(fraction);
        let values = block(w, w, levels, t).values;
        let errors = w.iter().zip(&values).zip(importance);
        let error = errors.map(|((a, b), i)| i * (a - b).powi(2)).sum();
        if error < best.1 {
            best = (t, error);
        }
    }
    best
}

/// The lower median, as torch takes it: the value at place `(n - 1)/2` of the sorted ones; `None` of nothing.
///
/// ```
/// assert_eq!(sw_quant::reference::median(&[4.0, 1.0, 3.0, 2.0]), Some(2.0));
/// ```
pub fn median(w: &[f64]) -> Option<f64> {
    let mut sorted = w.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(w.len().wrapping_sub(1) / 2).copied()
}

/// Every block of a matrix, in order. Half-precision [`Arithmetic`](crate::Arithmetic) is not modelled: this is the
/// exact result.
///
/// # Errors
/// Those of [`crate::fake_quantize`], except for values that are not finite.
///
/// ```
/// use sw_quant::{Scheme, reference::blocks};
/// assert_eq!(blocks(&[1.0, 2.0, 5.0, 5.0], [2, 2], &Scheme::default(), &[])?[1].values, [5.0, 5.0]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn blocks(
    w: &[f64],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
) -> Result<Vec<Block>, Error> {
    check_shape("w", w.len(), shape)?;
    scheme.check(shape)?;
    let held = places("hold", hold, shape)?;
    let blocks = scheme.grouping.blocks(shape)?;
    let one = |b| {
        let values: Vec<f64> = places_of(&blocks, b).map(|p| w[p]).collect();
        let kept: Vec<f64> = places_of(&blocks, b)
            .filter(|p| !held.contains(p))
            .map(|p| w[p])
            .collect();
        let held_out = matches!(scheme.clip, Clip::HeldOut | Clip::LeastError);
        let ranged = if held_out && !kept.is_empty() {
            &kept
        } else {
            &values
        };
        let threshold = match scheme.clip {
            Clip::LeastError => least_error(ranged, &vec![1.0; ranged.len()], &scheme.levels).0,
            _ => threshold(&scheme.clip, &values, w),
        };
        block(&values, ranged, &scheme.levels, threshold)
    };
    Ok((0..blocks.count()).map(one).collect())
}

/// [`crate::fake_quantize`], as a new matrix.
///
/// # Errors
/// Those of [`blocks`].
///
/// ```
/// use sw_quant::{Grouping, Levels, Scheme, reference};
/// let scheme = Scheme::new(Levels::symmetric(2), Grouping::Tensor);
/// assert_eq!(reference::fake_quantize(&[0.9, -0.2, 2.0], [1, 3], &scheme, &[(0, 0)])?, [0.9, 0.0, 2.0]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn fake_quantize(
    w: &[f64],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
) -> Result<Vec<f64>, Error> {
    let layout = scheme.grouping.blocks(shape)?;
    let mut out = w.to_vec();
    for (b, block) in blocks(w, shape, scheme, hold)?.iter().enumerate() {
        for (p, v) in places_of(&layout, b).zip(&block.values) {
            out[p] = *v;
        }
    }
    for p in places("hold", hold, shape)? {
        out[p] = w[p];
    }
    Ok(out)
}

fn places_of(blocks: &Blocks, block: usize) -> impl Iterator<Item = usize> + use<> {
    blocks.segments(block).flatten()
}
