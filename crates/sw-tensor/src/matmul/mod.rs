//! `y = x * w^T` for f32 activations and weights of any dtype.

mod blocked;
mod cache;
mod integer;
pub(crate) mod kernel;
mod pack;
mod portable;
mod product;
pub(crate) mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use integer::{CodeOffsets, Codes, matmul_t_codes, matmul_t_i8};
use ndarray::{ArrayView2, ArrayViewMut2, CowArray, Ix2};
pub use product::product;

use crate::isa::Isa;
use crate::{Dtype, Mat};

/// Terms that are summed in one chain before the chain's sum is added to the result.
pub(crate) const K_BLOCK: usize = 128;

/// `y[t, r] = sum_k x[t, k] * w[r, k]`: `[tokens, in] x [out, in]^T -> [tokens, out]`.
///
/// The sum runs in increasing `k`, fused multiply-adds within blocks of 128, block after block, so a row of `y` is bit
/// for bit the same whatever other rows the call has and however many threads work on it.
///
/// # Panics
/// If the shapes do not agree.
pub fn matmul_t(x: ArrayView2<f32>, w: &Mat, y: ArrayViewMut2<f32>) {
    matmul_t_with(Isa::current(), x, w, y);
}

/// [`matmul_t`] for few rows (a short prompt, a decoding step): bound by reading the weights once.
///
/// The order of summation may differ from [`matmul_t`]'s, and between instruction sets.
///
/// # Panics
/// If the shapes do not agree.
pub fn matmul_t_few(x: ArrayView2<f32>, w: &Mat, y: ArrayViewMut2<f32>) {
    matmul_t_few_with(Isa::current(), x, w, y);
}

/// [`matmul_t_few`] with a given instruction set.
pub(crate) fn matmul_t_few_with(isa: Isa, x: ArrayView2<f32>, w: &Mat, y: ArrayViewMut2<f32>) {
    #[cfg(target_arch = "x86_64")]
    if x.nrows() <= x86::dot::MOST_ROWS && w.strides()[1] == 1 {
        check(&x, w, &y);
        match isa {
            Isa::Avx512(proof) => return x86::dot::matmul_t(proof, adjacent(x).view(), w, y),
            Isa::Avx2(proof) => return x86::dot::matmul_t(proof, adjacent(x).view(), w, y),
            // Tiles would have to multiply five pieces of F16, and have none of F32.
            Isa::Amx(proof) if w.dtype() != Dtype::BF16 => {
                return x86::dot::matmul_t(proof.avx512(), adjacent(x).view(), w, y);
            }
            Isa::Amx(_) | Isa::Portable => {}
        }
    }
    matmul_t_with(isa, x, w, y);
}

/// [`matmul_t`] with a given instruction set.
pub(crate) fn matmul_t_with(isa: Isa, x: ArrayView2<f32>, w: &Mat, mut y: ArrayViewMut2<f32>) {
    check(&x, w, &y);
    let x = adjacent(x);
    if y.strides()[1] == 1 || y.ncols() <= 1 {
        return dispatch(isa, x.view(), w, y);
    }
    let mut dense = ndarray::Array2::zeros(y.dim());
    dispatch(isa, x.view(), w, dense.view_mut());
    y.assign(&dense);
}

fn check(x: &ArrayView2<f32>, w: &Mat, y: &ArrayViewMut2<f32>) {
    assert_eq!(
        x.ncols(),
        w.cols(),
        "x has {} columns, w has {}",
        x.ncols(),
        w.cols()
    );
    assert_eq!(
        y.dim(),
        (x.nrows(), w.rows()),
        "y of another shape than x * w^T"
    );
}

fn dispatch(isa: Isa, x: ArrayView2<f32>, w: &Mat, y: ArrayViewMut2<f32>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(proof) => match w.dtype() {
            Dtype::F16 | Dtype::BF16 if w.strides()[1] == 1 => x86::amx::matmul_t(proof, x, w, y),
            _ => blocked::matmul_t(proof.avx512(), x, w, y),
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(kernel) => blocked::matmul_t(kernel, x, w, y),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(kernel) => blocked::matmul_t(kernel, x, w, y),
        Isa::Portable => portable::matmul_t(x, w, y),
    }
}

/// `x` with adjacent columns, copied only where they are not.
fn adjacent(x: ArrayView2<'_, f32>) -> CowArray<'_, f32, Ix2> {
    if x.strides()[1] == 1 || x.ncols() <= 1 {
        CowArray::from(x)
    } else {
        CowArray::from(x.as_standard_layout().into_owned())
    }
}
