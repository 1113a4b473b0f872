//! What the experiments share: the opened model, its super weights, and evaluations, each of which is run once.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    fs::File,
    path::PathBuf,
    rc::Rc,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sw_detect::{Candidate, DetectOptions, Directory, Report, Unit, detect, measure};
use sw_eval::{
    DataDir, EvalResults, Intervention, Journal, Key, Metric, Options, Run, Runtime, Split, Task,
    Workload, evaluate_workload,
};
use sw_model::{Fingerprint, Model, WeightCoord};

use crate::{
    inputs::{Inputs, super_weights},
    outcome::Outcome,
    output,
    progress::Bar,
    table::grouped,
};

/// The paper's zero-shot tasks, in its order: task, heading.
pub(crate) const ACCURACIES: [(&str, &str); 7] = [
    ("arc_challenge", "Arc-c"),
    ("arc_easy", "Arc-e"),
    ("hellaswag", "Hella"),
    ("lambada_openai", "Lamb"),
    ("piqa", "PIQA"),
    ("sciq", "SciQ"),
    ("winogrande", "Wino"),
];
/// The paper's texts, by the GPTQ protocol.
pub(crate) const PERPLEXITIES: [(&str, &str); 2] = [("c4", "C4"), ("wikitext2", "Wiki-2")];

/// The share of a task's questions that guessing gets right.
fn guess(task: &str) -> f64 {
    match task {
        "lambada_openai" => 0.0,
        "piqa" | "winogrande" => 0.5,
        _ => 0.25,
    }
}

/// The mean accuracy, from 0 to 1, that guessing reaches on some tasks.
pub(crate) fn guessing(tasks: &[&str]) -> f64 {
    tasks.iter().map(|t| guess(t)).sum::<f64>() / tasks.len().max(1) as f64
}

/// A model on the bench.
pub(crate) struct Lab {
    pub(crate) inputs: Inputs,
    pub(crate) model: Model,
    pub(crate) data: DataDir,
    pub(crate) fingerprint: Fingerprint,
    /// SHA-256 over the files of all tasks.
    pub(crate) data_digest: String,
    /// The id under which the directory knows the model, by name and shape.
    pub(crate) known: Option<String>,
    /// Experiments that were run, by configuration.
    pub(crate) outcomes: RefCell<HashMap<String, Outcome>>,
    found: OnceCell<Found>,
    /// For files that others must read.
    scratch: tempfile::TempDir,
    runs: RefCell<HashMap<String, Rc<Run>>>,
    workloads: RefCell<HashMap<(String, Option<usize>), Workload>>,
}

/// The super weights, and where they came from.
pub(crate) struct Found {
    pub(crate) coords: Vec<WeightCoord>,
    pub(crate) report: Option<Report>,
}

/// One setting's evaluations, task by task.
#[derive(Clone)]
pub(crate) struct Scores {
    runs: Vec<Rc<Run>>,
}

impl Lab {
    /// Opens the model and finds the data.
    ///
    /// # Errors
    /// A model or a data folder that is not there; an output folder that cannot be written.
    pub(crate) fn open(inputs: &Inputs) -> Result<Self> {
        let model = inputs.open()?;
        let data = inputs.data()?;
        let fingerprint = model.fingerprint()?;
        if let Some(dir) = &inputs.out {
            output::probe(dir)?;
        }
        Ok(Self {
            known: known(&inputs.model, &model),
            data_digest: digest(&data)?,
            inputs: inputs.clone(),
            model,
            data,
            fingerprint,
            outcomes: RefCell::default(),
            found: OnceCell::new(),
            scratch: tempfile::tempdir().context("a temporary folder")?,
            runs: RefCell::default(),
            workloads: RefCell::default(),
        })
    }

    /// `--limit`, or else what the embedded checkpoint is given so that all experiments take minutes; other models get
    /// all documents.
    pub(crate) fn limit(&self, embedded: usize) -> Option<usize> {
        let default = self.inputs.is_embedded().then_some(embedded);
        self.inputs.limit.or(default)
    }

