//! Matrices, and the sweeps over rows against their f64 twins.

use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;

use crate::testing::{DTYPES, Random, U, assert_near, gamma};
use crate::{
    Error, GeluKind, LogSumExp, Mat, Norm, Rope, add, add_bias, all_finite, gelu, gelu_mul,
    log_sum_exp, reference, silu, silu_mul, softmax,
};

#[test]
fn views_and_edits_compose() {
    for dtype in DTYPES {
        let w = Random(5).mat(dtype, 6, 4, 1);
        let edited = w
            .edited(&[(1, 2, 10.0), (5, 3, 20.0), (1, 2, 11.0)])
            .unwrap();
        assert_eq!((w.overlay_len(), edited.overlay_len()), (0, 2));
        assert_eq!(
            (edited.get(1, 2), edited.get(5, 3), edited.get(0, 0)),
            (11.0, 20.0, w.get(0, 0))
        );
        let again = edited.edited(&[(1, 2, 0.0), (0, 0, 1.5)]).unwrap();
        assert_eq!(
            (again.get(1, 2), again.get(5, 3), again.get(0, 0)),
            (0.0, 20.0, 1.5)
        );
        assert_eq!(edited.get(1, 2), 11.0, "the original stays");

        let part = again.slice_rows(1..6).slice_rows(0..5);
        assert_eq!(
            (part.get(0, 2), part.get(4, 3), part.overlay_len()),
            (0.0, 20.0, 2)
        );
        let turned = part.transposed();
        assert_eq!((turned.rows(), turned.cols()), (4, 5));
        assert_eq!(
            (turned.get(2, 0), turned.get(3, 4), turned.get(1, 1)),
            (0.0, 20.0, w.get(2, 1))
        );
        assert_eq!(turned.slice_rows(3..4).transposed().get(4, 0), 20.0);
        let edited = turned.edited(&[(0, 3, -1.0)]).unwrap();
        assert_eq!(edited.transposed().get(3, 0), -1.0);

        let mut block = [0.0; 4];
        edited.widen(2..4, 0..2, &mut block);
        assert_eq!(
            block,
            [
                edited.get(2, 0),
                edited.get(2, 1),
                edited.get(3, 0),
                edited.get(3, 1)
            ]
        );
    }
}

#[test]
fn empty_shapes_are_fine() {
    let none = Mat::from_f32(0, 5, vec![]);
    none.widen(0..0, 0..5, &mut []);
    assert_eq!((none.transposed().rows(), none.transposed().cols()), (5, 0));
    let w = Mat::from_f32(2, 2, vec![1.0; 4]);
    assert_eq!(w.slice_rows(2..2).rows(), 0);
    w.slice_rows(2..2).transposed().widen(0..2, 0..0, &mut []);
    w.widen(1..1, 0..2, &mut []);
}

#[test]
fn an_edit_outside_is_an_error() {
    let w = Mat::from_f32(2, 3, vec![0.0; 6]);
    for place in [(2, 0), (0, 3), (usize::MAX, usize::MAX)] {
        assert!(matches!(
            w.edited(&[(place.0, place.1, 1.0)]),
            Err(Error::EditOutside { .. })
        ));
    }
}

/// Rows of adjacent and of scattered elements, so that both ways through a row are taken.
fn layouts(x: &Array2<f32>) -> [Array2<f32>; 2] {
    let mut scattered = Array2::zeros(x.raw_dim())
        .reversed_axes()
        .as_standard_layout()
        .into_owned()
        .reversed_axes();
    scattered.assign(x);
    [x.clone(), scattered]
}

