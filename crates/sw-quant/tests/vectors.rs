//! The four vectors of one block that every implementation of the method must reproduce.

use sw_quant::{Clip, Grouping, Levels, Scheme, fake_quantize, quantize, reference, stats};

const W: [f32; 8] = [-1.0, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5];

struct Case {
    bits: u8,
    clip: Clip,
    codes: [u8; 8],
    values: [f64; 8],
    mse: f64,
}

fn cases() -> [Case; 4] {
    [
        Case {
            bits: 4,
            clip: Clip::None,
            codes: [0, 2, 4, 5, 7, 15, 3, 6],
            values: [
                -1.0, -0.466667, 0.066667, 0.333333, 0.866667, 3.0, -0.2, 0.6,
            ],
            mse: 0.00521701,
        },
        Case {
            bits: 8,
            clip: Clip::None,
            codes: [0, 32, 64, 80, 112, 255, 56, 96],
            values: [
                -1.0, -0.498039, 0.003922, 0.254902, 0.756863, 3.0, -0.121569, 0.505882,
            ],
            mse: 1.709e-5,
        },
        Case {
            bits: 3,
            clip: Clip::None,
            codes: [0, 1, 2, 2, 3, 7, 2, 3],
            values: [
                -1.0, -0.428571, 0.142857, 0.142857, 0.714286, 3.0, 0.142857, 0.714286,
            ],
            mse: 0.01949139,
        },
        Case {
            bits: 4,
            clip: Clip::ZScore { z: 1.0 },
            codes: [0, 3, 6, 7, 10, 15, 5, 8],
            values: [
                -1.0, -0.454875, 0.090249, 0.271957, 0.817082, 1.725623, -0.091459, 0.453666,
            ],
            mse: 0.20530901,
        },
    ]
}

#[test]
fn codes_values_and_errors() {
    for case in cases() {
        let scheme =
            Scheme::new(Levels::asymmetric(case.bits), Grouping::Tensor).with_clip(case.clip);
        let q = quantize(&W, [1, 8], &scheme, &[]).unwrap();
        let mut codes = [0; 8];
        q.codes_into(0, &mut codes).unwrap();
        assert_eq!(codes, case.codes, "{scheme:?}");

        let mut fake = W;
        fake_quantize(&mut fake, [1, 8], &scheme, &[]).unwrap();
        assert_eq!(q.dequantize::<f32>(), fake);
        for (v, expected) in fake.iter().zip(case.values) {
            // The values are printed to six decimals; f32 adds two roundings of a number up to 3.
            assert!(
                (f64::from(*v) - expected).abs() < 5e-7 + 2.0 * 3.0 * f64::from(f32::EPSILON),
                "{v} {expected}"
            );
        }
        let stats = stats::compare(&W, &fake).unwrap();
        assert!(
            (stats.mse / case.mse - 1.0).abs() < 5e-4,
            "{} {}",
            stats.mse,
            case.mse
        );
    }
}

#[test]
fn the_textbook_agrees_to_the_printed_digits() {
    let w = W.map(f64::from);
    for case in cases() {
        let scheme =
            Scheme::new(Levels::asymmetric(case.bits), Grouping::Tensor).with_clip(case.clip);
        let block = reference::blocks(&w, [1, 8], &scheme, &[])
            .unwrap()
            .remove(0);
        assert_eq!(block.codes, case.codes);
        for (v, expected) in block.values.iter().zip(case.values) {
            assert!((v - expected).abs() <= 5.0001e-7, "{v} {expected}");
        }
        let mse = block
            .values
            .iter()
            .zip(&w)
            .map(|(v, w)| (v - w).powi(2))
            .sum::<f64>()
            / 8.0;
        assert!((mse - case.mse).abs() <= 5.0001e-9, "{mse} {}", case.mse);
        if case.clip != Clip::None {
            assert!((block.threshold - 1.72562291).abs() <= 5.0001e-9);
        }
    }
}

#[test]
fn restore_after_clip_brings_the_outlier_back() {
    let scheme =
        Scheme::new(Levels::asymmetric(4), Grouping::Tensor).with_clip(Clip::ZScore { z: 1.0 });
    let mut w = W;
    let report = fake_quantize(&mut w, [1, 8], &scheme, &[(0, 5)]).unwrap();
    assert_eq!((w[5], report.clipped), (3.0, 1));
}
