//! `y = x * w^T` for f32 activations `[tokens, in]` and weights `[out, in]` of any type.
//!
//! # How a product of many rows is computed
//!
//! A kernel multiplies small tiles that fit the registers. It reads both operands in a layout of its own, so pieces of both
//! are copied ("packed") before. Weights of 16 bits, blocks and edits become f32 in that copy and nowhere else.
//!
//! ```text
//!            in (K)                                     in (K)
//!        +----+----+----+                           +----+----+----+
//! tokens | x0 | x1 | x2 |  copied once,     out (N) | w0 | w1 | w2 |  a panel of NR rows
//!   (M)  |    |    |    |  K_BLOCK columns          +----+----+----+
//!        +----+----+----+  at a time                |              |  each chunk [NR, K_BLOCK] of it is
//!                                                   +----+----+----+  packed into L1, then multiplied
//!                                                                     with all rows of x
//!            out (N)
//!        +--------+--------+
//! tokens | thread | thread |   The columns of y are split among the threads. Each keeps a part's sums
//!        |   0    |   1    |   beside the blocks of x that fit half of L2, its "stage".
//!        +--------+--------+
//! ```
//!
//! The loops, outermost first: blocks of rows of x; stripes of columns of y, one thread each; stages of K that
//! fit L2; panels of weights; blocks of K within the stage; tiles of MR x NR sums. While one chunk is multiplied, the next one
//! is asked for.
//!
//! # The order of a sum
//!
//! `y[t, r]` is the sum of its blocks of K, added one after the other from the left, and each block is one chain of
//! multiply-adds over its `K_BLOCK` terms:
//!
//! ```text
//! ((chain(k = 0..128) + chain(k = 128..256)) + chain(k = 256..384)) + ...
//! ```
//!
//! Sizes of caches, the number of threads and the other rows decide only where a sum is computed, never in which order. So
//! a row of the result depends on that row alone, bit for bit. AMX multiplies pieces of BF16 and has an order of its own;
//! few rows have another one where [`Order::Any`] is asked for.
//!
//! # Where what is
//!
//! | module | what it holds |
//! |---|---|
//! | `kernel` | what a kernel and its operands are; the scratch memory |
//! | `blocked` | the loops above, for any kernel of floats |
//! | `pack` | widening and copying of weights |
//! | `split` | how rows, columns and K are cut |
//! | `precision` | rounding of factors to BF16, where that is asked for |
//! | `x86` | tiles with AVX2, AVX-512, AVX-512 BF16 and AMX, and `dot`, products of few rows, with tiles of their own |
//! | `portable`, `portable_tile` | any CPU: the `gemm` crate, and the tile that attention uses there |
//! | `integer` | exact sums of integers: 8-bit numbers and packed codes |
//! | `product` | products of two f32 matrices of any layout, for training |

mod blocked;
mod cache;
mod integer;
pub(crate) mod kernel;
mod pack;
mod portable;
pub(crate) mod portable_tile;
mod precision;
mod product;
#[cfg(test)]
mod rounding_tests;
mod split;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use integer::{CodeOffsets, Codes, matmul_t_codes, matmul_t_i8};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, CowArray, Ix2};
#[cfg(target_arch = "x86_64")]
use precision::Rounded;
pub use precision::{Arithmetic, Precision};
use precision::{is_bf16, rounded};
pub use product::product;

#[cfg(target_arch = "x86_64")]
use crate::isa::Avx512Bf16;
use crate::isa::Isa;
use crate::{Dtype, Mat};

/// Terms that are summed in one chain before the chain's sum is added to the result.
pub(crate) const K_BLOCK: usize = 128;

/// A matrix of weights, and where its product with the activations goes.
type Output<'a> = (&'a Mat, ArrayViewMut2<'a, f32>);

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

/// [`matmul_t`] of several matrices with the same activations, in an order and a precision of one's choice (an [`Order`] alone
/// means [`Precision::Float32`]). Neighbours of one type and layout are computed together: activations are prepared once, and
/// no thread waits between the products.
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
    arithmetic: impl Into<Arithmetic>,
    x: ArrayView2<f32>,
    products: impl IntoIterator<Item = (&'a Mat, ArrayViewMut2<'a, f32>)>,
) {
    matmul_t_each_with(Isa::current(), arithmetic.into(), x, products);
}

