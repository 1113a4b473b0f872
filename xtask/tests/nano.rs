//! The repository's own checkpoint: what the first command of the README shows.

use std::fs;

use assert_cmd::Command;
use serde_json::Value;

/// What an experiment writes about the checkpoint.
fn reproduce(name: &str, limit: &str) -> Value {
    let out = tempfile::tempdir().unwrap();
    let output = Command::cargo_bin("xtask")
        .unwrap()
        .arg(format!("reproduce-{name}"))
        .args(["--limit", limit, "--out"])
        .arg(out.path())
        .env("HOME", out.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let json = fs::read_to_string(out.path().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&json).unwrap()
}

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
    let json = reproduce("table1", "100");
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

#[test]
fn plain_four_bits_fail_as_blocks_grow_and_ours_hold_longer() {
    let json = reproduce("figure7", "30");
    assert!(json["searched_on"].as_str().unwrap().contains("train"));

    let sizes = json["sizes"].as_array().unwrap();
    let get = |size: &Value, method: &str, key: &str| {
        let settings = size["settings"].as_array().unwrap();
        let flat = |s: &&Value| s["method"] == method && s["layout"] == "flat";
        settings.iter().find(flat).unwrap()[key].as_f64().unwrap()
    };
    let (plain, ours) = ("round-to-nearest", "ours, searched z");

    // The reconstruction error grows with the blocks; ours never passes the plain one, nor the best of the paper's list.
    let mut last = 0.0;
    for size in sizes {
        let (error, own) = (
            get(size, plain, "reconstruction"),
            get(size, ours, "reconstruction"),
        );
        assert!(error > last && own <= error, "{size}");
        let settings = size["settings"].as_array().unwrap();
        let listed = settings
            .iter()
            .filter(|s| s["method"].as_str().unwrap().contains("the paper's"));
        assert_eq!(listed.clone().count(), 4);
        assert!(
            listed
                .map(|s| s["reconstruction"].as_f64().unwrap())
                .all(|listed| own <= listed),
            "{size}"
        );
        last = error;
    }

    // Where the whole matrix shares a scale plain rounding answers hardly better than guessing, ours nearly as well as ever.
    let guess = (4.0 * 0.25 + 2.0 * 0.5) / 7.0;
    let margin = json["original"].as_f64().unwrap() - guess;
    let (first, whole) = (&sizes[0], sizes.last().unwrap());
    assert!(whole["side"].is_null());
    let kept = |size, method| (get(size, method, "average") - guess) / margin;
    assert!(kept(first, plain) > 0.85, "{}", kept(first, plain));
    assert!(kept(whole, plain) < 0.3, "{}", kept(whole, plain));
    for size in sizes {
        assert!(kept(size, ours) > 0.75, "{size}");
    }
}
