//! The first pass: every block's range. It finds all that can be wrong, so the second pass cannot fail.

use crate::clip::{FRACTIONS, Scope};
use crate::codec::{Codec, Params};
use crate::moments::{Buffer, count_beyond, extent, extent_of};
use crate::par::{self, PIECE};
use crate::real::LANE_BUFFER;
use crate::simd::vectorized;
use crate::{Blocks, Clip, Error, Real, Scheme, error::check_shape};

/// The arithmetic of every block of one matrix.
pub(crate) struct BlockParams {
    pub(crate) blocks: Blocks,
    pub(crate) codec: Codec,
    pub(crate) params: Vec<Params>,
    /// Values beyond their block's threshold.
    pub(crate) clipped: usize,
}

/// Held coordinates as sorted places in the row-major slice, each once.
pub(crate) fn places(
    what: &'static str,
    list: &[(usize, usize)],
    [rows, cols]: [usize; 2],
) -> Result<Vec<usize>, Error> {
    let mut places = Vec::with_capacity(list.len());
    for (entry, &(row, col)) in list.iter().enumerate() {
        if row >= rows || col >= cols {
            return Err(Error::Coordinate {
                what,
                entry,
                row,
                col,
                rows,
                cols,
            });
        }
        places.push(row * cols + col);
    }
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

impl BlockParams {
    /// `held` are sorted places within `w`.
    pub(crate) fn new<T: Real>(
        w: &[T],
        shape: [usize; 2],
        scheme: &Scheme,
        held: &[usize],
        importance: Option<&[f32]>,
    ) -> Result<Self, Error> {
        let ranges = Ranges::new(w, shape, scheme, held, importance)?;
        let blocks = ranges.blocks;
        let mut params = vec![Params::default(); blocks.count()];
        let per_piece = (PIECE / blocks.len_of(0)).max(1);
        let clipped = par::chunks_mut(&mut params, per_piece, |i, chunk| {
            ranges.fill(i * per_piece, chunk)
        });
        Ok(Self {
            blocks,
            codec: ranges.codec,
            params,
            clipped: ranges.all(clipped)?.into_iter().sum(),
        })
    }
}

/// What decides the arithmetic of a block.
pub(crate) struct Ranges<'a, T> {
    w: &'a [T],
    scheme: &'a Scheme,
    pub(crate) blocks: Blocks,
    pub(crate) codec: Codec,
    cols: usize,
    held: &'a [usize],
    /// How much an error counts in each column; all alike without it.
    importance: Option<&'a [f32]>,
    tensor_clip: Option<f32>,
}

impl<'a, T: Real> Ranges<'a, T> {
    /// Finds all that is wrong but for the values.
    pub(crate) fn new(
        w: &'a [T],
        shape: [usize; 2],
        scheme: &'a Scheme,
        held: &'a [usize],
        importance: Option<&'a [f32]>,
    ) -> Result<Self, Error> {
        check_shape("w", w.len(), shape)?;
        scheme.check(shape)?;
        let sound = |i: &[f32]| i.len() == shape[1] && i.iter().all(|v| *v >= 0.0 && v.is_finite());
        if let Some(importance) = importance.filter(|i| !sound(i)) {
            let expected = "a finite number of at least 0 for each column";
            return Err(Error::argument("importance", expected, importance.len()));
        }
        let tensor_clip = match scheme.clip {
            clip @ Clip::TopFraction {
                scope: Scope::Tensor,
                ..
            } => Some(clip.threshold(w, std::iter::once(0..w.len()), scheme.arithmetic)),
            _ => None,
        };
        Ok(Self {
            w,
            scheme,
            blocks: scheme.grouping.blocks(shape)?,
            codec: Codec::new(scheme.levels, scheme.arithmetic),
            cols: shape[1],
            held,
            importance,
            tensor_clip,
        })
    }

    /// The arithmetic of the blocks from `first` on, and how many of their values are clipped.
    pub(crate) fn fill(&self, first: usize, params: &mut [Params]) -> Result<usize, Error> {
        vectorized(
            #[inline(always)]
            || {
                let (mut clipped, mut buffer) = (0, [0.0; LANE_BUFFER]);
                for (i, p) in params.iter_mut().enumerate() {
                    let (block, beyond) = self.block(first + i, &mut buffer)?;
                    *p = block;
                    clipped += beyond;
                }
                Ok(clipped)
            },
        )
    }

    /// What all pieces gave, or the error of the first one that failed.
    pub(crate) fn all<R>(&self, pieces: Vec<Result<R, Error>>) -> Result<Vec<R>, Error> {
        match pieces.into_iter().collect() {
            // A NaN in a threshold's order statistics or a later block must not hide the first one.
            Err(Error::NotFinite { .. }) => {
                Err(Error::not_finite("w", self.w, self.cols).expect("one was seen"))
            }
            other => other,
        }
    }

