//! The packed layout: one self-describing run of bytes per matrix, little-endian, described in `docs/formats.md`.

use half::{bf16, f16};

use crate::bits::{get, packed_len};
use crate::quantized::{Offsets, Outlier, Quantized};
use crate::{Arithmetic, Blocks, Dtype, Error, Grouping, Levels, Scheme, Steps, Tail, ZeroPoint};

const MAGIC: [u8; 4] = *b"SWQ1";
const HEADER: usize = 64;

/// Where each section starts; each is padded with zeros to a multiple of 8 bytes.
struct Sections {
    codes: usize,
    scales: usize,
    offsets: usize,
    places: usize,
    values: usize,
    end: usize,
}

impl Sections {
    /// `None` when the sum overflows.
    fn new(
        levels: Levels,
        scales: Dtype,
        shape: [usize; 2],
        blocks: usize,
        outliers: usize,
    ) -> Option<Self> {
        let scale = scales.size();
        let after = |start: usize, len: usize| start.checked_add(len)?.checked_next_multiple_of(8);
        let offset = match levels {
            Levels::Symmetric { .. } => 0,
            Levels::Asymmetric {
                zero: ZeroPoint::Integer,
                ..
            } => 1,
            _ => scale,
        };
        let codes = HEADER;
        let scales = after(
            codes,
            packed_len(shape[0].checked_mul(shape[1])?, levels.bits())?,
        )?;
        let offsets = after(scales, blocks.checked_mul(scale)?)?;
        let places = after(offsets, blocks.checked_mul(offset)?)?;
        let values = after(places, outliers.checked_mul(8)?)?;
        let end = after(values, outliers.checked_mul(4)?)?;
        Some(Self {
            codes,
            scales,
            offsets,
            places,
            values,
            end,
        })
    }
}

/// The length of [`Quantized::to_bytes`] for a matrix that is not quantized yet; `hold` may repeat coordinates.
///
/// # Errors
/// Those of [`crate::quantize`] that the values do not decide.
///
/// ```
/// use sw_quant::{Scheme, packed, quantize};
/// let q = quantize(&[1.0f32; 100], [10, 10], &Scheme::default(), &[(0, 0)])?;
/// assert_eq!(packed::byte_len([10, 10], &Scheme::default(), &[(0, 0)])?, q.to_bytes().len());
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn byte_len(
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
) -> Result<usize, Error> {
    scheme.check(shape)?;
    let outliers = crate::block_params::places("hold", hold, shape)?.len();
    let blocks = scheme.grouping.blocks(shape)?.count();
    match Sections::new(scheme.levels, scheme.scales, shape, blocks, outliers) {
        Some(sections) => Ok(sections.end),
        None => Err(Error::argument(
            "shape",
            "a matrix whose packed length fits an address",
            shape,
        )),
    }
}

