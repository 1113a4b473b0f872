//! A row of activations as 16-bit integers with one scale, and the few values that are held out of them.

use std::ops::Range;

use super::kernel::LANES;
use crate::isa::Work;

/// A row keeps at most this many activations as they are.
const MOST_SPIKES: usize = 16;
/// An activation is a spike where it exceeds the mean |value| of the others by this factor.
const SPIKE: f64 = 16.0;
/// Activations are rounded to this many steps on either side of zero.
const STEPS: f32 = 32767.0;

/// A row whose [`Share`] is wanted.
pub(super) struct Whole<'a>(pub(super) &'a [f32]);

impl Work for Whole<'_> {
    type Output = Share;

    #[inline(always)]
    fn work(self) -> Share {
        Share::of(self.0)
    }
}

/// A row of activations as integers: `x = scale * integer`, but for its spikes.
pub(super) struct Share {
    pub(super) scale: f32,
    /// Columns, increasing.
    pub(super) spikes: Vec<usize>,
}

impl Share {
    #[inline(always)]
    fn of(x: &[f32]) -> Share {
        // Lane by lane, so that the usual row costs little: nothing stands out of it.
        let (mut sums, mut most) = ([0.0f64; LANES], [0.0f32; LANES]);
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for ((sum, most), x) in sums.iter_mut().zip(&mut most).zip(chunk) {
                *sum += f64::from(x.abs());
                *most = if x.abs() > *most { x.abs() } else { *most };
            }
        }
        for ((sum, most), x) in sums.iter_mut().zip(&mut most).zip(rest) {
            *sum += f64::from(x.abs());
            *most = if x.abs() > *most { x.abs() } else { *most };
        }
        let sum: f64 = sums.iter().sum();
        let most = most.into_iter().fold(0.0, f32::max);
        let others = x.len().saturating_sub(1).max(1) as f64;
        if sum.is_finite() && f64::from(most) <= SPIKE * (sum - f64::from(most)) / others {
            return Share {
                scale: most / STEPS,
                spikes: Vec::new(),
            };
        }
        Share::with_spikes(x)
    }

    /// What is not finite is a spike too, so that it reaches the result.
    #[inline(always)]
    fn with_spikes(x: &[f32]) -> Share {
        // The largest, sizes decreasing; of equal ones the first. One more than may be spikes.
        let mut most: Vec<(f32, usize)> = Vec::with_capacity(MOST_SPIKES + 2);
        let (mut least, mut finite) = (-1.0, 0.0f64);
        for (i, x) in x.iter().enumerate() {
            let size = if x.is_nan() { f32::INFINITY } else { x.abs() };
            finite += if size.is_finite() {
                f64::from(size)
            } else {
                0.0
            };
            if size > least {
                let place = most.partition_point(|(other, _)| *other >= size);
                most.insert(place, (size, i));
                most.truncate(MOST_SPIKES + 1);
                least = most.get(MOST_SPIKES).map_or(-1.0, |(size, _)| *size);
            }
        }
        let mut after = finite;
        let mut spikes = Vec::new();
        for &(size, i) in most.iter().take(MOST_SPIKES) {
            let others = (x.len() - spikes.len() - 1).max(1) as f64;
            if size.is_finite() {
                after = (after - f64::from(size)).max(0.0);
            }
            if f64::from(size) <= SPIKE * after / others {
                break;
            }
            spikes.push(i);
        }
        let scale = most.get(spikes.len()).map_or(0.0, |(size, _)| size / STEPS);
        spikes.sort_unstable();
        Share { scale, spikes }
    }

    /// The integers of some columns. Spikes have none; theirs are cleared.
    #[inline(always)]
    fn integer(&self) -> impl Fn(&f32) -> i32 + use<> {
        let inverse = if self.scale > 0.0 {
            1.0 / self.scale
        } else {
            0.0
        };
        // Beyond the range only where the scale's reciprocal overflows or the row has more spikes than are held. Adding
        // 1.5 * 2^23 rounds to the nearest integer, ties to even, which the sum's lower bits are; what is no number is zero.
        const ROUND: f32 = 12_582_912.0;
        move |x| {
            let steps = (x * inverse).clamp(-STEPS, STEPS);
            let steps = if steps.is_nan() { 0.0 } else { steps };
            (steps + ROUND).to_bits() as i32 - ROUND.to_bits() as i32
        }
    }

    fn spikes(&self, ks: &Range<usize>) -> impl Iterator<Item = usize> {
        let inside = |k: &&usize| ks.contains(k);
        self.spikes.iter().filter(inside).map(|k| k - ks.start)
    }

    /// Pairs, or a plane of upper and one of lower bytes.
    #[inline(always)]
    pub(super) fn pack(&self, x: &[f32], ks: Range<usize>, bytes: bool, out: &mut [i32]) {
        let integer = self.integer();
        if !bytes {
            let out: &mut [i16] = bytemuck::cast_slice_mut(out);
            for (out, x) in out.iter_mut().zip(&x[ks.clone()]) {
                *out = integer(x) as i16;
            }
            return self.spikes(&ks).for_each(|i| out[i] = 0);
        }
        let (upper, lower) = out.split_at_mut(out.len() / 2);
        let [upper, lower]: [&mut [u8]; 2] = [upper, lower].map(bytemuck::cast_slice_mut);
        for ((upper, lower), x) in upper.iter_mut().zip(&mut *lower).zip(&x[ks.clone()]) {
            let integer = integer(x);
            (*upper, *lower) = ((integer >> 8) as u8, integer as u8);
        }
        for i in self.spikes(&ks) {
            (upper[i], lower[i]) = (0, 0);
        }
    }
}

/// The sum of the integers of some columns, from the given one on; few enough for 32 bits.
pub(super) struct Total<'a>(pub(super) &'a Share, pub(super) &'a [f32], pub(super) usize);

impl Work for Total<'_> {
    type Output = f32;

    #[inline(always)]
    fn work(self) -> f32 {
        let Total(share, x, start) = self;
        let integer = share.integer();
        let ks = start..start + x.len();
        let spikes: i32 = share.spikes(&ks).map(|i| integer(&x[i])).sum();
        (x.iter().map(integer).sum::<i32>() - spikes) as f32
    }
}
