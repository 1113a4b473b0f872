//! What an experiment is, how it is described, run once and written down.

use std::{collections::BTreeSet, path::Path, time::Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use sw_cli::program;
use sw_model::Precision;

use crate::{
    lab::{Found, Lab},
    outcome::Outcome,
    page::files,
};

/// One table or figure: its options are its arguments on the command line, and are recorded with its results.
pub(crate) trait Experiment: Args + Serialize {
    /// Stem of its files, and the command's name after `reproduce-`.
    const NAME: &'static str;

    /// What it measures.
    type Measured;

    /// The weights that it prunes.
    fn found<'a>(&self, lab: &'a Lab) -> Result<&'a Found> {
        lab.found()
    }

    /// Measures, and shows nothing.
    fn measure(&self, lab: &Lab) -> Result<Self::Measured>;

    /// Shows what was measured: tables, figures, and what they say. Nothing is run for it.
    fn show(&self, lab: &Lab, measured: Self::Measured) -> Result<Outcome>;
}

/// A finished experiment.
pub(crate) struct Record {
    pub(crate) name: &'static str,
    pub(crate) command: String,
    pub(crate) outcome: Outcome,
}

/// An experiment as the command line without options gives it.
pub(super) fn defaults<E: Args>() -> E {
    let command = E::augment_args(clap::Command::new("defaults"));
    let matches = command.get_matches_from(["defaults"]);
    E::from_arg_matches(&matches).expect("no option is required")
}

/// The outcome of an experiment with its default options, for another that shows parts of it: run once in a process.
pub(super) fn part<E: Experiment>(lab: &Lab) -> Result<Outcome> {
    let experiment = defaults::<E>();
    let described = describe(E::NAME, &serde_json::to_value(&experiment)?, lab);
    outcome(&experiment, &configuration(&described, lab), lab, false).map(|found| found.0)
}

/// The outcome of an experiment: found in memory or in the output folder (then `true`), or else run.
fn outcome<E: Experiment>(
    experiment: &E,
    configuration: &str,
    lab: &Lab,
    fresh: bool,
) -> Result<(Outcome, bool)> {
    if let Some(known) = lab.outcomes.borrow().get(configuration) {
        return Ok((known.clone(), false));
    }
    let out = lab.inputs.out.as_deref().filter(|_| !fresh);
    if let Some(found) = out.and_then(|dir| finished(dir, E::NAME, configuration)) {
        return Ok((found, true));
    }
    let outcome = experiment.show(lab, experiment.measure(lab)?)?;
    let mut outcomes = lab.outcomes.borrow_mut();
    outcomes.insert(configuration.to_owned(), outcome.clone());
    Ok((outcome, false))
}

/// Runs an experiment, unless the output folder has it with the same configuration; writes its files there.
pub(super) fn record<E: Experiment>(experiment: &E, lab: &Lab, fresh: bool) -> Result<Record> {
    let options = serde_json::to_value(experiment)?;
    let described = describe(E::NAME, &options, lab);
    let configuration = configuration(&described, lab);
    let command = command::<E>(&options, lab)?;
    let clock = Instant::now();
    let (outcome, finished) = outcome(experiment, &configuration, lab, fresh)?;
    if finished {
        program::tell(format!(
            "{}: finished before, in the same configuration",
            E::NAME
        ));
    }
    debug_assert_eq!(
        outcome
            .blocks
            .iter()
            .map(|b| &b.id)
            .collect::<BTreeSet<_>>()
            .len(),
        outcome.blocks.len(),
        "two blocks of one name"
    );
    if let Some(dir) = lab.inputs.out.as_deref().filter(|_| !finished) {
        let mut json =
            json!({ "experiment": described, "configuration": configuration, "command": command });
        let more = json!({
            "model": lab.record(),
            "kernel": sw_tensor::kernel_name(lab.model.precision()),
            "version": env!("CARGO_PKG_VERSION"),
            "outcome": outcome,
            "environment": {
                "threads": rayon::current_num_threads(),
                "seconds": clock.elapsed().as_secs_f64(),
            },
        });
        if let (Value::Object(json), Value::Object(more)) = (&mut json, more) {
            json.extend(outcome.data.clone());
            json.extend(more);
        }
        files::outcome(dir, E::NAME, &command, &outcome, &json)
            .with_context(|| E::NAME.to_owned())?;
    }
    Ok(Record {
        name: E::NAME,
        command,
        outcome,
    })
}

