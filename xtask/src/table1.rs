//! Table 1: what the super weight is worth.
//!
//! Four settings, nine columns: the model as it is; its super weights pruned; the largest other weights pruned; the super
//! weights pruned and the super activation put back at the one element where the spike was.

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use sw_detect::{Candidate, DetectOptions, Report, Unit, detect};
use sw_eval::{
    DataDir, EvalResults, Intervention, Largest, Metric, Options, Runtime, Task, evaluate, largest,
};
use sw_model::{Fingerprint, Model, WeightCoord};

use crate::{
    inputs::{Inputs, super_weights},
    output::{self, Table, say},
    progress::Bar,
};

/// Print the paper's Table 1: what pruning one number does, beside pruning the largest others.
///
/// Examples:
///   cargo xtask reproduce-table1
///   cargo xtask reproduce-table1 --model MODEL --data DATA --limit 50
///   cargo xtask reproduce-table1 --model MODEL --data DATA --super-weights 2:3968:7003 --out out
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table1 {
    #[command(flatten)]
    inputs: Inputs,
    /// Super weights instead of detecting them: LAYER:ROW:COL,... or a JSON file
    #[arg(long, value_name = "FILE|L:R:C,...")]
    super_weights: Option<String>,
    /// Which other weights are pruned: of each matrix one in a million, or the K largest of all
    #[arg(long, value_name = "per-matrix|global:K", default_value = "per-matrix", value_parser = parse_others)]
    non_sw: Largest,
}

/// The paper's columns: task, heading.
const ACCURACIES: [(&str, &str); 7] = [
    ("arc_challenge", "Arc-c"),
    ("arc_easy", "Arc-e"),
    ("hellaswag", "Hella"),
    ("lambada_openai", "Lamb"),
    ("piqa", "PIQA"),
    ("sciq", "SciQ"),
    ("winogrande", "Wino"),
];
const PERPLEXITIES: [(&str, &str); 2] = [("c4", "C4"), ("wikitext2", "Wiki-2")];

const PER_MATRIX: Largest = Largest::PerMatrix { fraction: 1e-6 };
/// What is pruned instead where one in a million of each matrix is nothing.
const SMALL_MODEL: Largest = Largest::Global { count: 100 };
/// The paper's "7,000 largest", read as a count over all matrices.
const SEVEN_THOUSAND: Largest = Largest::Global { count: 7000 };

fn parse_others(s: &str) -> Result<Largest, String> {
    match s.strip_prefix("global:").map(str::parse) {
        Some(Ok(count)) if count > 0 => Ok(Largest::Global { count }),
        None if s == "per-matrix" => Ok(PER_MATRIX),
        _ => Err("expected per-matrix, or global:K with a number K of at least 1".into()),
    }
}

/// One row of the table.
#[derive(Serialize)]
struct Setting {
    name: &'static str,
    #[serde(skip)]
    label: String,
    interventions: Vec<Intervention>,
    /// Weights that are changed.
    weights: usize,
    #[serde(serialize_with = "lm_eval_keys")]
    results: Option<EvalResults>,
}

fn lm_eval_keys<S: Serializer>(results: &Option<EvalResults>, s: S) -> Result<S::Ok, S::Error> {
    results.as_ref().map(EvalResults::results).serialize(s)
}

/// Where the pruned weights came from.
struct Found {
    coords: Vec<WeightCoord>,
    report: Option<Report>,
}

impl Table1 {
    pub(crate) fn run(&self) -> Result<()> {
        let model = self.inputs.open()?;
        let data = self.inputs.data()?;
        let tasks = available(&data)?;
        let found = self.find(&model)?;
        let (mut settings, mut variants) = self.settings(&model, &found)?;
        let options = self.options();
        // Whatever can fail early fails before hours of evaluation.
        for setting in settings.iter().chain(&variants) {
            Runtime::new(&model, &setting.interventions)?;
        }
        let fingerprint = model.fingerprint()?;
        if let Some(dir) = &self.inputs.out {
            output::probe(dir)?;
        }
        for setting in settings.iter_mut().chain(&mut variants) {
            let mut options = options.clone();
            options.interventions.clone_from(&setting.interventions);
            let bar = Bar::new(&setting.label);
            setting.results = Some(evaluate(&model, &tasks, &data, &options, &mut |status| {
                bar.update(status)
            })?);
        }

        let text = summary(&found);
        let notes = notes(&settings, &variants, &tasks);
        let table = table(&settings);
        let more = self::table(&variants);
        if let Some(dir) = &self.inputs.out {
            let json = self.json(&model, fingerprint, &found, &options, &settings, &variants)?;
            let markdown = format!(
                "# Table 1\n\n{}\n\n{}\n\n## Other readings of \"the largest other weights\"\n\n{}\n\n{notes}\n",
                text,
                table.markdown(),
                more.markdown()
            );
            output::write(dir, "table1", &json, &markdown, &table.csv())?;
            eprintln!("written: {}", dir.join("table1.{json,md,csv}").display());
        }
        say(format!("{text}\n\n{}", table.text()))?;
        if !more.rows.is_empty() {
            say(format!(
                "\nOther readings of \"the largest other weights\":\n{}",
                more.text()
            ))?;
        }
        say(format!("\n{notes}"))?;
        Ok(())
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.limit = self.inputs.limit;
        options.bos = self.inputs.bos;
        options
    }

