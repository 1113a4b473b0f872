//! Clips of least error, and scales of 16 bits.

use half::f16;
use sw_quant::{
    Clip, Dtype, Grouping, Levels, Offsets, Quantized, Scheme, Steps, Tail, ZeroPoint,
    fake_quantize, fake_quantize_weighted, quantize, quantize_weighted, reference,
};

const SHAPE: [usize; 2] = [12, 96];

/// Values with some outliers, and how much their columns count.
fn matrix() -> (Vec<f32>, Vec<f32>) {
    let value = |i: usize| {
        let v = ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * ((i * 31 % 17) as f32 / 17.0);
        if i % 97 == 5 { v * 20.0 } else { v }
    };
    let importance = (0..SHAPE[1]).map(|c| {
        if c % 11 == 3 {
            40.0
        } else {
            0.1 + (c % 5) as f32
        }
    });
    (
        (0..SHAPE[0] * SHAPE[1]).map(value).collect(),
        importance.collect(),
    )
}

fn schemes() -> Vec<Scheme> {
    let integer = Levels::Asymmetric {
        bits: 4,
        steps: Steps::Full,
        zero: ZeroPoint::Integer,
    };
    let levels = [
        Levels::asymmetric(3),
        integer,
        Levels::symmetric(4),
        Levels::Nf4,
    ];
    let groupings = [
        Grouping::Row,
        Grouping::flat(32),
        Grouping::flat(160).with_tail(Tail::Short),
        Grouping::tile(5, 40).with_tail(Tail::Short),
        Grouping::Tensor,
    ];
    let pair = |l: &Levels| groupings.map(|g| Scheme::new(*l, g).with_clip(Clip::LeastError));
    levels.iter().flat_map(pair).collect()
}

/// The error that counts.
fn error(a: &[f32], b: &[f32], importance: &[f32]) -> f64 {
    let columns = importance.iter().cycle();
    let each = a.iter().zip(b).zip(columns);
    each.map(|((a, b), i)| f64::from(*i) * f64::from(a - b).powi(2))
        .sum()
}

#[test]
fn the_threshold_is_that_of_the_textbook() {
    let (w, importance) = matrix();
    for scheme in schemes() {
        let mut fast = w.clone();
        fake_quantize_weighted(&mut fast, SHAPE, &scheme, &[], &importance).unwrap();
        let blocks = scheme.grouping.blocks(SHAPE).unwrap();
        let least = |b| {
            let places: Vec<usize> = blocks.segments(b).flatten().collect();
            let values: Vec<f64> = places.iter().map(|&p| f64::from(w[p])).collect();
            let counts = places.iter().map(|&p| f64::from(importance[p % SHAPE[1]]));
            reference::least_error(&values, &counts.collect::<Vec<_>>(), &scheme.levels).1
        };
        let expected: f64 = (0..blocks.count()).map(least).sum();
        let found = error(&w, &fast, &importance);
        // Where both ends are clipped, an integer zero-point lies half-way between two codes: either is right.
        let room = match scheme.levels {
            Levels::Asymmetric {
                zero: ZeroPoint::Integer,
                ..
            } => 0.03,
            _ => 1e-3,
        };
        assert!(
            (found - expected).abs() < room * expected,
            "{scheme:?}: {found} {expected}"
        );

        // It pays, and more than the one that knows no importance.
        let with = |scheme: Scheme| {
            let mut values = w.clone();
            fake_quantize(&mut values, SHAPE, &scheme, &[]).unwrap();
            error(&w, &values, &importance)
        };
        assert!(found < with(scheme.with_clip(Clip::None)), "{scheme:?}");
        assert!(found < with(scheme) * 1.001, "{scheme:?}");

        // Codes stand for the same values.
        let codes = quantize_weighted(&w, SHAPE, &scheme, &[], &importance).unwrap();
        assert_eq!(codes.dequantize::<f32>(), fast);
    }
}