fn check(
    x: &Array2<f32>,
    expected: &Array2<f64>,
    bound: &Array2<f64>,
    f: impl Fn(ArrayView2<f32>, ndarray::ArrayViewMut2<f32>),
) {
    for x in layouts(x) {
        let mut out = x.clone();
        f(x.view(), out.view_mut());
        assert_near(out.view(), expected, bound, "");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn norms(seed: u64, rows in 0usize..20, cols in prop_oneof![1usize..40, 2000usize..2100]) {
        let mut random = Random(seed);
        let x = random.array(rows, cols);
        let (weight, bias) = (random.array(1, cols).into_raw_vec_and_offset().0, random.array(1, cols).into_raw_vec_and_offset().0);
        // Sixteen partial sums of squares, a tree, a mean, a root: all terms positive, so errors are relative.
        let relative = gamma(cols / 16 + 16);
        let expected = reference::rms_norm(x.view(), &weight, 1e-5);
        let bound = expected.mapv(|y| relative * y.abs() + 1e-30);
        let rms = Norm::Rms { weight: &weight, eps: 1e-5 };
        check(&x, &expected, &bound, |x, out| rms.apply(x, out));

        // Subtracting the mean cancels: the error is relative to the largest element over the deviation.
        let expected = reference::layer_norm(x.view(), Some(&weight), Some(&bias), 1e-3);
        let mut bound = expected.clone();
        for (row, mut bound) in x.rows().into_iter().zip(bound.rows_mut()) {
            let largest = row.iter().fold(0.0f64, |max, &x| max.max(f64::from(x).abs()));
            let (mean, n) = (row.iter().map(|&x| f64::from(x)).sum::<f64>() / cols as f64, cols as f64);
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            let scale = 1.0 / (variance + 1e-3).sqrt();
            // Mean: relative * largest. Variance: 2 relative * largest * deviation, or its square.
            let slip = relative * largest * scale;
            for ((bound, w), b) in bound.iter_mut().zip(&weight).zip(&bias) {
                let value = (bound.abs() + f64::from(b.abs())) / f64::from(w.abs()).max(1e-30);
                let each = slip + value * (relative + slip * slip + 2.0 * slip) + 4.0 * U * value;
                *bound = f64::from(w.abs()) * each + 2.0 * U * (bound.abs() + 2.0 * f64::from(b.abs())) + 1e-30;
            }
        }
        let layer = Norm::Layer { weight: Some(&weight), bias: Some(&bias), eps: 1e-3 };
        check(&x, &expected, &bound, |x, out| layer.apply(x, out));
    }

    #[test]
    fn a_sum_and_its_norm_in_one_sweep(seed: u64, rows in 0usize..20, cols in prop_oneof![1usize..40, 2000usize..2100], bad in prop::option::of(0usize..40000)) {
        let mut random = Random(seed);
        let (x, mut y) = (random.array(rows, 2 * cols), random.array(rows, cols));
        if let Some(bad) = bad && !y.is_empty() {
            y[[bad % rows, bad % cols]] = [f32::NAN, f32::INFINITY][bad % 2];
        }
        let weight = random.array(1, cols).into_raw_vec_and_offset().0;
        let norms = [
            Norm::Rms { weight: &weight, eps: 1e-5 },
            Norm::Layer { weight: Some(&weight), bias: Some(&weight), eps: 1e-3 },
            Norm::Layer { weight: None, bias: None, eps: 1e-3 },
        ];
        // Rows as they should be, and with elements that are not adjacent.
        for (norm, step) in norms.into_iter().flat_map(|norm| [(norm, 1), (norm, 2)]) {
            let columns = s![.., ..(step * cols) as isize; step as isize];
            let (mut sum, mut normed) = (x.clone(), x.clone());
            add(sum.slice_mut(columns), y.view());
            norm.apply(sum.slice(columns), normed.slice_mut(columns));
            let (mut acc, mut out) = (x.clone(), x.clone());
            let finite = norm.apply_to_sum(acc.slice_mut(columns), y.view(), out.slice_mut(columns));
            prop_assert_eq!(finite, all_finite(sum.slice(columns)));
            let bits = |x: &Array2<f32>| x.mapv(f32::to_bits);
            prop_assert_eq!(bits(&acc), bits(&sum));
            prop_assert_eq!(bits(&out), bits(&normed));
        }
    }

    #[test]
    fn rotary(seed: u64, rows in 0usize..20, heads in 1usize..4, n in 0usize..9, spare in 0usize..3, scale in 0.5f32..2.0) {
        let mut random = Random(seed);
        let head_dim = 2 * n + spare.max(usize::from(n == 0));
        let x = random.array(rows, heads * head_dim);
        let inv_freq = (0..n).map(|i| 10000f32.powf(-(i as f32) / n as f32)).collect();
        let positions: Vec<u32> = (0..rows).map(|_| (random.next() % 5000) as u32).collect();
        let rope = Rope::new(inv_freq, scale);
        let expected = reference::rope(&rope, x.view(), head_dim, &positions);
        // Two products and a sum, sine and cosine within an ulp or two and scaled.
        let largest = x.iter().fold(0.0f64, |max, &x| max.max(f64::from(x).abs()));
        let bound = Array2::from_elem(x.raw_dim(), 2.0 * largest * f64::from(scale.max(1.0)) * gamma(6));
        check(&x, &expected, &bound, |x, mut out| {
            out.assign(&x);
            rope.apply(out, head_dim, &positions);
        });
    }

    #[test]
    fn activations(seed: u64, rows in 0usize..4, cols in 0usize..60) {
        let mut random = Random(seed);
        let x = random.array(rows, cols).mapv(|x| x * 5.0);
        let up = random.array(rows, cols);
        let wide = |f: &dyn Fn(f64) -> f64| x.mapv(|x| f(f64::from(x)));
        // Four ulp of the sigmoid, one of the product; the cubic's rounding is amplified by its size, at most 90 where
        // the result is not yet zero.
        let bound = |y: &Array2<f64>, n| y.mapv(|y| gamma(n) * y.abs() + 1e-36);
        let expected = wide(&reference::silu);
        check(&x, &expected, &bound(&expected, 12), |x, mut out| { out.assign(&x); silu(out) });
        let product = &expected * &reference::widen(up.view());
        check(&x, &product, &bound(&product, 13), |x, mut out| { out.assign(&x); silu_mul(out, up.view()) });
        for (kind, n) in [(GeluKind::Tanh, 12 + 6 * 90), (GeluKind::Erf, 2)] {
            let expected = wide(&|z| reference::gelu(z, kind));
            check(&x, &expected, &bound(&expected, n), |x, mut out| { out.assign(&x); gelu(out, kind) });
            let product = &expected * &reference::widen(up.view());
            check(&x, &product, &bound(&product, n + 1), |x, mut out| { out.assign(&x); gelu_mul(out, up.view(), kind) });
        }
        let sum = reference::widen(x.view()) + reference::widen(up.view());
        check(&x, &sum, &bound(&sum, 1), |x, mut out| { out.assign(&x); add(out, up.view()) });
        if rows > 0 {
            let bias = up.row(0).to_vec();
            let sum = reference::widen(x.view()) + reference::widen(up.slice(s![..1, ..]));
            check(&x, &sum, &bound(&sum, 1), |x, mut out| { out.assign(&x); add_bias(out, &bias) });
        }
    }

    #[test]
    fn softmaxes(seed: u64, n in 1usize..300) {
        let x = Random(seed).array(1, n).mapv(|x| x * 3.0).into_raw_vec_and_offset().0;
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let (mut found, expected) = (x.clone(), reference::softmax(&wide));
        softmax(&mut found);
        let range = x.iter().fold(0.0f64, |max, &x| max.max(f64::from(x).abs())) * 2.0;
        for (found, expected) in found.iter().zip(&expected) {
            // Rounding the difference moves the exponent by up to U * range.
            let bound = expected * (U * range + gamma(n / 16 + 12)) * 1.01 + 1e-37;
            prop_assert!((f64::from(*found) - expected).abs() <= bound);
        }
        let exact = reference::log_sum_exp(&wide);
        let largest = wide.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Of each term but the largest: the rounded distance, and the exponential's 1.5 ulp of twice U each.
        let of_term = |(x, p): (&f64, &f64)| if *x < largest { p * (largest - x + 3.0) * U } else { 0.0 };
        let bound = wide.iter().zip(&expected).map(of_term).sum::<f64>() * 1.01 + 1e-14 * (1.0 + exact.abs());
        prop_assert!((log_sum_exp(&x) - exact).abs() <= bound);
        for parts in [1, 7, 100] {
            let mut seen = LogSumExp::default();
            for part in x.chunks(parts) {
                let largest = part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                prop_assert_eq!(seen.add(part), largest);
            }
            prop_assert_eq!(f64::from(seen.largest()), largest);
            prop_assert!((seen.value() - exact).abs() <= bound);
        }
    }
}

#[test]
fn edges_of_softmax() {
    softmax(&mut []);
    assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
    assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
    assert!(log_sum_exp(&[1.0, f32::NAN, 3.0]).is_nan());
    let in_parts = |parts: &[&[f32]]| {
        let mut seen = LogSumExp::default();
        for part in parts {
            seen.add(part);
        }
        seen.value()
    };
    let (none, infinite) = (f32::NEG_INFINITY, f32::INFINITY);
    assert_eq!(in_parts(&[&[], &[none], &[2.0], &[none, none], &[]]), 2.0);
    assert_eq!(in_parts(&[&[infinite], &[infinite], &[1.0]]), f64::INFINITY);
    assert!(in_parts(&[&[1.0], &[f32::NAN], &[3.0]]).is_nan());
    let mut row = [0.0, f32::NEG_INFINITY];
    softmax(&mut row);
    assert_eq!(row, [1.0, 0.0]);
}

#[test]
fn what_is_not_finite_is_found_anywhere() {
    let x = Random(3).array(40, 33);
    assert!(all_finite(x.view()));
    assert!(all_finite(x.t()));
    assert!(all_finite(ndarray::Array2::zeros((0, 5)).view()));
    for (bad, at) in [
        (f32::NAN, (0, 0)),
        (f32::INFINITY, (39, 32)),
        (f32::NEG_INFINITY, (17, 16)),
    ] {
        let mut x = x.clone();
        x[at] = bad;
        assert!(!all_finite(x.view()) && !all_finite(x.t()), "{bad} {at:?}");
    }
}

#[test]
fn gelu_matches_known_values() {
    // x Phi(x), from tables of the normal distribution.
    for (x, y) in [
        (0.0, 0.0),
        (1.0, 0.841_344_746),
        (-1.0, -0.158_655_254),
        (-5.0, -1.433_257_9e-6),
        (3.0, 2.995_950_3),
    ] {
        let found = reference::gelu(x, GeluKind::Erf);
        assert!(
            (found - y).abs() <= 2e-8 * y.abs().max(1e-3),
            "{x}: {found}"
        );
    }
}

#[test]
fn a_matrix_is_changed_in_place_where_it_is_its_own() {
    let mut w = Mat::from_f32(2, 2, vec![1.0, 2.0, 3.0, 4.0]);
    let at = w.to_mut().as_ptr();
    w.to_mut()[3] = 5.0;
    assert_eq!((w.to_mut().as_ptr(), w.get(1, 1)), (at, 5.0));
    // A clone, a view and an edit keep what they had.
    let (clone, view) = (w.clone(), w.slice_rows(1..2));
    w.to_mut()[2] = 6.0;
    assert_eq!(
        (w.get(1, 0), clone.get(1, 0), view.get(0, 0)),
        (6.0, 3.0, 3.0)
    );
    let mut edited = w.edited(&[(0, 0, 9.0)]).unwrap();
    assert_eq!(edited.to_mut(), [9.0, 2.0, 6.0, 5.0]);
    let mut part = w.slice_rows(0..1);
    assert_eq!(part.to_mut(), [1.0, 2.0]);
    let mut turned = w.transposed();
    assert_eq!(turned.to_mut(), [1.0, 6.0, 2.0, 5.0]);
    let half = half::f16::from_f32(0.5);
    assert_eq!(Mat::from_f16(1, 1, vec![half]).to_mut(), [0.5]);
}
