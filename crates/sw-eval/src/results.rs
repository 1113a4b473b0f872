//! Results in lm-eval's JSON: its viewers and its table read them. What is ours stands under `super_weight`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value as Json, json};
use sw_tensor::files;

use crate::{
    data::Split,
    error::{Error, Result},
    metric::{Metric, Value},
    run::{Run, Sample, TaskRun},
    task::{Kind, Task},
    workload::sha256,
};

/// A run and its aggregates.
#[derive(Clone, Debug)]
pub struct EvalResults {
    run: Run,
    tasks: BTreeMap<String, BTreeMap<Metric, Aggregate>>,
}

/// A metric over all documents of a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aggregate {
    /// The value.
    pub value: f64,
    /// Its standard error, where there is one.
    pub stderr: Option<f64>,
}

impl EvalResults {
    /// The aggregates of a run (of all its shards; see [`Run::merge`]).
    pub fn new(run: Run) -> Self {
        let aggregates = |task: &TaskRun| {
            let metrics = Task::named(&task.task)
                .map(|t| t.metrics)
                .unwrap_or_default();
            let all = metrics.iter().filter_map(|&metric| {
                let values = task.values(metric);
                let stderr = metric.stderr(&values, run.options.bootstrap_iters);
                (!values.is_empty()).then(|| {
                    (
                        metric,
                        Aggregate {
                            value: metric.aggregate(&values),
                            stderr,
                        },
                    )
                })
            });
            (task.task.clone(), all.collect())
        };
        let tasks = run.tasks.iter().map(aggregates).collect();
        Self { run, tasks }
    }

    /// The run they are of.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// One aggregate.
    pub fn get(&self, task: &str, metric: Metric) -> Option<Aggregate> {
        self.tasks.get(task)?.get(&metric).copied()
    }

    /// lm-eval's `results`: for each task `"acc,none"`, `"acc_stderr,none"` and so on.
    pub fn results(&self) -> Map<String, Json> {
        let of = |run: &TaskRun| {
            let mut out = Map::new();
            out.insert("name".into(), run.task.clone().into());
            out.insert("alias".into(), run.task.clone().into());
            out.insert("sample_len".into(), run.samples.len().into());
            for metric in Task::named(&run.task)
                .map(|t| t.metrics)
                .unwrap_or_default()
            {
                let Some(Aggregate { value, stderr }) = self.get(&run.task, *metric) else {
                    continue;
                };
                out.insert(format!("{},none", metric.name()), value.into());
                out.insert(
                    format!("{}_stderr,none", metric.name()),
                    stderr.map_or("N/A".into(), Json::from),
                );
            }
            (run.task.clone(), Json::Object(out))
        };
        self.run.tasks.iter().map(of).collect()
    }

    /// The whole results file. Equal runs give equal files but for `super_weight.environment`.
    pub fn to_json(&self) -> Json {
        let run = &self.run;
        let each = |value: &dyn Fn(&TaskRun, &'static Task) -> Json| -> Json {
            let known = run
                .tasks
                .iter()
                .filter_map(|r| Some((r, Task::named(&r.task).ok()?)));
            known
                .map(|(r, task)| (r.task.clone(), value(r, task)))
                .collect::<Map<_, _>>()
                .into()
        };
        let options = &run.options;
        let warnings = [&run.model.warnings[..], &run.warnings()].concat();
        let shots = |r: &TaskRun| {
            if r.source.fewshot_split.is_some() {
                options.num_fewshot
            } else {
                0
            }
        };
        json!({
            "results": self.results(),
            "group_subtasks": {},
            "configs": each(&|r, task| config(r, task, shots(r))),
            "versions": each(&|_, task| task.version.into()),
            "n-shot": each(&|r, _| shots(r).into()),
            "higher_is_better": each(&|_, task| {
                task.metrics.iter().map(|m| (m.name().to_owned(), m.higher_is_better().into())).collect::<Map<_, _>>().into()
            }),
            "n-samples": each(&|r, _| json!({"original": r.source.original, "effective": r.samples.len()})),
            "config": {
                "model": "superweight",
                "model_args": format!("pretrained={}", run.model.name),
                "model_dtype": run.model.dtype,
                "batch_size": null,
                "batch_sizes": [],
                "device": "cpu",
                "use_cache": null,
                "limit": options.limit,
                "bootstrap_iters": options.bootstrap_iters,
                "gen_kwargs": null,
                "fewshot_seed": options.seed,
            },
            "max_length": run.max_length,
            "task_hashes": each(&|r, _| {
                sha256(&r.samples.iter().flat_map(hashes).collect::<String>()).into()
            }),
            "model_source": "superweight",
            "model_name": run.model.name,
            "model_name_sanitized": sanitized(&run.model.name),
            "chat_template": null,
            "system_instruction": null,
            "super_weight": {
                "version": env!("CARGO_PKG_VERSION"),
                "configuration": run.config,
                "fingerprint": run.model.fingerprint,
                "kernel": run.model.kernel,
                "dtype": run.model.dtype,
                "compute_dtype": run.model.compute_dtype.as_deref().unwrap_or("float32"),
                "weights_rounded": run.model.weights_rounded,
                "gguf": run.model.gguf,
                "ignored_config_fields": run.model.ignored_config_fields,
                "unknown_config_fields": run.model.unknown_config_fields,
                "bos": options.bos,
                "seed": options.seed,
                "interventions": options.interventions,
                "shard": run.shard,
                "tasks": each(&|r, _| serde_json::to_value(&r.source).unwrap_or_default()),
                "warnings": warnings,
                "environment": run.environment,
            },
        })
    }

