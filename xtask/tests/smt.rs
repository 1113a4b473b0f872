//! `cargo xtask reproduce-smt` in short; docs/tuning.md has the record of its full size.

use std::{fs, path::Path};

use assert_cmd::Command;
use serde_json::Value;

fn smt(args: &[&str], out: &Path) -> Value {
    let mut command = Command::cargo_bin("xtask").unwrap();
    let output = command
        .arg("reproduce-smt")
        .args(args)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let json = fs::read_to_string(out.join("smt.json")).unwrap();
    serde_json::from_str(&json).unwrap()
}

fn of<'j>(json: &'j Value, row: &str) -> &'j Value {
    let found = json["found"].as_array().unwrap();
    found.iter().find(|f| f["row"] == row).unwrap()
}

#[test]
fn few_steps_of_some_rows_move_what_they_train_and_nothing_else() {
    let out = tempfile::tempdir().unwrap();
    let rows = "base,full,full-frozen,smt-qkv,smt-mlp,random-mlp,lora-all,super-weights";
    let args = ["--seeds", "1", "--steps", "3", "--sequences", "1"];
    let more = ["--warmup", "1", "--limit", "2", "--rows", rows];
    let json = smt(&[&args[..], &more].concat(), out.path());

    let loss = |row: &str, lore: usize| of(&json, row)["loss"][lore].as_f64().unwrap();
    for row in ["full", "smt-mlp", "random-mlp", "lora-all"] {
        assert!(loss(row, 0) < loss("base", 0), "{row}");
    }
    // The checkpoint knows the old lore and not the new one.
    let quiz = |lore: usize| of(&json, "base")["quiz_share"][lore].as_f64().unwrap();
    assert!(quiz(0) < 0.15 && quiz(1) > 0.95, "{} {}", quiz(0), quiz(1));

    let value = |row: &str, when: &str| of(&json, row)["super_weight"][when].clone();
    for row in ["base", "full-frozen", "smt-qkv"] {
        assert_eq!(value(row, "before"), value(row, "after"), "{row}");
    }
    for row in ["full", "super-weights"] {
        assert_ne!(value(row, "before"), value(row, "after"), "{row}");
    }
    let picks = |row: &str| {
        let maps = of(&json, row)["picks"].as_object().unwrap().clone();
        let layers = maps.values().flat_map(|l| l.as_array().unwrap().clone());
        layers.map(|n| n.as_u64().unwrap()).sum::<u64>()
    };
    // .86 % of 1,311,872 weights in tiles of 16 x 16.
    assert_eq!([picks("smt-qkv"), picks("smt-mlp")], [44, 44]);
    assert_eq!(of(&json, "smt-mlp")["trained"], 44 * 256);

    let cost = json["cost"].as_array().unwrap();
    let full = cost.iter().find(|c| c["row"] == "full").unwrap();
    assert_eq!(full["trained"], json["parameters"]);
    let blocks = json["outcome"]["blocks"].as_array().unwrap();
    let ids: Vec<&str> = blocks.iter().map(|b| b["id"].as_str().unwrap()).collect();
    let expected = [
        "smt",
        "smt-paired",
        "smt-expected",
        "smt-picks",
        "smt-layers",
        "smt-plateau",
        "smt-split",
        "smt-super",
        "smt-cost",
        "smt-published",
    ];
    assert_eq!(ids, expected);
    for block in blocks {
        assert!(!block["caption"].as_str().unwrap().is_empty());
        let file = format!("{}.csv", block["id"].as_str().unwrap());
        assert!(out.path().join(file).is_file());
    }
    let table = &blocks[0]["content"]["table"];
    assert_eq!(table["rows"].as_array().unwrap().len(), 8);
    assert!(out.path().join("smt.md").is_file());
}

#[test]
fn a_row_that_does_not_exist_is_named() {
    let mut command = Command::cargo_bin("xtask").unwrap();
    let output = command
        .args(["reproduce-smt", "--rows", "smt-all,lora"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--rows lora: no such row"), "{stderr}");
}
