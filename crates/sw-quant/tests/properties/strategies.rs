//! What the properties range over.

use proptest::prelude::*;
use sw_quant::{Clip, Grouping, Levels, Scheme, Scope, Steps, Tail, ZeroPoint};

/// A matrix and what to do with it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) shape: [usize; 2],
    pub(crate) values: Vec<f32>,
    pub(crate) scheme: Scheme,
    pub(crate) hold: Vec<(usize, usize)>,
}

pub(crate) fn config() -> ProptestConfig {
    ProptestConfig {
        // PROPTEST_CASES asks for more.
        cases: if cfg!(miri) {
            4
        } else {
            ProptestConfig::default().cases.max(384)
        },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

pub(crate) fn levels() -> impl Strategy<Value = Levels> {
    let steps = prop_oneof![Just(Steps::Full), Just(Steps::PaperPrinted)];
    let zero = prop_oneof![Just(ZeroPoint::Float), Just(ZeroPoint::Integer)];
    prop_oneof![
        4 => (2u8..=8, steps, zero).prop_map(|(bits, steps, zero)| Levels::Asymmetric { bits, steps, zero }),
        2 => (2u8..=8).prop_map(Levels::symmetric),
        1 => Just(Levels::Nf4),
        1 => Just(Levels::Nf3),
    ]
}

fn clips() -> impl Strategy<Value = Clip> {
    let scope = prop_oneof![Just(Scope::Block), Just(Scope::Tensor)];
    prop_oneof![
        3 => Just(Clip::None),
        2 => (0.1f32..10.0).prop_map(|z| Clip::ZScore { z }),
        1 => (0.01f64..0.5, scope).prop_map(|(fraction, scope)| Clip::TopFraction { fraction, scope }),
        1 => (0.0f32..4.0).prop_map(|factor| Clip::Iqr { factor }),
        1 => Just(Clip::HeldOut),
    ]
}

fn groupings() -> impl Strategy<Value = Grouping> {
    prop_oneof![
        Just(Grouping::Tensor),
        Just(Grouping::Row),
        (1usize..40).prop_map(|len| Grouping::flat(len).with_tail(Tail::Short)),
        (1usize..6, 1usize..12).prop_map(|(r, c)| Grouping::tile(r, c).with_tail(Tail::Short)),
    ]
}

/// Ordinary weights, integers (ties), constants, huge and tiny magnitudes, signed zeros.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -0.1f32..0.1,
        2 => (-8i32..8).prop_map(|i| i as f32 / 2.0),
        1 => prop_oneof![Just(0.0f32), Just(-0.0), Just(1.0), Just(f32::MIN_POSITIVE), Just(1e-45), Just(-1e-40)],
        1 => prop_oneof![Just(f32::MAX), Just(f32::MIN), Just(65504.0), Just(-3e4), Just(1e20)],
    ]
}

fn values(n: usize) -> impl Strategy<Value = Vec<f32>> {
    let ordinary = prop::collection::vec(-0.1f32..0.1, n);
    let adversarial = prop::collection::vec(value(), n);
    let tiny = prop::collection::vec((-300i32..300).prop_map(|i| i as f32 * 1e-45), n);
    let offset = prop::collection::vec((0u32..64).prop_map(|i| 1e6 + i as f32 / 16.0), n);
    let planted = (prop::collection::vec(-0.02f32..0.02, n), 0..n).prop_map(|(mut w, at)| {
        w[at] = 2.5;
        w
    });
    prop_oneof![
        3 => ordinary,
        3 => adversarial,
        1 => tiny,
        1 => offset,
        2 => planted,
        1 => value().prop_map(move |v| vec![v; n]),
    ]
}

pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let matrix = (1usize..8, 1usize..24).prop_flat_map(|(rows, cols)| {
        (
            Just([rows, cols]),
            values(rows * cols),
            prop::collection::vec((0..rows, 0..cols), 0..4),
        )
    });
    (matrix, levels(), groupings(), clips()).prop_map(
        |((shape, values, hold), levels, grouping, clip)| Case {
            shape,
            values,
            scheme: Scheme::new(levels, grouping).with_clip(clip),
            hold,
        },
    )
}
