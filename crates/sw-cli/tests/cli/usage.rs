//! How the command is called: help, manual, errors in one line, exit codes.

use std::fs;

use super::{fails, json, small, sw};

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
        config.replacen('{', "{\"alibi\": true,\"novelty\": 3,", 1),
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

/// The oldest repositories have no organization: `models--gpt2`.
#[test]
fn a_model_without_an_organization_is_found_in_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--gpt2");
    let snapshot = repository.join("snapshots/607a30d7");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), "607a30d7").unwrap();
    let golden = small().with_file_name("gpt2");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), snapshot.join(name)).unwrap();
    }
    let inspect = |model: &str| {
        let mut command = sw();
        command.env("HF_HUB_CACHE", cache.path());
        command
            .current_dir(cache.path())
            .args(["inspect", model, "--json"]);
        command.output().unwrap()
    };
    let found = inspect("gpt2");
    assert!(
        found.status.success(),
        "{}",
        String::from_utf8_lossy(&found.stderr)
    );
    let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["family"], "gpt2");
    let missing = String::from_utf8(inspect("gpt3").stderr).unwrap();
    assert!(missing.contains("models--gpt3"), "{missing}");
}
