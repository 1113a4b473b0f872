//! The values a code can stand for.

use crate::Error;

/// How many steps an asymmetric integer quantizer of `N` bits divides its range into.
///
/// ```
/// use sw_quant::{Levels, Steps, ZeroPoint};
/// let levels = |steps| Levels::Asymmetric { bits: 3, steps, zero: ZeroPoint::Float };
/// assert_eq!([levels(Steps::Full).max_code(), levels(Steps::PaperPrinted).max_code()], [7, 3]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Steps {
    /// `2^N - 1`, as the paper's released code does: every code is used.
    #[default]
    Full,
    /// `2^(N-1) - 1`, as Eq. 2 of the paper is printed: half of the codes are never used.
    PaperPrinted,
}

/// Where the zero of an asymmetric integer quantizer lies.
///
/// ```
/// use sw_quant::{Grouping, Levels, Scheme, Steps, ZeroPoint, quantize};
/// let levels = |zero| Levels::Asymmetric { bits: 2, steps: Steps::Full, zero };
/// let values = |zero| quantize(&[1.0f32, 2.0, 3.0], [1, 3], &Scheme::new(levels(zero), Grouping::Row), &[])
///     .map(|q| q.dequantize::<f32>());
/// assert_eq!(values(ZeroPoint::Float)?[2], 3.0);
/// assert_eq!(values(ZeroPoint::Integer)?, [1.0, 2.0, 3.0]); // the codes 1, 2, 3 of the range from 0
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum ZeroPoint {
    /// The block's minimum is kept as a float offset: `w^ = q*step + lo`. The released code's choice.
    #[default]
    Float,
    /// The range is widened to contain 0 and 0 is a code: `w^ = (q - zero)*step`. What integer kernels want. An end of
    /// the range can be a whole step off, since the zero is rounded too.
    Integer,
}

/// The grid of values that codes stand for, within one block.
///
/// With `lo`, `hi` the block's extremes after clipping, and all rounding half to even:
///
/// | levels | step | code | value |
/// |---|---|---|---|
/// | asymmetric, float zero | `(hi - lo) / steps` | `round((w - lo) / step)` | `q*step + lo` |
/// | asymmetric, integer zero | same, after `lo <= 0 <= hi` | `round(w / step) + round(-lo / step)` | `(q - zero)*step` |
/// | symmetric | <code>max&#124;w&#124; / (2^(N-1) - 1)</code> | `round(w / step) + 2^(N-1)` | `(q - 2^(N-1))*step` |
/// | NF4, NF3 | `(hi - lo) / 2` | the nearest level to `(w - mid) / step`, `mid = lo + step` | `level[q]*step + mid` |
///
/// Sources: the first row is the paper's Eq. 2 (arXiv 2411.07191) as its released code computes it; symmetric is
/// SmoothQuant's (arXiv 2211.10438); the NF4 levels are QLoRA's (arXiv 2305.14314). QLoRA maps by the absolute maximum,
/// the super-weight release by minimum and maximum as here.
///
/// ```
/// use sw_quant::Levels;
/// assert_eq!(Levels::asymmetric(4), Levels::default());
/// assert_eq!((Levels::asymmetric(4).max_code(), Levels::symmetric(4).max_code()), (15, 15));
/// assert!(Levels::asymmetric(9).check().unwrap_err().to_string().starts_with("bits: expected 2 to 8, found 9"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum Levels {
    /// Evenly spaced from the block's minimum to its maximum.
    Asymmetric {
        /// Bits of a code, 2 to 8.
        bits: u8,
        /// How many steps the range has.
        #[cfg_attr(feature = "serde", serde(default))]
        steps: Steps,
        /// Where zero lies.
        #[cfg_attr(feature = "serde", serde(default))]
        zero: ZeroPoint,
    },
    /// Evenly spaced, `2^(N-1) - 1` steps on each side of an exact zero.
    Symmetric {
        /// Bits of a code, 2 to 8.
        bits: u8,
    },
    /// 16 quantiles of a normal distribution.
    Nf4,
    /// 8 quantiles of a normal distribution.
    Nf3,
}

