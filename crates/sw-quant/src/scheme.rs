//! One quantization, as data.

use crate::{Clip, Dtype, Error, Grouping, Levels, ZeroPoint};

/// The precision in which scales, codes and values are computed.
///
/// ```
/// use sw_quant::{Arithmetic, Scheme, fake_quantize};
/// let mut w = [0.0f32, 0.1, 0.3];
/// fake_quantize(&mut w, [1, 3], &Scheme { arithmetic: Arithmetic::ReleaseF16, ..Scheme::default() }, &[])?;
/// assert_eq!(w, [0.0, 0.10003662, 0.30029297]); // what torch gives, the end of the range not exactly
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Arithmetic {
    /// Single precision; half-precision inputs are widened, exactly.
    #[default]
    F32,
    /// The released code on a half-precision checkpoint: the weight, the threshold and the result of *every* operation
    /// are rounded to fp16, the scale is `s = steps/(hi - lo)`, which torch computes as the rounded reciprocal times `steps`,
    /// and values are `q/s + lo`. Asymmetric levels with a float zero-point only. A block whose `s` overflows (where the
    /// release yields NaN) is an error.
    ReleaseF16,
}

/// A quantization as data: which values exist, which elements share a scale, and what is clipped first.
///
/// The default is the released code's 4-bit quantizer, one scale per row, nothing clipped.
///
/// ```
/// use sw_quant::{Clip, Grouping, Levels, Scheme};
/// // Eq. 2 of the paper with "1024x1024" blocks and z = 9.
/// let paper = Scheme { clip: Clip::ZScore { z: 9.0 }, ..Scheme::new(Levels::asymmetric(4), Grouping::flat(1 << 20)) };
/// assert!(paper.check([4096, 4096]).is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Scheme {
    /// The values a code can stand for.
    pub levels: Levels,
    /// Which elements share a scale.
    pub grouping: Grouping,
    /// What is clipped before the range is taken.
    pub clip: Clip,
    /// The precision of the arithmetic.
    pub arithmetic: Arithmetic,
    /// What scales and float offsets are stored as. They are rounded to it before codes are chosen, so that values beyond the
    /// last code of a scale that was rounded down get that code.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_single"))]
    pub scales: Dtype,
}

/// Whether scales are stored as they always were, when there was no choice.
#[cfg(feature = "serde")]
fn is_single(dtype: &Dtype) -> bool {
    *dtype == Dtype::F32
}

impl Scheme {
    /// Nothing clipped, single precision.
    ///
    /// ```
    /// use sw_quant::{Grouping, Levels, Scheme};
    /// assert_eq!(Scheme::new(Levels::asymmetric(4), Grouping::Row), Scheme::default());
    /// ```
    pub const fn new(levels: Levels, grouping: Grouping) -> Self {
        Self {
            levels,
            grouping,
            clip: Clip::None,
            arithmetic: Arithmetic::F32,
            scales: Dtype::F32,
        }
    }

    /// This scheme with scales of another type.
    ///
    /// ```
    /// use sw_quant::{Dtype, Grouping, Levels, Scheme, quantize};
    /// let scheme = Scheme::new(Levels::symmetric(4), Grouping::flat(32)).with_scales(Dtype::F16);
    /// assert_eq!(quantize(&[0.5f32; 64], [1, 64], &scheme, &[])?.bits_per_weight(), 4.5);
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    #[must_use]
    pub const fn with_scales(self, scales: Dtype) -> Self {
        Self { scales, ..self }
    }

    /// This scheme with another clip rule.
    ///
    /// ```
    /// use sw_quant::{Clip, Scheme};
    /// assert_eq!(Scheme::default().with_clip(Clip::ZScore { z: 9.0 }).clip, Clip::ZScore { z: 9.0 });
    /// ```
    #[must_use]
    pub const fn with_clip(self, clip: Clip) -> Self {
        Self { clip, ..self }
    }

    /// Whether the scheme applies to a matrix of this shape.
    ///
    /// # Errors
    /// Bits outside 2 to 8, a clip parameter outside its domain, blocks that do not divide the shape, an arithmetic that
    /// these levels do not have.
    ///
    /// ```
    /// use sw_quant::{Clip, Scheme};
    /// let error = Scheme::default().with_clip(Clip::ZScore { z: 0.0 }).check([2, 2]).unwrap_err();
    /// assert_eq!(error.to_string(), "clip.z: expected a finite number above 0, found 0.0");
    /// ```
    pub fn check(&self, shape: [usize; 2]) -> Result<(), Error> {
        self.levels.check()?;
        self.clip.check()?;
        self.grouping.blocks(shape)?;
        if self.arithmetic == Arithmetic::ReleaseF16 && self.scales != Dtype::F32 {
            return Err(Error::argument(
                "scales",
                "f32 under ReleaseF16 arithmetic, which has its own rounding",
                self.scales,
            ));
        }
        match (self.arithmetic, self.levels) {
            (Arithmetic::F32, _)
            | (
                _,
                Levels::Asymmetric {
                    zero: ZeroPoint::Float,
                    ..
                },
            ) => Ok(()),
            (Arithmetic::ReleaseF16, levels) => Err(Error::argument(
                "levels",
                "asymmetric levels with a float zero-point under ReleaseF16 arithmetic; use Arithmetic::F32",
                levels,
            )),
        }
    }
}