    /// The super weights: given by hand, or those that one prompt shows (the strongest candidate where none passes).
    pub(crate) fn found(&self) -> Result<&Found> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let found = self.find()?;
        Ok(self.found.get_or_init(|| found))
    }

    fn find(&self) -> Result<Found> {
        if let Some(given) = &self.inputs.super_weights {
            let coords = super_weights(given)?;
            ensure!(
                !coords.is_empty(),
                "--super-weights {given}: no super weight in it"
            );
            for &coord in &coords {
                self.model.value(coord)?;
            }
            return Ok(Found {
                coords,
                report: None,
            });
        }
        let mut report = detect(&self.model, &self.prompt()?, &DetectOptions::default())?;
        report.model.clone_from(&self.inputs.model);
        report.prompt = Some(self.inputs.prompt.clone());
        let coords: Vec<_> = report.strongest().iter().map(Candidate::coord).collect();
        if coords.is_empty() {
            bail!(
                "{}: no weight stands out at all; name one with --super-weights LAYER:ROW:COL",
                self.inputs.model
            );
        }
        Ok(Found {
            coords,
            report: Some(report),
        })
    }

    /// The super weights as measured on the prompt.
    pub(crate) fn candidates(&self) -> Result<Vec<Candidate>> {
        let found = self.found()?;
        Ok(match &found.report {
            Some(report) => report.strongest().to_vec(),
            None => measure(
                &self.model,
                &self.prompt()?,
                &found.coords,
                &DetectOptions::default(),
            )?,
        })
    }

    /// The tokens of the detection prompt.
    pub(crate) fn prompt(&self) -> Result<Vec<u32>> {
        self.inputs.encode(&self.model, &self.inputs.prompt)
    }

    /// The super weights set to zero.
    pub(crate) fn prune(&self) -> Result<Intervention> {
        Ok(Intervention::PruneWeights {
            coords: self.found()?.coords.clone(),
        })
    }

    /// Those of the tasks whose data are there.
    pub(crate) fn with_data<'a>(
        &self,
        tasks: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<&'a str>> {
        let mut there = Vec::new();
        for task in tasks {
            if !self.data.files(&Task::named(task)?.dataset)?.is_empty() {
                there.push(task);
            }
        }
        Ok(there)
    }

    /// The zero-shot tasks whose data are there; an error where there are none.
    pub(crate) fn accuracies(&self) -> Result<Vec<&'static str>> {
        self.columns(ACCURACIES.map(|t| t.0))
    }

    /// The texts whose data are there; an error where there are none.
    pub(crate) fn perplexities(&self) -> Result<Vec<&'static str>> {
        self.columns(PERPLEXITIES.map(|t| t.0))
    }

    /// Those of the tasks whose data are there; an error where there are none.
    pub(crate) fn columns(
        &self,
        tasks: impl IntoIterator<Item = &'static str>,
    ) -> Result<Vec<&'static str>> {
        let tasks: Vec<_> = tasks.into_iter().collect();
        let there = self.with_data(tasks.iter().copied())?;
        if there.is_empty() {
            bail!(
                "no data for any column of the table; {}",
                self.data.missing(&Task::named(tasks[0])?.dataset)
            );
        }
        Ok(there)
    }

    /// Weights of the layers' linear maps, of which the super weights are some.
    pub(crate) fn parameters(&self) -> String {
        let maps = self
            .model
            .linears()
            .filter_map(|at| self.model.weight_at(at));
        grouped(maps.map(|w| w.rows() * w.cols()).sum())
    }

    /// How evaluations are run.
    pub(crate) fn options(&self, limit: Option<usize>) -> Options {
        let mut options = Options::default();
        options.limit = limit;
        options.bos = self.inputs.bos;
        options
    }

    /// Evaluates a setting on tasks; what has been evaluated before, here or in the output folder, is not run again.
    pub(crate) fn evaluate(
        &self,
        label: &str,
        tasks: &[&str],
        interventions: &[Intervention],
        limit: Option<usize>,
    ) -> Result<Scores> {
        let mut options = self.options(limit);
        options.interventions = interventions.to_vec();
        let mut runtime = None;
        let mut runs = Vec::new();
        for task in tasks {
            let key = serde_json::to_string(&(task, &options))?;
            let known = self.runs.borrow().get(&key).cloned();
            let run = match known {
                Some(run) => run,
                None => {
                    let lm = match &runtime {
                        Some(lm) => lm,
                        None => runtime.insert(
                            Runtime::new(&self.model, interventions)?
                                .named(self.inputs.model.clone()),
                        ),
                    };
                    let run = Rc::new(self.run(label, task, lm, &options)?);
                    self.runs.borrow_mut().insert(key, run.clone());
                    run
                }
            };
            runs.push(run);
        }
        Ok(Scores { runs })
    }

    /// What a task asks; read and encoded once for all settings.
    fn workload(&self, task: &str, lm: &Runtime, options: &Options) -> Result<Workload> {
        let key = (task.to_owned(), options.limit);
        if let Some(known) = self.workloads.borrow().get(&key) {
            return Ok(known.clone());
        }
        let workload = Workload::new(lm, &[task], &self.data, options)?;
        let mut workloads = self.workloads.borrow_mut();
        workloads.insert(key, workload.clone());
        Ok(workload)
    }

    fn run(&self, label: &str, task: &str, lm: &Runtime, options: &Options) -> Result<Run> {
        let folder = self.journals()?;
        let open = |key: &Key| -> sw_eval::Result<(Journal, HashMap<usize, _>)> {
            let Some(folder) = &folder else {
                return Err(sw_eval::Error::Options("no folder for journals".into()));
            };
            let path = folder.join(format!("{}.jsonl", &key.config[..16]));
            Journal::open(path, key)
        };
        let journal: Option<&sw_eval::OpenJournal<'_>> =
            if folder.is_some() { Some(&open) } else { None };
        let workload = self.workload(task, lm, options)?;
        let bar = Bar::new(label, task);
        let mut progress = |status| bar.update(status);
        let mut run = evaluate_workload(lm, workload, options, journal, &mut progress)?;
        // The texts are in the data; answers and their worth are what is compared.
        for sample in run.tasks.iter_mut().flat_map(|t| &mut t.samples) {
            sample.doc = Default::default();
            sample.arguments = Vec::new();
        }
        Ok(run)
    }

    /// Where the answers of evaluations are kept, so that a run that was stopped goes on.
    fn journals(&self) -> Result<Option<PathBuf>> {
        let folder = self.inputs.out.as_ref().map(|out| out.join("journals"));
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Ok(folder)
    }

    /// A file with a `text` in each row to calibrate and search on, and what it is called: `--calib`, else the training
    /// split of WikiText-2, else eight short texts that come with this program. Never a test text.
    pub(crate) fn calibration(&self) -> Result<(PathBuf, String)> {
        if let Some(file) = &self.inputs.calib {
            ensure!(file.is_file(), "--calib {}: no such file", file.display());
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            return Ok((file.clone(), name.into_owned()));
        }
        let task = Task::named("wikitext2")?;
        let mut files = self.data.files(&task.dataset)?;
        if let Some(file) = files
            .remove(&Split::Train)
            .unwrap_or_default()
            .into_iter()
            .next()
        {
            return Ok((file, format!("the training split of {}", task.dataset.path)));
        }
        let lines = sw_detect::PROOF_TEXTS.map(|text| json!({ "text": text }).to_string() + "\n");
        let file = match self.journals()? {
            Some(folder) => folder.join("calibration.jsonl"),
            None => self.scratch.path().join("calibration.jsonl"),
        };
        output::whole(&file, &lines.concat())?;
        Ok((
            file,
            "the eight short texts that come with this program".into(),
        ))
    }

    /// The first tokens of the first calibration rows that have some.
    pub(crate) fn calibration_texts(&self, rows: usize, tokens: usize) -> Result<Texts> {
        let (file, name) = self.calibration()?;
        let most = tokens.min(self.model.spec().max_positions);
        let mut texts = Vec::new();
        for doc in sw_eval::read(std::slice::from_ref(&file))? {
            let text = doc.text("text")?;
            if text.trim().is_empty() {
                continue;
            }
            let mut ids = self.inputs.encode(&self.model, text)?;
            ids.truncate(most);
            if ids.len() > 1 {
                texts.push(ids);
            }
            if texts.len() == rows {
                break;
            }
        }
        ensure!(
            !texts.is_empty(),
            "{}: no text to calibrate on",
            file.display()
        );
        Ok(Texts {
            texts,
            source: name,
        })
    }

    /// What every results file says about model and program.
    pub(crate) fn record(&self) -> Value {
        json!({
            "name": self.inputs.model,
            "fingerprint": self.fingerprint,
            "family": self.model.spec().family,
            "dtype": self.model.coding().to_string(),
        })
    }

    /// The model's name for people.
    pub(crate) fn name(&self) -> String {
        if self.inputs.is_embedded() {
            return "the embedded checkpoint".into();
        }
        let path = std::path::Path::new(&self.inputs.model);
        match path.file_name() {
            Some(name) if path.is_dir() => name.to_string_lossy().into_owned(),
            _ => self.inputs.model.clone(),
        }
    }
}

