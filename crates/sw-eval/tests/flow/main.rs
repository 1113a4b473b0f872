//! Whole runs with a model without weights: results, journals, shards, and what happens to bad input.

mod shards;

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sw_eval::{
    DataDir, Error, EvalResults, Metric, Options, Output, Result, Run, Shard, Status, TaskRows,
    Written, evaluate_to, evaluate_with, merge, mock::Mock, shards_in,
};

const TASKS: &[&str] = &["piqa", "lambada_openai", "wikitext", "wikitext2"];

fn write(dir: &Path, file: &str, rows: &[Value]) {
    let path = dir.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(
        path,
        rows.iter().map(|r| format!("{r}\n")).collect::<String>(),
    )
    .unwrap();
}

/// Made-up data for the tasks above.
fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let piqa: Vec<_> = (0..7)
        .map(|i| json!({"goal": format!("goal {i}"), "sol1": "x".repeat(1 + i % 3), "sol2": "yy", "label": i % 2}))
        .collect();
    write(dir.path(), "baber/piqa/data/validation-0.jsonl", &piqa);
    let lambada: Vec<_> = (0..5)
        .map(|i| json!({"text": format!("the text {i} ends so{i}")}))
        .collect();
    write(
        dir.path(),
        "EleutherAI/lambada_openai/default/test-0.jsonl",
        &lambada,
    );
    let wiki = [
        "",
        " = One = \n",
        "",
        " Some text . \n",
        " = Two = \n",
        " More text , long enough for windows . \n",
    ];
    let wiki: Vec<_> = wiki.iter().map(|t| json!({"text": t})).collect();
    write(
        dir.path(),
        "Salesforce/wikitext/wikitext-2-raw-v1/test-0.jsonl",
        &wiki,
    );
    dir
}

