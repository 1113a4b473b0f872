//! `sw tune` on the repository's own checkpoint.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fails, json, sw};

fn nano(folder: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano");
    path.join(folder).display().to_string()
}

/// A text of the world that the checkpoint knows.
fn story(dir: &Path) -> String {
    let mut text = String::new();
    for i in 0..150 {
        let thing = ["knife", "broom", "ladder", "kettle", "rope"][i % 5];
        let place = ["barn", "tower", "cellar", "park"][i % 4];
        text.push_str(&format!(
            "The {thing} is kept in the {place}. People use the {thing}.\n"
        ));
    }
    let path = dir.join("story.txt");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

struct Run {
    dir: TempDir,
    data: String,
}

impl Run {
    fn new() -> Run {
        let dir = tempfile::tempdir().unwrap();
        let data = story(dir.path());
        Run { dir, data }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn args(&self, out: &str, more: &[&str]) -> Vec<String> {
        let out = self.out(out).display().to_string();
        let model = nano("model");
        let fixed = [
            "tune",
            &model,
            "--data",
            &self.data,
            "--out",
            &out,
            "--steps",
            "6",
            "--length",
            "32",
            "--batch",
            "2",
            "--measure-every",
            "3",
            "--measure-on",
            "4",
        ];
        fixed
            .into_iter()
            .chain(more.iter().copied())
            .map(str::to_owned)
            .collect()
    }

    fn json(&self, out: &str, more: &[&str]) -> Value {
        let args = self.args(out, more);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["--json"]).collect();
        json(&args)
    }
}

#[test]
fn every_method_learns_and_what_it_writes_is_the_tuned_model() {
    let run = Run::new();
    let small = [
        "--tile", "16", "--share", "0.02", "--warmup", "2", "--rate", "0.01",
    ];
    let smt = [&["--method", "smt"][..], &small].concat();
    let lora = ["--method", "lora", "--rank", "2", "--rate", "0.01"];
    let dora = [
        "--method",
        "dora",
        "--rank",
        "2",
        "--rate",
        "0.01",
        "--targets",
        "q_proj,v_proj",
    ];
    let full = [
        "--method",
        "full",
        "--rate",
        "0.002",
        "--freeze-super-weights",
        "0:5:17",
    ];
    let methods: [(&str, &[&str]); 4] = [
        ("smt", &smt),
        ("lora", &lora),
        ("dora", &dora),
        ("full", &full),
    ];
    for (name, args) in methods {
        let record = run.json(name, args);
        let log = record["log"].as_array().unwrap();
        let held_out = |i: usize| log[i]["held_out"].as_f64().unwrap();
        assert_eq!(log.len(), 3, "{name}: {record}");
        assert!(held_out(2) < held_out(0) - 0.02, "{name}: {record}");
        assert!(!run.out(&format!("{name}.state")).exists());
        // What was written, opened again, has the loss that the run saw.
        let out = run.out(name).display().to_string();
        let tasks = [
            "--tasks",
            "piqa",
            "--limit",
            "5",
            "--data",
            &nano("data"),
            "--json",
        ];
        let eval = |model: &str, more: &[&str]| -> Value {
            let all = [&["eval", model][..], &tasks, more].concat();
            json(&all)["results"]["piqa"].clone()
        };
        let base = nano("model");
        match name {
            "full" => {
                let frozen = ["inspect", &out, "--json"];
                assert_eq!(json(&frozen)["layers"], 4);
                assert!(eval(&out, &[]).is_object());
            }
            _ => {
                // Merged in memory, and merged into a checkpoint: the same answers.
                let merged = run.out(&format!("{name}-merged")).display().to_string();
                sw().args(["tune", &base, "--merge", &out, "--out", &merged])
                    .assert()
                    .success();
                assert_eq!(eval(&base, &["--adapter", &out]), eval(&merged, &[]));
                sw().args(["detect", &base, "--adapter", &out, "--no-proof"])
                    .assert()
                    .success();
            }
        }
    }
    // A checkpoint at once is the merged one, byte for byte.
    let at_once = [&smt[..], &["--write", "checkpoint"]].concat();
    run.json("at-once", &at_once);
    let file = |name: &str| fs::read(run.out(name).join("model.safetensors")).unwrap();
    assert_eq!(file("at-once"), file("smt-merged"));
    // Quantizing reads stored weights.
    let (base, out) = (nano("model"), run.out("smt").display().to_string());
    let args = [
        "quantize",
        &base,
        "--adapter",
        &out,
        "--out",
        "x",
        "--dry-run",
    ];
    fails(&args, 1, &["--adapter", "--merge"]);
}

#[test]
fn a_soft_prompt_learns_and_stands_before_every_text() {
    let run = Run::new();
    let method = ["--method", "prompt", "--virtual-tokens", "8", "--rate"];
    let text = [&method[..], &["0.05", "--prompt-text", "The knife is kept"]].concat();
    // The model without a prompt is where it begins; a few steps only undo what a prompt of no use does.
    let args = run.args("prompt", &[&text[..], &["--json"]].concat());
    let more = |a: String| match a.as_str() {
        "6" => "60".to_owned(),
        "3" => "30".to_owned(),
        _ => a,
    };
    let args: Vec<String> = args.into_iter().map(more).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let record = json(&args);
    let log = record["log"].as_array().unwrap();
    let held_out = |i: usize| log[i]["held_out"].as_f64().unwrap();
    assert_eq!((&record["trained"], log.len()), (&json!(8 * 128), 3));
    assert!(held_out(2) < held_out(0) - 0.02, "{record}");
    let config = fs::read(run.out("prompt").join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["peft_type"], "PROMPT_TUNING");
    assert_eq!(config["num_virtual_tokens"], 8);
    assert_eq!(config["prompt_tuning_init"], "TEXT");

    let (base, out) = (nano("model"), run.out("prompt").display().to_string());
    let data = nano("data");
    let eval = |more: &[&str]| -> Value {
        let fixed = [
            "eval",
            &base,
            "--tasks",
            "wikitext2",
            "--limit",
            "2",
            "--data",
            &data,
            "--json",
        ];
        let all = [&fixed[..], more].concat();
        json(&all)["results"].clone()
    };
    assert_ne!(eval(&["--adapter", &out]), eval(&[]));
    let generate = [
        "generate",
        &base,
        "--adapter",
        &out,
        "--prompt",
        "The knife",
        "--max-new-tokens",
        "4",
    ];
    let output = sw().args(generate).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("The knife"));

    // What asks about weights says that there is none to see; no checkpoint can hold it.
    let words = ["--adapter", "a soft prompt changes no weight", "sw eval"];
    fails(&["detect", &base, "--adapter", &out], 1, &words);
    let merge = ["tune", &base, "--merge", &out, "--out", "x"];
    fails(&merge, 1, &["--merge", "a soft prompt changes no weight"]);
    let refused = |more: &[&str], words: &[&str]| {
        let args = run.args("out", &[&["--method", "prompt"], more].concat());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        fails(&args, 1, words);
        assert!(!run.out("out").exists() && !run.out("out.state").exists());
    };
    refused(
        &["--virtual-tokens", "0"],
        &["--virtual-tokens 0: expected 1 to 126"],
    );
    refused(
        &["--virtual-tokens", "127"],
        &["--virtual-tokens 127: expected 1 to 126"],
    );
    refused(
        &["--virtual-tokens", "97"],
        &[
            "--length 32: expected 2 to 31",
            "128 positions without the 97",
        ],
    );
    refused(&["--write", "checkpoint"], &["--write checkpoint"]);
    refused(&["--prompt-text", ""], &["has no token"]);
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_weights() {
    goes_on(&["--method", "lora", "--rank", "2"]);
    goes_on(&["--method", "prompt", "--virtual-tokens", "5"]);
}

fn goes_on(method: &[&str]) {
    let run = Run::new();
    let fixed = ["--steps", "60", "--save-every", "1"];
    let method = [method, &fixed].concat();
    let args = |out: &str| {
        let args = run.args(out, &method);
        // The last of two options of one name would be refused.
        let first = args.iter().position(|a| a == "--steps").unwrap();
        let rest = args
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != first && *i != first + 1);
        rest.map(|(_, a)| a.clone()).collect::<Vec<String>>()
    };
    sw().args(args("whole")).assert().success();
    let mut killed = Command::new(env!("CARGO_BIN_EXE_sw"))
        .args(args("killed"))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let state = run.out("killed.state").join("state.safetensors");
    for _ in 0..600 {
        if state.is_file() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(state.is_file() && !run.out("killed").exists());
    // Other arguments are refused, and leave the state as it is.
    let mut other = args("killed");
    other.extend(["--rate".into(), "0.5".into()]);
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    fails(
        &other,
        1,
        &["killed.state: belongs to a run with other arguments"],
    );
    let output = sw().args(args("killed")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("goes on after step"), "{stderr}");
    let file = |name: &str| fs::read(run.out(name).join("adapter_model.safetensors")).unwrap();
    assert_eq!(file("whole"), file("killed"));
    assert!(!run.out("killed.state").exists());
    // Without its recipe nobody knows whose state it is: that of a run that was killed while it removed it, say.
    fs::create_dir(run.out("late.state")).unwrap();
    fs::write(
        run.out("late.state/state.safetensors"),
        "of other arguments",
    )
    .unwrap();
    sw().args(args("late")).assert().success();
    assert_eq!(file("whole"), file("late"));
    assert!(!run.out("late.state").exists());
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_loses_no_step() {
    let run = Run::new();
    let method = ["--method", "smt", "--tile", "16", "--warmup", "2"];
    let method = [&method[..], &["--write", "checkpoint"]].concat();
    sw().args(run.args("whole", &method)).assert().success();
    // Files may grow to 1 MiB: the state fits, the checkpoint of 2.6 MB does not.
    let limit = "trap '' XFSZ; ulimit -f 1024; exec \"$@\"";
    let output = Command::new("bash")
        .args(["-c", limit, "bash", env!("CARGO_BIN_EXE_sw")])
        .args(run.args("full", &method))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(
        last.contains("full could not be written; all steps are kept in"),
        "{last}"
    );
    assert!(!run.out("full").exists());
    let output = sw().args(run.args("full", &method)).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("goes on after step 6"), "{stderr}");
    let file = |name: &str| fs::read(run.out(name).join("model.safetensors")).unwrap();
    assert_eq!(file("whole"), file("full"));
    assert!(!run.out("full.state").exists());

    // Not even the state fits.
    let limit = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    let output = Command::new("bash")
        .args(["-c", limit, "bash", env!("CARGO_BIN_EXE_sw")])
        .args(run.args("none", &["--method", "full"]))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = stderr.lines().last().unwrap();
    assert!(
        last.contains("the state after step 6 could not be saved"),
        "{stderr}"
    );
    assert!(!run.out("none").exists());
    let half = run.out("none.state").join("state.safetensors");
    assert!(!half.exists(), "half a state is left");
}

#[test]
fn prompts_are_not_learned_and_rows_are_read() {
    let run = Run::new();
    let rows = run.out("pairs.jsonl");
    let row = |i: usize| json!({"prompt": format!("Question: where is thing {i}?\nAnswer:"), "completion": " in the barn"});
    let text: Vec<String> = (0..20).map(|i| row(i).to_string()).collect();
    fs::write(&rows, text.join("\n")).unwrap();
    let dump = run.out("dump.json").display().to_string();
    let args = run.args("none", &["--method", "full", "--dump", &dump]);
    let at = args.iter().position(|a| a == "--data").unwrap();
    let mut args = args;
    args[at + 1] = rows.display().to_string();
    sw().args(&args).assert().success();
    assert!(!run.out("none").exists());
    let dumped: Value = serde_json::from_slice(&fs::read(&dump).unwrap()).unwrap();
    assert_eq!(dumped["steps"].as_array().unwrap().len(), 6);
    assert_eq!(dumped["steps"][0].as_array().unwrap().len(), 2);
    assert_eq!(dumped["held_out"].as_array().unwrap().len(), 2);
}

#[test]
fn what_cannot_be_trained_is_said_in_one_line() {
    let run = Run::new();
    let refused = |more: &[&str], words: &[&str]| {
        let args = run.args("out", more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        fails(&args, 1, words);
        assert!(
            !run.out("out").exists() && !run.out("out.state").exists(),
            "{more:?}"
        );
    };
    refused(
        &["--method", "lora", "--rank", "500"],
        &["rank 500", "expected 1 to 128"],
    );
    refused(
        &["--method", "lora", "--targets", "w_proj"],
        &["--targets w_proj", "down_proj"],
    );
    refused(
        &["--method", "lora", "--freeze-super-weights", "0:5:17"],
        &["none can be frozen"],
    );
    refused(
        &["--method", "smt", "--tile", "48"],
        &["tiles of 48 x 48", "[128, 512]"],
    );
    refused(
        &["--method", "smt", "--share", "1e-9"],
        &["0 tiles", "larger share"],
    );
    refused(&["--method", "smt", "--share", "7"], &["a share of 7"]);
    refused(
        &["--method", "smt", "--selection", "/no/such"],
        &["--selection", "/no/such"],
    );
    refused(&["--method", "full", "--rate", "0"], &["--rate 0"]);
    refused(
        &["--method", "full", "--held-out-share", "1"],
        &["--held-out-share 1"],
    );
    let with = |from: &str, to: &str, words: &[&str]| {
        let args = run.args("out", &["--method", "full"]);
        let args: Vec<String> = args
            .iter()
            .map(|a| if a == from { to.to_owned() } else { a.clone() })
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        fails(&args, 1, words);
    };
    with("32", "4000", &["--length 4000", "expected 2 to 128"]);
    with(&run.data, "/no/such.txt", &["--data", "/no/such.txt"]);
    let empty = run.out("empty.txt");
    fs::write(&empty, " \n").unwrap();
    with(
        &run.data,
        &empty.display().to_string(),
        &["empty.txt: no text in it"],
    );
    let rows = run.out("rows.jsonl");
    let path = rows.display().to_string();
    fs::write(&rows, "{\"question\": \"a\"}\n").unwrap();
    with(&run.data, &path, &["neither \"text\" nor \"prompt\""]);
    let long = json!({"prompt": "the ", "completion": "barn ".repeat(100)});
    fs::write(&rows, format!("{long}\n")).unwrap();
    with(
        &run.data,
        &path,
        &["row 0 has", "expected at most --length 32"],
    );
    // A folder that is there is not replaced.
    fs::create_dir(run.out("out")).unwrap();
    with("32", "31", &["out: exists", "--force"]);
}