/// Calibration texts as tokens.
pub(crate) struct Texts {
    pub(crate) texts: Vec<Vec<u32>>,
    /// What they are.
    pub(crate) source: String,
}

impl Scores {
    /// One aggregate.
    pub(crate) fn value(&self, task: &str, metric: Metric) -> Option<f64> {
        let values = self.task(task)?.values(metric);
        (!values.is_empty()).then(|| metric.aggregate(&values))
    }

    /// The plain mean of some tasks' accuracies, from 0 to 1; nothing where one of them is missing.
    pub(crate) fn average<'a>(&self, tasks: impl IntoIterator<Item = &'a str>) -> Option<f64> {
        let each: Option<Vec<f64>> = tasks
            .into_iter()
            .map(|t| self.value(t, Metric::Acc))
            .collect();
        let each = each.filter(|each| !each.is_empty())?;
        Some(each.iter().sum::<f64>() / each.len() as f64)
    }

    /// A caution where the mean accuracy is no more than two standard errors above guessing.
    pub(crate) fn caution(&self, tasks: &[&str]) -> Option<String> {
        let average = self.average(tasks.iter().copied())?;
        let guess = guessing(tasks);
        let variance = |task: &&str| {
            let n = self.task(task).map_or(1, |t| t.samples.len()).max(1) as f64;
            let p = self.value(task, Metric::Acc).unwrap_or(0.0);
            p * (1.0 - p) / n
        };
        let error = tasks.iter().map(variance).sum::<f64>().sqrt() / tasks.len() as f64;
        (average < guess + 2.0 * error).then(|| {
            format!(
                "As it is, this model answers hardly better than guessing ({:.2} % beside {:.2} %), so its accuracies can show little; look at the perplexities and errors.",
                100.0 * average,
                100.0 * guess
            )
        })
    }

    fn task(&self, task: &str) -> Option<&sw_eval::TaskRun> {
        self.tasks().find(|t| t.task == task)
    }

    /// What was run, task by task.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = &sw_eval::TaskRun> {
        self.runs.iter().flat_map(|run| &run.tasks)
    }

    /// Seconds of forward passes and encoding.
    pub(crate) fn seconds(&self) -> f64 {
        self.runs.iter().map(|run| run.environment.seconds).sum()
    }

    /// What the user should know about the evaluations.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.runs.iter().flat_map(|run| run.warnings()).collect()
    }

    /// lm-eval's aggregates over all tasks.
    pub(crate) fn results(&self) -> serde_json::Map<String, Value> {
        let each = self.runs.iter();
        each.flat_map(|run| EvalResults::new(Run::clone(run)).results())
            .collect()
    }

    /// Split, file and number of documents of each task.
    pub(crate) fn sources(&self) -> serde_json::Map<String, Value> {
        self.tasks()
            .map(|t| (t.task.clone(), json!(t.source)))
            .collect()
    }
}