impl Quantized {
    /// The packed layout.
    ///
    /// ```
    /// # let q = sw_quant::quantize(&[1.0f32; 6], [2, 3], &Default::default(), &[]).unwrap();
    /// assert_eq!(&q.to_bytes()[..4], b"SWQ1");
    /// ```
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_header(&mut out);
        let mut section = |bytes: &mut dyn Iterator<Item = u8>| {
            out.extend(bytes);
            out.resize(out.len().next_multiple_of(8), 0);
        };
        let floats = |v: &[f32]| {
            let bytes: Vec<u8> = match self.scale_dtype {
                Dtype::F32 => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Dtype::F16 => (v.iter())
                    .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                    .collect(),
                Dtype::Bf16 => (v.iter())
                    .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                    .collect(),
            };
            bytes.into_iter()
        };
        section(&mut self.codes.iter().copied());
        section(&mut floats(&self.scales));
        match &self.offsets {
            Offsets::None => {}
            Offsets::Float(v) => section(&mut floats(v)),
            Offsets::Integer(v) => section(&mut v.iter().copied()),
        }
        section(&mut self.outliers.iter().flat_map(|o| o.index.to_le_bytes()));
        section(&mut self.outliers.iter().flat_map(|o| o.value.to_le_bytes()));
        out
    }

    fn write_header(&self, out: &mut Vec<u8>) {
        let (kind, steps, zero) = match self.levels {
            Levels::Asymmetric { steps, zero, .. } => (
                0,
                u8::from(steps == Steps::PaperPrinted),
                u8::from(zero == ZeroPoint::Integer),
            ),
            Levels::Symmetric { .. } => (1, 0, 0),
            Levels::Nf4 | Levels::Nf3 => (2, 0, 0),
        };
        let short = |tail| u8::from(tail == Tail::Short);
        let (grouping, tail, a, b) = match self.grouping {
            Grouping::Tensor => (0, 0, 0, 0),
            Grouping::Row => (1, 0, 0, 0),
            Grouping::Flat { len, tail } => (2, short(tail), len, 0),
            Grouping::Tile { rows, cols, tail } => (3, short(tail), rows, cols),
        };
        let of = |dtype| match dtype {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Bf16 => 2,
        };
        out.extend(MAGIC);
        let arithmetic = u8::from(self.arithmetic == Arithmetic::ReleaseF16);
        out.extend([
            kind,
            self.levels.bits(),
            steps,
            zero,
            grouping,
            tail,
            arithmetic,
            of(self.dtype),
            of(self.scale_dtype),
            0,
            0,
            0,
        ]);
        for word in [self.shape[0], self.shape[1], a, b, self.outliers.len(), 0] {
            out.extend((word as u64).to_le_bytes());
        }
    }

    /// Reads the packed layout, from anyone: nothing is allocated before the length is known to be right, and data that
    /// [`to_bytes`](Self::to_bytes) would not write is refused. What is accepted decodes without panics and comes back
    /// from `to_bytes` byte for byte.
    ///
    /// # Errors
    /// The field that is wrong, what was expected and what is there.
    ///
    /// ```
    /// use sw_quant::{Quantized, quantize};
    /// let q = quantize(&[1.0f32, -2.0, 3.0, 0.5], [2, 2], &Default::default(), &[(0, 1)])?;
    /// let mut bytes = q.to_bytes();
    /// assert_eq!(Quantized::from_bytes(&bytes)?, q);
    /// bytes[5] = 9;
    /// let error = Quantized::from_bytes(&bytes).unwrap_err().to_string();
    /// assert!(error.starts_with("packed data: bits: expected 2 to 8, found 9"));
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let Header {
            levels,
            grouping,
            arithmetic,
            dtype,
            scales: scale_dtype,
            shape,
            blocks,
            outliers,
        } = Header::read(bytes)?;
        let Some(at) = Sections::new(levels, scale_dtype, shape, blocks.count(), outliers) else {
            return Err(Error::packed(
                "shape",
                "sections that fit an address",
                format!("{shape:?}"),
            ));
        };
        if at.end != bytes.len() {
            return Err(Error::packed(
                "length",
                format!("{} bytes", at.end),
                format!("{} bytes", bytes.len()),
            ));
        }

        let codes_len = packed_len(shape[0] * shape[1], levels.bits()).unwrap_or(0);
        let codes = section(bytes, "codes", at.codes, codes_len, at.scales)?;
        let scales = section(
            bytes,
            "scales",
            at.scales,
            scale_dtype.size() * blocks.count(),
            at.offsets,
        )?;
        let places = section(bytes, "outlier places", at.places, 8 * outliers, at.values)?;
        let values = section(bytes, "outlier values", at.values, 4 * outliers, at.end)?;
        let offsets = match levels {
            Levels::Symmetric { .. } => Offsets::None,
            Levels::Asymmetric {
                zero: ZeroPoint::Integer,
                ..
            } => {
                let zeros = section(bytes, "zero-points", at.offsets, blocks.count(), at.places)?;
                Offsets::Integer(at_most("zero-points", levels.max_code(), zeros)?.to_vec())
            }
            _ => {
                let len = scale_dtype.size() * blocks.count();
                let offsets = section(bytes, "offsets", at.offsets, len, at.places)?;
                Offsets::Float(floats("offsets", scale_dtype, offsets)?)
            }
        };
        check_codes(codes, levels, shape[0] * shape[1])?;

        let values = floats("outlier values", Dtype::F32, values)?;
        let index = |b: &[u8; 8]| u64::from_le_bytes(*b);
        let outliers = places
            .as_chunks::<8>()
            .0
            .iter()
            .zip(values)
            .map(|(b, value)| Outlier {
                index: index(b),
                value,
            });
        let outliers: Vec<Outlier> = outliers.collect();
        let ordered = outliers.windows(2).all(|o| o[0].index < o[1].index);
        if !ordered
            || outliers
                .last()
                .is_some_and(|o| o.index >= (shape[0] * shape[1]) as u64)
        {
            return Err(Error::packed(
                "outlier places",
                "increasing places inside the matrix",
                "others",
            ));
        }
        let (codes, scales) = (codes.to_vec(), floats("scales", scale_dtype, scales)?);
        Ok(Self {
            shape,
            levels,
            grouping,
            arithmetic,
            dtype,
            blocks,
            codes,
            scales,
            scale_dtype,
            offsets,
            outliers,
        })
    }
}

