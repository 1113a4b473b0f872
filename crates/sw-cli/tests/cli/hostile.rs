//! Folders and files from strangers: links, devices, sizes, numbers, names; each is one line, and nothing gets out.
#![cfg(unix)]

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
};

use serde_json::{Value, json};

use super::{fails, small, sw};

/// A copy of the small checkpoint, to be changed.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(small().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn mkfifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[test]
fn links_out_of_a_checkpoint_are_refused_by_name() {
    let dir = copy();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "the secret").unwrap();
    let model = text(dir.path());
    let out = outside.path().join("out");
    let license = dir.path().join("LICENSE");
    symlink(&secret, &license).unwrap();
    let quantize = [
        "quantize",
        &model,
        "--out",
        &text(&out),
        "--hold",
        "none",
        "--group",
        "row",
    ];
    fails(&quantize, 1, &["LICENSE", "a link out of its folder"]);
    assert!(!out.exists() && fs::read_dir(outside.path()).unwrap().count() == 1);
    fs::remove_file(&license).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let (path, moved) = (dir.path().join(name), outside.path().join(name));
        let was_there = path.exists();
        if was_there {
            fs::rename(&path, &moved)
                .or_else(|_| fs::copy(&path, &moved).and_then(|_| fs::remove_file(&path)))
                .unwrap();
        } else {
            fs::write(&moved, "{}").unwrap();
        }
        symlink(&moved, &path).unwrap();
        fails(
            &["generate", &model, "--prompt", "a"],
            1,
            &[name, "a link out of its folder"],
        );
        fs::remove_file(&path).unwrap();
        if was_there {
            fs::copy(&moved, &path).unwrap();
        }
    }
    // Data likewise.
    let data = outside
        .path()
        .join("data/EleutherAI/lambada_openai/default");
    fs::create_dir_all(&data).unwrap();
    symlink(&secret, data.join("test-0.jsonl")).unwrap();
    let data = text(&outside.path().join("data"));
    let eval = [
        "eval",
        &own_model(),
        "--tasks",
        "lambada_openai",
        "--data",
        &data,
    ];
    fails(&eval, 1, &["test-0.jsonl", "a link out of its folder"]);
}

/// The checkpoint of the repository, which has a tokenizer.
fn own_model() -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano/model"))
}

#[test]
fn what_is_no_regular_file_is_one_line_and_sizes_are_capped() {
    let dir = copy();
    let model = text(dir.path());
    let generate = ["generate", &model, "--prompt", "a"];
    let cases = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "model.safetensors.index.json",
    ];
    for name in cases {
        let path = dir.path().join(name);
        let before = fs::read(&path).ok();
        let restored = |path: &Path| {
            fs::remove_file(path).unwrap();
            if let Some(bytes) = &before {
                fs::write(path, bytes).unwrap();
            }
        };
        let _ = fs::remove_file(&path);
        mkfifo(&path);
        fails(&generate, 1, &[name, "regular file"]);
        restored(&path);
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        fails(&generate, 1, &[name]);
        fs::remove_dir(&path).unwrap();
        File::create(&path).unwrap().set_len(7 << 30).unwrap();
        fails(&generate, 1, &[name]);
        restored(&path);
    }
    // Plans, weights to hold, shards, directories.
    let odd = tempfile::tempdir().unwrap();
    let [fifo, sparse, zero] = ["shard_a.json", "sparse", "zero"].map(|n| odd.path().join(n));
    mkfifo(&fifo);
    File::create(&sparse).unwrap().set_len(7 << 30).unwrap();
    symlink("/dev/zero", &zero).unwrap();
    for (path, word) in [
        (&fifo, "pipe"),
        (&sparse, "expected at most"),
        (&zero, "device"),
    ] {
        let path = text(path);
        let own = own_model();
        let eval = ["eval", &own, "--tasks", "piqa", "--plan", &path];
        fails(&eval, 1, &[&path, word]);
        let quantize = ["quantize", &model, "--out", "no/where", "--hold", &path];
        fails(&quantize, 1, &[&path, word]);
        fails(&["directory", "--file", &path], 1, &[&path, word]);
    }
    fails(&["merge", &text(odd.path())], 1, &["shard_a.json", "pipe"]);
}

fn with_tokenizer(tokenizer: &str) -> tempfile::TempDir {
    let dir = copy();
    fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
    dir
}

#[test]
fn a_broken_tokenizer_is_told_as_such() {
    let dir = with_tokenizer("{");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano/data");
    let model = text(dir.path());
    let eval = [
        "eval",
        &model,
        "--tasks",
        "lambada_openai",
        "--data",
        &text(&data),
    ];
    fails(
        &eval,
        1,
        &["tokenizer.json", "not a tokenizer that can be read"],
    );
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    fails(&eval, 1, &["tokenizer.json", "no such file"]);
}

