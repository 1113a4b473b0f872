//! One block: from its range to the arithmetic of its codes.

use half::f16;

use crate::levels::{NF3, NF4};
use crate::{Arithmetic, Dtype, Error, Levels, ZeroPoint};

/// Adding and subtracting `1.5 * 2^23` rounds an `f32` of magnitude up to `2^22` to the nearest integer, ties to even:
/// two additions on every machine, where `round_ties_even` is a library call on plain x86-64.
const MAGIC: f32 = 12_582_912.0;
/// The low byte of `code + 2^23`, as bits, is `code`: cheaper than a float-to-integer conversion and its saturation.
const TO_BITS: f32 = 8_388_608.0;

/// Rounds half to even. Exact for `|x| <= 2^22`.
#[inline(always)]
fn round(x: f32) -> f32 {
    (x + MAGIC) - MAGIC
}

/// `value = (code - zero)*step + offset`; for NF levels `level[code]*step + offset`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Decode {
    pub(crate) step: f32,
    pub(crate) zero: f32,
    pub(crate) offset: f32,
}

/// How a block's values become codes, and how they come back. On a grid, with `d = code - zero`,
///
/// ```text
/// d = clamp(round((w - offset)*inv) + shift, least, most)        w^ = d*step + offset
/// ```
///
/// Clamping `d` is clamping `w`: the ends of the range are the ends of the grid. `shift` is 0, except where every value of
/// the block has one code; it is folded into the constant that ends the rounding.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Params {
    lo: f32,
    hi: f32,
    inv: f32,
    /// `MAGIC - shift`.
    unround: f32,
    least: f32,
    most: f32,
    pub(crate) decode: Decode,
}

/// What all blocks share.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Codec {
    /// Evenly spaced values.
    Grid,
    /// Evenly spaced values, where each operation is rounded to half precision.
    HalfGrid,
    /// A level table.
    Nf4,
    /// A level table.
    Nf3,
}

impl Codec {
    pub(crate) fn new(levels: Levels, arithmetic: Arithmetic) -> Self {
        match (levels, arithmetic) {
            (Levels::Nf4, _) => Self::Nf4,
            (Levels::Nf3, _) => Self::Nf3,
            (_, Arithmetic::F32) => Self::Grid,
            (_, Arithmetic::ReleaseF16) => Self::HalfGrid,
        }
    }

    /// Replaces values by the ones their codes stand for.
    #[inline(always)]
    pub(crate) fn fake(self, w: &mut [f32], p: &Params) {
        let d = p.decode;
        match self {
            Self::Grid => {
                for v in w {
                    *v = p.nearest(*v) * d.step + d.offset;
                }
            }
            Self::HalfGrid => {
                let s = half_scale(d.step);
                for v in w {
                    *v = d.half(p.half(*v), s);
                }
            }
            Self::Nf4 => {
                for v in w {
                    *v = d.level(nearest(p.unit(*v), &NF4).1);
                }
            }
            Self::Nf3 => {
                for v in w {
                    *v = d.level(nearest(p.unit(*v), &NF3).1);
                }
            }
        }
    }

    /// The codes of `w`, into `out` of the same length.
    #[inline(always)]
    pub(crate) fn encode(self, w: &[f32], p: &Params, out: &mut [u8]) {
        let pairs = out.iter_mut().zip(w);
        match self {
            Self::Grid => {
                for (o, &v) in pairs {
                    *o = byte(p.nearest(v) + p.decode.zero);
                }
            }
            Self::HalfGrid => {
                for (o, &v) in pairs {
                    *o = byte(p.half(v));
                }
            }
            Self::Nf4 => {
                for (o, &v) in pairs {
                    *o = nearest(p.unit(v), &NF4).0;
                }
            }
            Self::Nf3 => {
                for (o, &v) in pairs {
                    *o = nearest(p.unit(v), &NF3).0;
                }
            }
        }
    }

    /// The values of `codes`, into `out` of the same length.
    #[inline(always)]
    pub(crate) fn decode(self, codes: &[u8], d: &Decode, out: &mut [f32]) {
        let pairs = out.iter_mut().zip(codes);
        match self {
            Self::Grid => {
                for (o, &c) in pairs {
                    *o = d.grid(f32::from(c));
                }
            }
            Self::HalfGrid => {
                let s = half_scale(d.step);
                for (o, &c) in pairs {
                    *o = d.half(f32::from(c), s);
                }
            }
            Self::Nf4 => {
                for (o, &c) in pairs {
                    *o = d.level(NF4[usize::from(c & 15)]);
                }
            }
            Self::Nf3 => {
                for (o, &c) in pairs {
                    *o = d.level(NF3[usize::from(c & 7)]);
                }
            }
        }
    }
}

#[inline(always)]
fn byte(code: f32) -> u8 {
    (code + TO_BITS).to_bits() as u8
}

