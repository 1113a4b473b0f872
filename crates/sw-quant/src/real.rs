//! The three float types of model files.

use half::{bf16, f16, slice::HalfFloatSliceExt};

/// The element type of a matrix.
///
/// ```
/// use sw_quant::{Dtype, Real};
/// assert_eq!(<half::bf16 as Real>::DTYPE, Dtype::Bf16);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Dtype {
    /// IEEE single precision.
    #[default]
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Dtype {
    /// Bytes of an element.
    ///
    /// ```
    /// assert_eq!(sw_quant::Dtype::Bf16.size(), 2);
    /// ```
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// A value as an element of this type holds it: rounded to nearest, ties to even; infinite beyond its range.
    #[inline(always)]
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// A scale as this type holds it: one that it would round to zero becomes the smallest that has a reciprocal.
    #[inline(always)]
    pub(crate) fn round_scale(self, scale: f32) -> f32 {
        let least = match self {
            Self::F16 => f32::from_bits(0x3380_0000), // its last subnormal number
            Self::F32 | Self::Bf16 => f32::MIN_POSITIVE,
        };
        match self.round(scale) {
            rounded if scale == 0.0 || rounded.abs() >= least => rounded,
            _ => least,
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// `f32`, [`half::f16`] or [`half::bf16`]. Arithmetic happens in `f32`, which holds all three exactly.
///
/// ```
/// use sw_quant::Real;
/// assert_eq!(half::f16::from_f32(0.1).to_f32(), 0.099975586);
/// ```
pub trait Real:
    sealed::Sealed + Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static
{
    /// The type's name as data.
    const DTYPE: Dtype;
    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounded to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// `src` as `f32`, in `buffer` if it must be converted. `buffer` is at least as long as `src`.
    #[doc(hidden)]
    fn widened<'a>(src: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32];
    /// Rounds `src` into `dst`, of the same length.
    #[doc(hidden)]
    fn narrow(src: &[f32], dst: &mut [Self]);
    /// Changes `data` through `f32` pieces, in order; `f` is told where each starts.
    #[doc(hidden)]
    fn update(data: &mut [Self], f: impl FnMut(usize, &mut [f32]));
    /// The little-endian bytes of `src`, appended to `out`.
    #[doc(hidden)]
    fn write_le(src: &[Self], out: &mut Vec<u8>);
}

/// Values converted at a time: 2 KiB of `f32`, which stays in the first-level cache beside the source.
pub(crate) const LANE_BUFFER: usize = 512;

impl Real for f32 {
    const DTYPE: Dtype = Dtype::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn widened<'a>(src: &'a [Self], _: &'a mut [f32]) -> &'a [f32] {
        src
    }
    #[inline(always)]
    fn narrow(src: &[f32], dst: &mut [Self]) {
        dst.copy_from_slice(src);
    }
    #[inline(always)]
    fn update(data: &mut [Self], mut f: impl FnMut(usize, &mut [f32])) {
        f(0, data);
    }
    fn write_le(src: &[Self], out: &mut Vec<u8>) {
        out.extend(src.iter().flat_map(|v| v.to_le_bytes()));
    }
}

#[inline(always)]
fn update_through<T: Real>(
    data: &mut [T],
    mut f: impl FnMut(usize, &mut [f32]),
    widen: impl Fn(&[T], &mut [f32]),
) {
    let mut buffer = [0.0; LANE_BUFFER];
    for (i, part) in data.chunks_mut(LANE_BUFFER).enumerate() {
        let wide = &mut buffer[..part.len()];
        widen(part, wide);
        f(i * LANE_BUFFER, wide);
        T::narrow(wide, part);
    }
}

/// The exponent moves by a multiplication, which is exact and normalizes subnormals; infinities and NaN keep theirs. (The
/// library's conversion is a call every eight values.)
#[inline(always)]
fn widen_f16(src: &[f16], dst: &mut [f32]) {
    const MOVE: f32 = f32::from_bits((127 + 127 - 15) << 23); // 2^112
    for (d, s) in dst.iter_mut().zip(src) {
        let bits = u32::from(s.to_bits());
        let magnitude = (f32::from_bits((bits & 0x7fff) << 13) * MOVE).to_bits();
        let special = if bits & 0x7c00 == 0x7c00 {
            0x7f80_0000
        } else {
            0
        };
        *d = f32::from_bits(magnitude | special | ((bits & 0x8000) << 16));
    }
}

impl Real for f16 {
    const DTYPE: Dtype = Dtype::F16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    #[inline(always)]
    fn widened<'a>(src: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        let wide = &mut buffer[..src.len()];
        widen_f16(src, wide);
        wide
    }
    #[inline(always)]
    fn narrow(src: &[f32], dst: &mut [Self]) {
        dst.convert_from_f32_slice(src);
    }
    #[inline(always)]
    fn update(data: &mut [Self], f: impl FnMut(usize, &mut [f32])) {
        update_through(data, f, widen_f16);
    }
    fn write_le(src: &[Self], out: &mut Vec<u8>) {
        out.extend(src.iter().flat_map(|v| v.to_le_bytes()));
    }
}

#[inline(always)]
fn widen_bf16(src: &[bf16], dst: &mut [f32]) {
    for (d, s) in dst.iter_mut().zip(src) {
        *d = f32::from_bits(u32::from(s.to_bits()) << 16);
    }
}

impl Real for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    #[inline(always)]
    fn widened<'a>(src: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        let wide = &mut buffer[..src.len()];
        widen_bf16(src, wide);
        wide
    }
    #[inline(always)]
    fn narrow(src: &[f32], dst: &mut [Self]) {
        for (d, s) in dst.iter_mut().zip(src) {
            // Round to nearest even on the bits: adding just under half carries into the kept half.
            let bits = s.to_bits();
            *d = bf16::from_bits((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16);
        }
    }
    #[inline(always)]
    fn update(data: &mut [Self], f: impl FnMut(usize, &mut [f32])) {
        update_through(data, f, widen_bf16);
    }
    fn write_le(src: &[Self], out: &mut Vec<u8>) {
        out.extend(src.iter().flat_map(|v| v.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_as_the_library_does() {
        let bits: Vec<u16> = if cfg!(miri) {
            (0..=u16::MAX).step_by(997).collect()
        } else {
            (0..=u16::MAX).collect()
        };
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        let mut wide = vec![0.0; bits.len()];
        let halves: Vec<f16> = bits.iter().map(|&b| f16::from_bits(b)).collect();
        widen_f16(&halves, &mut wide);
        assert!(halves.iter().zip(&wide).all(|(h, w)| same(h.to_f32(), *w)));
        let brains: Vec<bf16> = bits.iter().map(|&b| bf16::from_bits(b)).collect();
        widen_bf16(&brains, &mut wide);
        assert!(brains.iter().zip(&wide).all(|(h, w)| same(h.to_f32(), *w)));
    }

    #[test]
    fn narrowing_rounds_as_the_library_does() {
        let values: Vec<f32> = (0..4000u32)
            .map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) & 0xff7f_ffff))
            .collect();
        let mut narrow = vec![bf16::ZERO; values.len()];
        bf16::narrow(&values, &mut narrow);
        assert!(
            values
                .iter()
                .zip(&narrow)
                .all(|(v, n)| v.is_nan() || bf16::from_f32(*v) == *n)
        );
    }
}
