//! Where a block is clipped before its range is taken.

use std::ops::Range;

use half::f16;

use crate::moments::Moments;
use crate::{Arithmetic, Error, Real};

/// What a fraction is a fraction of.
///
/// ```
/// use sw_quant::{Clip, Scheme, Scope, outliers};
/// let w = [9.0f32, 8.0, 1.0, 1.5]; // two rows, each a block
/// let clipped = |scope| {
///     outliers::clipped(&w, [2, 2], &Scheme::default().with_clip(Clip::TopFraction { fraction: 0.5, scope }))
/// };
/// assert_eq!(clipped(Scope::Block)?, [(0, 0), (1, 1)]);
/// assert_eq!(clipped(Scope::Tensor)?, [(0, 0), (0, 1)]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Scope {
    /// Each block by itself.
    #[default]
    Block,
    /// All of the tensor, one threshold.
    Tensor,
}

/// `CLIP` of the paper's Eq. 2, `W^ = RESTORE(Q^-1(Q(CLIP(W))))`: values beyond `[-t, t]` are set to its ends, and the
/// block's range is what remains. `RESTORE` is the list of held coordinates of [`quantize`](crate::quantize) and
/// [`fake_quantize`](crate::fake_quantize).
///
/// ```
/// use sw_quant::{Clip, Grouping, Levels, Scheme, fake_quantize};
/// let mut w = [-1.0f32, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];
/// let scheme = Scheme::new(Levels::asymmetric(4), Grouping::Tensor).with_clip(Clip::ZScore { z: 1.0 });
/// let report = fake_quantize(&mut w, [1, 8], &scheme, &[(0, 5)])?;
/// assert_eq!((report.clipped, w[5]), (1, 3.0)); // clipped to 1.7256 for the range, then restored
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum Clip {
    /// Nothing is clipped.
    #[default]
    None,
    /// Per block `t = mean|w| + z*std|w|`, the standard deviation unbiased (n - 1). A block of one element clips nothing.
    /// The paper's choice; `z` must be above 0. For Gaussian weights `t` is `(0.798 + 0.603 z)` standard deviations.
    ZScore {
        /// How many standard deviations of the absolute values.
        z: f32,
    },
    /// The `floor(fraction * n)` largest absolute values are clipped to the next one.
    TopFraction {
        /// Above 0 and below 1. The released code tries 1e-5 of a block and 1e-6 of a tensor.
        fraction: f64,
        /// A fraction of each block or of the tensor.
        #[cfg_attr(feature = "serde", serde(default))]
        scope: Scope,
    },
    /// Per block `t = q3 + factor*(q3 - q1)` of the absolute values, quartiles interpolated linearly.
    Iqr {
        /// At least 0.
        factor: f32,
    },
    /// Per block the `t` of least squared error, among 1, 0.95, 0.9, ... 0.3 of the largest absolute value; the largest one
    /// at a tie. Held coordinates count for nothing, neither in the range nor in the error. Each column counts as much as
    /// the importance that [`quantize_weighted`](crate::quantize_weighted) is given, and all alike without one, which can
    /// ruin a model: the few columns that it lives on are clipped with the rest.
    LeastError,
    /// The held coordinates are left out of the range (unless the block holds nothing else), so that they cannot stretch
    /// it; they are clamped into it and restored. With symmetric levels this is what makes holding a row's largest value
    /// worth anything.
    HeldOut,
}

impl Clip {
    /// # Errors
    /// When a parameter lies outside its domain.
    ///
    /// ```
    /// assert!(sw_quant::Clip::ZScore { z: f32::NAN }.check().is_err());
    /// ```
    pub fn check(&self) -> Result<(), Error> {
        match *self {
            Self::ZScore { z } if !(z > 0.0 && z.is_finite()) => {
                Err(Error::argument("clip.z", "a finite number above 0", z))
            }
            Self::TopFraction { fraction, .. } if !(fraction > 0.0 && fraction < 1.0) => Err(
                Error::argument("clip.fraction", "a number above 0 and below 1", fraction),
            ),
            Self::Iqr { factor } if !(factor >= 0.0 && factor.is_finite()) => Err(Error::argument(
                "clip.factor",
                "a finite number of at least 0",
                factor,
            )),
            _ => Ok(()),
        }
    }