#[test]
fn tokenizers_that_would_take_all_memory_are_refused() {
    let base: Value = serde_json::from_str(
        &fs::read_to_string(Path::new(&own_model()).join("tokenizer.json")).unwrap(),
    )
    .unwrap();
    let refused = |normalizer: Value, words: &[&str]| {
        let mut tokenizer = base.clone();
        tokenizer["normalizer"] = normalizer;
        let dir = with_tokenizer(&tokenizer.to_string());
        fails(&["generate", &text(dir.path()), "--prompt", "a"], 1, words);
    };
    // Each step makes a text a thousand times longer.
    let grow = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(1000)});
    let steps = json!({"type": "Sequence", "normalizers": [grow, grow, grow, grow]});
    refused(
        steps,
        &[
            "tokenizer.json",
            "makes a text",
            "expected at most 64 times",
        ],
    );
    let grow = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "a".repeat(1000)});
    refused(grow, &["expected at most 64 times"]);
    // A table that says it has 4 GB.
    let table = json!({"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="});
    refused(table, &["precompiled_charsmap", "4294967295 bytes"]);
}

#[test]
fn numbers_that_would_take_all_memory_are_refused() {
    let model = own_model();
    let plan = tempfile::NamedTempFile::new().unwrap();
    fs::write(plan.path(), "[]").unwrap();
    let plan = text(plan.path());
    let most = u64::MAX.to_string();
    let compare = [
        "compare",
        &model,
        "--tasks",
        "piqa",
        "--plan",
        &plan,
        "--resamples",
        &most,
    ];
    fails(
        &compare,
        1,
        &["--resamples 18446744073709551615", "at most 10000000"],
    );
    fails(
        &["detect", &model, "--threads", "10000"],
        1,
        &["--threads 10000", "at most 1024"],
    );
    let data = text(&Path::new(&model).join("../data"));
    let eval = [
        "eval",
        &model,
        "--tasks",
        "lambada_openai",
        "--data",
        &data,
        "--limit",
        "2",
    ];
    let shots: Vec<&str> = eval.into_iter().chain(["--num-fewshot", &most]).collect();
    fails(&shots, 1, &[&most]);
}

#[test]
fn names_from_a_stranger_command_no_terminal() {
    let dir = copy();
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let key = format!("\u{1b}]0;title\u{7}\u{9b}2J{}", "x".repeat(10_000));
    config[key] = json!(1);
    fs::write(&path, config.to_string()).unwrap();
    let args = [
        "generate",
        &text(dir.path()),
        "--tokens",
        "1,2",
        "--max-new-tokens",
        "1",
    ];
    let output = sw().args(args).arg("--strict-config").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.contains(r"\u001b]0;title\u0007\u009b2Jxx"),
        "{stderr}"
    );
    let commands = |c: char| c.is_control() && c != '\n';
    assert!(
        !stderr.contains(commands) && stderr.chars().count() < 2100,
        "{stderr}"
    );
    // The same as a warning.
    let output = sw().args(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && !stderr.contains(commands),
        "{stderr}"
    );
}

#[test]
fn names_that_are_no_text_are_one_line() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    fs::create_dir(&odd).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(small().join(file), odd.join(file)).unwrap();
    }
    let output = sw().arg("inspect").arg(&odd).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    // Where results go may be called anything.
    let quantize = [
        "quantize",
        &text(&small()),
        "--hold",
        "none",
        "--group",
        "row",
    ];
    let output = sw()
        .args(quantize)
        .arg("--out")
        .arg(odd.join("out"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(odd.join("out/config.json").is_file());
}

#[test]
fn what_cannot_be_looked_at_is_not_called_absent() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    symlink(&a, &b).unwrap();
    symlink(&b, &a).unwrap();
    let path = text(&a);
    let fails_so = |args: &[&str]| {
        let output = sw().args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("symbolic links") && !stderr.contains("no such"),
            "{stderr}"
        );
    };
    fails_so(&["inspect", &path]);
    fails_so(&["eval", &own_model(), "--tasks", "piqa", "--data", &path]);
}

#[test]
fn streams_that_cannot_be_written_to_are_named_and_no_panic() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sw"));
    let output = command.arg("tasks").stdout(full()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: stdout: "), "{stderr}");
    for args in [&["inspect", "no/such"][..], &["tasks"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sw"));
        let output = command.args(args).stderr(full()).output().unwrap();
        let expected = if args[0] == "tasks" { 0 } else { 1 };
        assert_eq!(output.status.code(), Some(expected), "{args:?}");
    }
}

/// Two processes add to one file at once: both are in it.
#[test]
fn additions_to_a_directory_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("known.json");
    let add = |name: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_sw"))
            .args(["detect", &text(&small()), "--tokens", "1,2,3", "--no-proof"])
            .args(["--name", name, "--add-to"])
            .arg(&path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let names = ["a/1", "a/2", "a/3", "a/4"];
    for mut child in names.map(add) {
        assert!(child.wait().unwrap().success());
    }
    let known: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let ids: Vec<_> = known["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].clone())
        .collect();
    for name in names {
        assert!(ids.contains(&json!(name)), "{name} is lost: {ids:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
