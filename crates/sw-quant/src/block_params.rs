//! The first pass: every block's range. It finds all that can be wrong, so the second pass cannot fail.

use crate::clip::Scope;
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
    ) -> Result<Self, Error> {
        let ranges = Ranges::new(w, shape, scheme, held)?;
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
    tensor_clip: Option<f32>,
}

impl<'a, T: Real> Ranges<'a, T> {
    /// Finds all that is wrong but for the values.
    pub(crate) fn new(
        w: &'a [T],
        shape: [usize; 2],
        scheme: &'a Scheme,
        held: &'a [usize],
    ) -> Result<Self, Error> {
        check_shape("w", w.len(), shape)?;
        scheme.check(shape)?;
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
            levels,
            arithmetic,
            clip,
            ..
        } = *self.scheme;
        let (lo, hi, clipped) = match clip {
            Clip::None => (lo, hi, 0),
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
        let params = Params::new(levels, arithmetic, lo, hi).map_err(|e| e.at(block, lo, hi))?;
        Ok((params, clipped))
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
