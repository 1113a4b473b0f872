//! Extremes, mean and standard deviation of long slices, in a fixed order.

use std::ops::Range;

use crate::par::{self, PIECE};
use crate::real::LANE_BUFFER;
use crate::{Real, simd::vectorized};

/// Where half-precision values are widened; made once per piece of work, since clearing it costs as much as a short block.
pub(crate) type Buffer = [f32; LANE_BUFFER];

/// Independent accumulators: enough to hide the latency of the widest vectors.
const LANES: usize = 16;

/// The smallest and the largest value, of nothing so far `(inf, -inf)`; `None` when a value is not finite.
#[inline(always)]
pub(crate) fn extent<T: Real>(w: &[T], buffer: &mut Buffer) -> Option<(f32, f32)> {
    let (mut lo, mut hi, mut bad) = (
        [f32::INFINITY; LANES],
        [f32::NEG_INFINITY; LANES],
        [0.0f32; LANES],
    );
    for part in w.chunks(LANE_BUFFER) {
        let (body, rest) = T::widened(part, buffer).as_chunks::<LANES>();
        for v in body {
            for i in 0..LANES {
                lo[i] = if v[i] < lo[i] { v[i] } else { lo[i] };
                hi[i] = if v[i] > hi[i] { v[i] } else { hi[i] };
                bad[i] += v[i] * 0.0; // NaN for NaN and for infinities, else 0
            }
        }
        for (i, &v) in rest.iter().enumerate() {
            lo[i] = if v < lo[i] { v } else { lo[i] };
            hi[i] = if v > hi[i] { v } else { hi[i] };
            bad[i] += v * 0.0;
        }
    }
    let finite = fold(bad, |a, b| a + b) == 0.0;
    finite.then(|| {
        (
            fold(lo, |a, b| if b < a { b } else { a }),
            fold(hi, |a, b| if b > a { b } else { a }),
        )
    })
}

/// Lanes to one value, by halves: a chain of 16 would cost as much as a block of 128.
#[inline(always)]
fn fold(lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
    for i in 0..8 {
        eight[i] = f(lanes[i], lanes[i + 8]);
    }
    for i in 0..4 {
        four[i] = f(eight[i], eight[i + 4]);
    }
    f(f(four[0], four[2]), f(four[1], four[3]))
}

/// [`extent`] of the values at `segments`.
#[inline(always)]
pub(crate) fn extent_of<T: Real>(
    w: &[T],
    segments: impl Iterator<Item = Range<usize>>,
    buffer: &mut Buffer,
) -> Option<(f32, f32)> {
    let mut all = (f32::INFINITY, f32::NEG_INFINITY);
    for segment in segments {
        let w = &w[segment];
        let (lo, hi) = if w.len() <= PIECE {
            extent(w, buffer)?
        } else {
            let pieces = par::map(w.len().div_ceil(PIECE), |i| {
                vectorized(
                    #[inline(always)]
                    || extent(piece(w, i), &mut [0.0; LANE_BUFFER]),
                )
            });
            pieces
                .into_iter()
                .try_fold(all, |a, p| p.map(|p| (a.0.min(p.0), a.1.max(p.1))))?
        };
        all = (all.0.min(lo), all.1.max(hi));
    }
    Some(all)
}

fn piece<T>(w: &[T], i: usize) -> &[T] {
    &w[i * PIECE..w.len().min((i + 1) * PIECE)]
}

/// How many values at `segments` lie beyond `[-t, t]`.
pub(crate) fn count_beyond<T: Real>(
    w: &[T],
    segments: impl Iterator<Item = Range<usize>>,
    t: f32,
) -> usize {
    let count = |w: &[T]| w.iter().filter(|v| v.to_f32().abs() > t).count();
    segments
        .map(|s| {
            par::map(s.len().div_ceil(PIECE), |i| count(piece(&w[s.clone()], i)))
                .into_iter()
                .sum::<usize>()
        })
        .sum()
}

/// Count, mean and sum of squared deviations, merged pairwise (Chan, Golub and LeVeque 1979): one pass over memory
/// without the cancellation of `E[x^2] - E[x]^2`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moments {
    n: f64,
    mean: f64,
    m2: f64,
}

impl Moments {
    pub(crate) fn count(&self) -> usize {
        self.n as usize
    }

    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    /// Unbiased: divided by n - 1.
    pub(crate) fn std(&self) -> f64 {
        (self.m2 / (self.n - 1.0)).sqrt()
    }

    /// Moments of `|w|` at `segments`, always in the same pieces.
    #[inline(always)]
    pub(crate) fn of_magnitudes<T: Real>(
        w: &[T],
        segments: impl Iterator<Item = Range<usize>>,
    ) -> Self {
        segments.fold(Self::default(), |all, segment| {
            let w = &w[segment];
            if w.len() <= PIECE {
                return all.merge(Self::of_piece(w));
            }
            let pieces = par::map(w.len().div_ceil(PIECE), |i| {
                vectorized(
                    #[inline(always)]
                    || Self::of_piece(piece(w, i)),
                )
            });
            pieces.into_iter().fold(all, Self::merge)
        })
    }

    #[inline(always)]
    fn of_piece<T: Real>(w: &[T]) -> Self {
        let mut buffer = [0.0; LANE_BUFFER];
        w.chunks(LANE_BUFFER).fold(Self::default(), |all, part| {
            let wide = T::widened(part, &mut buffer);
            let n = wide.len() as f64;
            let mean = lane_sum(wide, |v| v) / n;
            all.merge(Self {
                n,
                mean,
                m2: lane_sum(wide, |v| (v - mean) * (v - mean)),
            })
        })
    }

    fn merge(self, other: Self) -> Self {
        if other.n == 0.0 {
            return self;
        }
        let n = self.n + other.n;
        let d = other.mean - self.mean;
        Self {
            n,
            mean: self.mean + d * (other.n / n),
            m2: self.m2 + other.m2 + d * d * (self.n * other.n / n),
        }
    }
}

/// The sum of `f(|v|)` in eight interleaved lanes.
#[inline(always)]
fn lane_sum(w: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (body, rest) = w.as_chunks::<8>();
    for v in body {
        for i in 0..8 {
            lanes[i] += f(f64::from(v[i].abs()));
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += f(f64::from(v.abs()));
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_survive_a_large_offset() {
        let n = 3 * PIECE + 777;
        let w: Vec<f32> = (0..n).map(|i| 1e6 + (i % 4) as f32).collect();
        let m = Moments::of_magnitudes(&w, std::iter::once(0..n));
        let mean = w.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let m2 = w
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>();
        assert!((m.mean() - mean).abs() < 1e-6);
        assert!((m.std() - (m2 / (n as f64 - 1.0)).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn extent_sees_every_lane() {
        for n in [1, 31, 32, 33, 511, 512, 513, PIECE + 5] {
            for at in [0, n / 2, n - 1] {
                let mut w = vec![0.5f32; n];
                w[at] = -2.0;
                let all = || std::iter::once(0..n);
                assert_eq!(
                    extent_of(&w, all(), &mut [0.0; LANE_BUFFER]).unwrap().0,
                    -2.0
                );
                w[at] = f32::NAN;
                assert_eq!(extent_of(&w, all(), &mut [0.0; LANE_BUFFER]), None);
                w[at] = f32::NEG_INFINITY;
                assert_eq!(extent_of(&w, all(), &mut [0.0; LANE_BUFFER]), None);
            }
        }
    }
}