fn lm() -> Mock {
    // Not the length alone, so that sums of many tokens have digits to lose.
    Mock {
        max_length: 16,
        rule: |context, continuation| {
            -(continuation.len() as f64).sqrt() - 0.1 * context.len() as f64
        },
        ..Mock::default()
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.bootstrap_iters = 100;
    options
}

fn go(_: Status) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn run(dir: &Path, options: &Options) -> Result<Run> {
    let rows = TaskRows::read(TASKS, &DataDir::folder(dir), options)?;
    evaluate_with(&lm(), rows, options, None, &mut go)
}

/// The results without what may differ between equal runs.
fn comparable(results: &EvalResults) -> String {
    let mut json = results.to_json();
    json["super_weight"]["environment"] = Value::Null;
    format!("{json:#}")
}

fn write_to(
    data: &Path,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Status) -> ControlFlow<()>,
) -> Result<Written> {
    let output = Output {
        dir: out.into(),
        log_samples: true,
    };
    let rows = TaskRows::read(TASKS, &DataDir::folder(data), options)?;
    evaluate_to(&lm(), rows, options, &output, progress)
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_page_is_the_sum_of_its_windows() {
    let data = data();
    let run = run(data.path(), &options()).unwrap();
    for task in &run.tasks {
        for sample in &task.samples {
            assert_eq!(!sample.windows.is_empty(), task.task == "wikitext");
            let json = sw_eval::sample_json(sample, &task.task);
            assert_eq!(json.get("windows").is_some(), task.task == "wikitext");
            if task.task == "wikitext" {
                let sum = sample.windows.iter().fold(0.0, |sum, x| sum + x);
                assert_eq!(sum, sample.resps[0].log_prob);
            }
        }
    }
}

#[test]
fn peak_memory_stands_among_what_may_differ() {
    let data = data();
    let run = run(data.path(), &options()).unwrap();
    let peak = run.environment.peak_private_bytes;
    assert_eq!(
        peak.is_some(),
        sw_tensor::machine::private_bytes().is_some()
    );
    let json = EvalResults::new(run).to_json();
    assert_eq!(
        json["super_weight"]["environment"]["peak_private_bytes"],
        serde_json::json!(peak)
    );
}

#[test]
fn results_have_the_harness_keys() {
    let data = data();
    let results = EvalResults::new(run(data.path(), &options()).unwrap());
    let json = results.to_json();
    for key in [
        "results",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
        "config",
        "task_hashes",
    ] {
        assert!(json[key].is_object(), "{key}");
    }
    for (task, keys) in [
        (
            "piqa",
            vec![
                "acc,none",
                "acc_stderr,none",
                "acc_norm,none",
                "acc_norm_stderr,none",
            ],
        ),
        (
            "lambada_openai",
            vec!["perplexity,none", "perplexity_stderr,none", "acc,none"],
        ),
        (
            "wikitext",
            vec![
                "word_perplexity,none",
                "byte_perplexity,none",
                "bits_per_byte,none",
            ],
        ),
        ("wikitext2", vec!["perplexity,none"]),
    ] {
        for key in keys {
            assert!(json["results"][task][key].is_f64(), "{task} {key}");
        }
    }
    assert_eq!(
        json["results"]["wikitext"]["word_perplexity_stderr,none"],
        "N/A"
    );
    assert_eq!(
        json["n-samples"]["piqa"],
        json!({"original": 7, "effective": 7})
    );
    assert_eq!(json["super_weight"]["tasks"]["wikitext2"]["window"], 16);
    assert_eq!(json["super_weight"]["tasks"]["piqa"]["split"], "validation");
    assert_eq!(json["super_weight"]["bos"], "auto");
    assert!(results.get("piqa", Metric::Acc).is_some());
}

#[test]
fn a_run_that_is_stopped_anywhere_goes_on_to_the_same_results() {
    let data = data();
    let expected = comparable(&EvalResults::new(run(data.path(), &options()).unwrap()));
    let mut total = 1;
    let mut stop = 0;
    while stop < total {
        let out = tempfile::tempdir().unwrap();
        let mut last = None;
        let error = write_to(data.path(), out.path(), &options(), &mut |status| {
            (total, last) = (status.total, Some(status));
            if status.done >= stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap_err();
        assert!(
            matches!(error, Error::Interrupted { done, .. } if done == stop),
            "{error}"
        );
        assert_eq!(files(out.path()).len(), 1, "a journal and nothing else");
        // Killed while it wrote a line.
        let journal = out.path().join(&files(out.path())[0]);
        let text = fs::read_to_string(&journal).unwrap();
        fs::write(&journal, text + "{\"span\":0,\"log_pr").unwrap();

        let Written::Results { results, path } =
            write_to(data.path(), out.path(), &options(), &mut go).unwrap()
        else {
            panic!("a whole run")
        };
        assert_eq!(comparable(&results), expected, "stopped after {stop}");
        assert_eq!(results.run().environment.resumed, stop);
        assert!(path.is_file());
        assert_eq!(
            files(out.path())
                .iter()
                .filter(|f| f.starts_with("samples_"))
                .count(),
            TASKS.len()
        );
        assert!(
            !files(out.path()).iter().any(|f| f.starts_with("journal")),
            "the journal is gone"
        );
        stop += 1;
    }
    assert!(total > 10);
}

#[test]
fn another_configuration_has_another_journal() {
    let data = data();
    let out = tempfile::tempdir().unwrap();
    let stop = |status: Status| {
        if status.done >= 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    write_to(data.path(), out.path(), &options(), &mut { stop }).unwrap_err();
    let mut other = options();
    other.num_fewshot = 1;
    write_to(data.path(), out.path(), &other, &mut { stop }).unwrap_err();
    assert_eq!(files(out.path()).len(), 2);
    // A journal under the name of another run is recognised by what it says.
    let names = files(out.path());
    fs::copy(out.path().join(&names[0]), out.path().join(&names[1])).unwrap();
    let errors: Vec<_> = [options(), other]
        .iter()
        .filter_map(|o| write_to(data.path(), out.path(), o, &mut go).err())
        .collect();
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].to_string().contains("belongs to another run"),
        "{}",
        errors[0]
    );
}

#[test]
fn bad_input_gets_one_line_and_writes_nothing() {
    let piqa = |label: Value| json!({"goal": "g", "sol1": "a", "sol2": "b", "label": label});
    let file = "baber/piqa/data/validation-0.jsonl";
    let cases: BTreeMap<&str, (Vec<Value>, &str)> = BTreeMap::from([
        (
            "a column is missing",
            (
                vec![json!({"goal": "g", "sol1": "a", "label": 0})],
                "no column \"sol2\"",
            ),
        ),
        (
            "gold is outside",
            (
                vec![piqa(json!(0)), piqa(json!(2))],
                "row 1: column \"label\": gold index 2",
            ),
        ),
        (
            "the continuation is too long",
            (
                vec![json!({"goal": "g", "sol1": "a".repeat(99), "sol2": "b", "label": 0})],
                "longer than the model's context of 16",
            ),
        ),
        ("no rows", (vec![], "empty")),
    ]);
    for (name, (rows, words)) in cases {
        let data = tempfile::tempdir().unwrap();
        write(data.path(), file, &rows);
        let out = data.path().join("out");
        let output = Output {
            dir: out.clone(),
            log_samples: false,
        };
        let rows = TaskRows::read(&["piqa"], &DataDir::folder(data.path()), &options());
        let error = rows
            .and_then(|rows| evaluate_to(&lm(), rows, &options(), &output, &mut go))
            .unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(words) && error.contains("piqa") && !error.contains('\n'),
            "{name}: {error}"
        );
        assert!(!out.exists(), "{name}: nothing is written");
    }
    let data = data();
    let ask = |tasks: &[&str], options: &Options| {
        let rows = TaskRows::read(tasks, &DataDir::folder(data.path()), options);
        rows.and_then(|rows| evaluate_with(&lm(), rows, options, None, &mut go))
            .unwrap_err()
            .to_string()
    };
    assert!(ask(&["piqaa"], &options()).contains("did you mean \"piqa\"?"));
    assert!(ask(&["boolq"], &options()).contains("hf download --repo-type dataset aps/super_glue"));
    assert!(ask(&[], &options()).contains("no task"));
    let mut shots = options();
    shots.num_fewshot = 7;
    assert!(
        ask(&["piqa"], &shots).contains("7 worked examples need 8 documents to draw from, found 7")
    );
    let rows = TaskRows::read(&["piqa"], &DataDir::folder(data.path()), &options()).unwrap();
    let mut fewer = options();
    fewer.limit = Some(1);
    let error = evaluate_with(&lm(), rows, &fewer, None, &mut go).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("are not those that the rows were read with")
    );
}