    /// The given super weights, or those that one prompt shows.
    fn find(&self, model: &Model) -> Result<Found> {
        if let Some(given) = &self.super_weights {
            let coords = super_weights(given)?;
            ensure!(
                !coords.is_empty(),
                "--super-weights {given}: no super weight in it"
            );
            for &coord in &coords {
                model.value(coord)?;
            }
            return Ok(Found {
                coords,
                report: None,
            });
        }
        let tokens = self.inputs.encode(model)?;
        let mut report = detect(model, &tokens, &DetectOptions::default())?;
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

    /// The four rows, and further readings of the third.
    fn settings(&self, model: &Model, found: &Found) -> Result<(Vec<Setting>, Vec<Setting>)> {
        let coords = &found.coords;
        let setting = |name, label: &str, interventions, weights| Setting {
            name,
            label: label.into(),
            interventions,
            weights,
            results: None,
        };
        let others = |select: Largest| -> Result<Setting> {
            let keep = coords.to_vec();
            let weights = largest(model, &select, &keep)
                .map_err(anyhow::Error::msg)?
                .len();
            let how = match select {
                Largest::PerMatrix { fraction } => format!("{fraction:e} of each matrix"),
                Largest::Global { count } => format!("{count} of all"),
            };
            let label = format!("Prune Non-SW ({how})");
            Ok(setting(
                "prune_non_sw",
                &label,
                vec![Intervention::PruneLargest { select, keep }],
                weights,
            ))
        };
        let mut main = others(self.non_sw)?;
        if main.weights == 0 {
            main = others(SMALL_MODEL)?;
        }
        let mut variants = Vec::new();
        for select in [PER_MATRIX, SMALL_MODEL, SEVEN_THOUSAND] {
            let variant = others(select)?;
            let known = |s: &Setting| s.interventions == variant.interventions;
            if variant.weights > 0 && !known(&main) {
                variants.push(variant);
            }
        }
        let weak = found
            .report
            .as_ref()
            .is_some_and(|r| r.super_weights.is_empty());
        let mark = if weak { " (weak)" } else { "" };
        let prune = Intervention::PruneWeights {
            coords: coords.to_vec(),
        };
        let restore = Intervention::RestoreSuperActivation {
            coords: coords.to_vec(),
        };
        let n = coords.len();
        let settings = vec![
            setting("original", "Original", vec![], 0),
            setting(
                "prune_sw",
                &format!("Prune SW{mark}"),
                vec![prune.clone()],
                n,
            ),
            main,
            setting(
                "prune_sw_plus_sa",
                &format!("Prune SW, +SA{mark}"),
                vec![prune, restore],
                n,
            ),
        ];
        Ok((settings, variants))
    }

    fn json(
        &self,
        model: &Model,
        fingerprint: Fingerprint,
        found: &Found,
        options: &Options,
        settings: &[Setting],
        variants: &[Setting],
    ) -> Result<Value> {
        let super_weights = match &found.report {
            Some(report) => serde_json::to_value(report.strongest())?,
            None => serde_json::to_value(&found.coords)?,
        };
        let runs = settings
            .iter()
            .chain(variants)
            .filter_map(|s| s.results.as_ref());
        let run = settings
            .iter()
            .find_map(|s| s.results.as_ref())
            .map(EvalResults::run);
        let seconds: f64 = runs.map(|r| r.run().environment.seconds).sum();
        let sources = run.map(|run| {
            run.tasks
                .iter()
                .map(|t| (t.task.clone(), json!(t.source)))
                .collect::<serde_json::Map<_, _>>()
        });
        Ok(json!({
            "experiment": {
                "name": "table1",
                "model": self.inputs.model,
                "prompt": self.inputs.prompt,
                "limit": options.limit,
                "bos": options.bos,
                "bootstrap_iters": options.bootstrap_iters,
                "super_weights": self.super_weights,
                "non_sw": self.non_sw,
                "ignore_config_field": self.inputs.ignore_config_field,
            },
            "super_weights": super_weights,
            "settings": settings,
            "variants": variants,
            "detection": found.report,
            "model": {
                "name": self.inputs.model,
                "fingerprint": fingerprint,
                "family": model.spec().family,
                "dtype": model.dtype().to_string(),
            },
            "kernel": sw_tensor::isa_name(),
            "version": env!("CARGO_PKG_VERSION"),
            "sources": sources,
            "environment": {
                "threads": rayon::current_num_threads(),
                "seconds": seconds,
            },
        }))
    }
}

/// The columns whose data are there.
fn available(data: &DataDir) -> Result<Vec<&'static str>> {
    let mut tasks = Vec::new();
    for (task, _) in ACCURACIES.into_iter().chain(PERPLEXITIES) {
        if !data.files(&Task::named(task)?.dataset)?.is_empty() {
            tasks.push(task);
        }
    }
    if tasks.is_empty() {
        let first = &Task::named(ACCURACIES[0].0)?.dataset;
        bail!(
            "no data for any column of the table; {}",
            data.missing(first)
        );
    }
    Ok(tasks)
}

