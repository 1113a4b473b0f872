//! Codes, scales and offsets: what a quantized matrix is stored as.

use crate::bits;
use crate::codec::{Codec, Decode};
use crate::error::check_shape;
use crate::par::{self, PIECE};
use crate::real::LANE_BUFFER;
use crate::simd::vectorized;
use crate::{Arithmetic, Blocks, Dtype, Error, Grouping, Levels, Real};

/// What is stored per block beside the scale.
///
/// ```
/// use sw_quant::{Grouping, Levels, Offsets, Scheme, quantize};
/// let offsets = |levels| {
///     quantize(&[-1.0f32, 2.0], [1, 2], &Scheme::new(levels, Grouping::Row), &[]).map(|q| q.view().offsets.clone())
/// };
/// assert_eq!(offsets(Levels::asymmetric(4))?, Offsets::Float(vec![-1.0]));
/// assert_eq!(offsets(Levels::symmetric(4))?, Offsets::None);
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Offsets {
    /// Nothing: symmetric levels, `w^ = (code - 2^(N-1))*scale`.
    None,
    /// `w^ = code*scale + offset`, or `level[code]*scale + offset` for NF4 and NF3.
    Float(Vec<f32>),
    /// `w^ = (code - zero)*scale`.
    Integer(Vec<u8>),
}

/// A value kept as it was.
///
/// ```
/// let q = sw_quant::quantize(&[1.0f32, 7.0, 2.0, 2.0], [2, 2], &Default::default(), &[(0, 1)])?;
/// assert_eq!(q.view().outliers, [sw_quant::Outlier { index: 1, value: 7.0 }]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlier {
    /// Its place in the row-major slice.
    pub index: u64,
    /// Its value; exact, since every [`Dtype`] widens to `f32` exactly.
    pub value: f32,
}

/// A quantized matrix: packed codes, a scale and perhaps an offset per block, and the held values.
///
/// ```
/// use sw_quant::{Grouping, Levels, Scheme, quantize};
/// let w: Vec<f32> = (0..512).map(|i| (i as f32).sin()).collect();
/// let q = quantize(&w, [2, 256], &Scheme::new(Levels::asymmetric(4), Grouping::flat(128)), &[(1, 7)])?;
/// // 4 bits, a 32-bit scale and offset per 128 values, and one outlier of 64 + 32 bits.
/// assert_eq!(q.bits_per_weight(), 4.0 + 64.0 / 128.0 + 96.0 / 512.0);
/// let back: Vec<half::f16> = q.dequantize();
/// assert_eq!(q.dequantize::<f32>()[256 + 7], w[256 + 7]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    pub(crate) shape: [usize; 2],
    pub(crate) levels: Levels,
    pub(crate) grouping: Grouping,
    pub(crate) arithmetic: Arithmetic,
    pub(crate) dtype: Dtype,
    pub(crate) blocks: Blocks,
    pub(crate) codes: Vec<u8>,
    pub(crate) scales: Vec<f32>,
    /// What scales and float offsets are stored as; their values are exact in it.
    pub(crate) scale_dtype: Dtype,
    pub(crate) offsets: Offsets,
    pub(crate) outliers: Vec<Outlier>,
}

/// A borrowed view for integer kernels: everything they need to read weights, and nothing they must not.
///
/// ```
/// use sw_quant::{Grouping, Levels, Scheme, quantize};
/// let q = quantize(&[0.5f32, -1.0, 0.25, 1.0], [2, 2], &Scheme::new(Levels::symmetric(8), Grouping::Row), &[])?;
/// let v = q.view();
/// // Value of row 1, column 0 by hand: its code is 8 bits wide, symmetric codes carry 128.
/// assert_eq!((f32::from(v.codes[2]) - 128.0) * v.scales[v.blocks.of(1, 0)], q.dequantize::<f32>()[2]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct View<'a> {
    /// `[rows, cols]`.
    pub shape: [usize; 2],
    /// Row-major codes in one dense stream, least significant bit first: code `i` is bits `i*bits .. (i+1)*bits`. Rows
    /// start on a byte where `cols*bits` is a multiple of 8.
    pub codes: &'a [u8],
    /// Bits of a code.
    pub bits: u8,
    /// What the codes stand for.
    pub levels: Levels,
    /// Which elements share a scale.
    pub grouping: Grouping,
    /// The grouping, resolved for the shape: `blocks.of(row, col)` is the place in `scales` and `offsets`.
    pub blocks: Blocks,
    /// One per block.
    pub scales: &'a [f32],
    /// One per block, or none.
    pub offsets: &'a Offsets,
    /// The values that replace decoded ones, in order of place.
    pub outliers: &'a [Outlier],
}

