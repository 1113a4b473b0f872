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
        config.replacen('{', "{\"alibi\": 3,\"novelty\": 3,", 1),
    )
    .unwrap();
    let model = dir.path().display().to_string();
    fails(
        &["inspect", &model],
        1,
        &["alibi", "falcon", "--ignore-config-field alibi"],
    );
    fails(
        &[
            "inspect",
            &model,
            "--ignore-config-field",
            "alibi",
            "--strict-config",
        ],
        1,
        &["novelty", "--ignore-config-field novelty"],
    );
    let found = json(&[
        "inspect",
        &model,
        "--json",
        "--ignore-config-field",
        "alibi",
    ]);
    assert_eq!(found["family"], "llama");
    assert_eq!(found["unknown_config_fields"][0], "novelty");
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

#[test]
fn every_command_has_examples_and_is_in_the_manual() {
    let help = sw().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands: Vec<&str> = help
        .split("Commands:")
        .nth(1)
        .and_then(|rest| rest.split("Options:").next())
        .expect("a list of commands")
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|name| *name != "help" && help.contains(&format!("\n  {name} ")))
        .collect();
    for name in [
        "detect",
        "verify",
        "directory",
        "eval",
        "quantize",
        "generate",
        "merge",
        "tasks",
        "inspect",
    ] {
        assert!(commands.contains(&name), "{name} is not among {commands:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().display().to_string();
    assert!(
        sw().args(["man", "--out", &out])
            .output()
            .unwrap()
            .status
            .success()
    );
    for name in &commands {
        let help = sw().args([name, "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(
            help.contains(&format!("sw {name}")) && help.contains("Example"),
            "{help}"
        );
        let page = fs::read_to_string(dir.path().join(format!("sw-{name}.1"))).unwrap();
        assert!(page.contains(".TH") && page.contains("Example"), "{name}");
    }
    let page = sw().arg("man").output().unwrap();
    assert!(String::from_utf8(page.stdout).unwrap().contains("quantize"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sw().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(script.stdout).unwrap();
        assert!(
            script.contains("clip-z") && script.contains("dry-run"),
            "{shell}"
        );
    }
}

#[test]
fn quantize_says_what_it_would_write_and_writes_it() {
    let model = small().display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("q").display().to_string();
    let args = |more: &[&str]| {
        let base = [
            "quantize", &model, "--out", &out, "--tokens", "1,5,9,2", "--json", "--group", "row",
        ];
        [&base[..], more]
            .concat()
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let run = |more: &[&str]| json(&args(more).iter().map(String::as_str).collect::<Vec<_>>());
    let packed = ["--format", "packed", "--hold", "1:3:2", "--clip-z", "none"];
    let planned = run(&[&packed[..], &["--dry-run"]].concat());
    assert!(!Path::new(&out).exists() && planned["out"].is_null());
    let bits = planned["bits_per_weight"].as_f64().unwrap();
    assert!((4.5..8.0).contains(&bits), "{bits}"); // rows of 24 to 40 codes, a scale, padding to words
    let written = run(&packed);
    assert_eq!(
        (&written["bytes"], &written["tensors"]),
        (&planned["bytes"], &planned["tensors"])
    );
    let weights = fs::metadata(Path::new(&out).join("model.safetensors")).unwrap();
    let header = weights.len() - written["bytes"].as_u64().unwrap();
    assert!(
        header < 8000,
        "the file is its tensors and a header of {header} bytes"
    );
    let names: Vec<_> = written["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["name"])
        .collect();
    assert_eq!(names.len(), 13, "14 maps, one of which holds a weight");

    // What is there is not touched, what is written opens: the packed form of sw itself, too.
    let again = args(&packed);
    let again: Vec<_> = again.iter().map(String::as_str).collect();
    fails(&again, 1, &["exists", "--force"]);
    let own = run(&[
        "--format",
        "packed-sw",
        "--hold",
        "1:3:2",
        "--force",
        "--override",
        "*.q_proj.*=bits=8,levels=symmetric",
    ]);
    let q = own["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["name"].as_str().unwrap().contains("q_proj"));
    assert_eq!(q.unwrap()["bits"], 8);
    let found = json(&["inspect", &out, "--json"]);
    assert_eq!(found["family"], "llama");

    for (more, words) in [
        (&["--hold", "1:3"][..], &["--hold", "LAYER:ROW:COL"][..]),
        (&["--hold", "9:0:0"], &["layers[9]", "no such tensor"]),
        (&["--bits", "9"], &["bits", "2 to 8"]),
        (&["--clip-z=-1"], &["clip.z", "above 0"]),
        (&["--clip-z", "best"], &["--clip-z best", "search"]),
        (&["--group", "0x4"], &["--group 0x4", "AxB"]),
        (&["--group", "7"], &["7", "--short-tail"]),
        (
            &["--override", "*.q_proj.*"],
            &["--override", "PATTERN=keep"],
        ),
        (
            &["--override", "*.q_proj.*=bytes=8"],
            &["--override", "clip-z"],
        ),
        (
            &["--override", "nothing=keep"],
            &["nothing", "matches no matrix"],
        ),
        (&["--shard-size", "0"], &["--shard-size", "above 0"]),
        (
            &["--format", "packed", "--levels", "nf4"],
            &["Nf4", "pack-quantized"],
        ),
    ] {
        let mut args = vec!["quantize", &model, "--out", "unused", "--hold", "none"];
        if more[0] == "--hold" {
            args.truncate(4);
        } else if !more.contains(&"--group") {
            args.extend(["--group", "row"]);
        }
        args.extend(more);
        fails(&args, 1, words);
    }
    assert!(!Path::new("unused").exists());
}

/// The whole way on a real checkpoint: detected weights are held, and every format has the perplexity of the plan.
#[test]
fn quantized_tinystories_scores_as_the_intervention_does() {
    let Some(shared) = shared() else { return };
    let model = shared.join("models/tinystories-656k").display().to_string();
    let data = shared.join("data").display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let hold = path("hold.json");
    let report = json(&["detect", &model, "--json", "--no-proof"]);
    assert!(!report["super_weights"].as_array().unwrap().is_empty());
    fs::write(&hold, report.to_string()).unwrap();
    let (fake, packed, plan) = (path("fake"), path("packed"), path("plan.json"));
    let rule = ["--bits", "3", "--group", "row", "--clip-z", "3"];
    let quantized = json(&[&["quantize", &model, "--out", &fake, "--json"][..], &rule].concat());
    let held = &quantized["export"]["hold"];
    assert_eq!(
        held.as_array().map(Vec::len),
        report["super_weights"].as_array().map(Vec::len)
    );
    let by_file = [
        "quantize",
        &model,
        "--out",
        &packed,
        "--json",
        "--format",
        "packed-sw",
        "--hold",
        &hold,
    ];
    let other = json(&[&by_file[..], &rule].concat());
    assert_eq!(
        other["export"]["hold"], *held,
        "auto is what detection reports"
    );
    assert!(other["bits_per_weight"].as_f64().unwrap() < 3.6);

    let scheme = &quantized["export"]["rule"]["scheme"];
    let interventions =
        serde_json::json!([{"kind": "quantize_weights", "scheme": scheme, "hold": held}]);
    fs::write(&plan, interventions.to_string()).unwrap();
    let perplexity = |model: &str, more: &[&str]| {
        let base = [
            "eval",
            model,
            "--tasks",
            "wikitext2",
            "--data",
            &data,
            "--limit",
            "2",
            "--json",
        ];
        json(&[&base[..], more].concat())["results"]["wikitext2"]["perplexity,none"]
            .as_f64()
            .unwrap()
    };
    let expected = perplexity(&model, &["--plan", &plan]);
    assert_eq!(perplexity(&fake, &[]), expected);
    assert_eq!(perplexity(&packed, &[]), expected);
    assert_ne!(perplexity(&model, &[]), expected);
}