struct Header {
    levels: Levels,
    grouping: Grouping,
    arithmetic: Arithmetic,
    dtype: Dtype,
    scales: Dtype,
    shape: [usize; 2],
    blocks: Blocks,
    outliers: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(Error::packed(
                "length",
                "at least 64 bytes",
                format!("{} bytes", bytes.len()),
            ));
        };
        if header[..4] != MAGIC {
            return Err(Error::packed(
                "magic",
                "\"SWQ1\"",
                format!("{:?}", header[..4].escape_ascii().to_string()),
            ));
        }
        if let Some(b) = header[13..16]
            .iter()
            .chain(&header[56..])
            .find(|b| **b != 0)
        {
            return Err(Error::packed("reserved bytes", 0, b));
        }
        let word = |i: usize| {
            let bytes = header[16 + 8 * i..]
                .first_chunk()
                .copied()
                .unwrap_or_default();
            usize::try_from(u64::from_le_bytes(bytes))
                .map_err(|_| Error::packed("size", "an address", "more"))
        };
        let [kind, bits, steps, zero, grouping, tail, arithmetic, dtype] =
            *header[4..].first_chunk().unwrap_or(&[0; 8]);
        let one_of = |field, at: u8, count: u8| {
            if at < count {
                Ok(at)
            } else {
                Err(Error::packed(field, format!("below {count}"), at))
            }
        };

        let levels = match (
            one_of("levels", kind, 3)?,
            bits,
            one_of("steps", steps, 2)?,
            one_of("zero", zero, 2)?,
        ) {
            (0 | 1, 0..=1 | 9.., ..) => return Err(Error::packed("bits", "2 to 8", bits)),
            (0, bits, steps, zero) => Levels::Asymmetric {
                bits,
                steps: [Steps::Full, Steps::PaperPrinted][usize::from(steps)],
                zero: [ZeroPoint::Float, ZeroPoint::Integer][usize::from(zero)],
            },
            (1, bits, 0, 0) => Levels::Symmetric { bits },
            (2, 4, 0, 0) => Levels::Nf4,
            (2, 3, 0, 0) => Levels::Nf3,
            other => {
                return Err(Error::packed(
                    "levels",
                    "a kind with its bits, no steps or zero",
                    format!("{other:?}"),
                ));
            }
        };
        let shape = [word(0)?, word(1)?];
        let tail = [Tail::Error, Tail::Short][usize::from(one_of("tail", tail, 2)?)];
        let grouping = match (one_of("grouping", grouping, 4)?, tail, word(2)?, word(3)?) {
            (0, Tail::Error, 0, 0) => Grouping::Tensor,
            (1, Tail::Error, 0, 0) => Grouping::Row,
            (2, tail, len, 0) => Grouping::Flat { len, tail },
            (3, tail, rows, cols) => Grouping::Tile { rows, cols, tail },
            other => {
                return Err(Error::packed(
                    "grouping",
                    "a kind with its sizes",
                    format!("{other:?}"),
                ));
            }
        };
        let arithmetic = [Arithmetic::F32, Arithmetic::ReleaseF16]
            [usize::from(one_of("arithmetic", arithmetic, 2)?)];
        let types = [Dtype::F32, Dtype::F16, Dtype::Bf16];
        let dtype = types[usize::from(one_of("dtype", dtype, 3)?)];
        let scales = types[usize::from(one_of("type of the scales", header[12], 3)?)];
        let scheme = Scheme {
            arithmetic,
            scales,
            ..Scheme::new(levels, grouping)
        };
        let blocks = match scheme.check(shape) {
            Ok(()) => grouping.blocks(shape)?,
            Err(error) => return Err(Error::packed("scheme", "one that fits the shape", error)),
        };
        Ok(Self {
            levels,
            grouping,
            arithmetic,
            dtype,
            scales,
            shape,
            blocks,
            outliers: word(4)?,
        })
    }
}

/// The `len` bytes from `start`, when what follows up to `end` is zero.
fn section<'a>(
    bytes: &'a [u8],
    field: &'static str,
    start: usize,
    len: usize,
    end: usize,
) -> Result<&'a [u8], Error> {
    let (content, padding) = bytes[start..end].split_at(len);
    at_most(field, 0, padding)
        .map_err(|_| Error::packed(field, "zeros after the section", "other bytes"))?;
    Ok(content)
}

fn at_most<'a>(field: &'static str, max: u8, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
    match bytes.iter().find(|b| **b > max) {
        Some(b) => Err(Error::packed(field, format!("at most {max}"), b)),
        None => Ok(bytes),
    }
}

fn floats(field: &'static str, dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, Error> {
    let words = || bytes.as_chunks::<2>().0.iter().copied();
    let values: Vec<f32> = match dtype {
        Dtype::F32 => (bytes.as_chunks::<4>().0.iter())
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F16 => words().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::Bf16 => words().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
    };
    match values.iter().find(|v| !v.is_finite()) {
        Some(v) => Err(Error::packed(field, "finite values", v)),
        None => Ok(values),
    }
}

/// Codes that the levels have, and nothing in the bits after the last.
fn check_codes(codes: &[u8], levels: Levels, n: usize) -> Result<(), Error> {
    let (bits, range) = (levels.bits(), levels.min_code()..=levels.max_code());
    let spare = codes.len() * 8 - n * usize::from(bits);
    if codes
        .last()
        .is_some_and(|last| spare > 0 && last >> (8 - spare) != 0)
    {
        return Err(Error::packed(
            "codes",
            "zeros in the bits after the last code",
            "ones",
        ));
    }
    let all = usize::from(*range.end()) + 1 - usize::from(*range.start()) == 1 << bits;
    match (0..if all { 0 } else { n })
        .map(|i| get(codes, bits, i))
        .find(|c| !range.contains(c))
    {
        Some(c) => Err(Error::packed("codes", format!("{range:?}"), c)),
        None => Ok(()),
    }
}
