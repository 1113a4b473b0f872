//! `y = x * w^T` for f32 activations and weights of any dtype.

mod blocked;
mod cache;
mod integer;
pub(crate) mod kernel;
mod pack;
mod portable;
mod product;
pub(crate) mod scalar;
mod split;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use integer::{CodeOffsets, Codes, matmul_t_codes, matmul_t_i8};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, CowArray, Ix2};
pub use product::product;

use crate::isa::Isa;
use crate::{Dtype, Mat};

/// Terms that are summed in one chain before the chain's sum is added to the result.
pub(crate) const K_BLOCK: usize = 128;

/// A matrix, and where its product with the activations goes.
type Product<'a> = (&'a Mat, ArrayViewMut2<'a, f32>);

/// In which order the terms of a sum are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// In one order for each instruction set and type of weights (`docs/numerics.md`): a row of the result is bit for bit the
    /// same whatever other rows the call has and however many threads work on it.
    #[default]
    Fixed,
    /// The fastest for few rows (a short prompt, a decoding step), which is bound by reading the weights once; it depends on
    /// the number of rows and on the instruction set.
    Any,
}

/// `y[t, r] = sum_k x[t, k] * w[r, k]`: `[tokens, in] x [out, in]^T -> [tokens, out]`, in the [fixed order](Order::Fixed).
///
/// A row of `y` depends neither on the other rows nor on the number of threads, bit for bit.
///
/// # Panics
/// If the shapes do not agree.
pub fn matmul_t(x: ArrayView2<f32>, w: &Mat, y: ArrayViewMut2<f32>) {
    matmul_t_each(Order::Fixed, x, [(w, y)]);
}

/// [`matmul_t`] of several matrices with the same activations, in an order of one's choice. Neighbours of one type and layout
/// are computed together: activations are prepared once, and no thread waits between the products.
///
/// ```
/// use ndarray::{Array2, array};
/// use sw_tensor::{Mat, Order, matmul_t_each};
///
/// let (gate, up) = (Mat::from_f32(1, 2, vec![1.0, 2.0]), Mat::from_f32(2, 2, vec![0.0, 1.0, 1.0, 0.0]));
/// let x = array![[3.0, 4.0]];
/// let (mut gated, mut raised) = (Array2::zeros((1, 1)), Array2::zeros((1, 2)));
/// matmul_t_each(Order::Fixed, x.view(), [(&gate, gated.view_mut()), (&up, raised.view_mut())]);
/// assert_eq!((gated, raised), (array![[11.0]], array![[4.0, 3.0]]));
/// ```
///
/// # Panics
/// If the shapes do not agree.
pub fn matmul_t_each<'a>(
    order: Order,
    x: ArrayView2<f32>,
    products: impl IntoIterator<Item = (&'a Mat, ArrayViewMut2<'a, f32>)>,
) {
    matmul_t_each_with(Isa::current(), order, x, products);
}

/// [`matmul_t_each`] with a given instruction set.
pub(crate) fn matmul_t_each_with<'a>(
    isa: Isa,
    order: Order,
    x: ArrayView2<f32>,
    products: impl IntoIterator<Item = Product<'a>>,
) {
    let mut products: Vec<Product> = products.into_iter().collect();
    for (w, y) in &products {
        check(&x, w, y);
    }
    products.retain(|(_, y)| !y.is_empty());
    let x = adjacent(x);
    // What does not have adjacent columns is computed elsewhere.
    let is_scattered = |(_, y): &mut Product| y.strides()[1] != 1 && y.ncols() > 1;
    for (w, mut y) in products.extract_if(.., is_scattered) {
        let mut dense = Array2::zeros(y.dim());
        matmul_t_each_with(isa, order, x.view(), [(w, dense.view_mut())]);
        y.assign(&dense);
    }
    if x.ncols() == 0 {
        return products.iter_mut().for_each(|(_, y)| y.fill(0.0));
    }
    // Neighbours of one kind go together.
    for products in products.chunk_by_mut(|(a, _), (b, _)| Kind::of(a) == Kind::of(b)) {
        compute(isa, order, x.view(), products);
    }
}

/// What decides in which way a matrix is multiplied.
#[derive(PartialEq, Eq)]
struct Kind {
    dtype: Dtype,
    is_blocks: bool,
    has_adjacent_columns: bool,
}

impl Kind {
    fn of(w: &Mat) -> Kind {
        Kind {
            dtype: w.dtype(),
            is_blocks: w.is_blocks(),
            has_adjacent_columns: w.strides()[1] == 1,
        }
    }
}

/// Computes products, one at least, of matrices of one kind; `x` and all results have columns, which are adjacent.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
fn compute(isa: Isa, order: Order, x: ArrayView2<f32>, products: &mut [Product<'_>]) {
    let kind = Kind::of(products[0].0);
    #[cfg(target_arch = "x86_64")]
    let are_few =
        order == Order::Any && kind.has_adjacent_columns && x.nrows() <= x86::dot::MOST_ROWS;
    match isa {
        // Tiles would have to multiply five pieces of F16, and have none of F32: few rows are better off without.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(proof) => match kind.dtype {
            Dtype::F16 | Dtype::F32 if are_few => x86::dot::matmul_t(proof.avx512(), x, products),
            Dtype::F16 | Dtype::BF16 if kind.has_adjacent_columns => {
                x86::amx::matmul_t(proof, x, products)
            }
            _ => blocked::matmul_t(proof.avx512(), x, products),
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(proof) if are_few => x86::dot::matmul_t(proof, x, products),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(proof) => blocked::matmul_t(proof, x, products),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(proof) if are_few => x86::dot::matmul_t(proof, x, products),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(proof) => blocked::matmul_t(proof, x, products),
        Isa::Portable => portable::matmul_t(x, products),
    }
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

/// `x` with adjacent columns, copied only where they are not.
fn adjacent(x: ArrayView2<'_, f32>) -> CowArray<'_, f32, Ix2> {
    if x.strides()[1] == 1 || x.ncols() <= 1 {
        CowArray::from(x)
    } else {
        CowArray::from(x.as_standard_layout().into_owned())
    }
}
