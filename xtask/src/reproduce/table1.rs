//! Table 1: what the super weight is worth.
//!
//! Four settings, nine columns: the model as it is; its super weights pruned; the largest other weights pruned; the super
//! weights pruned and the super activation put back at the one element where the spike was.

use std::fmt;

use anyhow::Result;
use clap::Args;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use sw_eval::{Metric, Runtime};
use sw_intervene::{Intervention, Largest, largest};

use super::Experiment;
use crate::{
    lab::{ACCURACIES, Found, Lab, PERPLEXITIES, Scores},
    outcome::{Headline, Outcome},
    page::table::{Table, fixed, plain, signed},
    published,
};

/// Print the paper's Table 1: what pruning one number does, beside pruning the largest others.
///
/// Examples:
///   cargo xtask reproduce-table1
///   cargo xtask reproduce-table1 --model MODEL --data DATA --limit 50
///   cargo xtask reproduce-table1 --model MODEL --data DATA --super-weights 2:3968:7003 --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table1 {
    /// Which other weights are pruned: of each matrix one in a million, or the K largest of all
    #[arg(long, value_name = "per-matrix|global:K", default_value = "per-matrix", value_parser = parse_others)]
    non_sw: Others,
}

/// A selection of the largest weights, as the command line spells it.
#[derive(Clone, Copy, PartialEq)]
struct Others(Largest);

const PER_MATRIX: Others = Others(Largest::PerMatrix { fraction: 1e-6 });
/// What is pruned instead where one in a million of each matrix is nothing.
const SMALL_MODEL: Others = Others(Largest::Global { count: 100 });
/// The paper's "7,000 largest", read as a count over all matrices.
const SEVEN_THOUSAND: Others = Others(Largest::Global { count: 7000 });

/// Documents of each task (windows of each text) on the embedded checkpoint.
const DOCUMENTS: usize = 500;

fn parse_others(s: &str) -> Result<Others, String> {
    match s.strip_prefix("global:").map(str::parse) {
        Some(Ok(count)) if count > 0 => Ok(Others(Largest::Global { count })),
        None if s == "per-matrix" => Ok(PER_MATRIX),
        _ => Err("expected per-matrix, or global:K with a number K of at least 1".into()),
    }
}

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Largest::Global { count } => write!(f, "global:{count}"),
            Largest::PerMatrix { .. } => f.write_str("per-matrix"),
        }
    }
}

impl Serialize for Others {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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
    results: Option<Scores>,
}

fn lm_eval_keys<S: Serializer>(results: &Option<Scores>, s: S) -> Result<S::Ok, S::Error> {
    results.as_ref().map(Scores::results).serialize(s)
}

impl Experiment for Table1 {
    const NAME: &'static str = "table1";

