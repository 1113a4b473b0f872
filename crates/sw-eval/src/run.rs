//! What a run found, document by document: the values everything else is computed from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{
    data::Doc,
    metric::{Metric, Value},
    model::{ModelInfo, Score},
    shard::Shard,
    source::Source,
    task::{Request, Task},
    workload::{Options, TaskWork, Workload, sha256},
};

/// A run, whole or one shard of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// SHA-256 of everything that decides the numbers.
    pub config: String,
    /// The part of the documents.
    pub shard: Shard,
    /// The model.
    pub model: ModelInfo,
    /// The most tokens the model reads at once.
    pub max_length: usize,
    /// How it was evaluated.
    pub options: Options,
    /// What was found.
    pub tasks: Vec<TaskRun>,
    /// When, how long, on how many threads: all that may differ between two equal runs.
    pub environment: Environment,
}

/// What may differ between two equal runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Start, as seconds since 1970.
    pub started: f64,
    /// Seconds from start to end; of a run that was resumed, of its last part.
    pub seconds: f64,
    /// Threads that computed.
    pub threads: usize,
    /// Answers that were found in a journal.
    pub resumed: usize,
    /// The most private memory that was seen, in bytes: see [`PrivatePeak`](sw_tensor::machine::PrivatePeak). Weights in
    /// mapped files do not count. Of shards that were merged, the largest; none where the system does not say.
    #[serde(default)]
    pub peak_private_bytes: Option<u64>,
}

/// One task's documents.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskRun {
    /// The task's name.
    pub task: String,
    /// Where its documents came from.
    pub source: Source,
    /// The documents, by index.
    pub samples: Vec<Sample>,
}

/// One document, what was asked, answered, and what the answers are worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its index in the split.
    pub doc_id: usize,
    /// Its columns.
    pub doc: Map<String, Json>,
    /// The right answer.
    pub target: String,
    /// Which of the answers is to the right choice.
    pub gold: usize,
    /// The questions: context and continuation, or the text.
    pub arguments: Vec<Vec<String>>,
    /// The answers.
    pub resps: Vec<Score>,
    /// Where a whole text is scored window by window, the log-probability of each window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<f64>,
    /// Their worth.
    pub metrics: BTreeMap<Metric, Value>,
    /// Tokens that were cut from the left to fit the model.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: usize,
    /// Whether a continuation merged into its context's last tokens, and those were scored with it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub merged: bool,
}

fn is_false(b: &bool) -> bool {
    !b
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Run {
    /// Puts answers to their documents. `scores`: one for each span of the workload.
    pub(crate) fn new(
        workload: Workload,
        scores: &[Score],
        options: Options,
        model: ModelInfo,
        max_length: usize,
    ) -> Self {
        let config = config_hash(&workload, &options, &model, max_length);
        let tasks = workload
            .tasks
            .into_iter()
            .map(|work| TaskRun::new(work, scores))
            .collect();
        Self {
            config,
            shard: options.shard,
            model,
            max_length,
            options,
            tasks,
            environment: Environment::default(),
        }
    }

    /// What the user should know: contexts that were cut, a split other than the task's own.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for run in &self.tasks {
            let cut = run.samples.iter().filter(|s| s.cut > 0);
            if let Some(most) = cut.clone().max_by_key(|s| s.cut) {
                lines.push(format!(
                    "{}: {} of {} documents do not fit the model's context of {} tokens and are cut from the left (document {} by {} tokens)",
                    run.task,
                    cut.count(),
                    run.samples.len(),
                    self.max_length,
                    most.doc_id,
                    most.cut
                ));
            }
            let merged: Vec<_> = run.samples.iter().filter(|s| s.merged).collect();
            if let Some(first) = merged.first() {
                lines.push(format!(
                    "{}: in {} documents (the first is {}) the tokenizer merges the continuation into the context, where lm-eval stops; scored from the first token that differs",
                    run.task, merged.len(), first.doc_id
                ));
            }
            if let Ok(task) = Task::named(&run.task)
                && task.split != run.source.split
            {
                lines.push(format!(
                    "{}: evaluated on the {} split, not on its {} split",
                    run.task, run.source.split, task.split
                ));
            }
        }
        lines
    }
}

impl TaskRun {
    fn new(work: TaskWork, scores: &[Score]) -> Self {
        let samples = work.docs.into_iter().map(|doc| {
            let resps: Vec<Score> = doc
                .spans
                .iter()
                .map(|spans| sum(spans.iter().map(|&s| scores[s])))
                .collect();
            let metrics = work
                .task
                .metrics
                .iter()
                .map(|&m| (m, doc.item.measure(m, &resps)))
                .collect();
            let rolling = doc.requests.iter().zip(&doc.spans);
            let rolling = rolling.filter(|(request, _)| matches!(request, Request::Rolling { .. }));
            let windows = rolling.flat_map(|(_, spans)| spans.iter().map(|&s| scores[s].log_prob));
            let windows = windows.collect();
            let Doc { fields, .. } = doc.doc;
            Sample {
                doc_id: doc.doc_id,
                doc: fields,
                target: doc.item.target(),
                gold: doc.item.gold(),
                arguments: doc.requests.into_iter().map(arguments).collect(),
                resps,
                windows,
                metrics,
                cut: doc.cut,
                merged: doc.merged,
            }
        });
        Self {
            task: work.task.name.into(),
            source: work.source,
            samples: samples.collect(),
        }
    }

    /// One metric's values, document by document.
    pub fn values(&self, metric: Metric) -> Vec<Value> {
        self.samples
            .iter()
            .filter_map(|s| s.metrics.get(&metric).copied())
            .collect()
    }
}

fn sum(scores: impl Iterator<Item = Score>) -> Score {
    let zero = Score {
        log_prob: 0.0,
        greedy: true,
    };
    scores.fold(zero, |a, b| Score {
        log_prob: a.log_prob + b.log_prob,
        greedy: a.greedy && b.greedy,
    })
}

fn arguments(request: Request) -> Vec<String> {
    match request {
        Request::Continuation {
            context,
            continuation,
        } => vec![context, continuation],
        Request::Rolling { text } => vec![text],
        Request::Tokens(_) => vec![String::new()],
    }
}

/// SHA-256 of everything that decides the numbers; the same for all shards.
pub(crate) fn config_hash(
    workload: &Workload,
    options: &Options,
    model: &ModelInfo,
    max_length: usize,
) -> String {
    let tasks: Vec<_> = workload
        .tasks
        .iter()
        .map(|w| (w.task.name, w.task.version, &w.source))
        .collect();
    let ModelInfo {
        fingerprint,
        dtype,
        kernel,
        ignored_config_fields,
        compute_dtype,
        ..
    } = model;
    // A journal in float32 stays what it was before there was a choice.
    let kernel = match compute_dtype {
        None => kernel.clone(),
        Some(dtype) => format!("{kernel} {dtype}"),
    };
    let model = (
        fingerprint,
        dtype,
        &kernel,
        ignored_config_fields,
        max_length,
    );
    let files = &workload.calibration;
    let all = (env!("CARGO_PKG_VERSION"), model, options, files, tasks);
    sha256(&serde_json::to_string(&all).expect("options are JSON"))
}
