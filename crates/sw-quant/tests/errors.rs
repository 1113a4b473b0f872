//! What a caller can get wrong is an error that names it, and changes nothing.

use sw_quant::{
    Activation, Clip, Error, Grouping, Levels, Pick, Scheme, Scope, Tail, fake_quantize, outliers,
    quantize, search, smooth, stats,
};

/// The message of quantizing `w` both ways; they agree, and `w` stays as it was.
fn message(w: &[f32], shape: [usize; 2], scheme: Scheme, hold: &[(usize, usize)]) -> String {
    let mut copy = w.to_vec();
    let error = fake_quantize(&mut copy, shape, &scheme, hold).unwrap_err();
    assert!(
        copy.iter().zip(w).all(|(a, b)| a.to_bits() == b.to_bits()),
        "changed in spite of {error}"
    );
    assert_eq!(
        quantize(w, shape, &scheme, hold).unwrap_err().to_string(),
        error.to_string()
    );
    error.to_string()
}

#[test]
fn values_that_are_not_finite_are_named_by_place() {
    let plain = Scheme::default();
    for (value, name) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        for at in [0, 5, 59] {
            let mut w = vec![0.5; 60];
            w[at] = value;
            w[59] = if at == 59 { value } else { f32::NAN }; // a later one must not be reported first
            for grouping in [
                Grouping::Tensor,
                Grouping::Row,
                Grouping::flat(10),
                Grouping::tile(3, 5),
            ] {
                for clip in [
                    Clip::None,
                    Clip::ZScore { z: 3.0 },
                    Clip::Iqr { factor: 3.0 },
                    Clip::HeldOut,
                ] {
                    let text = message(
                        &w,
                        [3, 20],
                        Scheme {
                            grouping,
                            clip,
                            ..plain
                        },
                        &[(0, 5)],
                    );
                    let expected = format!(
                        "w: value at [{}, {}] (index {at}) is {name}",
                        at / 20,
                        at % 20
                    );
                    assert!(text.starts_with(&expected), "{text}");
                }
            }
        }
    }
}

#[test]
fn arguments_are_named() {
    let scheme = |levels, grouping, clip| Scheme {
        levels,
        grouping,
        clip,
        ..Scheme::default()
    };
    let (l, g, c) = (Levels::default(), Grouping::Row, Clip::None);
    let top = |fraction| Clip::TopFraction {
        fraction,
        scope: Scope::Block,
    };
    let cases = [
        (
            scheme(Levels::asymmetric(1), g, c),
            "bits: expected 2 to 8, found 1",
        ),
        (
            scheme(Levels::asymmetric(0), g, c),
            "bits: expected 2 to 8, found 0",
        ),
        (
            scheme(Levels::symmetric(9), g, c),
            "bits: expected 2 to 8, found 9",
        ),
        (
            scheme(l, g, Clip::ZScore { z: 0.0 }),
            "clip.z: expected a finite number above 0, found 0.0",
        ),
        (
            scheme(l, g, Clip::ZScore { z: -1.0 }),
            "clip.z: expected a finite number above 0, found -1.0",
        ),
        (
            scheme(l, g, Clip::ZScore { z: f32::NAN }),
            "clip.z: expected a finite number above 0, found NaN",
        ),
        (
            scheme(l, g, top(0.0)),
            "clip.fraction: expected a number above 0 and below 1, found 0.0",
        ),
        (
            scheme(l, g, top(1.0)),
            "clip.fraction: expected a number above 0 and below 1, found 1.0",
        ),
        (
            scheme(l, g, Clip::Iqr { factor: -1.0 }),
            "clip.factor: expected a finite number of at least 0",
        ),
        (
            scheme(l, Grouping::flat(0), c),
            "grouping: expected blocks of at least one element",
        ),
        (
            scheme(l, Grouping::tile(0, 2), c),
            "grouping: expected blocks of at least one element",
        ),
        (
            scheme(l, Grouping::flat(4), c),
            "grouping: blocks of 4 do not divide 6 elements",
        ),
        (
            scheme(l, Grouping::tile(2, 2), c),
            "grouping: blocks of 2 do not divide 3 columns",
        ),
        (
            scheme(l, Grouping::tile(3, 3), c),
            "grouping: blocks of 3 do not divide 2 rows",
        ),
    ];
    for (scheme, expected) in cases {
        let text = message(&[1.0; 6], [2, 3], scheme, &[]);
        assert!(text.starts_with(expected), "{text}");
    }
    let short = scheme(l, Grouping::flat(4).with_tail(Tail::Short), c);
    assert!(quantize(&[1.0f32; 6], [2, 3], &short, &[]).is_ok());
}

