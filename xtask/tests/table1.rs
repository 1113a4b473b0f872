//! `cargo xtask reproduce-table1` as users meet it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use serde_json::Value;

fn xtask() -> Command {
    Command::cargo_bin("xtask").expect("built by cargo")
}

/// The real checkpoints and data, which do not come with the repository.
fn shared() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let dir = std::env::var_os("SW_SHARED").map_or_else(default, PathBuf::from);
    if !dir.is_dir() {
        println!("skipped: {} is not there", dir.display());
        return None;
    }
    Some(dir)
}

fn table1(model: &Path, data: &Path, out: &Path, more: &[&str]) -> (String, Value) {
    let output = xtask()
        .arg("reproduce-table1")
        .arg("--model")
        .arg(model)
        .arg("--data")
        .arg(data)
        .arg("--out")
        .arg(out)
        .args(more)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let json = fs::read_to_string(out.join("table1.json")).unwrap();
    (
        String::from_utf8(output.stdout).unwrap(),
        serde_json::from_str(&json).unwrap(),
    )
}

#[test]
fn four_rows_on_a_real_checkpoint() {
    let Some(shared) = shared() else { return };
    let out = tempfile::tempdir().unwrap();
    let model = shared.join("models/tinystories-656k");
    let (text, json) = table1(&model, &shared.join("data"), out.path(), &["--limit", "2"]);
    for row in [
        "Original",
        "Prune SW ",
        "Prune Non-SW (100 of all)",
        "Prune SW, +SA",
    ] {
        assert!(text.contains(row), "{text}");
    }
    assert!(
        text.contains("[88, 165]") && text.contains("a row rather than a scalar"),
        "{text}"
    );
    let names: Vec<_> = json["settings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].clone())
        .collect();
    assert_eq!(
        names,
        ["original", "prune_sw", "prune_non_sw", "prune_sw_plus_sa"]
    );
    for setting in json["settings"].as_array().unwrap() {
        assert_eq!(setting["results"].as_object().unwrap().len(), 9, "tasks");
        assert!(setting["results"]["arc_easy"]["acc,none"].is_number());
        assert!(setting["results"]["wikitext2"]["perplexity,none"].is_number());
    }
    assert_eq!(
        fs::read_to_string(out.path().join("table1.csv"))
            .unwrap()
            .lines()
            .count(),
        5
    );
    assert!(out.path().join("table1.md").is_file());
}

#[test]
fn a_model_without_a_super_weight_completes_and_says_so() {
    let Some(shared) = shared() else { return };
    // The same shapes, but weights that are all of one small size: nothing stands out.
    let dir = tempfile::tempdir().unwrap();
    let source = shared.join("models/tinystories-656k");
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(source.join(file), dir.path().join(file)).unwrap();
    }
    let mut bytes = fs::read(source.join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut state = 1_u32;
    for value in bytes[header..].chunks_exact_mut(4) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let small = 0.05 + 0.01 * (state >> 8) as f32 / (1 << 24) as f32;
        let signed = if state >> 31 == 0 { small } else { -small };
        value.copy_from_slice(&signed.to_le_bytes());
    }
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let data = tempfile::tempdir().unwrap();
    let only = "EleutherAI/lambada_openai/default";
    fs::create_dir_all(data.path().join(only)).unwrap();
    let file = "test-00000-of-00001.parquet";
    fs::copy(
        shared.join("data").join(only).join(file),
        data.path().join(only).join(file),
    )
    .unwrap();
    let out = tempfile::tempdir().unwrap();
    let (text, json) = table1(dir.path(), data.path(), out.path(), &["--limit", "2"]);
    assert!(
        text.contains("No super weight stands out") && text.contains("WEAK"),
        "{text}"
    );
    assert_eq!(json["super_weights"][0]["weak"], true);
    assert!(
        text.contains("Prune SW (weak)") && text.contains("Prune SW, +SA (weak)"),
        "{text}"
    );
    // Columns without data are dashes.
    let original = text.lines().find(|l| l.contains("Original")).unwrap();
    assert_eq!(original.matches(" - ").count(), 9, "{original}");
    assert!(text.contains("No data for Arc-c"), "{text}");
}

#[test]
fn bad_input_gives_one_line_and_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/sw-model/tests/golden/llama");
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--model", "no/such"], 1, "no such directory"),
        (
            &["--model", "SMALL", "--data", "no/such"],
            1,
            "--data no/such",
        ),
        (
            &["--model", "SMALL", "--data", "DIR"],
            1,
            "no data for any column",
        ),
        (&["--model", "SMALL", "--non-sw", "global:0"], 2, "global:K"),
    ];
    for (args, code, words) in cases {
        let mut command = xtask();
        command.arg("reproduce-table1");
        for &arg in args {
            match arg {
                "SMALL" => command.arg(&small),
                "DIR" => command.arg(dir.path()),
                arg => command.arg(arg),
            };
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(
            output.stdout.is_empty() && stderr.contains(words),
            "{stderr}"
        );
        assert!(!stderr.contains("panicked"));
    }
}
