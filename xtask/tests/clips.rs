//! `cargo xtask bench-clips` on the repository's own checkpoint: a small part of the record in benches/record.

use std::{fs, path::Path, process::Output};

use assert_cmd::Command;
use serde_json::Value;

fn bench(record: &Path, more: &[&str]) -> Output {
    let args = [
        "bench-clips",
        "--groups",
        "row",
        "--hold",
        "none",
        "--windows",
        "12",
        "--calib-windows",
        "24",
        "--length",
        "128",
        "--record",
    ];
    let mut command = Command::cargo_bin("xtask").expect("built by cargo");
    command.args(args).arg(record).args(more).output().unwrap()
}

#[test]
fn a_calibrated_clip_does_not_hurt() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("clips.jsonl");
    let first = bench(&record, &["--bits", "3,4"]);
    let stderr = String::from_utf8_lossy(&first.stderr);
    assert_eq!(first.status.code(), Some(0), "{stderr}");
    let text = fs::read_to_string(&record).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 2);
    // At 3 bits a clip pays, and takes a good part of the damage back.
    assert!(
        rows[0]["calibrated"]["kl"].as_f64()
            < rows[0]["unclipped"]["kl"].as_f64().map(|kl| 0.9 * kl)
    );
    for row in &rows {
        let of = |key: &str| row[key]["perplexity"].as_f64().unwrap();
        assert!(of("calibrated") <= 1.01 * of("unclipped"), "{row}");
        let unchanged = of("calibrated") == of("unclipped");
        assert_eq!(
            unchanged,
            row["kinds"].as_array().unwrap().is_empty(),
            "{row}"
        );
    }

    // What is in the record is not measured again.
    let again = bench(&record, &["--bits", "3,4"]);
    assert_eq!(again.stdout, first.stdout);
    assert_eq!(fs::read_to_string(&record).unwrap(), text);
    let wrong = bench(&record, &["--bits", "4", "--groups", "rows"]);
    let stderr = String::from_utf8_lossy(&wrong.stderr);
    assert!(
        wrong.status.code() == Some(1) && stderr.contains("--groups rows"),
        "{stderr}"
    );
}