/// [`matmul_t_each`] with a given instruction set.
pub(crate) fn matmul_t_each_with<'a>(
    isa: Isa,
    arithmetic: impl Into<Arithmetic>,
    x: ArrayView2<f32>,
    products: impl IntoIterator<Item = Output<'a>>,
) {
    let arithmetic = arithmetic.into();
    let mut products: Vec<Output> = products.into_iter().collect();
    for (w, y) in &products {
        check(&x, w, y);
    }
    products.retain(|(_, y)| !y.is_empty());
    let x = adjacent(x);
    // What does not have adjacent columns is computed elsewhere.
    let is_scattered = |(_, y): &mut Output| y.strides()[1] != 1 && y.ncols() > 1;
    for (w, mut y) in products.extract_if(.., is_scattered) {
        let mut dense = Array2::zeros(y.dim());
        matmul_t_each_with(isa, arithmetic, x.view(), [(w, dense.view_mut())]);
        y.assign(&dense);
    }
    if x.ncols() == 0 {
        return products.iter_mut().for_each(|(_, y)| y.fill(0.0));
    }
    // Neighbours of one kind go together.
    let kind = |w: &Mat| Kind::of(w, arithmetic.precision);
    for products in products.chunk_by_mut(|(a, _), (b, _)| kind(a) == kind(b)) {
        match arithmetic.precision {
            Precision::Float32 => compute(isa, arithmetic.order, x.view(), products),
            Precision::Bfloat16 => compute_rounded(isa, arithmetic.order, x.view(), products),
        }
    }
}

/// What decides in which way a matrix is multiplied.
#[derive(PartialEq, Eq)]
struct Kind {
    dtype: Dtype,
    is_blocks: bool,
    has_adjacent_columns: bool,
    /// Whether its weights must be rounded first.
    is_rounded: bool,
}

impl Kind {
    fn of(w: &Mat, precision: Precision) -> Kind {
        Kind {
            dtype: w.dtype(),
            is_blocks: w.is_blocks(),
            has_adjacent_columns: w.strides()[1] == 1,
            is_rounded: precision == Precision::Bfloat16 && !is_bf16(w),
        }
    }
}

/// Computes products, one at least, of matrices of one kind; `x` and all results have columns, which are adjacent.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
fn compute(isa: Isa, order: Order, x: ArrayView2<f32>, products: &mut [Output<'_>]) {
    let kind = Kind::of(products[0].0, Precision::Float32);
    #[cfg(target_arch = "x86_64")]
    let are_few = are_few(order, &kind, &x);
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
        Isa::Portable => portable::matmul_t(Precision::Float32, x, products),
    }
}

/// Whether weights are multiplied as they lie, with few rows.
#[cfg(target_arch = "x86_64")]
fn are_few(order: Order, kind: &Kind, x: &ArrayView2<f32>) -> bool {
    order == Order::Any && kind.has_adjacent_columns && x.nrows() <= x86::dot::MOST_ROWS
}

/// [`compute`] in [`Precision::Bfloat16`]: with dot products of BF16 pairs where they are fast, else as in f32, of rounded
/// factors.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
fn compute_rounded(isa: Isa, order: Order, x: ArrayView2<f32>, products: &mut [Output<'_>]) {
    let kind = Kind::of(products[0].0, Precision::Bfloat16);
    #[cfg(target_arch = "x86_64")]
    if let Isa::Avx512(proof) = isa
        && let Some(dots) = Avx512Bf16::if_fast(proof)
    {
        return compute_dots(dots, order, &kind, x, products);
    }
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Amx(proof) if kind.is_rounded => {
            let kernel = proof.avx512();
            return blocked::matmul_t(Rounded { kernel, isa }, x, products);
        }
        Isa::Avx512(kernel) if kind.is_rounded => {
            return blocked::matmul_t(Rounded { kernel, isa }, x, products);
        }
        Isa::Avx2(kernel) if kind.is_rounded => {
            return blocked::matmul_t(Rounded { kernel, isa }, x, products);
        }
        _ => {}
    }
    let x = rounded(x);
    match isa {
        Isa::Portable => portable::matmul_t(Precision::Bfloat16, x.view(), products),
        #[cfg(target_arch = "x86_64")]
        _ => compute(isa, order, x.view(), products),
    }
}

/// [`compute_rounded`] with dot products of BF16 pairs.
#[cfg(target_arch = "x86_64")]
fn compute_dots(
    dots: Avx512Bf16,
    order: Order,
    kind: &Kind,
    x: ArrayView2<f32>,
    products: &mut [Output<'_>],
) {
    if are_few(order, kind, &x) && !kind.is_rounded {
        x86::dot::matmul_t(dots, rounded(x).view(), products);
    } else {
        blocked::matmul_t(dots, x, products);
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
