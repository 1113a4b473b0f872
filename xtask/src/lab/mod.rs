//! What the experiments share: the opened model, its super weights, and evaluations, each of which is run once.

mod found;
mod scores;
mod tasks;
mod texts;

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    fs::File,
    ops::ControlFlow,
    path::PathBuf,
    rc::Rc,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sw_cli::program::Bar;
use sw_detect::{
    Candidate, CensusOptions, DetectOptions, Directory, Report, census, census_texts, detect,
    measure,
};
use sw_eval::{
    DataDir, Journal, Key, Options, Run, Runtime, Task, TaskRows, Workload, evaluate_workload,
};
use sw_intervene::{Intervention, Ranges};
use sw_model::{Fingerprint, LinearAt, Model};

use crate::{
    inputs::{Inputs, super_weights},
    outcome::Outcome,
    page::{files, table::grouped},
};

pub(crate) use found::Found;
pub(crate) use scores::Scores;
pub(crate) use tasks::{ACCURACIES, PERPLEXITIES, guessing};

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
    decisive: OnceCell<Found>,
    /// For files that others must read.
    pub(crate) scratch: tempfile::TempDir,
    runs: RefCell<HashMap<String, Rc<Run>>>,
    workloads: RefCell<HashMap<(String, Option<usize>), Workload>>,
    /// What SmoothQuant is calibrated with, once for all settings.
    ranges: Ranges,
}

impl Lab {
    /// Opens the model and finds the data.
    ///
    /// # Errors
    /// A model or a data folder that is not there; an output folder that cannot be written; super weights that the model
    /// does not have.
    pub(crate) fn open(inputs: &Inputs) -> Result<Self> {
        let model = inputs.open()?;
        let data = inputs.data()?;
        let fingerprint = model.fingerprint()?;
        if let Some(dir) = &inputs.out {
            files::probe(dir)?;
        }
        let lab = Self {
            known: known(&inputs.model, &model),
            data_digest: digest(&data)?,
            inputs: inputs.clone(),
            ranges: Ranges::new(&model),
            model,
            data,
            fingerprint,
            outcomes: RefCell::default(),
            found: OnceCell::new(),
            decisive: OnceCell::new(),
            scratch: tempfile::tempdir().context("a temporary folder")?,
            runs: RefCell::default(),
            workloads: RefCell::default(),
        };
        if lab.inputs.super_weights.is_some() {
            lab.found()?; // what is wrong with them is said before hours of work
        }
        Ok(lab)
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
        self.of(self.detect()?)
    }