    /// The threshold `t` for the values at `segments`; infinite where nothing is to be clipped.
    #[inline(always)]
    pub(crate) fn threshold<T: Real>(
        &self,
        w: &[T],
        segments: impl Iterator<Item = Range<usize>>,
        arithmetic: Arithmetic,
    ) -> f32 {
        match *self {
            Self::None | Self::HeldOut | Self::LeastError => f32::INFINITY,
            Self::ZScore { z } => z_threshold(Moments::of_magnitudes(w, segments), z, arithmetic),
            Self::TopFraction { fraction, .. } => top_threshold(magnitudes(w, segments), fraction),
            Self::Iqr { factor } => {
                let sorted = sorted(magnitudes(w, segments));
                let (q1, q3) = (quantile(&sorted, 0.25), quantile(&sorted, 0.75));
                round_to(arithmetic, (q3 + f64::from(factor) * (q3 - q1)) as f32)
            }
        }
    }
}

/// What [`Clip::LeastError`] tries, as fractions of a block's largest absolute value.
pub(crate) const FRACTIONS: [f32; 15] = [
    1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3,
];

fn round_to(arithmetic: Arithmetic, value: f32) -> f32 {
    match arithmetic {
        Arithmetic::F32 => value,
        Arithmetic::ReleaseF16 => f16::from_f32(value).to_f32(),
    }
}

fn z_threshold(m: Moments, z: f32, arithmetic: Arithmetic) -> f32 {
    if m.count() < 2 {
        return f32::INFINITY;
    }
    let half = |v| round_to(Arithmetic::ReleaseF16, v);
    match arithmetic {
        Arithmetic::F32 => (m.mean() + f64::from(z) * m.std()) as f32,
        Arithmetic::ReleaseF16 => half(half(m.mean() as f32) + half(z * half(m.std() as f32))),
    }
}

fn magnitudes<T: Real>(w: &[T], segments: impl Iterator<Item = Range<usize>>) -> Vec<f32> {
    segments
        .flat_map(|s| &w[s])
        .map(|v| v.to_f32().abs())
        .collect()
}

fn top_threshold(mut magnitudes: Vec<f32>, fraction: f64) -> f32 {
    let n = magnitudes.len();
    match (fraction * n as f64) as usize {
        0 => f32::INFINITY,
        k => {
            *magnitudes
                .select_nth_unstable_by(n - 1 - k, f32::total_cmp)
                .1
        }
    }
}

fn sorted(mut values: Vec<f32>) -> Vec<f32> {
    values.sort_unstable_by(f32::total_cmp);
    values
}

/// Linear interpolation between order statistics, as torch and numpy do by default.
fn quantile(sorted: &[f32], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, above) = (
        f64::from(sorted[at.floor() as usize]),
        f64::from(sorted[at.ceil() as usize]),
    );
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: [f32; 8] = [-1.0, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];

    fn threshold(clip: Clip) -> f32 {
        clip.threshold(&W, std::iter::once(0..8), Arithmetic::F32)
    }

    #[test]
    fn thresholds_of_the_vector() {
        assert!((threshold(Clip::ZScore { z: 1.0 }) - 1.725_622_9).abs() < 1e-7);
        // |w| sorted: 0 .125 .25 .5 .5 .75 1 3; q1 = .21875, q3 = .8125
        assert_eq!(threshold(Clip::Iqr { factor: 1.0 }), 0.8125 + 0.593_75);
        assert_eq!(
            threshold(Clip::TopFraction {
                fraction: 0.25,
                scope: Scope::Block
            }),
            0.75
        );
        assert_eq!(
            threshold(Clip::TopFraction {
                fraction: 0.1,
                scope: Scope::Block
            }),
            f32::INFINITY
        );
    }

    #[test]
    fn one_element_clips_nothing() {
        assert_eq!(
            Clip::ZScore { z: 1.0 }.threshold(&W, std::iter::once(5..6), Arithmetic::F32),
            f32::INFINITY
        );
    }
}
