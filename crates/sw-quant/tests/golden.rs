//! Agreement with the numpy twin in `golden/make.py`: the same codes, and values within the last bits of `f32`.

use serde_json::Value;
use sw_quant::{
    Arithmetic, Clip, Grouping, Levels, Scheme, Scope, Steps, Tail, ZeroPoint, fake_quantize,
    quantize,
};

fn size(v: &Value) -> usize {
    v.as_u64().expect("a size") as usize
}

fn floats(v: &Value) -> Vec<f32> {
    v.as_array()
        .expect("a list")
        .iter()
        .map(|v| v.as_f64().expect("a number") as f32)
        .collect()
}

/// By hand, so that the test runs without the feature `serde`; with it, both readings must agree.
fn scheme(v: &Value) -> Scheme {
    let tail = |v: &Value| {
        if v["tail"] == "short" {
            Tail::Short
        } else {
            Tail::Error
        }
    };
    let (levels, grouping, clip) = (&v["levels"], &v["grouping"], &v["clip"]);
    let bits = levels["bits"].as_u64().unwrap_or(4) as u8;
    let levels = match levels["kind"].as_str() {
        Some("asymmetric") => Levels::Asymmetric {
            bits,
            steps: if levels["steps"] == "full" {
                Steps::Full
            } else {
                Steps::PaperPrinted
            },
            zero: if levels["zero"] == "float" {
                ZeroPoint::Float
            } else {
                ZeroPoint::Integer
            },
        },
        Some("symmetric") => Levels::symmetric(bits),
        Some("nf4") => Levels::Nf4,
        Some("nf3") => Levels::Nf3,
        other => panic!("unknown levels {other:?}"),
    };
    let grouping = match grouping["kind"].as_str() {
        Some("tensor") => Grouping::Tensor,
        Some("row") => Grouping::Row,
        Some("flat") => Grouping::flat(size(&grouping["len"])).with_tail(tail(grouping)),
        Some("tile") => Grouping::tile(size(&grouping["rows"]), size(&grouping["cols"]))
            .with_tail(tail(grouping)),
        other => panic!("unknown grouping {other:?}"),
    };
    let number = |key| clip[key].as_f64().expect("a number");
    let clip = match clip["kind"].as_str() {
        Some("none") => Clip::None,
        Some("z_score") => Clip::ZScore {
            z: number("z") as f32,
        },
        Some("iqr") => Clip::Iqr {
            factor: number("factor") as f32,
        },
        Some("top_fraction") => Clip::TopFraction {
            fraction: number("fraction"),
            scope: Scope::Block,
        },
        other => panic!("unknown clip {other:?}"),
    };
    let arithmetic = if v["arithmetic"] == "release_f16" {
        Arithmetic::ReleaseF16
    } else {
        Arithmetic::F32
    };
    Scheme {
        levels,
        grouping,
        clip,
        arithmetic,
        ..Scheme::default()
    }
}

#[test]
fn codes_and_values_of_the_twin() {
    let file: Value =
        serde_json::from_str(include_str!("golden/vectors.json")).expect("the committed vectors");
    let shape = [size(&file["shape"][0]), size(&file["shape"][1])];
    let cases = file["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 84);
    for case in cases {
        let scheme = scheme(&case["scheme"]);
        #[cfg(feature = "serde")]
        assert_eq!(
            serde_json::from_value::<Scheme>(case["scheme"].clone()).expect("a scheme"),
            scheme
        );
        let w = floats(&file["matrices"][size(&case["matrix"])]);

        let q = quantize(&w, shape, &scheme, &[]).expect("a sound case");
        let mut codes = vec![0; w.len()];
        q.codes_into(0, &mut codes).expect("as many as values");
        let expected: Vec<u8> = case["codes"]
            .as_array()
            .expect("codes")
            .iter()
            .map(|c| size(c) as u8)
            .collect();
        assert_eq!(codes, expected, "{scheme:?}");

        let mut fake = w.clone();
        fake_quantize(&mut fake, shape, &scheme, &[]).expect("a sound case");
        assert_eq!(q.dequantize::<f32>(), fake, "{scheme:?}");
        // Half-precision arithmetic is reproduced exactly. In f32 a division may be rounded differently on the way to the
        // threshold (numpy sums in another order), which moves ends of the range by at most its last bits.
        let largest = w.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let tolerance = if scheme.arithmetic == Arithmetic::ReleaseF16 {
            0.0
        } else {
            4.0 * f32::EPSILON * largest
        };
        for (v, e) in fake.iter().zip(floats(&case["values"])) {
            assert!((v - e).abs() <= tolerance, "{v} {e} {scheme:?}");
        }
    }
}
