//! Walking over the rows of activations in parallel.

use std::borrow::Cow;

use ndarray::{ArrayView1, ArrayViewMut1, ArrayViewMut2, Axis};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::isa::{Isa, Work};

/// Elements below which another thread costs more than it saves.
const GRAIN: usize = 1 << 14;

/// Calls `f(t, row)` for every row of `y`, on all threads where that pays, compiled for the instruction set in use
/// if `f` is `#[inline(always)]`.
pub(crate) fn for_rows(mut y: ArrayViewMut2<f32>, f: impl Fn(usize, ArrayViewMut1<f32>) + Sync) {
    let isa = Isa::current();
    let f = |(t, row)| isa.run(OnRow { f: &f, t, row });
    if y.len() <= GRAIN {
        return y.rows_mut().into_iter().enumerate().for_each(f);
    }
    let grain = grain(&y);
    let rows = y.axis_iter_mut(Axis(0)).into_par_iter().enumerate();
    rows.with_min_len(grain).for_each(f);
}

/// Calls `f` for the rows of two matrices side by side, on all threads.
pub(crate) fn for_row_pairs(
    mut a: ArrayViewMut2<f32>,
    mut b: ArrayViewMut2<f32>,
    f: impl Fn(usize, [ArrayViewMut1<f32>; 2]) + Sync,
) {
    let isa = Isa::current();
    let f = |(t, (a, b))| {
        isa.run(OnRow {
            f: &f,
            t,
            row: [a, b],
        })
    };
    if a.len() <= GRAIN {
        let rows = a.rows_mut().into_iter().zip(b.rows_mut());
        return rows.enumerate().for_each(f);
    }
    let grain = grain(&a);
    let rows = a.axis_iter_mut(Axis(0)).into_par_iter();
    let rows = rows.zip(b.axis_iter_mut(Axis(0))).enumerate();
    rows.with_min_len(grain).for_each(f);
}

/// Rows of a task.
fn grain(y: &ArrayViewMut2<f32>) -> usize {
    GRAIN.div_ceil(y.ncols())
}

struct OnRow<'f, F, R> {
    f: &'f F,
    t: usize,
    row: R,
}

impl<F: Fn(usize, R), R> Work for OnRow<'_, F, R> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        (self.f)(self.t, self.row);
    }
}

/// The elements of a row as a slice; copied only where they are not adjacent.
#[inline(always)]
pub(crate) fn row<'a>(row: ArrayView1<'a, f32>) -> Cow<'a, [f32]> {
    match row.to_slice() {
        Some(slice) => Cow::Borrowed(slice),
        None => Cow::Owned(row.to_vec()),
    }
}

/// Lets `f` change the elements of a row as a slice, through a copy only where they are not adjacent.
#[inline(always)]
pub(crate) fn row_mut<T>(row: &mut ArrayViewMut1<f32>, mut f: impl FnMut(&mut [f32]) -> T) -> T {
    if let Some(slice) = row.as_slice_mut() {
        return f(slice);
    }
    let mut copy = row.to_vec();
    let result = f(&mut copy);
    row.assign(&ArrayView1::from(&copy));
    result
}
