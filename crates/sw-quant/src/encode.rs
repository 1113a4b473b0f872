//! From values to packed codes.

use crate::bits;
use crate::block_params::{BlockParams, Ranges, places};
use crate::codec::{Codec, Decode, Params};
use crate::error::check_shape;
use crate::outliers::finite;
use crate::par::{self, PIECE};
use crate::real::LANE_BUFFER;
use crate::simd::vectorized;
use crate::{Blocks, Error, Levels, Offsets, Outlier, Quantized, Real, Scheme, ZeroPoint};

/// Quantizes a row-major `[rows, cols]` matrix into packed codes; the coordinates in `hold` (row, column) are kept
/// beside them, bit for bit. [`Quantized::dequantize`] gives exactly what [`fake_quantize`](crate::fake_quantize) leaves.
///
/// # Errors
/// Those of [`fake_quantize`](crate::fake_quantize).
///
/// ```
/// use sw_quant::{Levels, Grouping, Scheme, quantize};
/// let w = [-1.0f32, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];
/// let q = quantize(&w, [1, 8], &Scheme::new(Levels::asymmetric(4), Grouping::Tensor), &[])?;
/// let mut codes = [0; 8];
/// q.codes_into(0, &mut codes)?;
/// assert_eq!(codes, [0, 2, 4, 5, 7, 15, 3, 6]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn quantize<T: Real>(
    w: &[T],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
) -> Result<Quantized, Error> {
    encode(w, shape, scheme, hold, None, Vec::new())
}

/// [`quantize`], where errors in the columns of `w` count as much as `importance` says: one number for each, as the mean square
/// of what the column is multiplied by. It decides the thresholds of [`Clip::LeastError`](crate::Clip::LeastError), and
/// nothing under other clips.
///
/// # Errors
/// Those of [`quantize`], and an importance that is not one finite number of at least 0 for each column.
///
/// ```
/// use sw_quant::{Clip, Grouping, Levels, Scheme, quantize_weighted};
/// let w = [0.11f32, -0.23, 0.34, 0.02, 0.41, -0.37, 0.19, 4.0];
/// let scheme = Scheme::new(Levels::symmetric(4), Grouping::Row).with_clip(Clip::LeastError);
/// // Clipped where nobody reads the outlier, kept where nobody reads the rest.
/// let last = |importance: &[f32]| quantize_weighted(&w, [1, 8], &scheme, &[], importance).map(|q| q.dequantize::<f32>()[7]);
/// assert!(last(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-4])? < 2.0);
/// assert_eq!(last(&[1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1.0])?, 4.0);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn quantize_weighted<T: Real>(
    w: &[T],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
    importance: &[f32],
) -> Result<Quantized, Error> {
    encode(w, shape, scheme, hold, Some(importance), Vec::new())
}

impl Quantized {
    /// [`quantize`] into the memory of a matrix that is not needed any more. At 8 bits a fifth to a quarter of the time
    /// goes into new memory.
    ///
    /// # Errors
    /// Those of [`quantize`]; the old matrix is gone in either case.
    ///
    /// ```
    /// use sw_quant::{Scheme, quantize};
    /// let (a, b) = ([1.0f32, 2.0, 3.0, 4.0], [0.5f32, -0.5, 0.25, 1.0]);
    /// let mut q = quantize(&a, [2, 2], &Scheme::default(), &[])?;
    /// q = q.recycle(&b, [1, 4], &Scheme::default(), &[])?;
    /// assert_eq!(q, quantize(&b, [1, 4], &Scheme::default(), &[])?);
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn recycle<T: Real>(
        self,
        w: &[T],
        shape: [usize; 2],
        scheme: &Scheme,
        hold: &[(usize, usize)],
    ) -> Result<Self, Error> {
        encode(w, shape, scheme, hold, None, self.codes)
    }

    /// Keeps the zero-points, rounds the scales to the type `S`, and codes `w`, which this was made from, anew under
    /// them: for formats whose scales have 16 bits. Values beyond the last code of a scale that was rounded down get
    /// that code. A scale that `S` would round to zero becomes the smallest that `S` holds.
    ///
    /// # Errors
    /// Levels that are neither symmetric nor have an integer zero-point, a `w` of another length or with values that are
    /// not finite, a scale that `S` cannot hold.
    ///
    /// ```
    /// use half::bf16;
    /// use sw_quant::{Grouping, Levels, Scheme, quantize};
    /// let w = [1.0f32, -3.0, 0.3, 2.0];
    /// let q = quantize(&w, [1, 4], &Scheme::new(Levels::symmetric(4), Grouping::Row), &[])?;
    /// assert_eq!(q.view().scales, [3.0 / 7.0]);
    /// let q = q.with_scales::<bf16, f32>(&w)?;
    /// assert_eq!(q.view().scales, [bf16::from_f32(3.0 / 7.0).to_f32()]);
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn with_scales<S: Real, T: Real>(mut self, w: &[T]) -> Result<Self, Error> {
        check_shape("w", w.len(), self.shape)?;
        finite("w", w, self.shape[1])?;
        if matches!(self.offsets, Offsets::Float(_)) {
            let expected = "symmetric ones or an integer zero-point";
            return Err(Error::argument("levels", expected, self.levels));
        }
        let rounded = |&scale: &f32| S::DTYPE.round_scale(scale);
        let scales: Vec<f32> = self.scales.iter().map(rounded).collect();
        let holds = |old: f32, new: f32| new.is_normal() || (old == 0.0 && new == 0.0);
        let lost = |(old, new): (&f32, &f32)| !holds(*old, *new);
        if let Some(block) = self.scales.iter().zip(&scales).position(lost) {
            let found = format!("{} in block {block}", self.scales[block]);
            return Err(Error::Argument {
                name: "scales",
                expected: "scales that the narrower type can hold",
                found,
            });
        }
        self.scales = scales;
        self.scale_dtype = S::DTYPE;
        let params: Vec<Params> = (0..self.blocks.count())
            .map(|block| Params::of_decode(self.levels, self.block_decode(block)))
            .collect();
        let (blocks, bits) = (self.blocks, self.levels.bits());
        let codec = Codec::new(self.levels, self.arithmetic);
        par::chunks_mut(&mut self.codes, PIECE / 8 * usize::from(bits), |i, out| {
            let start = i * PIECE;
            let part = &w[start..w.len().min(start + PIECE)];
            let part = Stretch {
                blocks,
                codec,
                first: 0,
                params: &params,
                start,
                values: part,
            };
            part.encode(bits, out);
        });
        Ok(self)
    }
}

