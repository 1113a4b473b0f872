//! `cargo xtask reproduce ...` as users meet it, on the repository's own checkpoint.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use assert_cmd::Command;
use serde_json::{Map, Value, json};

const ALL: [&str; 16] = [
    "table1", "figure1", "figure2", "table2", "figure3", "figure10", "figure4", "figure5",
    "figure6", "table3", "table4", "table7", "figure7", "table6", "beyond", "lw2g",
];

fn nano(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../nano")
        .join(folder)
}

fn xtask(args: &[&str], out: &Path) -> Output {
    let mut command = Command::cargo_bin("xtask").expect("built by cargo");
    command.args(args).arg("--out").arg(out).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Names and contents of what a run leaves for people: all but JSON (which tells times) and journals.
fn pages(dir: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e != "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, without_date(&fs::read_to_string(&path).unwrap()))
        })
        .collect();
    files.sort();
    files
}

/// The report says when it was made.
fn without_date(page: &str) -> String {
    match (page.find("<time>"), page.find("</time>")) {
        (Some(start), Some(end)) => format!("{}{}", &page[..start], &page[end..]),
        _ => page.to_owned(),
    }
}

/// What an outcome is made of: of each table the headings, of each figure the axes and series of its panels.
fn shape(json: &Value) -> Value {
    let panel = |panel: &Value| match panel["kind"].as_str() {
        Some("flow") => json!({ "steps": panel["steps"].as_array().unwrap().len() }),
        _ => {
            let names = panel["series"].as_array().unwrap().iter();
            let names: Vec<_> = names.map(|s| s["name"].clone()).collect();
            json!({ "x": panel["x"]["label"], "y": panel["y"]["label"], "series": names })
        }
    };
    let block = |block: &Value| {
        let content = &block["content"];
        let shape = match content["figure"].as_array() {
            Some(panels) => panels.iter().map(panel).collect::<Vec<_>>().into(),
            None => content["table"]["header"].clone(),
        };
        (block["id"].as_str().unwrap().to_owned(), shape)
    };
    let blocks = json["outcome"]["blocks"].as_array().unwrap();
    Value::Object(blocks.iter().map(block).collect())
}

fn columns(csv: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(csv).unwrap();
    let line = |line: &str| line.split(',').map(str::to_owned).collect();
    text.lines().map(line).collect()
}

#[test]
fn everything_twice_and_once_more() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // smt, pr-moe and mos train for minutes without optimisation: tests of their own run them in short.
    let args = [&["reproduce"][..], &ALL, &["--limit", "3"]].concat();
    let first = xtask(&args, dirs[0].path());
    assert!(first.status.success(), "{}", text(&first.stderr));

    let mut shapes = Map::new();
    for name in ALL {
        let path = dirs[0].path().join(format!("{name}.json"));
        let json: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(json["experiment"]["name"], name);
        assert_eq!(json["experiment"]["limit"], 3);
        assert_eq!(
            json["command"],
            format!("cargo xtask reproduce-{name} --limit 3")
        );
        for key in [
            "configuration",
            "model",
            "kernel",
            "version",
            "outcome",
            "environment",
        ] {
            assert!(!json[key].is_null(), "{name}: {key}");
        }
        let blocks = json["outcome"]["blocks"].as_array().unwrap();
        assert!(!blocks.is_empty(), "{name}");
        shapes.insert(name.into(), shape(&json));
        for block in blocks {
            let id = block["id"].as_str().unwrap();
            let there = |end: &str| dirs[0].path().join(format!("{id}.{end}")).is_file();
            assert!(there("csv"), "{id}");
            assert_eq!(
                there("svg"),
                block["content"].get("figure").is_some(),
                "{id}"
            );
        }
        assert!(dirs[0].path().join(format!("{name}.md")).is_file());
    }

    // Every table and figure is made of what shapes.json says; SW_WRITE_SHAPES=1 writes it anew.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shapes.json");
    if std::env::var_os("SW_WRITE_SHAPES").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&shapes).unwrap() + "\n").unwrap();
    }
    let expected: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for name in ALL {
        assert_eq!(shapes[name], expected[name], "{name}");
    }

    let report = fs::read_to_string(dirs[0].path().join("report.html")).unwrap();
    for name in ALL {
        assert!(
            report.contains(&format!("<section id=\"{name}\">")),
            "{name}"
        );
        assert!(
            report.contains(&format!("reproduce-{name} --limit 3")),
            "{name}"
        );
    }
    for foreign in [
        "src=",
        "<link",
        "@import",
        "url(",
        "<script",
        "NaN",
        "href=\"http",
    ] {
        assert!(!report.contains(foreign), "{foreign}");
    }
    assert_eq!(
        report.matches("<svg").count(),
        report.matches("</svg>").count()
    );

    // The searched z has the least reconstruction error, whatever the limit.
    let rows = columns(&dirs[0].path().join("figure7-search.csv"));
    let [ours, listed] = ["its error", "its error "].map(|heading| {
        let i = rows[0].iter().position(|h| h == heading).unwrap();
        rows[1..].iter().map(move |r| r[i].clone())
    });
    for (ours, listed) in ours.zip(listed) {
        let number = |s: &str| s.parse::<f64>().unwrap();
        assert!(number(&ours) <= number(&listed), "{ours} {listed}");
    }

    // Another folder: the same pages, byte for byte.
    let second = xtask(&args, dirs[1].path());
    assert!(second.status.success(), "{}", text(&second.stderr));
    let [a, b] = [pages(dirs[0].path()), pages(dirs[1].path())];
    assert_eq!(a.len(), b.len());
    for ((name, a), (other, b)) in a.iter().zip(&b) {
        assert_eq!(name, other);
        assert!(a == b, "{name} differs");
    }

    // The same folder: nothing is run again, and the report stays as it is.
    let again = xtask(&args, dirs[0].path());
    assert!(again.status.success());
    assert_eq!(
        text(&again.stderr).matches("finished before").count(),
        ALL.len()
    );
    assert!(a == pages(dirs[0].path()));
}