    /// Writes `results_STAMP.json`, and with `samples` one `samples_TASK_STAMP.jsonl` for each task.
    ///
    /// Each file is written beside its place and renamed, so there is no half-written one; if one cannot be written,
    /// none stays.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, stamp: &str, samples: bool) -> Result<PathBuf> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let logged: &[TaskRun] = if samples { &self.run.tasks } else { &[] };
        let beside = |task: &TaskRun| dir.join(format!("samples_{}_{stamp}.jsonl", task.task));
        let path = dir.join(format!("results_{stamp}.json"));
        let written = logged
            .iter()
            .try_for_each(|task| {
                let path = beside(task);
                let written = files::write_whole(&path, |file| {
                    task.samples.iter().try_for_each(|sample| {
                        writeln!(file, "{}", sample_json(sample, &task.task))
                    })
                });
                written.map_err(|e| Error::io(&path, e))
            })
            .and_then(|()| {
                files::write_whole(&path, |file| writeln!(file, "{:#}", self.to_json()))
                    .map_err(|e| Error::io(&path, e))
            });
        if written.is_err() {
            for task in logged {
                let _ = fs::remove_file(beside(task)); // what matters is the first error
            }
        }
        written.map(|()| path)
    }
}

/// lm-eval's line for one document.
pub fn sample_json(sample: &Sample, task: &str) -> Json {
    let resps: Vec<Json> = sample
        .resps
        .iter()
        .map(|r| json!([python_float(r.log_prob), python_bool(r.greedy)]))
        .collect();
    let rolling = Task::named(task).is_ok_and(|t| t.metrics.contains(&Metric::WordPerplexity));
    let filtered: Vec<Json> = if rolling {
        sample
            .resps
            .iter()
            .map(|r| python_float(r.log_prob).into())
            .collect()
    } else {
        resps
    };
    let [doc_hash, prompt_hash, target_hash] = hashes(sample);
    let arguments = sample.arguments.iter().enumerate().map(|(i, texts)| {
        let texts = texts
            .iter()
            .enumerate()
            .map(|(j, text)| (format!("arg_{j}"), text.as_str().into()));
        (format!("gen_args_{i}"), Json::Object(texts.collect()))
    });
    let mut line = json!({
        "doc_id": sample.doc_id,
        "doc": sample.doc,
        "target": sample.target,
        "arguments": arguments.collect::<Map<_, _>>(),
        "resps": filtered.iter().map(|r| json!([r])).collect::<Vec<_>>(),
        "filtered_resps": filtered,
        "filter": "none",
        "metrics": sample.metrics.keys().map(|m| m.name()).collect::<Vec<_>>(),
        "doc_hash": doc_hash,
        "prompt_hash": prompt_hash,
        "target_hash": target_hash,
    });
    if !sample.windows.is_empty() {
        line["windows"] = json!(sample.windows);
    }
    for (metric, value) in &sample.metrics {
        line[metric.name()] = match value {
            Value::One(x) => json!(x),
            Value::Weighted(x, w) => json!([x, w]),
        };
    }
    line
}

/// SHA-256 of the document (as indented JSON), the first prompt and the target, as lm-eval takes them.
fn hashes(sample: &Sample) -> [String; 3] {
    let doc = serde_json::to_string_pretty(&sample.doc).unwrap_or_default();
    let prompt = sample
        .arguments
        .first()
        .and_then(|a| a.first())
        .map_or("", String::as_str);
    [sha256(&doc), sha256(prompt), sha256(&sample.target)]
}

fn config(run: &TaskRun, task: &Task, num_fewshot: usize) -> Json {
    let output_type = match task.kind {
        Kind::Windows(_) => "loglikelihood_rolling",
        Kind::Items { .. } if task.metrics.contains(&Metric::WordPerplexity) => {
            "loglikelihood_rolling"
        }
        Kind::Items { .. } if task.metrics.contains(&Metric::Perplexity) => "loglikelihood",
        Kind::Items { .. } => "multiple_choice",
    };
    let metrics: Vec<Json> = task
        .metrics
        .iter()
        .map(|m| json!({"metric": m.name(), "higher_is_better": m.higher_is_better()}))
        .collect();
    let split = if run.source.split == Split::Test {
        "test_split"
    } else {
        "validation_split"
    };
    json!({
        "task": task.name,
        "dataset_path": task.dataset.path,
        "dataset_name": task.dataset.config,
        split: run.source.split,
        "target_delimiter": " ",
        "fewshot_delimiter": "\n\n",
        "num_fewshot": num_fewshot,
        "metric_list": metrics,
        "output_type": output_type,
        "repeats": 1,
        "metadata": {"version": task.version},
    })
}

fn sanitized(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if !"\"<>:/|\\?*[]".contains(c) {
            out.push(c);
        } else if !out.ends_with("__") {
            out.push_str("__");
        }
    }
    out
}

/// `str(x)` of a Python float.
fn python_float(x: f64) -> String {
    let text = format!("{x:?}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, exponent) = exponent
        .strip_prefix('-')
        .map_or(('+', exponent), |e| ('-', e));
    format!(
        "{}e{sign}{exponent:0>2}",
        digits.strip_suffix(".0").unwrap_or(digits)
    )
}

fn python_bool(x: bool) -> &'static str {
    if x { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_spelled_as_python_does() {
        for (x, text) in [
            (-12.5, "-12.5"),
            (-3.0, "-3.0"),
            (-1e-7, "-1e-07"),
            (-1.5e-12, "-1.5e-12"),
            (0.0, "0.0"),
        ] {
            assert_eq!(python_float(x), text);
        }
    }

    #[test]
    fn names_are_sanitized_as_the_harness_does() {
        assert_eq!(sanitized("../a/b"), "..__a__b");
        assert_eq!(sanitized("a//b"), "a__b");
    }
}