#[test]
fn held_values_count_for_nothing() {
    let (mut w, importance) = matrix();
    let hold = [(2, 3), (7, 50)];
    for scheme in schemes() {
        let run = |w: &[f32]| {
            let mut values = w.to_vec();
            fake_quantize_weighted(&mut values, SHAPE, &scheme, &hold, &importance).unwrap();
            values
        };
        let before = run(&w);
        for (row, col) in hold {
            w[row * SHAPE[1] + col] *= -1000.0;
        }
        let after = run(&w);
        for (p, (a, b)) in before.iter().zip(&after).enumerate() {
            let held = hold.contains(&(p / SHAPE[1], p % SHAPE[1]));
            assert!(if held { *b == w[p] } else { a == b }, "{scheme:?}: {p}");
        }
        for (row, col) in hold {
            w[row * SHAPE[1] + col] /= -1000.0;
        }
    }
}

#[test]
fn importance_is_checked() {
    let (w, mut importance) = matrix();
    let scheme = Scheme::default().with_clip(Clip::LeastError);
    importance[4] = f32::NAN;
    let wrong = [&importance[..], &importance[..4], &[]];
    for importance in wrong {
        let error = quantize_weighted(&w, SHAPE, &scheme, &[], importance).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("importance: expected a finite number"),
            "{error}"
        );
    }
}

#[test]
fn scales_are_rounded_before_codes_are_chosen() {
    let (w, importance) = matrix();
    for scheme in schemes() {
        for clip in [Clip::None, Clip::LeastError] {
            for dtype in [Dtype::F16, Dtype::Bf16] {
                let scheme = scheme.with_clip(clip).with_scales(dtype);
                let hold = [(0, 5)];
                let q = quantize_weighted(&w, SHAPE, &scheme, &hold, &importance).unwrap();
                let exact = |v: &f32| match dtype {
                    Dtype::F16 => f16::from_f32(*v).to_f32() == *v,
                    _ => half::bf16::from_f32(*v).to_f32() == *v,
                };
                assert!(q.view().scales.iter().all(exact));
                if let Offsets::Float(v) = q.view().offsets {
                    assert!(v.iter().all(exact));
                }
                let mut fake = w.clone();
                fake_quantize_weighted(&mut fake, SHAPE, &scheme, &hold, &importance).unwrap();
                assert_eq!(q.dequantize::<f32>(), fake);

                // A value that is not clipped is within half of its step, but for the ends of a range that rounding moved.
                if clip == Clip::None && scheme.levels != Levels::Nf4 {
                    let blocks = scheme.grouping.blocks(SHAPE).unwrap();
                    let far = |p: usize| {
                        let step = q.view().scales[blocks.of(p / SHAPE[1], p % SHAPE[1])];
                        (w[p] - fake[p]).abs() > 0.51 * step
                    };
                    let count = (0..w.len()).filter(|&p| far(p)).count();
                    assert!(count * 20 < w.len(), "{scheme:?}: {count}");
                }

                let bytes = q.to_bytes();
                assert_eq!(
                    bytes.len(),
                    sw_quant::packed::byte_len(SHAPE, &scheme, &hold).unwrap()
                );
                assert_eq!(Quantized::from_bytes(&bytes).unwrap(), q);
                let single = quantize(&w, SHAPE, &scheme.with_scales(Dtype::F32), &hold).unwrap();
                assert!(q.bits_per_weight() < single.bits_per_weight());
            }
        }
    }
}

#[test]
fn scales_of_half_precision_have_a_range() {
    let scheme = Scheme::new(Levels::symmetric(4), Grouping::Row).with_scales(Dtype::F16);
    let error = quantize(&[1e6f32, -1.0], [1, 2], &scheme, &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("overflows") && error.contains("use scales of type f32"),
        "{error}"
    );
    // Too small for half precision: the smallest scale that it has, not none.
    let tiny = quantize(&[1e-9f32, -1e-9], [1, 2], &scheme, &[]).unwrap();
    assert!(tiny.view().scales[0] > 0.0 && tiny.dequantize::<f32>() == [0.0, 0.0]);
    let release = Scheme {
        arithmetic: sw_quant::Arithmetic::ReleaseF16,
        ..Scheme::default().with_scales(Dtype::F16)
    };
    assert!(
        release
            .check([2, 2])
            .unwrap_err()
            .to_string()
            .starts_with("scales: expected f32")
    );
}
