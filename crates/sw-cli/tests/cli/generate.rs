//! `sw generate`, and the choice of a precision.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::{fails, json, small, sw};

/// The checkpoint of this repository, which has a tokenizer.
fn nano() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano/model")
}

fn text(args: &[&str]) -> String {
    let output = sw().args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_text_is_drawn_by_its_seed_alone() {
    let model = nano().display().to_string();
    let ask = |more: &[&str]| {
        let ask = [
            "generate",
            &model,
            "--prompt",
            "The",
            "--max-new-tokens",
            "24",
        ];
        text(&[&ask, more].concat())
    };
    let greedy = ask(&[]);
    assert!(
        greedy.starts_with("The") && greedy.ends_with('\n'),
        "{greedy:?}"
    );
    let drawn = |seed, threads| {
        let more = ["--temperature", "1.2", "--top-p", "0.9"];
        ask(&[&more[..], &["--seed", seed, "--threads", threads]].concat())
    };
    let first = drawn("7", "1");
    for threads in ["2", "3"] {
        assert_eq!(drawn("7", threads), first);
    }
    assert_ne!(drawn("8", "1"), first);
    assert_eq!(ask(&["--top-p", "0.000001"]), greedy);
    assert_eq!(ask(&["--dtype", "auto"]), ask(&["--dtype", "auto"]));
}

#[test]
fn a_text_appears_as_it_is_made() {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("sw"));
    command.args(["generate", &nano().display().to_string(), "--prompt", "The"]);
    command.args(["--max-new-tokens", "100000000", "--temperature", "1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    // It would take hours to the end, and what has been made is there.
    let mut start = [0; 3];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut start)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(&start, b"The");
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let model = small().display().to_string();
    let ask = ["generate", &model, "--tokens", "1,17,5"];
    for (more, words) in [
        (&["--temperature", "0"][..], &["temperature 0", "above 0"]),
        (&["--temperature", "-1"], &["temperature -1", "above 0"]),
        (&["--temperature", "nan"], &["temperature NaN", "above 0"]),
        (&["--top-p", "0"], &["top-p 0", "at most 1"]),
        (&["--top-p", "1.5"], &["top-p 1.5", "at most 1"]),
        (&["--seed", "3"], &["--seed", "--temperature"]),
    ] {
        fails(&[&ask, more].concat(), 1, words);
    }
    // A model without a tokenizer answers in ids, one after the other.
    let ids = text(&[&ask[..], &["--max-new-tokens", "5"]].concat());
    assert_eq!(ids.trim_end().split(',').count(), 5, "{ids:?}");
    assert_eq!(text(&[&ask[..], &["--max-new-tokens", "0"]].concat()), "\n");
}

#[test]
fn results_say_in_which_precision_they_were_computed() {
    let (model, data) = (nano(), nano().join("../data"));
    let [model, data] = [&model, &data].map(|path| path.display().to_string());
    let eval = [
        "eval", &model, "--tasks", "arc_easy", "--data", &data, "--limit", "6", "--json",
    ];
    let run =
        |dtype: &str| json(&[&eval[..], &["--dtype", dtype]].concat())["super_weight"].clone();
    let [exact, low] = ["float32", "bfloat16"].map(run);
    assert_eq!(
        json(&eval)["super_weight"]["configuration"],
        exact["configuration"]
    );
    assert_eq!(
        (&exact["compute_dtype"], &low["compute_dtype"]),
        (&"float32".into(), &"bfloat16".into())
    );
    assert_ne!(exact["configuration"], low["configuration"]);
    assert_eq!(exact["weights_rounded"], false);
    let detected = json(&[
        "detect",
        &model,
        "--no-proof",
        "--json",
        "--dtype",
        "bfloat16",
    ]);
    assert_eq!(detected["compute_dtype"], "bfloat16");
    fails(
        &["detect", &model, "--dtype", "int8"],
        2,
        &["int8", "bfloat16"],
    );
}
