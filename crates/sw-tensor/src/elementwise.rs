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
                |y| {
                    for (y, b) in y.iter_mut().zip(bias) {
                        *y += b;
                    }
                },
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
                |acc| {
                    for (acc, x) in acc.iter_mut().zip(x.iter()) {
                        *acc += x;
                    }
                },
            );
        },
    );
}

/// Whether every value is finite: the largest magnitude, as bits, lies below that of infinity.
pub fn all_finite(x: ArrayView2<f32>) -> bool {
    let isa = Isa::current();
    let rows = x.axis_iter(Axis(0)).into_par_iter().with_min_len(16);
    rows.all(|x| {
        let largest = isa.run(Magnitude(&row(x)));
        largest < f32::INFINITY.to_bits()
    })
}

/// The bits of the largest magnitude.
struct Magnitude<'a>(&'a [f32]);

impl Work for Magnitude<'_> {
    type Output = u32;

    #[inline(always)]
    fn work(self) -> u32 {
        let magnitude = |v: &f32| v.to_bits() & 0x7fff_ffff;
        self.0.iter().map(magnitude).fold(0, u32::max)
    }
}
