//! A published checkpoint: what the detector must say about it. Needs the shared data; skipped where it is absent.

use std::path::PathBuf;

use sw_detect::{DEFAULT_PROMPT, DetectOptions, Mode, Unit, detect_prompt};
use sw_model::Model;

/// The checkpoint under `$SW_SHARED`, else under `shared` beside the workspace.
pub(crate) fn open() -> Option<Model> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("SW_SHARED").map_or_else(beside, PathBuf::from);
    let dir = shared.join("models/tinystories-656k");
    if !dir.is_dir() {
        println!("skipped: no checkpoint at {}", dir.display());
        return None;
    }
    Some(Model::open(dir).expect("a checkpoint that opens"))
}

#[test]
fn the_first_candidate_is_a_row_of_layer_0() {
    let Some(model) = open() else { return };
    let report = detect_prompt(&model, DEFAULT_PROMPT, &DetectOptions::default()).unwrap();
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
    assert_eq!(
        report.threshold.mode,
        Mode::Relative,
        "the input stays below 50"
    );
    let first = &report.super_weights[0];
    assert_eq!(
        (first.layer, first.row, first.col, first.token),
        (0, 88, 165, 0)
    );
    assert_eq!(first.tensor, "model.layers.0.mlp.down_proj.weight");
    assert!((first.down_in + 43.7).abs() < 0.05, "{}", first.down_in);
    assert!((first.down_out - 352.6).abs() < 0.05, "{}", first.down_out);
    assert!((first.share - 0.354).abs() < 0.001, "{}", first.share);
    assert_eq!(first.unit, Unit::Row);
    assert!(!first.weak && first.verdict.is_none() && report.weak_candidate.is_none());
}

#[test]
fn where_nothing_passes_the_strongest_is_marked_weak() {
    let Some(model) = open() else { return };
    let mut options = DetectOptions::default();
    options.mode = Mode::Absolute;
    let report = detect_prompt(&model, DEFAULT_PROMPT, &options).unwrap();
    assert!(report.super_weights.is_empty() && report.complete);
    let weak = report
        .weak_candidate
        .as_ref()
        .expect("a candidate although none passes");
    assert!(weak.weak);
    assert_eq!((weak.layer, weak.row, weak.col), (0, 88, 165));
    assert_eq!(report.strongest(), std::slice::from_ref(weak));
}