    /// A block's arithmetic, and how many of its values are clipped.
    #[inline(always)]
    fn block(&self, block: usize, buffer: &mut Buffer) -> Result<(Params, usize), Error> {
        let segments = self.blocks.segments(block);
        let Some((lo, hi)) = extent_of(self.w, segments.clone(), buffer) else {
            return Err(self.not_finite(block));
        };
        let Scheme {
            arithmetic, clip, ..
        } = *self.scheme;
        let (lo, hi, clipped) = match clip {
            Clip::None => (lo, hi, 0),
            Clip::LeastError => return self.least_error(block, [lo, hi], buffer),
            Clip::HeldOut => {
                let (l, h) = self.extent_without_held(block, buffer).unwrap_or((lo, hi));
                (l, h, 0)
            }
            _ => {
                let t = self
                    .tensor_clip
                    .unwrap_or_else(|| clip.threshold(self.w, segments.clone(), arithmetic));
                let clips = lo < -t || hi > t;
                let clipped = if clips {
                    count_beyond(self.w, segments, t)
                } else {
                    0
                };
                (lo.max(-t).min(t), hi.min(t).max(-t), clipped)
            }
        };
        Ok((self.params(block, lo, hi)?, clipped))
    }

    /// The arithmetic of a block whose values, clipped, span `[lo, hi]`.
    #[inline(always)]
    fn params(&self, block: usize, lo: f32, hi: f32) -> Result<Params, Error> {
        let Scheme {
            levels,
            arithmetic,
            scales,
            ..
        } = *self.scheme;
        let params = Params::new(levels, arithmetic, lo, hi).and_then(|p| p.narrowed(scales));
        params.map_err(|e| e.at(block, lo, hi))
    }

    /// The threshold of least error, for a block whose values span `[lo, hi]`.
    #[inline(always)]
    fn least_error(
        &self,
        block: usize,
        [lo, hi]: [f32; 2],
        buffer: &mut Buffer,
    ) -> Result<(Params, usize), Error> {
        let (lo, hi) = self.extent_without_held(block, buffer).unwrap_or((lo, hi));
        let largest = hi.max(-lo);
        let mut best = (self.params(block, lo, hi)?, f64::INFINITY, largest);
        for fraction in FRACTIONS {
            let t = largest * fraction;
            let params = self.params(block, lo.max(-t).min(t), hi.min(t).max(-t))?;
            let error = self.error(block, &params, buffer);
            if error < best.1 {
                best = (params, error, t);
            }
        }
        let (params, _, t) = best;
        Ok((params, count_beyond(self.w, self.blocks.segments(block), t)))
    }

    /// The squared error of a block under an arithmetic, columns weighted by their importance; held values count for nothing.
    #[inline(always)]
    fn error(&self, block: usize, params: &Params, buffer: &mut Buffer) -> f64 {
        let (mut total, mut copy) = (0.0, [0.0; LANE_BUFFER]);
        for segment in self.blocks.segments(block) {
            let mut start = segment.start;
            while start < segment.end {
                // A part lies in one row, where columns follow each other.
                let col = start % self.cols;
                let end = segment.end.min(start - col + self.cols);
                let end = end.min(start + LANE_BUFFER);
                let wide = T::widened(&self.w[start..end], buffer);
                let copy = &mut copy[..wide.len()];
                copy.copy_from_slice(wide);
                self.codec.fake(copy, params);
                let from = self.held.partition_point(|&p| p < start);
                for &p in self.held[from..].iter().take_while(|&&p| p < end) {
                    copy[p - start] = wide[p - start];
                }
                total += match self.importance {
                    None => squares(wide, copy, |_| 1.0),
                    Some(all) => {
                        let part = &all[col..col + wide.len()];
                        squares(wide, copy, |i| part[i])
                    }
                };
                start = end;
            }
        }
        total
    }

    #[cold]
    fn not_finite(&self, block: usize) -> Error {
        let first = self.blocks.segments(block).next().map_or(0, |s| s.start);
        Error::NotFinite {
            what: "w",
            row: 0,
            col: 0,
            index: first,
            value: f32::NAN,
        }
    }

    /// `None` when the block holds nothing but held values.
    fn extent_without_held(&self, block: usize, buffer: &mut Buffer) -> Option<(f32, f32)> {
        let mut kept = Vec::new();
        let mut any_held = false;
        for segment in self.blocks.segments(block) {
            let from = self.held.partition_point(|&p| p < segment.start);
            let to = self.held.partition_point(|&p| p < segment.end);
            any_held |= from < to;
            let mut at = segment.start;
            for &p in &self.held[from..to] {
                kept.extend_from_slice(&self.w[at..p]);
                at = p + 1;
            }
            kept.extend_from_slice(&self.w[at..segment.end]);
        }
        if any_held && !kept.is_empty() {
            extent(&kept, buffer)
        } else {
            None
        }
    }
}

/// The sum of `weight(i) * (a[i] - b[i])^2`, in eight interleaved lanes.
#[inline(always)]
fn squares(a: &[f32], b: &[f32], weight: impl Fn(usize) -> f32) -> f64 {
    let mut lanes = [0.0f32; 8];
    let whole = a.len() / 8 * 8;
    for start in (0..whole).step_by(8) {
        for i in 0..8 {
            let d = a[start + i] - b[start + i];
            lanes[i] += weight(start + i) * d * d;
        }
    }
    for i in whole..a.len() {
        let d = a[i] - b[i];
        lanes[i - whole] += weight(i) * d * d;
    }
    lanes.iter().map(|&v| f64::from(v)).sum()
}