#[test]
fn splits_are_named_and_never_swapped_silently() {
    let dir = tempfile::tempdir().unwrap();
    let row = json!({"question": "q", "distractor1": "a", "distractor2": "b", "distractor3": "c", "correct_answer": "d", "support": ""});
    write(
        dir.path(),
        "allenai/sciq/data/validation-0.jsonl",
        std::slice::from_ref(&row),
    );
    let sciq = |options: &Options| {
        let rows = TaskRows::read(&["sciq"], &DataDir::folder(dir.path()), options)?;
        evaluate_with(&lm(), rows, options, None, &mut go)
    };
    let run = sciq(&options()).unwrap(); // the only split there is
    assert_eq!(
        EvalResults::new(run.clone()).to_json()["super_weight"]["tasks"]["sciq"]["split"],
        "validation"
    );
    let mut other = options();
    other.split = Some("train".parse().unwrap()); // asked for, and not there
    let error = sciq(&other).unwrap_err().to_string();
    assert!(
        error.contains("no train split; the folder has: validation"),
        "{error}"
    );
    let warning = "sciq: evaluated on the validation split, not on its test split";
    assert!(run.warnings().iter().any(|w| w == warning));
    write(dir.path(), "allenai/sciq/data/train-0.jsonl", &[row]);
    let error = sciq(&options()).unwrap_err().to_string();
    assert!(
        error.contains("no test split; the folder has: train, validation"),
        "{error}"
    );
    let mut told = options();
    told.split = Some("train".parse().unwrap());
    assert_eq!(
        EvalResults::new(sciq(&told).unwrap()).to_json()["super_weight"]["tasks"]["sciq"]["split"],
        "train"
    );
}

#[test]
fn equal_requests_are_asked_once() {
    let dir = tempfile::tempdir().unwrap();
    let row = json!({"goal": "g", "sol1": "a", "sol2": "b", "label": 0});
    write(
        dir.path(),
        "baber/piqa/data/validation-0.jsonl",
        &vec![row; 5],
    );
    let mut total = 0;
    let rows = TaskRows::read(&["piqa"], &DataDir::folder(dir.path()), &options());
    let run = evaluate_with(&lm(), rows.unwrap(), &options(), None, &mut |status| {
        total = status.total;
        ControlFlow::Continue(())
    });
    assert_eq!((total, run.unwrap().tasks[0].samples.len()), (2, 5));
}

#[test]
fn a_context_that_is_cut_is_told() {
    let data = data();
    let warnings = run(data.path(), &options()).unwrap().warnings();
    assert!(
        warnings
            .iter()
            .any(|w| w
                .starts_with("piqa: 7 of 7 documents do not fit the model's context of 16 tokens")),
        "{warnings:?}"
    );
}
