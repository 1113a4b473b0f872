//! How ranges are cut into blocks, and the columns of results into parts for the threads.

use std::ops::Range;

use ndarray::{ArrayViewMut2, Axis, s};

use super::Output;
use crate::Mat;

/// Parts per thread at least where they are short, to even out the threads' speeds.
const PER_THREAD: usize = 4;

/// A part of a product: some rows of a matrix, and the columns of the result that they make.
pub(super) type Stripe<'a> = (&'a Mat, Range<usize>, ArrayViewMut2<'a, f32>);

/// Rows `ms` of all products in parts, as [`columns`] makes them: several for each thread.
pub(super) fn parts<'a>(
    products: &'a mut [Output<'_>],
    ms: Range<usize>,
    step: usize,
    most: usize,
) -> impl Iterator<Item = Stripe<'a>> {
    products.iter_mut().flat_map(move |(w, y)| {
        let y = y.slice_mut(s![ms.clone(), ..]);
        columns(y, step, most, PER_THREAD).map(|(rows, y)| (*w, rows, y))
    })
}

/// The columns of `y` in parts, which are whole steps but for the last one, of at most `most` columns (one step at least); as
/// many parts for each thread, `per_thread` at least where there are as many steps, and as even as can be.
pub(super) fn columns<'a, T>(
    y: ArrayViewMut2<'a, T>,
    step: usize,
    most: usize,
    per_thread: usize,
) -> impl Iterator<Item = (Range<usize>, ArrayViewMut2<'a, T>)> {
    let threads = rayon::current_num_threads();
    let (width, steps) = (y.ncols(), y.ncols().div_ceil(step));
    let count = steps.div_ceil((most / step).max(1));
    let count = count.max(per_thread * threads).next_multiple_of(threads);
    let count = count.min(steps);
    (1..=count).scan((0, Some(y)), move |(start, rest), i| {
        let end = width.min(i * steps / count * step);
        let (part, others) = rest.take()?.split_at(Axis(1), end - *start);
        *rest = Some(others);
        Some((std::mem::replace(start, end)..end, part))
    })
}

/// The rows of `y` in so many pieces, or fewer, of whole tiles of `mr` rows, as even as can be.
pub(super) fn rows<T>(
    y: ArrayViewMut2<'_, T>,
    mr: usize,
    pieces: usize,
) -> impl Iterator<Item = (Range<usize>, ArrayViewMut2<'_, T>)> {
    let height = y.nrows();
    let tiles = height.div_ceil(mr);
    let pieces = even_blocks(tiles, tiles.div_ceil(pieces.max(1)).max(1));
    pieces.scan(Some(y), move |rest, tiles| {
        let ms = tiles.start * mr..height.min(tiles.end * mr);
        let (piece, others) = rest.take()?.split_at(Axis(0), ms.len());
        *rest = Some(others);
        Some((ms, piece))
    })
}

/// `range` in pieces of `size`, the last one shorter.
pub(super) fn blocks(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(size)
        .map(move |start| start..end.min(start + size))
}

/// `0..len` in the fewest pieces of at most `size`, as even as possible, the longer ones first.
pub(super) fn even_blocks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let count = len.div_ceil(size);
    let (each, longer) = (len / count.max(1), len % count.max(1));
    (0..count).scan(0, move |end, i| {
        let start = *end;
        *end += each + usize::from(i < longer);
        Some(start..*end)
    })
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::{columns, rows};

    proptest! {
        #[test]
        fn every_row_is_in_one_piece_of_whole_tiles(
            height in 1usize..600,
            mr in 1usize..8,
            pieces in 0usize..9,
        ) {
            let mut y = Array2::<u8>::zeros((height, 3));
            let mut end = 0;
            let parts: Vec<_> = rows(y.view_mut(), mr, pieces).collect();
            prop_assert!(parts.len() <= pieces.max(1));
            for (range, part) in parts {
                prop_assert_eq!((range.start, range.len()), (end, part.nrows()));
                prop_assert!(!range.is_empty());
                end = range.end;
                prop_assert!(end == height || end.is_multiple_of(mr));
            }
            prop_assert_eq!(end, height);
        }

        #[test]
        fn every_column_is_in_one_part_and_parts_are_even(
            width in 0usize..2000,
            step in 1usize..100,
            most in 0usize..1000,
            per_thread in 1usize..5,
            threads in 1usize..5,
        ) {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = Array2::<u8>::zeros((2, width));
            let parts: Vec<_> = pool.install(|| columns(y.view_mut(), step, most, per_thread).collect());
            let mut end = 0;
            for (range, part) in &parts {
                prop_assert_eq!((range.start, range.len()), (end, part.ncols()));
                prop_assert!(!range.is_empty() && range.len() <= most.max(step));
                end = range.end;
                prop_assert!(end == width || end.is_multiple_of(step));
            }
            prop_assert_eq!(end, width);
            let steps = width.div_ceil(step);
            prop_assert!(parts.len().is_multiple_of(threads) || parts.len() == steps);
            prop_assert!(parts.len() >= steps.min(per_thread * threads));
            let of_part = || parts.iter().map(|(range, _)| range.len().div_ceil(step));
            prop_assert!(of_part().max() <= of_part().min().map(|least| least + 1));
        }
    }
}
