//! Sums over rows of activations, and a look at all of them.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::isa::{Isa, Work};
use crate::rows::{for_rows, row, row_mut};

/// `y[t, :] += bias` for every row.
///
/// # Panics
/// If `bias` does not have as many elements as `y` columns.
pub fn add_bias(y: ArrayViewMut2<f32>, bias: &[f32]) {
    assert_eq!(y.ncols(), bias.len(), "bias for {} columns", y.ncols());
    for_rows(
        y,
        #[inline(always)]
        |_, mut y| {
            row_mut(
                &mut y,
                #[inline(always)]
                |y| add_row(y, bias),
            );
        },
    );
}

/// `acc += x`.
///
/// # Panics
/// If the shapes differ.
pub fn add(acc: ArrayViewMut2<f32>, x: ArrayView2<f32>) {
    assert_eq!(acc.dim(), x.dim(), "sum of different shapes");
    for_rows(
        acc,
        #[inline(always)]
        |t, mut acc| {
            let x = row(x.row(t));
            row_mut(
                &mut acc,
                #[inline(always)]
                |acc| add_row(acc, &x),
            );
        },
    );
}

/// Whether every value is finite: the largest magnitude, as bits, lies below that of infinity.
pub fn all_finite(x: ArrayView2<f32>) -> bool {
    let isa = Isa::current();
    let rows = x.axis_iter(Axis(0)).into_par_iter().with_min_len(16);
    rows.all(|x| isa.run(Finite(&row(x))))
}

struct Finite<'a>(&'a [f32]);

impl Work for Finite<'_> {
    type Output = bool;

    #[inline(always)]
    fn work(self) -> bool {
        row_is_finite(self.0)
    }
}

/// [`all_finite`] of one row.
#[inline(always)]
pub(crate) fn row_is_finite(x: &[f32]) -> bool {
    let magnitude = |v: &f32| v.to_bits() & 0x7fff_ffff;
    x.iter().map(magnitude).fold(0, u32::max) < f32::INFINITY.to_bits()
}

/// `acc += x` of one row.
#[inline(always)]
pub(crate) fn add_row(acc: &mut [f32], x: &[f32]) {
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc += x;
    }
}
