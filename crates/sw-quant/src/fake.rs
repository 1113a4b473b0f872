//! `Q^-1(Q(w))` in place.

use crate::block_params::{BlockParams, places};
use crate::par::{self, PIECE};
use crate::simd::vectorized;
use crate::{Error, Real, Scheme};

/// What a quantization did.
///
/// ```
/// use sw_quant::{Clip, Scheme, fake_quantize};
/// let mut w = [-1.0f32, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];
/// let report = fake_quantize(&mut w, [1, 8], &Scheme::default().with_clip(Clip::ZScore { z: 1.0 }), &[])?;
/// assert_eq!((report.blocks, report.clipped), (1, 1));
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Report {
    /// How many blocks there were.
    pub blocks: usize,
    /// How many values lay beyond their block's clip threshold, held ones included.
    pub clipped: usize,
}

/// Replaces every value of a row-major `[rows, cols]` matrix by the value its code stands for; the coordinates in `hold`
/// (row, column) keep their values, bit for bit. With a [`Clip`](crate::Clip) this is the paper's
/// `RESTORE(Q^-1(Q(CLIP(W))))` (arXiv 2411.07191, Eq. 2).
///
/// Held values are clipped and quantized like all others before they are restored, so they take part in their block's
/// range, except under [`Clip::HeldOut`](crate::Clip::HeldOut).
///
/// # Errors
/// A slice that does not have the shape, an empty one, a scheme outside its domain, blocks that do not divide the
/// matrix, a coordinate outside it, a value that is not finite. `w` is unchanged then.
///
/// ```
/// use sw_quant::{Grouping, Levels, Scheme, fake_quantize};
/// let mut w = [-1.0f32, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];
/// fake_quantize(&mut w, [1, 8], &Scheme::new(Levels::asymmetric(4), Grouping::Tensor), &[(0, 1)])?;
/// assert_eq!((w[0], w[1], w[5]), (-1.0, -0.5, 3.0));
/// assert!((w[3] - 0.333333).abs() < 1e-6);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn fake_quantize<T: Real>(
    w: &mut [T],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
) -> Result<Report, Error> {
    fake(w, shape, scheme, hold, None)
}

/// [`fake_quantize`] with an importance of each column, as [`quantize_weighted`](crate::quantize_weighted) takes it: the same
/// values as its codes stand for.
///
/// # Errors
/// Those of [`quantize_weighted`](crate::quantize_weighted). `w` is unchanged then.
///
/// ```
/// use sw_quant::{Clip, Scheme, fake_quantize_weighted};
/// let scheme = Scheme::default().with_clip(Clip::LeastError);
/// let error = fake_quantize_weighted(&mut [1.0f32, 2.0], [1, 2], &scheme, &[], &[1.0, -1.0]).unwrap_err();
/// assert!(error.to_string().starts_with("importance: expected a finite number of at least 0 for each column"));
/// ```
pub fn fake_quantize_weighted<T: Real>(
    w: &mut [T],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
    importance: &[f32],
) -> Result<Report, Error> {
    fake(w, shape, scheme, hold, Some(importance))
}

fn fake<T: Real>(
    w: &mut [T],
    shape: [usize; 2],
    scheme: &Scheme,
    hold: &[(usize, usize)],
    importance: Option<&[f32]>,
) -> Result<Report, Error> {
    let held = places("hold", hold, shape)?;
    let plan = BlockParams::new(w, shape, scheme, &held, importance)?;
    let kept: Vec<T> = held.iter().map(|&p| w[p]).collect();
    par::chunks_mut(w, PIECE, |i, chunk| plan.fake(i * PIECE, chunk));
    for (&p, &value) in held.iter().zip(&kept) {
        w[p] = value;
    }
    Ok(Report {
        blocks: plan.params.len(),
        clipped: plan.clipped,
    })
}

impl BlockParams {
    /// Replaces the values of `part`, which starts at place `start` of the matrix.
    pub(crate) fn fake<T: Real>(&self, start: usize, part: &mut [T]) {
        vectorized(
            #[inline(always)]
            || {
                T::update(
                    part,
                    #[inline(always)]
                    |offset, w| {
                        let start = start + offset;
                        self.blocks.runs(
                            start..start + w.len(),
                            #[inline(always)]
                            |block, run| {
                                self.codec.fake(
                                    &mut w[run.start - start..run.end - start],
                                    &self.params[block],
                                );
                            },
                        );
                    },
                );
            },
        );
    }
}
