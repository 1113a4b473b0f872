//! `sw detect`.

use serde_json::Value;

use super::{json, shared, small};

#[test]
fn detection_without_a_tokenizer_has_the_promised_keys() {
    let report = json(&[
        "detect",
        &small().display().to_string(),
        "--tokens",
        "1,5,9,2",
        "--json",
    ]);
    for key in ["model", "prompt", "super_weights", "cancellers", "profile"] {
        assert!(report.get(key).is_some(), "lacks {key}");
    }
    let layer = &report["profile"][1];
    assert_eq!(layer["layer"], 1);
    for side in ["down_in", "down_out"] {
        for key in ["value", "token", "channel"] {
            assert!(layer[side][key].is_number(), "{side}.{key}");
        }
    }
    // Random weights have no super weight: the strongest candidate stands apart, marked weak.
    assert_eq!(report["super_weights"], Value::Array(vec![]));
    assert_eq!(report["weak_candidate"]["weak"], true);
}

#[test]
fn as_many_rows_are_ranked_as_are_asked_for() {
    let model = small().display().to_string();
    let report = json(&[
        "detect", &model, "--tokens", "1,5", "--json", "--rank", "30",
    ]);
    assert_eq!(report["ranking_by_weights"].as_array().unwrap().len(), 30);
}

#[test]
fn the_shared_checkpoint() {
    let Some(shared) = shared() else { return };
    let model = shared.join("models/tinystories-656k").display().to_string();
    let report = json(&["detect", &model, "--json", "--no-proof"]);
    let first = &report["super_weights"][0];
    assert_eq!(
        (&first["layer"], &first["row"], &first["col"]),
        (&0.into(), &88.into(), &165.into())
    );
    assert_eq!(first["tensor"], "model.layers.0.mlp.down_proj.weight");
    assert_eq!(
        (&first["token"], &first["unit"], &first["verdict"]),
        (&0.into(), &"row".into(), &Value::Null)
    );
    let near = |key: &str, expected: f64, by: f64| {
        let found = first[key].as_f64().unwrap();
        assert!((found - expected).abs() < by, "{key}: {found}");
    };
    near("down_in", -43.7, 0.05);
    near("down_out", 352.6, 0.05);
    near("share", 0.35, 0.005);
    assert_eq!(report["threshold"]["mode"], "relative");
}

#[test]
fn a_second_opinion_on_the_shared_checkpoint() {
    let Some(shared) = shared() else { return };
    let model = shared.join("models/tinystories-656k").display().to_string();
    let report = json(&[
        "detect",
        &model,
        "--json",
        "--prompts",
        "--rank",
        "3",
        "--sinks",
    ]);
    // On the census' texts no single weight of it costs a tenth of a nat.
    assert_eq!(report["super_weights"], Value::Array(vec![]));
    assert_eq!(report["weak_candidate"]["weak"], true);
    assert_eq!(report["prompts"]["prompts"], 10);
    let rows: Vec<_> = report["ranking_by_weights"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["row"])
        .collect();
    assert_eq!(rows.len(), 3);
    assert!(rows[..2].iter().all(|r| **r == 88), "{rows:?}");
    // Whether sinks outlive their super weight differs from model to model; here both are shares of heads.
    for side in ["before", "after"] {
        let share = report["sink_share"][side].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share), "{side}: {share}");
    }
}