/// What is pruned, in words.
fn summary(found: &Found) -> String {
    let Some(report) = &found.report else {
        let list: Vec<_> = found.coords.iter().map(ToString::to_string).collect();
        return format!("Super weights, as given: {}", list.join(", "));
    };
    let line = |c: &Candidate| {
        let unit = match c.unit {
            Unit::Scalar => "a scalar".to_owned(),
            Unit::Neuron => "a neuron (column) rather than a scalar".into(),
            Unit::Row => "a row rather than a scalar".into(),
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
    };
    let lines: Vec<_> = report.strongest().iter().map(line).collect();
    let head = if report.super_weights.is_empty() {
        "No super weight stands out; the strongest candidate, marked weak, takes its place:"
    } else {
        "Super weights:"
    };
    format!("{head}\n{}", lines.join("\n"))
}

fn notes(settings: &[Setting], variants: &[Setting], tasks: &[&str]) -> String {
    let mut notes = vec![
        "Accuracies (acc) in percent, C4 and Wiki-2 in perplexity by the GPTQ protocol; AVG is the mean of the seven.".to_owned(),
    ];
    for setting in settings
        .iter()
        .chain(variants)
        .filter(|s| s.name == "prune_non_sw")
    {
        notes.push(format!("{}: {} weights.", setting.label, setting.weights));
    }
    let missing: Vec<_> = ACCURACIES
        .into_iter()
        .chain(PERPLEXITIES)
        .filter(|(t, _)| !tasks.contains(t))
        .collect();
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|(_, heading)| *heading).collect();
        notes.push(format!("No data for {}.", names.join(", ")));
    }
    if let Some(results) = settings.iter().find_map(|s| s.results.as_ref()) {
        for task in &results.run().tasks {
            let window = task
                .source
                .window
                .map_or_else(String::new, |w| format!(", windows of {w} tokens"));
            notes.push(format!(
                "{}: split {}, {} documents{window}.",
                task.task,
                task.source.split,
                task.samples.len()
            ));
        }
        notes.extend(results.run().warnings());
    }
    notes.join("\n")
}

fn table(settings: &[Setting]) -> Table {
    let accuracy = ACCURACIES.iter().map(|(_, heading)| *heading);
    let perplexity = PERPLEXITIES.iter().map(|(_, heading)| *heading);
    let header = ["Setting"]
        .into_iter()
        .chain(accuracy)
        .chain(["AVG"])
        .chain(perplexity);
    let cell = |value: Option<f64>, scale: f64| {
        value.map_or_else(|| "-".into(), |x| format!("{:.2}", x * scale))
    };
    let row = |setting: &Setting| {
        let get = |task: &str, metric| Some(setting.results.as_ref()?.get(task, metric)?.value);
        let acc: Vec<_> = ACCURACIES
            .iter()
            .map(|(task, _)| get(task, Metric::Acc))
            .collect();
        let sum: Option<f64> = acc.iter().copied().sum();
        let mean = sum.map(|s| s / acc.len() as f64);
        let ppl = PERPLEXITIES
            .iter()
            .map(|(task, _)| get(task, Metric::Perplexity));
        let cells = acc
            .into_iter()
            .chain([mean])
            .map(|v| cell(v, 100.0))
            .chain(ppl.map(|v| cell(v, 1.0)));
        [setting.label.clone()].into_iter().chain(cells).collect()
    };
    Table {
        header: header.map(String::from).collect(),
        rows: settings.iter().map(row).collect(),
    }
}
