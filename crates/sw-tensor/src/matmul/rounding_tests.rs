//! Products in [`Precision::Bfloat16`]: with every kernel this CPU has, against the f64 reference and their twins.

use half::bf16;
use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;

use super::{Arithmetic, Order, Precision, compute, matmul_t_each_with, precision};
use crate::isa::Isa;
use crate::reference;
use crate::testing::{DTYPES, Random, assert_near, assert_same, gamma, with_threads};
use crate::{Dtype, Mat};

const BF16: Precision = Precision::Bfloat16;

fn product(isa: Isa, order: Order, x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
    let mut y = Array2::from_elem((x.nrows(), w.rows()), f32::NAN);
    let arithmetic = Arithmetic {
        order,
        precision: BF16,
    };
    matmul_t_each_with(isa, arithmetic, x, [(w, y.view_mut())]);
    y
}

fn rounded(x: ArrayView2<f32>) -> Array2<f32> {
    x.mapv(reference::bf16)
}

fn rounded_weights(w: &Mat) -> Mat {
    let values = (0..w.rows()).flat_map(|r| (0..w.cols()).map(move |c| (r, c)));
    let values = values.map(|(r, c)| bf16::from_f32(w.get(r, c)));
    Mat::from_bf16(w.rows(), w.cols(), values.collect())
}

/// One rounding per term, and some for blocks and lanes; dot products and tiles take what is below the normal range for zero.
fn bound(x: ArrayView2<f32>, w: &Mat) -> Array2<f64> {
    let (x, w) = (rounded(x), rounded_weights(w));
    let k = x.ncols();
    let ones = |rows| Mat::from_f32(rows, k, vec![1.0; rows * k]);
    let of_x = reference::matmul_t_abs(x.view(), &ones(1));
    let of_w = reference::matmul_t_abs(Array2::ones((1, k)).view(), &w);
    let sums = reference::matmul_t_abs(x.view(), &w);
    Array2::from_shape_fn(sums.dim(), |(t, r)| {
        let lost = of_x[[t, 0]] + of_w[[0, r]] + 6.0 * k as f64;
        gamma(k + 37) * sums[[t, r]] + f64::from(f32::MIN_POSITIVE) * lost
    })
}

fn edits(random: &mut Random, w: &Mat, n: usize) -> Mat {
    if w.rows() * w.cols() == 0 {
        return w.clone();
    }
    let edit = |random: &mut Random| {
        let [row, col] = [w.rows(), w.cols()].map(|n| random.next() as usize % n);
        let value = [0.0, random.signed(), random.signed() * 100.0];
        (row, col, value[random.next() as usize % 3])
    };
    let edits: Vec<_> = (0..n).map(|_| edit(random)).collect();
    w.edited(&edits).unwrap()
}

fn check_all(x: ArrayView2<f32>, w: &Mat) {
    let (expected, bound) = (reference::matmul_t_bf16(x, w), bound(x, w));
    for isa in Isa::all() {
        for order in [Order::Fixed, Order::Any] {
            let found = product(isa, order, x, w);
            assert_near(found.view(), &expected, &bound, isa.name());
        }
    }
}