    fn run(&self, lab: &Lab) -> Result<Outcome> {
        let all = ACCURACIES.into_iter().chain(PERPLEXITIES).map(|t| t.0);
        let tasks = lab.columns(all)?;
        let found = lab.found()?;
        let (mut settings, mut variants) = self.settings(lab, found)?;
        // Whatever can fail early fails before hours of evaluation.
        for setting in settings.iter().chain(&variants) {
            Runtime::new(&lab.model, &setting.interventions)?;
        }
        let limit = lab.limit(DOCUMENTS);
        for setting in settings.iter_mut().chain(&mut variants) {
            setting.results =
                Some(lab.evaluate(&setting.label, &tasks, &setting.interventions, limit)?);
        }

        let mut outcome = Outcome::new("Table 1. What one number is worth");
        let [finding, headline] = finding(&settings, found, lab);
        outcome.finding = finding;
        outcome.headline = headline_of(&settings, headline);
        let mut table = table(&settings);
        let published = lab.known.as_deref().map_or(&[][..], published::table1);
        compare(&mut table, &settings, published);
        outcome.table(
            "table1",
            "",
            table,
            "Accuracies (acc) in percent, C4 and Wiki-2 in perplexity by the GPTQ protocol; AVG is the mean of the seven.",
        );
        if !variants.is_empty() {
            outcome.table(
                "table1-variants",
                "Other readings of \"the largest other weights\"",
                self::table(&variants),
                "Selections of weights that are pruned in place of the third row's.",
            );
        }
        outcome.notes = notes(&settings, &variants, &tasks);
        if let Some(caution) = settings[0]
            .results
            .as_ref()
            .and_then(|s| s.caution(&tasks_with_accuracy(&tasks)))
        {
            outcome.finding.push(' ');
            outcome.finding.push_str(&caution);
        }
        if !published.is_empty() {
            outcome.notes.push(published::TABLE1_CAUTION.into());
        }
        let seconds: f64 = settings
            .iter()
            .chain(&variants)
            .filter_map(|s| s.results.as_ref())
            .map(Scores::seconds)
            .sum();
        let sources: Option<Map<String, Value>> = settings
            .iter()
            .find_map(|s| s.results.as_ref())
            .map(Scores::sources);
        outcome.data("super_weights", found.json())?;
        outcome.data("settings", &settings)?;
        outcome.data("variants", &variants)?;
        outcome.data("detection", &found.report)?;
        outcome.data("sources", sources)?;
        outcome.data("evaluation_seconds", json!(seconds))?;
        Ok(outcome)
    }
}

impl Table1 {
    /// The four rows, and further readings of the third.
    fn settings(&self, lab: &Lab, found: &Found) -> Result<(Vec<Setting>, Vec<Setting>)> {
        let coords = &found.coords;
        let setting = |name, label: &str, interventions, weights| Setting {
            name,
            label: label.into(),
            interventions,
            weights,
            results: None,
        };
        let others = |Others(select): Others| -> Result<Setting> {
            let keep = coords.to_vec();
            let weights = largest(&lab.model, &select, &keep)
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
        let mark = if found.weak() { " (weak)" } else { "" };
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
}

fn notes(settings: &[Setting], variants: &[Setting], tasks: &[&str]) -> Vec<String> {
    let mut notes = Vec::new();
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
    if let Some(scores) = settings.iter().find_map(|s| s.results.as_ref()) {
        for task in scores.tasks() {
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
        notes.extend(scores.warnings());
    }
    notes
}

fn table(settings: &[Setting]) -> Table {
    let accuracy = ACCURACIES.iter().map(|(_, heading)| *heading);
    let perplexity = PERPLEXITIES.iter().map(|(_, heading)| *heading);
    let header = ["Setting"]
        .into_iter()
        .chain(accuracy)
        .chain(["AVG"])
        .chain(perplexity);
    let row = |setting: &Setting| {
        let values = values(setting);
        let cells = values
            .iter()
            .enumerate()
            .map(|(i, v)| fixed(v.map(|v| v * scale(i)), 2));
        [setting.label.clone()].into_iter().chain(cells).collect()
    };
    Table {
        header: header.map(String::from).collect(),
        rows: settings.iter().map(row).collect(),
    }
}

/// Accuracies and their mean are shown in percent.
fn scale(column: usize) -> f64 {
    if column <= ACCURACIES.len() {
        100.0
    } else {
        1.0
    }
}

/// The columns: seven accuracies, their mean, two perplexities.
fn values(setting: &Setting) -> Vec<Option<f64>> {
    let get = |task: &str, metric| setting.results.as_ref()?.value(task, metric);
    let acc = ACCURACIES.iter().map(|(task, _)| get(task, Metric::Acc));
    let scores = setting.results.as_ref();
    let mean = scores.and_then(|s| s.average(ACCURACIES.map(|t| t.0)));
    let ppl = PERPLEXITIES
        .iter()
        .map(|(task, _)| get(task, Metric::Perplexity));
    acc.chain([mean]).chain(ppl).collect()
}

/// Below each row what the paper has, and the difference.
fn compare(table: &mut Table, settings: &[Setting], published: &[published::Row]) {
    if published.is_empty() {
        return;
    }
    let rows = std::mem::take(&mut table.rows);
    for (row, setting) in rows.into_iter().zip(settings) {
        table.rows.push(row);
        let Some(paper) = published.iter().find(|p| p.name == setting.name) else {
            continue;
        };
        let measured = values(setting);
        let cells = paper.values.iter().map(|v| format!("{v:.2}"));
        table.push(["  the paper".to_owned()].into_iter().chain(cells));
        let differences = paper.values.iter().zip(&measured).enumerate();
        let cells = differences.map(|(i, (p, m))| signed(m.map(|m| m * scale(i) - p), 2));
        table.push(["  difference".to_owned()].into_iter().chain(cells));
    }
}

/// Those of the tasks that have an accuracy.
fn tasks_with_accuracy<'a>(tasks: &[&'a str]) -> Vec<&'a str> {
    let accuracy = |t: &&&str| ACCURACIES.iter().any(|a| a.0 == **t);
    tasks.iter().filter(accuracy).copied().collect()
}