/// `memory` is used for the codes where it is large enough.
fn encode<T: Real>(
    w: &[T],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
    importance: Option<&[f32]>,
    memory: Vec<u8>,
) -> Result<Quantized, Error> {
    let held = places("hold", hold, shape)?;
    let ranges = Ranges::new(w, shape, scheme, &held, importance)?;
    let (blocks, codec, bits) = (ranges.blocks, ranges.codec, scheme.levels.bits());
    let len = bits::packed_len(w.len(), bits).expect("codes take no more room than the slice");
    let mut codes = memory;
    if codes.capacity() < len {
        codes = vec![0; len]; // costs nothing before it is written to
    } else {
        codes.resize(len, 0);
    }

    // Where blocks are short, a piece is read once: its codes follow while it is in the cache.
    let decodes: Vec<Decode> = if let Some((piece, count)) = blocks.pieces(PIECE) {
        let pieces = par::chunks_mut(&mut codes, piece / 8 * usize::from(bits), |i, out| {
            let (start, first) = (i * piece, i * count);
            let mut params = vec![Params::default(); count.min(blocks.count() - first)];
            ranges.fill(first, &mut params)?;
            let part = &w[start..w.len().min(start + piece)];
            let part = Stretch {
                blocks,
                codec,
                first,
                params: &params,
                start,
                values: part,
            };
            part.encode(bits, out);
            Ok(params.iter().map(|p| p.decode).collect::<Vec<_>>())
        });
        ranges.all(pieces)?.concat()
    } else {
        let BlockParams { params, .. } = BlockParams::new(w, shape, scheme, &held, importance)?;
        par::chunks_mut(&mut codes, PIECE / 8 * usize::from(bits), |i, out| {
            let start = i * PIECE;
            let part = &w[start..w.len().min(start + PIECE)];
            let part = Stretch {
                blocks,
                codec,
                first: 0,
                params: &params,
                start,
                values: part,
            };
            part.encode(bits, out);
        });
        params.iter().map(|p| p.decode).collect()
    };

    let offsets = match scheme.levels {
        Levels::Symmetric { .. } => Offsets::None,
        Levels::Asymmetric {
            zero: ZeroPoint::Integer,
            ..
        } => Offsets::Integer(decodes.iter().map(|d| d.zero as u8).collect()),
        _ => Offsets::Float(decodes.iter().map(|d| d.offset).collect()),
    };
    let outlier = |&p: &usize| Outlier {
        index: p as u64,
        value: w[p].to_f32(),
    };
    Ok(Quantized {
        shape,
        levels: scheme.levels,
        grouping: scheme.grouping,
        arithmetic: scheme.arithmetic,
        dtype: T::DTYPE,
        blocks,
        codes,
        scales: decodes.iter().map(|d| d.step).collect(),
        scale_dtype: scheme.scales,
        offsets,
        outliers: held.iter().map(outlier).collect(),
    })
}

/// Consecutive values of a matrix, and the arithmetic of its blocks from `first` on.
struct Stretch<'a, T> {
    blocks: Blocks,
    codec: Codec,
    first: usize,
    params: &'a [Params],
    /// The place of the first value, a multiple of 8.
    start: usize,
    values: &'a [T],
}

impl<T: Real> Stretch<'_, T> {
    /// Packs the codes.
    fn encode(&self, bits: u8, out: &mut [u8]) {
        vectorized(
            #[inline(always)]
            || {
                let (mut wide, mut codes) = ([0.0; LANE_BUFFER], [0; LANE_BUFFER]);
                let outs = out.chunks_mut(LANE_BUFFER / 8 * usize::from(bits));
                for (i, (part, out)) in self.values.chunks(LANE_BUFFER).zip(outs).enumerate() {
                    let start = self.start + i * LANE_BUFFER;
                    self.blocks.runs(
                        start..start + part.len(),
                        #[inline(always)]
                        |block, run| {
                            let run = run.start - start..run.end - start;
                            let w = T::widened(&part[run.clone()], &mut wide);
                            let params = &self.params[block - self.first];
                            self.codec.encode(w, params, &mut codes[run]);
                        },
                    );
                    bits::pack(&codes[..part.len()], bits, out);
                }
            },
        );
    }
}
