//! Finding coordinates to hold.

use crate::plan::Plan;
use crate::{Error, Real, Scheme, error::check_shape};

/// The `k` values of largest magnitude, largest first; at a tie the one that comes first. All of them where there are
/// fewer.
///
/// # Errors
/// A slice that does not have the shape, an empty one, a value that is not finite.
///
/// ```
/// let w = [0.1f32, -4.0, 0.3, 2.0];
/// assert_eq!(sw_quant::outliers::largest(&w, [2, 2], 2)?, [(0, 1), (1, 1)]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn largest<T: Real>(
    w: &[T],
    shape: [usize; 2],
    k: usize,
) -> Result<Vec<(usize, usize)>, Error> {
    check_shape("w", w.len(), shape)?;
    finite("w", w, shape[1])?;
    Ok(largest_places(w, 0..w.len(), k)
        .into_iter()
        .map(|p| (p / shape[1], p % shape[1]))
        .collect())
}

/// The values that the scheme's [`Clip`](crate::Clip) would clip, in row-major order: hold them, and the rule becomes a
/// selection of outliers.
///
/// # Errors
/// Those of [`crate::fake_quantize`].
///
/// ```
/// use sw_quant::{Clip, Scheme};
/// let w = [-1.0f32, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];
/// let scheme = Scheme::default().with_clip(Clip::ZScore { z: 1.0 });
/// assert_eq!(sw_quant::outliers::clipped(&w, [1, 8], &scheme)?, [(0, 5)]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn clipped<T: Real>(
    w: &[T],
    shape: [usize; 2],
    scheme: &Scheme,
) -> Result<Vec<(usize, usize)>, Error> {
    let plan = Plan::new(w, shape, scheme, &[])?;
    let mut found = Vec::with_capacity(plan.clipped);
    plan.blocks.runs(0..w.len(), |block, run| {
        let params = &plan.params[block];
        found.extend(
            run.filter(|&p| params.clips(w[p].to_f32()))
                .map(|p| (p / shape[1], p % shape[1])),
        );
    });
    Ok(found)
}

pub(crate) fn finite<T: Real>(what: &'static str, w: &[T], cols: usize) -> Result<(), Error> {
    Error::not_finite(what, w, cols).map_or(Ok(()), Err)
}

/// Places of the `k` largest magnitudes among `among`, largest first.
pub(crate) fn largest_places<T: Real>(
    w: &[T],
    among: impl Iterator<Item = usize>,
    k: usize,
) -> Vec<usize> {
    let mut order: Vec<usize> = among.collect();
    let by = |a: &usize, b: &usize| {
        w[*b]
            .to_f32()
            .abs()
            .total_cmp(&w[*a].to_f32().abs())
            .then(a.cmp(b))
    };
    if k < order.len() {
        order.select_nth_unstable_by(k, by);
        order.truncate(k);
    }
    order.sort_unstable_by(by);
    order
}
