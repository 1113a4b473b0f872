//! `cargo xtask reproduce-pr-moe` and `reproduce-mos` in short.

use std::{fs, path::Path};

use assert_cmd::Command;
use serde_json::Value;
use sw_model::Model;

/// Trains for seconds without optimisation.
const SHORT: [&str; 8] = [
    "--seeds",
    "1",
    "--steps",
    "5",
    "--sequences",
    "1",
    "--facts",
    "24",
];

fn xtask(name: &str, args: &[&str], out: &Path) -> Value {
    let mut command = Command::cargo_bin("xtask").unwrap();
    let command = command
        .arg(format!("reproduce-{name}"))
        .args(SHORT)
        .args(args);
    let output = command
        .args(["--limit", "2", "--out"])
        .arg(out)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let json = fs::read_to_string(out.join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&json).unwrap()
}

fn blocks(json: &Value, out: &Path) -> Vec<String> {
    let blocks = json["outcome"]["blocks"].as_array().unwrap();
    for block in blocks {
        assert!(!block["caption"].as_str().unwrap().is_empty());
        let file = format!("{}.csv", block["id"].as_str().unwrap());
        assert!(out.join(file).is_file());
    }
    blocks
        .iter()
        .map(|b| b["id"].as_str().unwrap().to_owned())
        .collect()
}

fn of<'j>(json: &'j Value, row: &str) -> &'j Value {
    let found = json["found"].as_array().unwrap();
    found.iter().find(|f| f["row"] == row).unwrap()
}

#[test]
fn few_steps_of_all_models_and_of_students() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path();
    let json = xtask("pr-moe", &[], out);
    let expected = [
        "pr-moe",
        "pr-moe-size",
        "pr-moe-curves",
        "pr-moe-paired",
        "pr-moe-cost",
        "pr-moe-super",
        "pr-moe-published",
    ];
    assert_eq!(blocks(&json, out), expected);
    assert_eq!(json["found"].as_array().unwrap().len(), 12);
    let last = |row: &str| -> f64 {
        let losses = of(&json, row)["marks"].as_array().unwrap().last().unwrap()["losses"].clone();
        losses[0].as_f64().unwrap()
    };
    for row in ["dense-128", "moe-8", "pr"] {
        assert!(last(row).is_finite(), "{row}");
    }
    let weights = |row: &str| of(&json, row)["weights"].as_u64().unwrap();
    assert!(weights("pr") < weights("residual") && weights("pr") == weights("pr-inverted"));

    // What was trained opens as what it is.
    let model = |row: &str| Model::open(out.join(format!("mixtures/{row}-24-1"))).unwrap();
    for (row, family) in [
        ("dense-128", "llama"),
        ("top-2", "mixtral"),
        ("moe-8", "pr_moe"),
        ("pr", "pr_moe"),
    ] {
        assert_eq!(model(row).spec().family, family);
        assert_eq!(model(row).parameters() as u64, weights(row));
    }
    assert!(out.join("mixtures/data-24").is_dir());

    // The students' teacher is found; a branch is what a training of its own would be.
    let before = fs::metadata(out.join("mixtures/pr-24-1/training.json")).unwrap();
    let json = xtask("mos", &[], out);
    assert_eq!(
        blocks(&json, out),
        ["mos", "mos-curves", "mos-paired", "mos-published"]
    );
    let after = fs::metadata(out.join("mixtures/pr-24-1/training.json")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    let losses = |row: &str| of(&json, row)["marks"].to_string();
    assert_ne!(losses("none"), losses("full"));
    assert_ne!(losses("until-60"), losses("full"));

    // Everything is found again.
    fs::remove_file(out.join("mos.json")).unwrap();
    let again = xtask("mos", &[], out);
    assert_eq!(again["found"], json["found"]);
}

#[test]
fn what_cannot_be_trained_is_named() {
    for (args, words) in [
        (
            ["reproduce-pr-moe", "--rows", "pr,moe"],
            "--rows moe: no such model",
        ),
        (
            ["reproduce-pr-moe", "--facts", "0"],
            "expected auto or a number",
        ),
        (["reproduce-mos", "--temperature", "0"], "--temperature 0"),
    ] {
        let mut command = Command::cargo_bin("xtask").unwrap();
        let output = command.args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && stderr.contains(words),
            "{stderr}"
        );
    }
}
