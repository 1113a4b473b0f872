//! The command as users meet it: what it prints, where, and with which exit code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use serde_json::Value;

fn sw() -> Command {
    let mut command = Command::cargo_bin("sw").expect("built by cargo");
    command.env_remove("SW_ISA");
    command
}

/// A small random Llama checkpoint without a tokenizer.
fn small() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sw-model/tests/golden/llama")
}

/// The real checkpoints and data, which do not come with the repository.
fn shared() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let dir = std::env::var_os("SW_SHARED").map_or_else(default, PathBuf::from);
    if !dir.is_dir() {
        println!("skipped: {} is not there", dir.display());
        return None;
    }
    Some(dir)
}

/// Fails with this exit code, nothing on stdout and one line on stderr that holds the words.
#[track_caller]
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = sw().args(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "stdout of a failure");
    assert!(!stderr.contains("panicked"), "{stderr}");
    if code == 1 {
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    for word in words {
        assert!(stderr.contains(word), "{stderr}\n  lacks {word}");
    }
}

fn json(args: &[&str]) -> Value {
    let output = sw().args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn usage_errors_exit_with_2() {
    fails(&["detect"], 2, &["MODEL"]);
    fails(&["detcet", "x"], 2, &["detect"]);
    fails(
        &["eval", "x", "--tasks", "piqa", "--bos", "maybe"],
        2,
        &["auto, on or off"],
    );
    let output = sw().env("SW_ISA", "abacus").arg("tasks").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("abacus"));
}

#[test]
fn failures_exit_with_1_and_one_line() {
    let model = small().display().to_string();
    fails(
        &["detect", "no/such"],
        1,
        &["no/such", "no such directory", "hf download no/such"],
    );
    fails(&["detect", &model], 1, &["tokenizer.json", "token ids"]);
    fails(
        &["detect", &model, "--tokens", "1,999999"],
        1,
        &["token id 999999", "vocabulary"],
    );
    fails(
        &["detect", &model, "--tokens", "1", "--relative=-1"],
        1,
        &["--relative", "above 0"],
    );
    fails(
        &["eval", &model, "--tasks", "piqa", "--data", "nowhere"],
        1,
        &["--data nowhere"],
    );
    fails(&["merge", &model], 1, &["no shard_*.json"]);
    fails(
        &["directory", "--model", "nobody"],
        1,
        &["nobody", "huggyllama/llama-7b"],
    );
}

#[test]
fn an_unknown_config_field_can_be_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(
        small().join("model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    let config = fs::read_to_string(small().join("config.json")).unwrap();
    fs::write(
        dir.path().join("config.json"),
        config.replacen('{', "{\"novelty\": 3,", 1),
    )
    .unwrap();
    let model = dir.path().display().to_string();
    fails(
        &["inspect", &model],
        1,
        &["novelty", "--ignore-config-field novelty"],
    );
    let found = json(&[
        "inspect",
        &model,
        "--json",
        "--ignore-config-field",
        "novelty",
    ]);
    assert_eq!(found["family"], "llama");
}

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
fn a_closed_pipe_is_not_an_error() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("sw"))
        .args(["directory", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
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
    assert_eq!(report["super_weights"][0]["verdict"], "decisive");
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

#[test]
fn shards_join_to_the_whole_run() {
    let Some(shared) = shared() else { return };
    let (model, data) = (shared.join("models/tinystories-656k"), shared.join("data"));
    let dir = tempfile::tempdir().unwrap();
    let run = |folder: &str, more: &[&str]| {
        let out = dir.path().join(folder);
        let mut command = sw();
        command
            .arg("eval")
            .arg(&model)
            .arg("--data")
            .arg(&data)
            .arg("--output-path")
            .arg(&out);
        command
            .args([
                "--tasks",
                "arc_easy,lambada_openai,wikitext2",
                "--limit",
                "5",
            ])
            .args(more);
        command.assert().success();
        out
    };
    let whole = run("whole", &[]);
    for shard in ["1/3", "2/3", "3/3"] {
        run("parts", &["--shard", shard]);
    }
    let parts = dir.path().join("parts");
    sw().arg("merge").arg(&parts).assert().success();
    let results = |dir: &Path| -> Value {
        let names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        let path = names
            .iter()
            .find(|p| p.display().to_string().contains("results_"))
            .unwrap();
        assert!(
            !names
                .iter()
                .any(|p| p.display().to_string().contains("journal_"))
        );
        let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        value["super_weight"]["environment"] = Value::Null;
        value
    };
    assert_eq!(results(&whole), results(&parts));
}

#[test]
fn two_settings_are_compared() {
    let Some(shared) = shared() else { return };
    let text = |path: PathBuf| path.display().to_string();
    let (model, data) = (
        text(shared.join("models/tinystories-656k")),
        text(shared.join("data")),
    );
    let dir = tempfile::tempdir().unwrap();
    let plan = text(dir.path().join("prune.json"));
    let run = |plan: &str| {
        let args = "--tasks piqa,wikitext2 --limit 6 --bos on --json --resamples 200";
        let mut command = sw();
        command.args(["compare", &model, "--data", &data, "--plan", plan]);
        command.args(args.split(' ')).output().unwrap()
    };
    let missing = run("no/such.json");
    let stderr = String::from_utf8_lossy(&missing.stderr);
    assert!(
        !missing.status.success() && stderr.contains("no/such.json"),
        "{stderr}"
    );
    let prune = r#"[{"kind": "prune_weights", "coords": [{"layer": 0, "linear": "down_proj", "row": 88, "col": 165}]}]"#;
    fs::write(&plan, prune).unwrap();
    let output = run(&plan);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["first"]["interventions"], Value::Array(vec![]));
    assert_eq!(found["second"]["interventions"][0]["kind"], "prune_weights");
    let tasks = found["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 2);
    for task in tasks {
        assert_eq!(task["comparison"]["documents"], 6);
        assert!(task["divergence"]["kl_mean"].as_f64().unwrap() > 0.0);
    }
    let test = &tasks[0]["comparison"]["accuracies"][0];
    assert_eq!(
        (&test[0], test[1]["p_value"].is_f64()),
        (&"acc".into(), true)
    );
}