/// The place and the value of the level nearest to `x`, the lower one at a tie.
#[inline(always)]
fn nearest<const N: usize>(x: f32, levels: &'static [f32; N]) -> (u8, f32) {
    let (mut code, mut value) = (0, levels[0]);
    for i in 1..N {
        let above = x > (levels[i - 1] + levels[i]) / 2.0;
        code += u8::from(above);
        value = if above { levels[i] } else { value };
    }
    (code, value)
}

#[inline(always)]
fn half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// The release's scale `s`, an fp16 number, from its stored reciprocal: exact, since two roundings at 24 bits cannot
/// move an 11-bit number.
#[inline(always)]
fn half_scale(step: f32) -> f32 {
    half(1.0 / step)
}

impl Decode {
    #[inline(always)]
    fn grid(&self, code: f32) -> f32 {
        (code - self.zero) * self.step + self.offset
    }
    #[inline(always)]
    fn half(&self, code: f32, s: f32) -> f32 {
        half(half(code / s) + self.offset)
    }
    #[inline(always)]
    fn level(&self, level: f32) -> f32 {
        level * self.step + self.offset
    }
}

impl Params {
    /// Whether `v` lies outside the clipped range.
    pub(crate) fn clips(&self, v: f32) -> bool {
        v < self.lo || v > self.hi
    }

    #[inline(always)]
    fn unit(&self, v: f32) -> f32 {
        (v - self.decode.offset) * self.inv
    }

    /// The code of `v` on a grid, less `zero`.
    #[inline(always)]
    fn nearest(&self, v: f32) -> f32 {
        let d = (self.unit(v) + MAGIC) - self.unround;
        let d = if d > self.least { d } else { self.least };
        if d < self.most { d } else { self.most }
    }

    #[inline(always)]
    fn half(&self, v: f32) -> f32 {
        let v = half(v).max(self.lo).min(self.hi);
        round(half(half(v - self.decode.offset) * self.inv))
            .max(self.least)
            .min(self.most)
    }

    /// The arithmetic of a block whose values, clipped, span `[lo, hi]`, both finite.
    #[inline(always)]
    pub(crate) fn new(
        levels: Levels,
        arithmetic: Arithmetic,
        lo: f32,
        hi: f32,
    ) -> Result<Self, RangeError> {
        let steps = levels.steps() as f32;
        let params = match levels {
            Levels::Asymmetric { .. } if arithmetic == Arithmetic::ReleaseF16 => {
                return Self::release(steps, lo, hi);
            }
            Levels::Asymmetric {
                zero: ZeroPoint::Float,
                ..
            } => Self::spaced(hi - lo, steps, [0.0, steps], lo)?,
            Levels::Asymmetric {
                zero: ZeroPoint::Integer,
                ..
            } if lo == hi => Self::one_value(lo, if lo < 0.0 { 1.0 } else { 0.0 }),
            Levels::Asymmetric {
                zero: ZeroPoint::Integer,
                ..
            } => {
                let (lo, hi) = (lo.min(0.0), hi.max(0.0));
                let inv = step_and_inverse(hi - lo, steps)?.1;
                let zero = round(-lo * inv);
                Self::spaced(
                    hi - lo,
                    steps,
                    [-zero, round(hi * inv).min(steps - zero)],
                    0.0,
                )?
                .with_zero(zero)
            }
            // `steps` is both sides together, and the code of 0 is one more than a side.
            Levels::Symmetric { .. } if lo == hi => Self::one_value(lo, steps / 2.0 + 1.0),
            Levels::Symmetric { .. } => {
                let side = steps / 2.0;
                Self::spaced(hi.max(-lo), side, [-side, side], 0.0)?.with_zero(side + 1.0)
            }
            Levels::Nf4 | Levels::Nf3 => {
                Self::spaced(hi - lo, 2.0, [-1.0, 1.0], lo + (hi - lo) / 2.0)?
            }
        };
        Ok(Self { lo, hi, ..params })
    }

    /// This grid with its step and its offset as a narrower type holds them.
    #[inline(always)]
    pub(crate) fn narrowed(mut self, scales: Dtype) -> Result<Self, RangeError> {
        if scales == Dtype::F32 {
            return Ok(self);
        }
        let step = scales.round_scale(self.decode.step);
        let offset = scales.round(self.decode.offset);
        if !(step.is_finite() && offset.is_finite()) {
            return Err(RangeError {
                why: "its scale or offset overflows",
                arithmetic: "the type of the scales",
            });
        }
        if self.inv != 0.0 {
            self.inv = 1.0 / step;
        }
        (self.decode.step, self.decode.offset) = (step, offset);
        Ok(self)
    }

    /// The arithmetic of a block whose step and zero are given: symmetric levels, or an integer zero-point.
    pub(crate) fn of_decode(levels: Levels, decode: Decode) -> Self {
        let (lowest, highest) = (levels.min_code(), levels.max_code());
        Self {
            lo: f32::MIN,
            hi: f32::MAX,
            inv: if decode.step == 0.0 {
                0.0
            } else {
                1.0 / decode.step
            },
            unround: MAGIC,
            least: f32::from(lowest) - decode.zero,
            most: f32::from(highest) - decode.zero,
            decode,
        }
    }