impl Found {
    /// What is pruned, in words.
    pub(crate) fn summary(&self) -> String {
        let Some(report) = &self.report else {
            let list: Vec<_> = self.coords.iter().map(ToString::to_string).collect();
            return format!("Super weights, as given: {}", list.join(", "));
        };
        let lines: Vec<_> = report.strongest().iter().map(line).collect();
        let head = if report.super_weights.is_empty() {
            "No super weight stands out; the strongest candidate, marked weak, takes its place:"
        } else {
            "Super weights:"
        };
        format!("{head}\n{}", lines.join("\n"))
    }

    /// Whether a candidate below the thresholds stands in for a super weight.
    pub(crate) fn weak(&self) -> bool {
        let report = self.report.as_ref();
        report.is_some_and(|r| r.super_weights.is_empty())
    }

    /// How the pruned weight is called in sentences.
    pub(crate) fn noun(&self) -> &'static str {
        match (self.weak(), self.coords.len()) {
            (true, _) => "the strongest candidate (weak: nothing passes detection)",
            (_, 1) => "the super weight",
            _ => "the super weights",
        }
    }

    /// For results files: candidates as detected, or the given coordinates.
    pub(crate) fn json(&self) -> Value {
        match &self.report {
            Some(report) => json!(report.strongest()),
            None => json!(self.coords),
        }
    }
}

