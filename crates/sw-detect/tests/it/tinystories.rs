//! A published checkpoint: what the detector must say about it. Needs the shared data; skipped where it is absent.

use std::path::PathBuf;

use serde_json::{Value, json};
use sw_detect::{
    DEFAULT_PROMPT, DetectOptions, Effect, Mode, ProofOptions, RankOptions, Unit, Verdict,
    detect_prompt, proof_texts, prove, rank_rows,
};
use sw_model::{EditOp, Model, WeightEdit};

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

#[test]
fn the_proof_agrees_with_an_independent_zeroing_experiment() {
    let Some(model) = open() else { return };
    let golden: Value = serde_json::from_str(include_str!("../golden/tinystories.json")).unwrap();
    let mut report = detect_prompt(&model, DEFAULT_PROMPT, &DetectOptions::default()).unwrap();
    assert_eq!(json!(report.tokens), golden["prompt"]);
    let texts = proof_texts(&model).unwrap();
    assert_eq!(json!(texts), golden["texts"]);
    prove(&model, &mut report, &texts, &ProofOptions::default()).unwrap();

    let close = |ours: f64, theirs: &Value, what: &str| {
        let theirs = theirs
            .as_f64()
            .unwrap_or_else(|| panic!("{what}: not a number"));
        assert!(
            (ours - theirs).abs() < 5e-4,
            "{what}: {ours} here, {theirs} in transformers"
        );
    };
    let effect = |ours: &Effect, theirs: &Value, what: &str| {
        close(ours.nll, &theirs["nll"], what);
        close(ours.low, &theirs["low"], what);
        close(ours.high, &theirs["high"], what);
    };
    let proof = report.proof.as_ref().unwrap();
    close(proof.nll, &golden["nll"], "nll");
    assert_eq!(json!(proof.scored), golden["scored"]);
    effect(&proof.joint, &golden["joint"], "joint");
    let expected = golden["candidates"].as_array().unwrap();
    assert_eq!(report.super_weights.len(), expected.len());
    for (c, theirs) in report.super_weights.iter().zip(expected) {
        let place = json!([c.layer, c.row, c.col, c.token]);
        assert_eq!(
            place,
            json!([
                theirs["layer"],
                theirs["row"],
                theirs["col"],
                theirs["token"]
            ])
        );
        close(c.value.into(), &theirs["value"], "value");
        close(c.down_in.into(), &theirs["down_in"], "down_in");
        close(c.share.into(), &theirs["share"], "share");
        let (ours, theirs) = (c.effects.as_ref().unwrap(), &theirs["effects"]);
        effect(&ours.zero, &theirs["zero"], "zero");
        effect(ours.flip.as_ref().unwrap(), &theirs["flip"], "flip");
        effect(ours.row.as_ref().unwrap(), &theirs["row"], "row");
        effect(ours.neuron.as_ref().unwrap(), &theirs["neuron"], "neuron");
        effect(
            ours.leave_one_out.as_ref().unwrap(),
            &theirs["leave_one_out"],
            "leave_one_out",
        );
        close(
            ours.added_last.unwrap().nll,
            &theirs["added_last"]["nll"],
            "added_last",
        );
        let largest = ours.largest.as_ref().unwrap();
        assert_eq!(
            json!([largest.row, largest.col]),
            json!([theirs["largest"]["row"], theirs["largest"]["col"]])
        );
        effect(&largest.effect, &theirs["largest"]["effect"], "largest");
        effect(
            &ours.same_row.as_ref().unwrap().effect,
            &theirs["same_row"],
            "same_row",
        );
        effect(
            &ours.same_col.as_ref().unwrap().effect,
            &theirs["same_col"],
            "same_col",
        );
    }
    // By their numbers: .172 nats (interval above zero, matched controls below .004) is damage, .049 is not.
    assert_eq!(report.super_weights[0].verdict, Some(Verdict::Decisive));
    assert_eq!(report.super_weights[1].verdict, Some(Verdict::Inert));
}

#[test]
fn a_variant_that_rides_in_a_batch_is_the_edited_model() {
    let Some(model) = open() else { return };
    let mut report = detect_prompt(&model, DEFAULT_PROMPT, &DetectOptions::default()).unwrap();
    let texts = proof_texts(&model).unwrap();
    let mut options = ProofOptions::default();
    options.max_rows = 1; // and the size of the batches does not matter
    prove(&model, &mut report, &texts, &options).unwrap();
    let nll = |model: &Model| {
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let scores = model.score_texts(&texts, &mut ()).unwrap();
        let all: Vec<f64> = scores.iter().flatten().map(|s| -s.log_prob).collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    let first = &report.super_weights[0];
    let effects = first.effects.as_ref().unwrap();
    for (factor, effect) in [(0.0, effects.zero), (-1.0, effects.flip.unwrap())] {
        let edit = WeightEdit {
            coord: first.coord(),
            op: EditOp::Scale(factor),
        };
        let edited = model.edited(&[edit]).unwrap();
        let expected = nll(&edited) - nll(&model);
        assert!(
            (effect.nll - expected).abs() < 1e-5,
            "x {factor}: {} in a batch, {expected} alone",
            effect.nll
        );
    }
}

#[test]
fn the_weights_alone_name_the_same_row() {
    let Some(model) = open() else { return };
    let ranked = rank_rows(&model, &RankOptions::default()).unwrap();
    assert!(ranked[..2].iter().all(|r| r.row == 88), "{ranked:?}");
}