/// Everything that it takes to run an experiment again.
fn describe(name: &str, options: &Value, lab: &Lab) -> Value {
    let inputs = &lab.inputs;
    let mut described = Map::new();
    described.insert("name".into(), name.into());
    let shared = json!({
        "model": inputs.model,
        "prompt": inputs.prompt,
        "limit": inputs.limit,
        "bos": inputs.bos,
        "bootstrap_iters": lab.options(None).bootstrap_iters,
        "super_weights": inputs.super_weights,
        "ignore_config_field": inputs.ignore_config_field,
        "calib": inputs.calib,
    });
    for part in [&shared, options] {
        described.extend(part.as_object().cloned().unwrap_or_default());
    }
    let precision = lab.model.precision();
    if precision != Precision::Float32 {
        described.insert("compute_dtype".into(), precision.name().into());
    }
    described.into()
}

/// SHA-256 of everything that decides the numbers.
fn configuration(described: &Value, lab: &Lab) -> String {
    let file =
        |path: &Option<std::path::PathBuf>| path.as_ref().and_then(|p| std::fs::read(p).ok());
    let given = lab
        .inputs
        .super_weights
        .as_ref()
        .map(std::path::PathBuf::from);
    let files = [file(&given), file(&lab.inputs.calib)]
        .map(|bytes| bytes.map(|bytes| format!("{:x}", Sha256::digest(bytes))));
    let all = json!([
        env!("CARGO_PKG_VERSION"),
        described,
        lab.fingerprint,
        lab.data_digest,
        sw_tensor::kernel_name(lab.model.precision()),
        files,
        lab.known,
    ]);
    format!("{:x}", Sha256::digest(all.to_string()))
}

/// The outcome that a folder holds, if its configuration is this one.
fn finished(dir: &Path, name: &str, configuration: &str) -> Option<Outcome> {
    let text = std::fs::read_to_string(dir.join(format!("{name}.json"))).ok()?;
    let mut json: Value = serde_json::from_str(&text).ok()?;
    let same = json["configuration"].as_str() == Some(configuration);
    same.then(|| serde_json::from_value(json["outcome"].take()).ok())?
}

/// The command that makes these numbers: every argument that is not the default.
fn command<E: Experiment>(options: &Value, lab: &Lab) -> Result<String> {
    let inputs = &lab.inputs;
    let mut words = vec![format!("cargo xtask reproduce-{}", E::NAME)];
    let mut flag = |name: &str, value: String| words.push(format!("--{name} {}", quoted(&value)));
    if !inputs.is_embedded() {
        flag("model", inputs.model.clone());
    }
    if let Some(name) = &inputs.gguf {
        flag("gguf", name.clone());
    }
    if let Some(data) = &inputs.data {
        flag("data", data.display().to_string());
    }
    if let Some(limit) = inputs.limit {
        flag("limit", limit.to_string());
    }
    if inputs.dtype != Default::default() {
        flag("dtype", lab.model.precision().name().into());
    }
    if inputs.bos != Default::default() {
        flag("bos", inputs.bos.to_string());
    }
    if inputs.prompt != sw_detect::DEFAULT_PROMPT {
        flag("prompt", inputs.prompt.clone());
    }
    if let Some(given) = &inputs.super_weights {
        flag("super-weights", given.clone());
    }
    if let Some(file) = &inputs.calib {
        flag("calib", file.display().to_string());
    }
    for name in &inputs.ignore_config_field {
        flag("ignore-config-field", name.clone());
    }
    let usual = serde_json::to_value(defaults::<E>())?;
    for (key, value) in options.as_object().into_iter().flatten() {
        if usual[key] != *value {
            let name = key.replace('_', "-");
            words.push(match value {
                Value::Bool(true) => format!("--{name}"),
                value => format!("--{name} {}", quoted(&plain(value))),
            });
        }
    }
    Ok(words.join(" "))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A word of a command line, in quotes where a shell needs them.
fn quoted(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:,@+=".contains(c);
    if !text.is_empty() && text.chars().all(safe) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