impl Default for Levels {
    /// The released code's 4-bit quantizer.
    fn default() -> Self {
        Self::asymmetric(4)
    }
}

impl Levels {
    /// `2^bits - 1` steps from the minimum, float zero-point: the released code's quantizer.
    ///
    /// ```
    /// assert_eq!(sw_quant::Levels::asymmetric(8).bits(), 8);
    /// ```
    pub const fn asymmetric(bits: u8) -> Self {
        Self::Asymmetric {
            bits,
            steps: Steps::Full,
            zero: ZeroPoint::Float,
        }
    }

    /// `2^(bits-1) - 1` steps on each side of zero: SmoothQuant's quantizer.
    ///
    /// ```
    /// assert_eq!(sw_quant::Levels::symmetric(8).steps(), 254);
    /// ```
    pub const fn symmetric(bits: u8) -> Self {
        Self::Symmetric { bits }
    }

    /// Bits of a code.
    ///
    /// ```
    /// assert_eq!(sw_quant::Levels::Nf3.bits(), 3);
    /// ```
    pub const fn bits(&self) -> u8 {
        match *self {
            Self::Asymmetric { bits, .. } | Self::Symmetric { bits } => bits,
            Self::Nf4 => 4,
            Self::Nf3 => 3,
        }
    }

    /// The number of steps between the lowest and the highest value; 0 where [`check`](Self::check) fails.
    ///
    /// ```
    /// use sw_quant::{Levels, Steps, ZeroPoint};
    /// let printed = Levels::Asymmetric { bits: 4, steps: Steps::PaperPrinted, zero: ZeroPoint::Float };
    /// assert_eq!((Levels::asymmetric(4).steps(), printed.steps()), (15, 7));
    /// ```
    pub const fn steps(&self) -> u32 {
        if self.bits() < 2 || self.bits() > 8 {
            return 0;
        }
        let full = (1 << self.bits()) - 1;
        match self {
            Self::Asymmetric {
                steps: Steps::PaperPrinted,
                ..
            } => full / 2,
            Self::Symmetric { .. } => full - 1,
            _ => full,
        }
    }

    /// The largest code written. Symmetric codes carry `2^(N-1)`, so that they are unsigned; their smallest is 1.
    ///
    /// ```
    /// assert_eq!(sw_quant::Levels::symmetric(8).max_code(), 255);
    /// ```
    pub const fn max_code(&self) -> u8 {
        match self {
            Self::Symmetric { .. } => self.steps() as u8 + (self.steps() > 0) as u8,
            _ => self.steps() as u8,
        }
    }

    /// The smallest code written: 1 for symmetric levels, else 0.
    ///
    /// ```
    /// assert_eq!(sw_quant::Levels::asymmetric(8).min_code(), 0);
    /// ```
    pub const fn min_code(&self) -> u8 {
        matches!(self, Self::Symmetric { .. }) as u8
    }

    /// The level table in `[-1, 1]`, for NF4 and NF3.
    ///
    /// ```
    /// assert_eq!(sw_quant::Levels::Nf3.table().unwrap()[3], 0.0);
    /// ```
    pub const fn table(&self) -> Option<&'static [f32]> {
        match self {
            Self::Nf4 => Some(&NF4),
            Self::Nf3 => Some(&NF3),
            _ => None,
        }
    }

    /// # Errors
    /// When `bits` is not 2 to 8.
    ///
    /// ```
    /// assert!(sw_quant::Levels::symmetric(1).check().is_err());
    /// ```
    pub fn check(&self) -> Result<(), Error> {
        match self.bits() {
            2..=8 => Ok(()),
            bits => Err(Error::argument("bits", "2 to 8", bits)),
        }
    }
}

/// QLoRA's 16 levels, as bitsandbytes holds them.
pub(crate) const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The super-weight release's 8 levels, to the last bit: QLoRA's construction with 8 values.
pub(crate) const NF3: [f32; 8] = [
    -1.0,
    -0.535_022_7,
    -0.246_931_43,
    0.0,
    0.183_337_48,
    0.381_993_95,
    0.622_985_7,
    1.0,
];