/// What the instructions for pairs give: of each block of 256 terms, one chain over its pairs, the second product of a pair added
/// before the first; operands and sums below the normal range are zero.
#[cfg(target_arch = "x86_64")]
fn twin_of_dots(x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
    let flush = |x: f32| if x.is_subnormal() { 0.0 } else { x };
    let (x, w) = (rounded(x), rounded_weights(w));
    Array2::from_shape_fn((x.nrows(), w.rows()), |(t, r)| {
        let mut row = vec![0.0; w.cols()];
        w.row_into(r, &mut row);
        let x = x.row(t).to_vec();
        let chain = |(x, w): (&[f32], &[f32])| {
            let pairs = x.chunks(2).zip(w.chunks(2));
            pairs.fold(0.0f32, |sum, (x, w)| {
                let terms = x.iter().zip(w).rev();
                terms.fold(sum, |sum, (x, w)| flush(flush(*x).mul_add(flush(*w), sum)))
            })
        };
        let blocks = x.chunks(256).zip(row.chunks(256)).map(chain);
        blocks.reduce(|a, b| a + b).unwrap_or(0.0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_dtype_alignment_and_overlay(
        seed: u64,
        m in 0usize..40,
        n in 0usize..140,
        k in prop_oneof![0usize..70, 500usize..530, 1000usize..1100],
        dtype in prop::sample::select(DTYPES.to_vec()),
        shift in 0usize..4,
        edited in 0usize..30,
        transposed: bool,
    ) {
        let mut random = Random(seed);
        let x = random.array(m, k);
        let w = match transposed {
            true => random.mat(dtype, k, n, shift).transposed(),
            false => random.mat(dtype, n, k, shift),
        };
        check_all(x.view(), &w);
        check_all(x.view(), &edits(&mut random, &w, edited));
    }
}

#[test]
fn rounding_is_to_the_nearest_and_ties_to_even() {
    let all = (0..=u32::MAX).step_by(97).map(f32::from_bits);
    let some = [
        0x3f80_8000,
        0x3f81_8000,
        0x7f7f_ffff,
        0xff7f_8000,
        0x0000_8000,
        0x7fc0_0001,
    ];
    for x in all.chain(some.map(f32::from_bits)) {
        let (found, expected) = (precision::round(x), bf16::from_f32(x).to_f32());
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(same, "{x:e}: {found:e}, expected {expected:e}");
    }
}

/// Without instructions for pairs, it is the product in f32 of factors that were rounded before, bit for bit.
#[test]
fn kernels_of_f32_multiply_rounded_factors() {
    let mut random = Random(5);
    for (m, n, k) in [(33, 90, 300), (5, 64, 128)] {
        let x = random.array(m, k);
        for dtype in DTYPES {
            let w = random.mat(dtype, n, k, 1);
            let w = edits(&mut random, &w, 9);
            let (near, weights) = (rounded(x.view()), rounded_weights(&w));
            for isa in Isa::all() {
                let mut expected = Array2::zeros((m, n));
                let mut found = Array2::zeros((m, n));
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512(kernel) => {
                        let kernel = precision::Rounded { kernel, isa };
                        super::blocked::matmul_t(kernel, x.view(), &mut [(&w, found.view_mut())]);
                    }
                    #[cfg(target_arch = "x86_64")]
                    Isa::Amx(_) => continue,
                    _ => found = product(isa, Order::Fixed, x.view(), &w),
                }
                compute(
                    isa,
                    Order::Fixed,
                    near.view(),
                    &mut [(&weights, expected.view_mut())],
                );
                assert_same(found.view(), expected.view(), isa.name());
            }
        }
    }
}

/// The kernels of pairs, fast or not.
#[cfg(target_arch = "x86_64")]
#[test]
fn dot_products_of_pairs() {
    use super::{blocked, x86::dot};
    use crate::isa::Avx512Bf16;

    let proof = Isa::all().into_iter().find_map(|isa| match isa {
        Isa::Avx512(proof) => Avx512Bf16::of_cpu(proof),
        _ => None,
    });
    let Some(dots) = proof else {
        return; // this CPU has no such instructions
    };
    let mut random = Random(9);
    for (m, n, k) in [
        (1, 3, 5),
        (16, 70, 257),
        (12, 64, 4200),
        (61, 83, 1301),
        (530, 70, 512),
    ] {
        let x = random.array(m, k);
        for (dtype, transposed) in [
            (Dtype::BF16, false),
            (Dtype::BF16, true),
            (Dtype::F16, false),
            (Dtype::F32, false),
        ] {
            let w = match transposed {
                true => random.mat(dtype, k, n, 0).transposed(),
                false => random.mat(dtype, n, k, 2),
            };
            let w = edits(&mut random, &w, 5);
            let many = |x: ArrayView2<f32>| {
                let mut y = Array2::zeros((x.nrows(), n));
                blocked::matmul_t(dots, x, &mut [(&w, y.view_mut())]);
                y
            };
            let whole = many(x.view());
            let bound = bound(x.view(), &w);
            assert_near(
                whole.view(),
                &reference::matmul_t_bf16(x.view(), &w),
                &bound,
                "many",
            );
            assert_same(whole.view(), twin_of_dots(x.view(), &w).view(), "twin");
            for threads in [1, 2, 5] {
                assert_same(
                    with_threads(threads, || many(x.view())).view(),
                    whole.view(),
                    "threads",
                );
            }
            for rows in [0..1, m - 1..m, 0..m.min(20)] {
                let part = many(x.slice(s![rows.clone(), ..]));
                assert_same(part.view(), whole.slice(s![rows, ..]), "rows");
            }
            if m <= dot::MOST_ROWS && precision::is_bf16(&w) && !transposed {
                let mut y = Array2::zeros((m, n));
                let x = rounded(x.view());
                dot::matmul_t(dots, x.view(), &mut [(&w, y.view_mut())]);
                assert_near(
                    y.view(),
                    &reference::matmul_t_bf16(x.view(), &w),
                    &bound,
                    "few",
                );
            }
        }
        let w = random.mat(Dtype::BF16, n, k, 0);
        let w = w.edited(&[(0, 0, 0.0), (n - 1, k - 1, 2.0)]).unwrap();
        if m <= dot::MOST_ROWS {
            let mut y = Array2::zeros((m, n));
            let near = rounded(x.view());
            dot::matmul_t(dots, near.view(), &mut [(&w, y.view_mut())]);
            let expected = reference::matmul_t_bf16(x.view(), &w);
            assert_near(y.view(), &expected, &bound(x.view(), &w), "few, edited");
        }
    }
}