    /// What an experiment prunes, by a report.
    fn of(&self, report: Report) -> Result<Found> {
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

    /// The weights that the census finds decisive, the most costly one first, or those given by hand; a model without a
    /// tokenizer has no census, and what its search finds stands in.
    pub(crate) fn decisive(&self) -> Result<&Found> {
        if let Some(found) = self.decisive.get() {
            return Ok(found);
        }
        let found = match self.inputs.super_weights {
            Some(_) => self.find()?,
            None => {
                let mut report = self.detect()?;
                if self.model.tokenizer().is_ok() {
                    let texts = census_texts(&self.model, 256)?;
                    let options = CensusOptions::default();
                    census(&self.model, &mut report, &[], &texts, &options, &mut |_| ())?;
                }
                self.of(report)?
            }
        };
        Ok(self.decisive.get_or_init(|| found))
    }

    /// What detection finds with the prompt.
    pub(crate) fn detect(&self) -> Result<Report> {
        let report = detect(&self.model, &self.prompt()?, &DetectOptions::default())?;
        Ok(report.named(&self.inputs.model, Some(self.inputs.prompt.clone())))
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

    /// Weights of the linear maps, the embedding and the head, of which the super weights are some.
    pub(crate) fn parameters(&self) -> String {
        let maps = self
            .model
            .linears()
            .filter_map(|at| self.model.weight_at(at));
        let spec = self.model.spec();
        let ends = spec.vocab_size * spec.hidden_size * if spec.tied { 1 } else { 2 };
        grouped(ends + maps.map(|w| w.rows() * w.cols()).sum::<usize>())
    }

    /// The magnitudes of a linear map's weights.
    pub(crate) fn magnitudes(&self, at: LinearAt) -> Vec<f32> {
        let Some(w) = self.model.weight_at(at) else {
            return Vec::new();
        };
        let mut values = w.to_f32_vec();
        values.iter_mut().for_each(|v| *v = v.abs());
        values
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
        let options = self.options_for(interventions, limit);
        if let Some(runs) = self.known_runs(tasks, &options)? {
            return Ok(Scores { runs });
        }
        let runtime = self.runtime(interventions)?;
        self.evaluate_on(label, tasks, interventions, limit, &runtime)
    }

    /// Evaluates a setting on several lists of tasks, each with a limit of its own; the model is edited once, if at all.
    pub(crate) fn evaluate_each(
        &self,
        label: &str,
        lists: &[(&[&str], Option<usize>)],
        interventions: &[Intervention],
    ) -> Result<Vec<Scores>> {
        let mut runtime = None;
        let mut each = Vec::new();
        for &(tasks, limit) in lists {
            let options = self.options_for(interventions, limit);
            each.push(match self.known_runs(tasks, &options)? {
                Some(runs) => Scores { runs },
                None => {
                    let runtime = match &runtime {
                        Some(runtime) => runtime,
                        None => runtime.insert(self.runtime(interventions)?),
                    };
                    self.evaluate_on(label, tasks, interventions, limit, runtime)?
                }
            });
        }
        Ok(each)
    }

    /// Evaluates a setting whose edited model is at hand: `interventions` are recorded, `runtime` is run.
    pub(crate) fn evaluate_on(
        &self,
        label: &str,
        tasks: &[&str],
        interventions: &[Intervention],
        limit: Option<usize>,
        runtime: &Runtime,
    ) -> Result<Scores> {
        let options = self.options_for(interventions, limit);
        let mut runs = Vec::new();
        for task in tasks {
            let key = key(task, &options)?;
            let known = self.runs.borrow().get(&key).cloned();
            let run = match known {
                Some(run) => run,
                None => {
                    let run = Rc::new(self.run(label, task, runtime, &options)?);
                    self.runs.borrow_mut().insert(key, run.clone());
                    run
                }
            };
            runs.push(run);
        }
        Ok(Scores { runs })
    }

    fn options_for(&self, interventions: &[Intervention], limit: Option<usize>) -> Options {
        let mut options = self.options(limit);
        options.interventions = interventions.to_vec();
        options
    }

    /// The runs of all these tasks, if there are all of them.
    fn known_runs(&self, tasks: &[&str], options: &Options) -> Result<Option<Vec<Rc<Run>>>> {
        let keys: Vec<String> = tasks
            .iter()
            .map(|task| key(task, options))
            .collect::<Result<_>>()?;
        let runs = self.runs.borrow();
        Ok(keys.iter().map(|key| runs.get(key).cloned()).collect())
    }

    /// The model under interventions, by the name that it was asked for.
    pub(crate) fn runtime(&self, interventions: &[Intervention]) -> Result<Runtime> {
        Ok(Runtime::with_ranges(&self.ranges, interventions)?.named(&self.inputs.model))
    }

    /// What a task asks; read and encoded once for all settings.
    fn workload(&self, task: &str, lm: &Runtime, options: &Options) -> Result<Workload> {
        let key = (task.to_owned(), options.limit);
        if let Some(known) = self.workloads.borrow().get(&key) {
            return Ok(known.clone());
        }
        let workload = Workload::new(lm, TaskRows::read(&[task], &self.data, options)?, options)?;
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
        let bar = Bar::named(format!("{label}: {task}"));
        let mut progress = |status| {
            bar.show(status);
            ControlFlow::Continue(())
        };
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

    /// What every results file says about model and program.
    pub(crate) fn record(&self) -> Value {
        json!({
            "name": self.inputs.model,
            "fingerprint": self.fingerprint,
            "family": self.model.spec().family,
            "dtype": self.model.coding().to_string(),
            "compute_dtype": self.model.precision().name(),
            "gguf": self.model.gguf(),
            "unknown_config_fields": self.model.unknown_config_fields(),
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

/// What tells evaluations apart.
fn key(task: &str, options: &Options) -> Result<String> {
    Ok(serde_json::to_string(&(task, options))?)
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
    Ok(format!("{:x}", hasher.finalize()))
}
