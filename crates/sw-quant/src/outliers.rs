//! Finding coordinates to hold.

use crate::block_params::BlockParams;
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
    let plan = BlockParams::new(w, shape, scheme, &[], None)?;
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

/// So few places are kept in order while the values are passed once.
const FEW: usize = 32;

/// Places of the `k` largest magnitudes among `among`, which increase; largest first, at a tie the first.
pub(crate) fn largest_places<T: Real>(
    w: &[T],
    among: impl Iterator<Item = usize>,
    k: usize,
) -> Vec<usize> {
    let size = |place: usize| w[place].to_f32().abs();
    if k <= FEW {
        let mut largest: Vec<(f32, usize)> = Vec::with_capacity(k + 1);
        for place in among {
            let size = size(place);
            if largest.len() < k || largest.last().is_some_and(|l| size > l.0) {
                let before = largest.partition_point(|l| l.0 >= size);
                largest.insert(before, (size, place));
                largest.truncate(k);
            }
        }
        return largest.into_iter().map(|l| l.1).collect();
    }
    let mut order: Vec<usize> = among.collect();
    let by = |a: &usize, b: &usize| size(*b).total_cmp(&size(*a)).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, by);
        order.truncate(k);
    }
    order.sort_unstable_by(by);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_the_first_of_all_in_order() {
        let w: Vec<f32> = (0..200i16)
            .map(|i| f32::from(i * 71 % 37) * [1.0, -1.0][i as usize % 2])
            .collect();
        let mut all: Vec<usize> = (0..w.len()).collect();
        all.sort_by(|&a, &b| w[b].abs().total_cmp(&w[a].abs())); // stable
        for k in [0, 1, 2, 31, FEW, FEW + 1, 199, 200, 300] {
            let found = largest_places(&w, 0..w.len(), k);
            assert_eq!(found, all[..k.min(w.len())], "{k}");
        }
        let odd = largest_places(&w, (1..w.len()).step_by(2), 3);
        let expected: Vec<usize> = all.iter().copied().filter(|p| p % 2 == 1).take(3).collect();
        assert_eq!(odd, expected);
    }
}
