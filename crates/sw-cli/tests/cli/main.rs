//! The command as users meet it: what it prints, where, and with which exit code.

mod detect;
mod eval;
mod generate;
mod gguf;
mod hostile;
mod quantize;
mod tune;
mod usage;

use std::path::{Path, PathBuf};

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
