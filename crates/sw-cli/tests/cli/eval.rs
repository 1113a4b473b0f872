//! `sw eval`, `sw merge` and `sw compare`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{shared, sw};

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
