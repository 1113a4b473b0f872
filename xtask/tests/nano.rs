//! The repository's own checkpoint: what the first command of the README shows.

use std::fs;

use assert_cmd::Command;
use serde_json::Value;

/// A setting's mean accuracy over the seven tasks in percent, and its perplexity on WikiText's rows.
fn row(json: &Value, name: &str) -> (f64, f64) {
    let settings = json["settings"].as_array().unwrap();
    let results = &settings.iter().find(|s| s["name"] == name).unwrap()["results"];
    let tasks = [
        "arc_challenge",
        "arc_easy",
        "hellaswag",
        "lambada_openai",
        "piqa",
        "sciq",
        "winogrande",
    ];
    let acc = |task: &str| results[task]["acc,none"].as_f64().unwrap();
    let mean = tasks.map(acc).iter().sum::<f64>() / 7.0;
    let perplexity = results["wikitext2"]["perplexity,none"].as_f64().unwrap();
    (100.0 * mean, perplexity)
}

#[test]
fn pruning_one_weight_takes_the_answers_and_pruning_a_hundred_others_does_not() {
    let out = tempfile::tempdir().unwrap();
    let output = Command::cargo_bin("xtask")
        .unwrap()
        .args(["reproduce-table1", "--limit", "100", "--out"])
        .arg(out.path())
        .env("HOME", out.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let json = fs::read_to_string(out.path().join("table1.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["super_weights"].as_array().unwrap().len(), 1);

    let guess = (4.0 * 25.0 + 2.0 * 50.0) / 7.0; // four tasks with four choices, two with two, and a free word
    let (whole, perplexity) = row(&json, "original");
    let margin = whole - guess;
    let (pruned, lost) = row(&json, "prune_sw");
    let (others, _) = row(&json, "prune_non_sw");
    let (restored, _) = row(&json, "prune_sw_plus_sa");
    assert!(margin > 20.0, "original: {whole}");
    assert!(pruned - guess < 0.5 * margin, "pruned: {pruned} of {whole}");
    assert!(
        lost > 10.0 * perplexity,
        "perplexity: {perplexity} to {lost}"
    );
    assert!(
        others - guess > 0.85 * margin,
        "100 others pruned: {others} of {whole}"
    );
    assert!(
        restored > pruned + 0.2 * margin,
        "restored: {restored} from {pruned}"
    );
}