/// What the table shows, in sentences.
fn finding(settings: &[Setting], found: &Found, lab: &Lab) -> [String; 2] {
    let get = |name: &str, column: usize| {
        let setting = settings.iter().find(|s| s.name == name)?;
        values(setting)[column].map(|v| v * scale(column))
    };
    let parameters = lab.parameters();
    let mut sentences = Vec::new();
    let names = ["original", "prune_sw", "prune_non_sw", "prune_sw_plus_sa"];
    let column = |i: usize| names.map(|name| get(name, i));
    let [avg, c4, wiki] = [ACCURACIES.len(), ACCURACIES.len() + 1, ACCURACIES.len() + 2];
    let ppl = [("Wiki-2", wiki), ("C4", c4)]
        .into_iter()
        .find(|p| get("original", p.1).is_some());
    let others = settings
        .iter()
        .find(|s| s.name == "prune_non_sw")
        .map_or(0, |s| s.weights);
    if let Some((name, i)) = ppl
        && let [Some(before), Some(after), Some(other), Some(restored)] = column(i)
    {
        sentences.push(format!(
            "Setting {} ({} of {} weights) to zero takes the perplexity on {name} from {} to {}; zeroing the {others} largest other weights, to {}. Putting only the super activation back gives {}.",
            found.noun(),
            found.coords.len(),
            parameters,
            plain(before),
            plain(after),
            plain(other),
            plain(restored),
        ));
    }
    if let [Some(before), Some(after), Some(other), Some(restored)] = column(avg) {
        sentences.push(format!(
            "The mean zero-shot accuracy goes from {before:.2} % to {after:.2} %; without the others, {other:.2} %; with the activation back, {restored:.2} %."
        ));
    }
    let headline = format!(
        "from setting {} of {parameters} weights to zero",
        found.coords.len()
    );
    [sentences.join(" "), headline]
}

/// From so many times on, a perplexity only says that nothing is left; the accuracies say it better.
const BEYOND_COUNTING: f64 = 1e6;

/// How many times the perplexity grows, or how the accuracies fall where that is beyond counting.
fn headline_of(settings: &[Setting], text: String) -> Option<Headline> {
    let of = |name: &str, i: usize| values(settings.iter().find(|s| s.name == name)?)[i];
    let wiki = ACCURACIES.len() + 2;
    let i = [wiki, wiki - 1]
        .into_iter()
        .find(|&i| of("original", i).is_some())?;
    let factor = of("prune_sw", i)? / of("original", i)?;
    let average = ACCURACIES.len();
    let accuracies = of("original", average).zip(of("prune_sw", average));
    let (number, what) = match accuracies {
        Some((before, after)) if factor >= BEYOND_COUNTING => (
            format!("{:.0} \u{2192} {:.0} %", 100.0 * before, 100.0 * after),
            "mean zero-shot accuracy",
        ),
        _ => (plain(factor) + "\u{d7}", "the perplexity"),
    };
    Some(Headline {
        number,
        text: format!("{what}, {text}"),
    })
}