    /// `span` cut into `steps`, values from `least*step + offset` to `most*step + offset`.
    #[inline(always)]
    fn spaced(
        span: f32,
        steps: f32,
        [least, most]: [f32; 2],
        offset: f32,
    ) -> Result<Self, RangeError> {
        let (mut step, inv) = step_and_inverse(span, steps)?;
        let finite =
            |step: f32| (least * step + offset).is_finite() && (most * step + offset).is_finite();
        if !finite(step) {
            step = step.next_down(); // rounded up at the very end of f32
        }
        if !finite(step) {
            return Err(RangeError {
                why: "its last level overflows",
                arithmetic: "f32",
            });
        }
        let decode = Decode {
            step,
            zero: 0.0,
            offset,
        };
        Ok(Self {
            inv,
            unround: MAGIC,
            least,
            most,
            decode,
            ..Self::default()
        })
    }

    #[inline(always)]
    fn with_zero(mut self, zero: f32) -> Self {
        self.decode.zero = zero;
        self
    }

    /// All values are `c`: a code next to `zero`, and the step that makes it exact.
    fn one_value(c: f32, zero: f32) -> Self {
        let side = if c == 0.0 { 0.0 } else { c.signum() };
        let decode = Decode {
            step: c.abs(),
            zero,
            offset: 0.0,
        };
        Self {
            unround: MAGIC - side,
            least: side,
            most: side,
            decode,
            ..Self::default()
        }
    }

    #[inline(never)]
    fn release(steps: f32, lo: f32, hi: f32) -> Result<Self, RangeError> {
        let (lo, hi) = (half(lo), half(hi));
        let range = half(hi - lo);
        if !range.is_finite() {
            return Err(RangeError {
                why: "hi - lo overflows",
                arithmetic: "fp16",
            });
        }
        // torch computes `levels / range` of a half-precision range so: the reciprocal is rounded before the product.
        let s = half(half(1.0 / range) * steps);
        let (inv, step) = if range == 0.0 {
            (0.0, 0.0)
        } else {
            (s, 1.0 / s)
        };
        if !inv.is_finite() {
            return Err(RangeError {
                why: "steps/(hi - lo) overflows",
                arithmetic: "fp16",
            });
        }
        let decode = Decode {
            step,
            zero: 0.0,
            offset: lo,
        };
        Ok(Self {
            lo,
            hi,
            inv,
            unround: MAGIC,
            least: 0.0,
            most: steps,
            decode,
        })
    }
}

/// `span/steps` and its reciprocal. A step too small to invert is none: the block gets one value, at most `255 * 1.2e-38`
/// off.
#[inline(always)]
fn step_and_inverse(span: f32, steps: f32) -> Result<(f32, f32), RangeError> {
    let step = span / steps;
    match step {
        _ if !span.is_finite() => Err(RangeError {
            why: "hi - lo overflows",
            arithmetic: "f32",
        }),
        _ if step < f32::MIN_POSITIVE => Ok((0.0, 0.0)),
        _ => Ok((step, steps / span)),
    }
}

/// A range that the arithmetic cannot represent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RangeError {
    why: &'static str,
    arithmetic: &'static str,
}

impl RangeError {
    #[cold]
    pub(crate) fn at(self, block: usize, lo: f32, hi: f32) -> Error {
        let remedy = match self.arithmetic {
            "fp16" => "use Arithmetic::F32",
            "the type of the scales" => "use scales of type f32",
            _ => "scale the tensor down first",
        };
        Error::Range {
            block,
            lo,
            hi,
            arithmetic: self.arithmetic,
            why: self.why,
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_rounds_half_to_even() {
        for i in -2048i32..=2048 {
            let x = i as f32 / 8.0;
            assert_eq!(round(x), x.round_ties_even(), "{x}");
        }
    }

    #[test]
    fn bytes_of_codes() {
        (0..=255u8).for_each(|c| assert_eq!(byte(f32::from(c)), c));
    }

    #[test]
    fn nearest_level_of_each_level_and_each_midpoint() {
        for (i, pair) in NF4.windows(2).enumerate() {
            assert_eq!(nearest(pair[0], &NF4), (i as u8, pair[0]));
            assert_eq!(nearest((pair[0] + pair[1]) / 2.0, &NF4).0, i as u8);
        }
        assert_eq!(nearest(2.0, &NF3), (7, 1.0));
    }

    #[test]
    fn a_half_scale_survives_its_reciprocal() {
        for bits in 1..f16::INFINITY.to_bits() {
            let s = f16::from_bits(bits).to_f32();
            assert_eq!(half_scale(1.0 / s), s);
        }
    }
}