#[test]
fn shapes_and_coordinates_are_named() {
    let plain = Scheme::default();
    let huge = usize::MAX / 2;
    for (shape, hold, expected) in [
        (
            [2, 2],
            &[][..],
            "w: expected [2, 2] = 4 values, found 6 values",
        ),
        ([0, 3], &[], "w: empty, shape [0, 3]"),
        (
            [huge, 3],
            &[],
            "w: expected [9223372036854775807, 3], more than an address holds, found 6 values",
        ),
        (
            [2, 3],
            &[(0, 0), (2, 0)],
            "hold[1]: coordinate (2, 0) is outside [2, 3]",
        ),
        (
            [2, 3],
            &[(0, 3)],
            "hold[0]: coordinate (0, 3) is outside [2, 3]",
        ),
    ] {
        let text = message(&[1.0; 6], shape, plain, hold);
        assert!(text.starts_with(expected), "{text}");
    }
    assert!(message(&[], [0, 0], plain, &[]).starts_with("w: empty"));
}

#[test]
fn a_range_beyond_the_arithmetic_is_named() {
    let text = message(&[f32::MAX, f32::MIN], [1, 2], Scheme::default(), &[]);
    assert!(
        text.starts_with("block 0: range [-340282350000000000000000000000000000000, 3402823"),
        "{text}"
    );
    let release = Scheme {
        arithmetic: sw_quant::Arithmetic::ReleaseF16,
        ..Scheme::new(Levels::asymmetric(8), Grouping::Row)
    };
    let text = message(&[0.0, 1.0, 0.0, 0.003], [2, 2], release, &[]);
    assert!(
        text.contains("block 1") && text.contains("steps/(hi - lo) overflows"),
        "{text}"
    );
    let text = message(
        &[1.0],
        [1, 1],
        Scheme {
            levels: Levels::Nf4,
            ..release
        },
        &[],
    );
    assert!(
        text.starts_with("levels: expected asymmetric levels with a float zero-point"),
        "{text}"
    );
}

