//! The detector finds exactly what was planted.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sw_detect::{Candidate, DetectOptions, Report, Unit, detect};
use sw_model::Model;

use crate::planted::{Place, Plant, Planted, Shape, write};

const PLANTS: [Plant; 6] = [
    Plant::Nothing,
    Plant::One,
    Plant::TwoInOneRow,
    Plant::ThreeInOneRow,
    Plant::ThreeOfOneNeuron,
    Plant::OneAndCanceller,
];

fn search(shape: Shape, plant: Plant, seed: u64) -> (Planted, Report) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let planted = write(dir.path(), shape, plant, seed);
    let model = Model::open(dir.path()).expect("the checkpoint opens");
    let report =
        detect(&model, &planted.tokens, &DetectOptions::default()).expect("detection runs");
    (planted, report)
}

fn places(candidates: &[Candidate]) -> BTreeSet<Place> {
    candidates
        .iter()
        .map(|c| (c.layer, c.expert, c.row, c.col))
        .collect()
}

fn check(shape: Shape, seed: u64) {
    for plant in PLANTS {
        let (planted, report) = search(shape, plant, seed);
        let what = format!("{shape:?} {plant:?} seed {seed}: {:#?}", report);
        assert_eq!(
            places(&report.super_weights),
            planted.super_weights.iter().copied().collect(),
            "{what}"
        );
        assert_eq!(
            report.super_weights.len(),
            planted.super_weights.len(),
            "twice the same: {what}"
        );
        assert_eq!(
            places(&report.cancellers),
            planted.cancellers.iter().copied().collect(),
            "{what}"
        );
        assert!(report.complete, "{what}");
        assert_eq!(
            report.weak_candidate.is_some(),
            plant == Plant::Nothing,
            "{what}"
        );
        match plant {
            Plant::ThreeOfOneNeuron => {
                assert!(
                    report.super_weights.iter().all(|c| c.unit == Unit::Neuron),
                    "{what}"
                );
                assert_eq!(report.groups.input_neuron[0].members, [0, 1, 2], "{what}");
            }
            Plant::TwoInOneRow | Plant::ThreeInOneRow => {
                let members = &report.groups.output_channel[0].members;
                assert_eq!(members.len(), report.super_weights.len(), "{what}");
            }
            Plant::One => assert_eq!(report.super_weights[0].unit, Unit::Scalar, "{what}"),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_what_was_planted_in_llama(seed: u64) {
        check(Shape::Llama, seed);
    }

    #[test]
    fn exactly_what_was_planted_in_olmo(seed: u64) {
        check(Shape::Olmo, seed);
    }

    #[test]
    fn exactly_what_was_planted_in_phi3(seed: u64) {
        check(Shape::Phi3, seed);
    }

    #[test]
    fn exactly_what_was_planted_in_mixtral(seed: u64) {
        check(Shape::Mixtral, seed);
    }
}

/// Its three planted neurons still fire once their weights are zero; what is left was reported as a fourth super weight.
#[test]
fn a_seed_that_failed_once() {
    check(Shape::Phi3, 12545916526082175051);
}
