//! The report as other programs read it.

use serde_json::{Value, json};
use sw_detect::{DetectOptions, ProofOptions, Report, detect, prove};
use sw_model::Model;

use crate::planted::{Plant, Shape, write};

fn report(shape: Shape) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let planted = write(dir.path(), shape, Plant::OneAndCanceller, 2);
    let model = Model::open(dir.path()).unwrap();
    let mut report = detect(&model, &planted.tokens, &DetectOptions::default()).unwrap();
    let before = serde_json::to_value(&report).unwrap();
    assert_eq!(
        before["super_weights"][0]["verdict"],
        Value::Null,
        "no proof, no verdict"
    );
    prove(
        &model,
        &mut report,
        &[planted.tokens],
        &ProofOptions::default(),
    )
    .unwrap();
    report
}

#[test]
fn the_keys_are_those_agreed_on() {
    for (shape, expert) in [(Shape::Llama, false), (Shape::Mixtral, true)] {
        let report = report(shape);
        let value = serde_json::to_value(&report).unwrap();
        for key in [
            "model",
            "prompt",
            "super_weights",
            "cancellers",
            "profile",
            "weak_candidate",
            "proof",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
        for list in ["super_weights", "cancellers"] {
            let one = value[list][0].as_object().unwrap();
            let numbers = [
                "layer", "row", "col", "value", "round", "down_in", "down_out", "token", "share",
            ];
            assert!(numbers.iter().all(|key| one[*key].is_number()), "{one:?}");
            assert!(
                one["tensor"].is_string() && one["unit"].is_string() && one["weak"] == json!(false),
                "{one:?}"
            );
            assert_eq!(one.contains_key("expert"), expert);
        }
        let verdict = value["super_weights"][0]["verdict"].as_str().unwrap();
        assert!(
            ["decisive", "decisive jointly", "inert"].contains(&verdict),
            "{verdict}"
        );
        let layer = &value["profile"][1];
        assert_eq!(layer["layer"], json!(1));
        for side in ["down_in", "down_out"] {
            assert!(
                ["value", "token", "channel"]
                    .iter()
                    .all(|key| layer[side][key].is_number()),
                "{layer}"
            );
        }
        let tensor = value["super_weights"][0]["tensor"].as_str().unwrap();
        let suffix = if expert {
            ".w2.weight"
        } else {
            ".mlp.down_proj.weight"
        };
        assert!(
            tensor.starts_with("model.layers.") && tensor.ends_with(suffix),
            "{tensor}"
        );

        let back: Report = serde_json::from_value(value).unwrap();
        assert_eq!(
            back.super_weights[0].coord(),
            report.super_weights[0].coord()
        );
        assert_eq!(back.super_weights[0].value, report.super_weights[0].value);
    }
}