impl Quantized {
    /// `[rows, cols]`.
    ///
    /// ```
    /// # let q = sw_quant::quantize(&[1.0f32; 6], [2, 3], &Default::default(), &[]).unwrap();
    /// assert_eq!(q.shape(), [2, 3]);
    /// ```
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The type of the matrix it was made from; outliers are exact in it and in `f32`.
    ///
    /// ```
    /// # let q = sw_quant::quantize(&[1.0f32; 6], [2, 3], &Default::default(), &[]).unwrap();
    /// assert_eq!(q.dtype(), sw_quant::Dtype::F32);
    /// ```
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Everything a kernel needs, borrowed.
    ///
    /// ```
    /// # let q = sw_quant::quantize(&[1.0f32; 6], [2, 3], &Default::default(), &[]).unwrap();
    /// assert_eq!((q.view().bits, q.view().scales.len()), (4, 2));
    /// ```
    pub fn view(&self) -> View<'_> {
        View {
            shape: self.shape,
            codes: &self.codes,
            bits: self.levels.bits(),
            levels: self.levels,
            grouping: self.grouping,
            blocks: self.blocks,
            scales: &self.scales,
            offsets: &self.offsets,
            outliers: &self.outliers,
        }
    }

    /// Bits of storage per weight, all included: codes with the padding of the last byte, scales and float offsets (32 bits
    /// each, or 16), integer zero-points (8 bits) and outliers (64 bits of place and 32 of value).
    ///
    /// ```
    /// let q = sw_quant::quantize(&[1.0f32; 64], [1, 64], &Default::default(), &[]).unwrap();
    /// assert_eq!(q.bits_per_weight(), 4.0 + 64.0 / 64.0);
    /// ```
    pub fn bits_per_weight(&self) -> f64 {
        let offsets = match &self.offsets {
            Offsets::None => 0,
            Offsets::Float(v) => self.scale_dtype.size() * v.len(),
            Offsets::Integer(v) => v.len(),
        };
        let scales = self.scale_dtype.size() * self.scales.len();
        let bytes = self.codes.len() + scales + offsets + 12 * self.outliers.len();
        8.0 * bytes as f64 / (self.shape[0] * self.shape[1]) as f64
    }

    /// The held values, taken out: what is left decodes them as it does all others. For formats that store them beside.
    ///
    /// ```
    /// let mut q = sw_quant::quantize(&[1.0f32, 9.0, 2.0, 2.0], [2, 2], &Default::default(), &[(0, 1)])?;
    /// let whole = q.clone();
    /// let outliers = q.take_outliers();
    /// assert_eq!((outliers[0].index, q.view().outliers.len()), (1, 0));
    /// q.set_outliers(outliers)?;
    /// assert_eq!(q, whole);
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn take_outliers(&mut self) -> Vec<Outlier> {
        std::mem::take(&mut self.outliers)
    }

    /// Replaces the held values.
    ///
    /// # Errors
    /// Places that do not increase or lie outside the matrix, values that are not finite. Nothing is changed then.
    ///
    /// ```
    /// use sw_quant::Outlier;
    /// let mut q = sw_quant::quantize(&[1.0f32; 4], [2, 2], &Default::default(), &[])?;
    /// q.set_outliers(vec![Outlier { index: 3, value: 9.0 }])?;
    /// assert_eq!(q.dequantize::<f32>(), [1.0, 1.0, 1.0, 9.0]);
    /// assert!(q.set_outliers(vec![Outlier { index: 4, value: 9.0 }]).is_err());
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn set_outliers(&mut self, outliers: Vec<Outlier>) -> Result<(), Error> {
        let total = (self.shape[0] * self.shape[1]) as u64;
        let ordered = outliers.windows(2).all(|o| o[0].index < o[1].index);
        let sound = |o: &Outlier| o.index < total && o.value.is_finite();
        if !ordered || !outliers.iter().all(sound) {
            return Err(Error::packed(
                "outliers",
                "increasing places inside the matrix and finite values",
                "others",
            ));
        }
        self.outliers = outliers;
        Ok(())
    }

    /// The codes from place `start` of the row-major matrix on, one per byte.
    ///
    /// # Errors
    /// When `out` reaches beyond the matrix.
    ///
    /// ```
    /// # let q = sw_quant::quantize(&[1.0f32, 3.0, 2.0, 2.0], [2, 2], &Default::default(), &[])?;
    /// let mut row = [0; 2];
    /// q.codes_into(0, &mut row)?;
    /// assert_eq!(row, [0, 15]);
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn codes_into(&self, start: usize, out: &mut [u8]) -> Result<(), Error> {
        let total = self.shape[0] * self.shape[1];
        match start.checked_add(out.len()) {
            Some(end) if end <= total => {
                bits::unpack(&self.codes, self.levels.bits(), start, out);
                Ok(())
            }
            _ => Err(Error::Shape {
                what: "out",
                expected: format!("at most {total} values from {start} on"),
                found: out.len(),
            }),
        }
    }

    /// The whole matrix.
    ///
    /// ```
    /// let q = sw_quant::quantize(&[1.0f32; 6], [2, 3], &Default::default(), &[]).unwrap();
    /// assert_eq!(q.dequantize::<half::bf16>(), [half::bf16::ONE; 6]);
    /// ```
    pub fn dequantize<T: Real>(&self) -> Vec<T> {
        let mut out = vec![T::default(); self.shape[0] * self.shape[1]];
        self.decode_all(&mut out);
        out
    }

    /// The whole matrix, into a buffer.
    ///
    /// # Errors
    /// When `out` does not have the matrix's length.
    ///
    /// ```
    /// # let q = sw_quant::quantize(&[1.0f32; 6], [2, 3], &Default::default(), &[]).unwrap();
    /// assert!(q.dequantize_into(&mut [0.0f32; 5]).is_err());
    /// ```
    pub fn dequantize_into<T: Real>(&self, out: &mut [T]) -> Result<(), Error> {
        check_shape("out", out.len(), self.shape)?;
        self.decode_all(out);
        Ok(())
    }

    /// One row, into a buffer of `cols` values.
    ///
    /// # Errors
    /// A row that is not there, a buffer of another length.
    ///
    /// ```
    /// let q = sw_quant::quantize(&[1.0f32, 3.0, 2.0, 2.0], [2, 2], &Default::default(), &[])?;
    /// let mut row = [0.0f32; 2];
    /// q.dequantize_row_into(1, &mut row)?;
    /// assert_eq!(row, [2.0, 2.0]);
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn dequantize_row_into<T: Real>(&self, row: usize, out: &mut [T]) -> Result<(), Error> {
        let [rows, cols] = self.shape;
        if row >= rows {
            return Err(Error::argument("row", "a row of the matrix", row));
        }
        check_shape("out", out.len(), [1, cols])?;
        self.decode_part(row * cols, out);
        Ok(())
    }

    /// One block, into a buffer of [`Blocks::len_of`] values: the rows of a tile one after the other.
    ///
    /// # Errors
    /// A block that is not there, a buffer of another length.
    ///
    /// ```
    /// use sw_quant::{Grouping, Levels, Scheme, quantize};
    /// let w = [1.0f32, 1.0, 5.0, 5.0, 1.0, 1.0, 5.0, 5.0];
    /// let q = quantize(&w, [2, 4], &Scheme::new(Levels::Nf4, Grouping::tile(2, 2)), &[])?;
    /// let mut tile = [0.0f32; 4];
    /// q.dequantize_block_into(1, &mut tile)?;
    /// assert_eq!(tile, [5.0; 4]);
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn dequantize_block_into<T: Real>(&self, block: usize, out: &mut [T]) -> Result<(), Error> {
        if block >= self.blocks.count() {
            return Err(Error::argument("block", "a block of the matrix", block));
        }
        check_shape("out", out.len(), [1, self.blocks.len_of(block)])?;
        let mut rest = out;
        for segment in self.blocks.segments(block) {
            let (part, tail) = rest.split_at_mut(segment.len());
            self.decode_part(segment.start, part);
            rest = tail;
        }
        Ok(())
    }

    fn decode_all<T: Real>(&self, out: &mut [T]) {
        par::chunks_mut(out, PIECE, |i, out| self.decode_part(i * PIECE, out));
    }

    /// Decodes the places from `start` on.
    fn decode_part<T: Real>(&self, start: usize, out: &mut [T]) {
        let codec = Codec::new(self.levels, self.arithmetic);
        vectorized(
            #[inline(always)]
            || {
                let (mut wide, mut codes) = ([0.0; LANE_BUFFER], [0; LANE_BUFFER]);
                for (i, out) in out.chunks_mut(LANE_BUFFER).enumerate() {
                    let start = start + i * LANE_BUFFER;
                    let (wide, codes) = (&mut wide[..out.len()], &mut codes[..out.len()]);
                    bits::unpack(&self.codes, self.levels.bits(), start, codes);
                    self.blocks.runs(
                        start..start + out.len(),
                        #[inline(always)]
                        |block, run| {
                            let run = run.start - start..run.end - start;
                            codec.decode(
                                &codes[run.clone()],
                                &self.block_decode(block),
                                &mut wide[run],
                            );
                        },
                    );
                    T::narrow(wide, out);
                }
            },
        );
        let first = self.outliers.partition_point(|o| o.index < start as u64);
        for outlier in &self.outliers[first..] {
            match out.get_mut((outlier.index - start as u64) as usize) {
                Some(value) => *value = T::from_f32(outlier.value),
                None => break,
            }
        }
    }

    #[inline(always)]
    pub(crate) fn block_decode(&self, block: usize) -> Decode {
        let (zero, offset) = match (&self.offsets, self.levels) {
            (Offsets::Float(v), _) => (0.0, v[block]),
            (Offsets::Integer(v), _) => (f32::from(v[block]), 0.0),
            (Offsets::None, levels) => (f32::from(levels.max_code() / 2 + 1), 0.0),
        };
        Decode {
            step: self.scales[block],
            zero,
            offset,
        }
    }
}