fn line(c: &Candidate) -> String {
    let unit = match c.unit {
        Unit::Scalar => "a scalar",
        Unit::Neuron => "a neuron (column) rather than a scalar",
        Unit::Row => "a row rather than a scalar",
    };
    format!(
        "  {}[{}, {}] = {:.4}: input {:.1}, output {:.1} at token {}, share {:.2}: {unit}{}",
        c.tensor,
        c.row,
        c.col,
        c.value,
        c.down_in,
        c.down_out,
        c.token,
        c.share,
        if c.weak { "; WEAK" } else { "" }
    )
}

/// The directory's id of a model that has both the name and the shape of one it knows.
fn known(name: &str, model: &Model) -> Option<String> {
    let directory = Directory::shipped();
    let spec = model.spec();
    let called: Vec<_> = directory.of(name).iter().map(|e| e.model.clone()).collect();
    let shaped = directory.models.iter().filter(|m| {
        (m.layers, m.hidden_size, m.intermediate_size)
            == (spec.layers.len(), spec.hidden_size, spec.intermediate_size)
    });
    shaped.map(|m| m.id.clone()).find(|id| called.contains(id))
}

/// SHA-256 over names and contents of all tasks' files.
fn digest(data: &DataDir) -> Result<String> {
    let mut hasher = Sha256::new();
    for (task, _) in ACCURACIES.into_iter().chain(PERPLEXITIES) {
        for path in data
            .files(&Task::named(task)?.dataset)?
            .into_values()
            .flatten()
        {
            hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            let mut file = File::open(&path).with_context(|| path.display().to_string())?;
            std::io::copy(&mut file, &mut hasher).with_context(|| path.display().to_string())?;
        }
    }
    Ok(hex(hasher))
}

/// A digest in hexadecimal.
pub(crate) fn hex(hasher: Sha256) -> String {
    hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}