#[test]
fn the_other_entry_points() {
    let w = [1.0f32, 2.0, 3.0, 4.0];
    let mut x = w;
    let recipe = Activation {
        pick: Pick::At {
            coordinates: vec![(0, 0), (5, 0)],
        },
        ..Activation::paper(8)
    };
    assert_eq!(
        recipe.apply(&mut x, [2, 2]).unwrap_err(),
        Error::Coordinate {
            what: "coordinates",
            entry: 1,
            row: 5,
            col: 0,
            rows: 2,
            cols: 2
        }
    );
    assert_eq!(x, w);
    assert!(Activation::paper(8).apply(&mut [f32::NAN], [1, 1]).is_err());
    assert!(Activation::paper(8).apply::<f32>(&mut [], [0, 4]).is_err());

    assert!(outliers::largest(&w, [2, 3], 1).is_err());
    assert!(stats::compare(&w, &w[..3]).is_err());
    assert!(stats::compare::<f32, f32>(&[], &[]).is_err());
    let scheme = Scheme::default();
    for zs in [&[][..], &[0.0], &[1.0, f32::INFINITY]] {
        let error = search::weight_error(&w, [2, 2], &scheme, &[], zs).unwrap_err();
        assert!(error.to_string().starts_with("zs: expected"), "{error}");
    }
    assert!(search::output_error(&w, [2, 2], &w, [1, 4], &scheme, &[], &[2.0]).is_err());
    assert!(smooth::scales(&[1.0], &[1.0], 1.5).is_err());
    assert!(smooth::scales(&[-1.0], &[1.0], 0.5).is_err());
    assert!(smooth::scales(&[1.0, 2.0], &[1.0], 0.5).is_err());
    assert!(smooth::fold_into_norm(&mut [1.0f32], &[0.0]).is_err());
    let search = smooth::search_alpha(
        &w,
        [2, 2],
        &[(&w, [4, 1])],
        &Activation::naive(8),
        &scheme,
        &smooth::ALPHAS,
    );
    assert!(
        search
            .unwrap_err()
            .to_string()
            .starts_with("weights: expected as many columns as x has")
    );

    let q = quantize(&w, [2, 2], &scheme, &[]).unwrap();
    assert!(q.dequantize_row_into(2, &mut x[..2]).is_err());
    assert!(q.dequantize_row_into(0, &mut x).is_err());
    assert!(q.dequantize_block_into(2, &mut x[..2]).is_err());
    assert!(q.codes_into(3, &mut [0; 2]).is_err());
    assert!(q.codes_into(usize::MAX, &mut [0; 2]).is_err());
    let float = q.clone().with_scales::<half::bf16, f32>(&w).unwrap_err();
    assert!(
        float.to_string().starts_with("levels: expected symmetric"),
        "{float}"
    );
    let symmetric = Scheme::new(Levels::symmetric(8), Grouping::Row);
    let huge = w.map(|v| v * 1e9);
    let huge_q = quantize(&huge, [2, 2], &symmetric, &[]).unwrap();
    let lost = huge_q.with_scales::<half::f16, f32>(&huge).unwrap_err();
    assert!(
        lost.to_string().contains("narrower type") && lost.to_string().contains("block 0"),
        "{lost}"
    );
    let mut q = q;
    for places in [[1, 1], [2, 1], [0, 4]] {
        let outliers = places.map(|index| sw_quant::Outlier { index, value: 1.0 });
        assert!(q.set_outliers(outliers.to_vec()).is_err(), "{places:?}");
    }
}

#[test]
fn errors_of_smoothing_and_comparing_name_what_is_wrong() {
    use half::f16;
    let text = |result: Result<(), Error>| result.unwrap_err().to_string();
    let compared = stats::compare(&[1.0f32, 2.0], &[1.0f32, f32::NAN]).unwrap_err();
    let expected = "approximation: value at [0, 1] (index 1) is NaN";
    assert!(compared.to_string().starts_with(expected), "{compared}");

    // 2 / 1e-5 is beyond f16: nothing is written, not even the value that would fit.
    let mut norm = [f16::ONE, f16::from_f32(2.0)];
    let error = text(smooth::fold_into_norm(&mut norm, &[1.0, 1e-5]));
    assert!(
        error.starts_with("scales: ") && error.contains("norm [0, 1] = 2") && error.contains("F16"),
        "{error}"
    );
    assert_eq!(norm, [f16::ONE, f16::from_f32(2.0)]);
    let mut w = [f16::ONE, f16::ONE, f16::ONE, f16::MAX];
    let error = text(smooth::scale_columns(&mut w, [2, 2], &[1.0, 2.0]));
    assert!(error.contains("w [1, 1] = 65504"), "{error}");
    assert_eq!(w[0], f16::ONE);
    let error = text(smooth::scale_columns(&mut [f32::INFINITY], [1, 1], &[1.0]));
    assert!(
        error.starts_with("w: value at [0, 0] (index 0) is inf"),
        "{error}"
    );
    let error = text(smooth::column_maxima(&[1.0f32; 4], [2, 2], &mut [0.0; 3]));
    assert!(
        error.starts_with("maxima: expected [1, 2] = 2 values, found 3"),
        "{error}"
    );
    let error = sw_quant::packed::byte_len([2, 2], &Scheme::default(), &[(0, 2)]).unwrap_err();
    assert!(
        error.to_string().starts_with("hold[0]: coordinate (0, 2)"),
        "{error}"
    );
}