#[test]
fn what_cannot_be_made_is_named_and_the_rest_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data/EleutherAI/lambada_openai/default");
    fs::create_dir_all(&data).unwrap();
    let file = "test-00000-of-00001.parquet";
    let from = nano("data/EleutherAI/lambada_openai/default").join(file);
    fs::copy(from, data.join(file)).unwrap();
    let out = dir.path().join("out");
    let folder = dir.path().join("data").display().to_string();
    let args = [
        "reproduce",
        "figure3",
        "table7",
        "figure5",
        "--limit",
        "2",
        "--data",
        &folder,
    ];
    let output = xtask(&args, &out);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("<b>table7</b>: no data for any column of the table"));
    assert!(out.join("figure3.svg").is_file() && out.join("figure5.svg").is_file());
    assert!(!out.join("table7.json").exists());

    // Nothing at all can be made: an error, and no report.
    let nothing = dir.path().join("nothing");
    let args = ["reproduce", "table7", "--limit", "2", "--data", &folder];
    let output = xtask(&args, &nothing);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing could be made; table7: no data"));
    assert!(!nothing.join("report.html").exists());
}

#[test]
fn a_run_that_was_stopped_goes_on_from_its_journals() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["reproduce-table7", "--limit", "3"];
    assert!(xtask(&args, dir.path()).status.success());
    let before = fs::read_to_string(dir.path().join("table7.csv")).unwrap();
    let journals = || {
        fs::read_dir(dir.path().join("journals"))
            .unwrap()
            .map(|e| e.unwrap().path())
    };
    let count = journals().count();
    // As if it had been killed: no result yet, and half of every journal.
    fs::remove_file(dir.path().join("table7.json")).unwrap();
    for path in journals() {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        fs::write(&path, lines[..lines.len().div_ceil(2)].concat()).unwrap();
    }
    assert!(xtask(&args, dir.path()).status.success());
    assert_eq!(
        fs::read_to_string(dir.path().join("table7.csv")).unwrap(),
        before
    );
    assert_eq!(journals().count(), count);
}

#[test]
fn commands_refuse_what_they_cannot_do() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["reproduce", "figure99"], 1, "no such table or figure"),
        (
            &["reproduce-figure7", "--sizes", "0", "--limit", "2"],
            1,
            "--sizes 0",
        ),
        (&["reproduce-figure6", "--factors", "x"], 2, "--factors"),
        (
            &["reproduce-table3", "--alpha", "2", "--limit", "2"],
            1,
            "--alpha 2",
        ),
        (
            &["reproduce-table3", "--calib", "no/such", "--limit", "2"],
            1,
            "--calib no/such",
        ),
        (
            &["reproduce-beyond", "--ridge", "0", "--limit", "2"],
            1,
            "--ridge 0",
        ),
    ];
    for (args, code, words) in cases {
        let output = xtask(args, dir.path());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(
            stderr.contains(words) && !stderr.contains("panicked"),
            "{stderr}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn super_weights_that_are_not_there_are_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate.json");
    let weight = r#"[{"layer": 0, "linear": "gate_proj", "row": 1, "col": 2}]"#;
    fs::write(&gate, weight).unwrap();
    let out = dir.path().join("out");
    for (given, words) in [
        ("0:0:9999999", "9999999"),
        (gate.to_str().unwrap(), "an entry of down_proj"),
    ] {
        let args = ["reproduce-table3", "--super-weights", given, "--limit", "2"];
        let output = xtask(&args, &out);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert!(!out.join("journals").exists(), "something ran");
    }
}

#[test]
fn what_sw_quantize_packed_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("packed");
    let model = sw_model::Model::open(nano("model")).unwrap();
    let mut export = sw_intervene::Export::default();
    export.format = sw_intervene::Format::PackedSw;
    export.rule.scheme =
        sw_quant::Scheme::new(sw_quant::Levels::asymmetric(8), sw_quant::Grouping::Row);
    let plan = sw_intervene::Plan::new(&model, &export).unwrap();
    let mut progress = |_| std::ops::ControlFlow::Continue(());
    plan.write(&packed, false, &mut progress).unwrap();
    let out = dir.path().join("out");
    let args = [
        "reproduce-figure3",
        "--model",
        &packed.display().to_string(),
    ];
    let output = xtask(&args, &out);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json = fs::read_to_string(out.join("figure3.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let layers = json["profile"].as_array().unwrap().len();
    assert_eq!(layers, model.spec().layers.len());
}
