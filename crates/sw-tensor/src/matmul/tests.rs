//! Every kernel this CPU has, against the f64 reference, the scalar twin, and itself with other rows and threads.

use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;

use super::{K_BLOCK, matmul_t_few_with, matmul_t_with};
use crate::isa::Isa;
use crate::reference;
use crate::testing::{DTYPES, Random, assert_near, assert_same, fused, gamma, with_threads};
use crate::{Dtype, Mat};

fn product(isa: Isa, x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
    let mut y = Array2::from_elem((x.nrows(), w.rows()), f32::NAN);
    matmul_t_with(isa, x, w, y.view_mut());
    y
}

fn product_few(isa: Isa, x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
    let mut y = Array2::from_elem((x.nrows(), w.rows()), f32::NAN);
    matmul_t_few_with(isa, x, w, y.view_mut());
    y
}

/// Roundings that a product passes through: one per term of its block (two without fused multiply-add), one per block.
fn roundings(k: usize) -> usize {
    K_BLOCK.min(k) + 1 + k.div_ceil(K_BLOCK)
}

/// The same for few rows: one chain in 16 lanes and a tree, or one chain for a row with edits.
fn roundings_few(k: usize) -> usize {
    roundings(k).max(k + 5)
}

/// Below the normal range each rounding may lose half of the smallest subnormal instead.
fn bound(x: ArrayView2<f32>, w: &Mat, roundings: usize) -> Array2<f64> {
    let underflow = x.ncols() as f64 * f64::from(f32::from_bits(1));
    reference::matmul_t_abs(x, w).mapv(|sum| gamma(roundings) * sum + underflow)
}

/// The definition of `matmul_t`, one element at a time.
fn twin(x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
    Array2::from_shape_fn((x.nrows(), w.rows()), |(t, r)| {
        let mut row = vec![0.0; w.cols()];
        w.row_into(r, &mut row);
        let x = x.row(t).to_vec();
        let chain = |(x, w): (&[f32], &[f32])| {
            x.iter()
                .zip(w)
                .fold(0.0f32, |sum, (x, w)| x.mul_add(*w, sum))
        };
        x.chunks(K_BLOCK)
            .zip(row.chunks(K_BLOCK))
            .map(chain)
            .reduce(|a, b| a + b)
            .unwrap_or(0.0)
    })
}

fn edits(random: &mut Random, w: &Mat, n: usize) -> Mat {
    if w.rows() * w.cols() == 0 {
        return w.clone();
    }
    let place = |random: &mut Random| {
        let (row, col) = (
            random.next() as usize % w.rows(),
            random.next() as usize % w.cols(),
        );
        (
            row,
            col,
            if random.next().is_multiple_of(2) {
                0.0
            } else {
                random.signed() * 100.0
            },
        )
    };
    let edits: Vec<_> = (0..n).map(|_| place(random)).collect();
    w.edited(&edits).unwrap()
}

fn check_all(x: ArrayView2<f32>, w: &Mat) {
    let expected = reference::matmul_t(x, w);
    let many = bound(x, w, roundings(x.ncols()));
    let few = bound(x, w, roundings_few(x.ncols()));
    for isa in Isa::all() {
        assert_near(product(isa, x, w).view(), &expected, &many, isa.name());
        assert_near(product_few(isa, x, w).view(), &expected, &few, isa.name());
    }
    let twin = twin(x, w);
    for isa in fused() {
        assert_same(product(isa, x, w).view(), twin.view(), isa.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_dtype_alignment_and_overlay(
        seed: u64,
        m in 0usize..40,
        n in 0usize..100,
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
        check_all(x.view(), &edits(&mut random, &w, edited));
    }

    #[test]
    fn a_slice_of_rows_gives_a_slice_of_columns(seed: u64, dtype in prop::sample::select(DTYPES.to_vec())) {
        let mut random = Random(seed);
        let x = random.array(5, 40);
        let base = random.mat(dtype, 70, 40, 1);
        let w = edits(&mut random, &base, 20);
        for isa in Isa::all() {
            let whole = product(isa, x.view(), &w);
            for rows in [0..0, 0..1, 3..40, 69..70, 70..70, 0..70] {
                let part = product(isa, x.view(), &w.slice_rows(rows.clone()));
                assert_same(part.view(), whole.slice(s![.., rows]), isa.name());
            }
        }
    }
}

#[test]
fn a_row_depends_on_nothing_but_itself() {
    let mut random = Random(7);
    for (m, n, k) in [(61, 83, 1300), (30, 64, 512), (3, 200, 96)] {
        let x = random.array(m, k);
        for dtype in DTYPES {
            let w = random.mat(dtype, n, k, 2);
            for isa in Isa::all() {
                let whole = product(isa, x.view(), &w);
                for threads in [1, 2, 3, 7] {
                    let again = with_threads(threads, || product(isa, x.view(), &w));
                    assert_same(again.view(), whole.view(), isa.name());
                }
                for rows in [0..1, m - 1..m, 1..m.min(20), 0..m.min(29)] {
                    let part = product(isa, x.slice(s![rows.clone(), ..]), &w);
                    assert_same(part.view(), whole.slice(s![rows, ..]), isa.name());
                }
            }
        }
    }
}

#[test]
fn views_of_any_stride() {
    let mut random = Random(3);
    let (x, w) = (random.array(64, 66), random.mat(Dtype::BF16, 40, 33, 1));
    for isa in Isa::all() {
        let strided = x.slice(s![..;2, ..;2]);
        let dense = strided.to_owned();
        let expected = product(isa, dense.view(), &w);
        assert_same(
            product(isa, strided, &w).view(),
            expected.view(),
            "strided x",
        );
        let turned = dense.t().as_standard_layout().into_owned();
        assert_same(
            product(isa, turned.t(), &w).view(),
            expected.view(),
            "transposed x",
        );
        let mut y = Array2::zeros((40, 32));
        matmul_t_with(isa, dense.view(), &w, y.view_mut().reversed_axes());
        assert_same(y.t(), expected.view(), "transposed y");
        let mut y = Array2::zeros((32, 50));
        matmul_t_with(isa, dense.view(), &w, y.slice_mut(s![..;-1, 5..45]));
        assert_same(y.slice(s![..;-1, 5..45]), expected.view(), "reversed y");
        assert!(
            y.slice(s![.., ..5])
                .iter()
                .chain(y.slice(s![.., 45..]))
                .all(|&y| y == 0.0),
            "wrote outside"
        );
    }
}

#[test]
fn a_pruned_weight_is_a_true_zero() {
    // A product with infinity shows whether the weight is zero or merely subtracted afterwards.
    let mut x = Array2::ones((3, 600));
    x[[1, 550]] = f32::MAX;
    for dtype in DTYPES {
        let w = Random(1)
            .mat(dtype, 40, 600, 0)
            .edited(&[(7, 550, 0.0)])
            .unwrap();
        let mut clean = x.clone();
        clean[[1, 550]] = 0.0;
        for isa in Isa::all() {
            let (with, without) = (product(isa, x.view(), &w), product(isa, clean.view(), &w));
            assert_eq!(with[[1, 7]].to_bits(), without[[1, 7]].to_bits());
        }
    }
}

#[test]
#[should_panic(expected = "x has 3 columns, w has 4")]
fn shapes_must_agree() {
    product(
        Isa::Portable,
        Array2::zeros((1, 3)).view(),
        &Mat::from_f32(1, 4, vec![0.0; 4]),
    );
}
