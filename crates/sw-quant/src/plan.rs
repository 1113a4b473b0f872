//! The first pass: every block's range. It finds all that can be wrong, so the second pass cannot fail.

use crate::clip::Scope;
use crate::codec::{Codec, Params};
use crate::moments::{Buffer, count_beyond, extent, extent_of};
use crate::par::{self, PIECE};
use crate::real::LANE_BUFFER;
use crate::simd::vectorized;
use crate::{Blocks, Clip, Error, Real, Scheme, error::check_shape};

/// The arithmetic of every block of one matrix.
pub(crate) struct Plan {
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

impl Plan {
    /// `held` are sorted places within `w`.
    pub(crate) fn new<T: Real>(
        w: &[T],
        shape: [usize; 2],
        scheme: &Scheme,
        held: &[usize],
    ) -> Result<Self, Error> {
        check_shape("w", w.len(), shape)?;
        scheme.check(shape)?;
        let blocks = scheme.grouping.blocks(shape)?;
        let tensor_clip = match scheme.clip {
            clip @ Clip::TopFraction {
                scope: Scope::Tensor,
                ..
            } => Some(clip.threshold(w, std::iter::once(0..w.len()), scheme.arithmetic)),
            _ => None,
        };
        let context = Context {
            w,
            scheme,
            blocks,
            held,
            tensor_clip,
        };

        let mut params = vec![Params::default(); blocks.count()];
        let per_piece = (PIECE / blocks.len_of(0)).max(1);
        let clipped = par::chunks_mut(&mut params, per_piece, |i, chunk| {
            vectorized(
                #[inline(always)]
                || {
                    let (mut clipped, mut buffer) = (0, [0.0; LANE_BUFFER]);
                    for (j, p) in chunk.iter_mut().enumerate() {
                        let (block, beyond) = context.block(i * per_piece + j, &mut buffer)?;
                        *p = block;
                        clipped += beyond;
                    }
                    Ok(clipped)
                },
            )
        });
        let clipped = clipped.into_iter().sum::<Result<usize, Error>>();
        let clipped = match clipped {
            // A NaN in a threshold's order statistics or a later block must not hide the first one.
            Err(Error::NotFinite { .. }) => {
                return Err(Error::not_finite("w", w, shape[1]).expect("one was seen"));
            }
            other => other?,
        };
        Ok(Self {
            blocks,
            codec: Codec::new(scheme.levels, scheme.arithmetic),
            params,
            clipped,
        })
    }
}

struct Context<'a, T> {
    w: &'a [T],
    scheme: &'a Scheme,
    blocks: Blocks,
    held: &'a [usize],
    tensor_clip: Option<f32>,
}

impl<T: Real> Context<'_, T> {
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
