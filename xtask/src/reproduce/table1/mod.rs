//! Table 1: what the super weight is worth.
//!
//! Four settings, nine columns: the model as it is; its super weights pruned; the largest other weights pruned; the super
//! weights pruned and the super activation put back at the one element where the spike was.

mod changes;

use std::fmt;

use anyhow::Result;
use clap::Args;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use sw_eval::{Metric, Runtime};
use sw_intervene::{Intervention, Largest, largest};
use sw_model::{Linear, WeightCoord};

use self::changes::{Change, average_interval, perplexity_interval};
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
    /// The edited model.
    #[serde(skip)]
    runtime: Runtime,
}

fn lm_eval_keys<S: Serializer>(results: &Option<Scores>, s: S) -> Result<S::Ok, S::Error> {
    results.as_ref().map(Scores::results).serialize(s)
}

/// What is measured: the four rows, the strongest super weight alone, and further readings of the third row.
pub(crate) struct Measured {
    tasks: Vec<&'static str>,
    settings: Vec<Setting>,
    variants: Vec<Setting>,
}

impl Experiment for Table1 {
    const NAME: &'static str = "table1";
    type Measured = Measured;

    fn found<'a>(&self, lab: &'a Lab) -> Result<&'a Found> {
        lab.decisive()
    }

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        let all = ACCURACIES.into_iter().chain(PERPLEXITIES).map(|t| t.0);
        let tasks = lab.columns(all)?;
        // Every setting is built before the first evaluation: whatever can fail early fails before hours of it.
        let (mut settings, mut variants) = self.settings(lab, lab.decisive()?)?;
        let limit = lab.limit(DOCUMENTS);
        for setting in settings.iter_mut().chain(&mut variants) {
            let (plan, runtime) = (&setting.interventions, &setting.runtime);
            let scores = lab.evaluate_on(&setting.label, &tasks, plan, limit, runtime)?;
            setting.results = Some(scores);
        }
        Ok(Measured {
            tasks,
            settings,
            variants,
        })
    }

    fn show(&self, lab: &Lab, measured: Measured) -> Result<Outcome> {
        let Measured {
            tasks,
            settings,
            variants,
        } = measured;
        let found = lab.decisive()?;
        let mut outcome = Outcome::new("Table 1. What one number is worth");
        let changes = Change::all(settings.iter().chain(&variants));
        outcome.finding = finding(&settings, &changes, found, lab);
        outcome.headline = headline(&settings, found, lab);
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
                "Other selections of weights",
                self::table(&variants),
                "Where there are several super weights, the most costly one alone; and other readings of \"the largest other weights\", which are pruned in place of the third row's.",
            );
        }
        outcome.table(
            "table1-changes",
            "Changes against the model as it is",
            changes::table(&changes),
            "The change of the mean accuracy in points, and of the perplexities; from and to: its 95 % interval, by the paired bootstrap over documents and over windows. A dash: fewer than two of them.",
        );
        outcome.notes = notes(&settings, &variants, &tasks);
        let (restored, all) = (restorable(found).len(), found.coords.len());
        if restored < all {
            outcome.notes.push(format!(
                "+SA puts back the activations of {restored} of the {all} weights: the others are in no dense down_proj."
            ));
        }
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
        let scores = || {
            settings
                .iter()
                .chain(&variants)
                .filter_map(|s| s.results.as_ref())
        };
        let seconds: f64 = scores().map(Scores::seconds).sum();
        let sources: Option<Map<String, Value>> = scores().next().map(Scores::sources);
        outcome.data("super_weights", found.json())?;
        outcome.data("settings", &settings)?;
        outcome.data("variants", &variants)?;
        outcome.data("changes", &changes)?;
        outcome.data("detection", &found.report)?;
        outcome.data("sources", sources)?;
        outcome.data("evaluation_seconds", json!(seconds))?;
        Ok(outcome)
    }
}

impl Table1 {
    /// The four rows, the strongest super weight alone, and further readings of the third row. Each selection of the largest weights sweeps over all weights once.
    fn settings(&self, lab: &Lab, found: &Found) -> Result<(Vec<Setting>, Vec<Setting>)> {
        let keep = &found.coords;
        let setting = |name, label: String, interventions: Vec<Intervention>, weights| {
            let runtime = lab.runtime(&interventions)?;
            anyhow::Ok(Setting {
                name,
                label,
                interventions,
                weights,
                results: None,
                runtime,
            })
        };
        let others = |Others(select): Others| -> Result<Setting> {
            let coords = largest(&lab.model, &select, keep).map_err(anyhow::Error::msg)?;
            let how = match select {
                Largest::PerMatrix { fraction } => format!("{fraction:e} of each matrix"),
                Largest::Global { count } => format!("{count} of all"),
            };
            let weights = coords.len();
            Ok(Setting {
                name: "prune_non_sw",
                label: format!("Prune Non-SW ({how})"),
                // What is recorded selects the weights; what runs has them selected already.
                interventions: vec![Intervention::PruneLargest {
                    select,
                    keep: keep.clone(),
                }],
                weights,
                results: None,
                runtime: lab.runtime(&[Intervention::PruneWeights { coords }])?,
            })
        };
        let mut chosen = self.non_sw;
        let mut main = others(chosen)?;
        if main.weights == 0 {
            chosen = SMALL_MODEL;
            main = others(chosen)?;
        }
        let mut variants = Vec::new();
        // The paper prunes one weight: where more are decisive, what the most costly one does alone.
        if let (Some(_), [first, _, ..]) = (&found.report, &found.coords[..]) {
            let coords = vec![*first];
            let prune = Intervention::PruneWeights { coords };
            let label = format!("Prune the strongest SW alone ({first})");
            variants.push(setting("prune_strongest_sw", label, vec![prune], 1)?);
        }
        for select in [PER_MATRIX, SMALL_MODEL, SEVEN_THOUSAND] {
            // The chosen reading is the third row; one that selects nothing was tried.
            if select == chosen || select == self.non_sw {
                continue;
            }
            let variant = others(select)?;
            if variant.weights > 0 {
                variants.push(variant);
            }
        }
        let mark = if found.weak() { " (weak)" } else { "" };
        let coords = || found.coords.clone();
        let prune = || Intervention::PruneWeights { coords: coords() };
        let coords = restorable(found);
        let restore = Intervention::RestoreSuperActivation { coords };
        let n = found.coords.len();
        let settings = vec![
            setting("original", "Original".into(), vec![], 0)?,
            setting("prune_sw", format!("Prune SW{mark}"), vec![prune()], n)?,
            main,
            setting(
                "prune_sw_plus_sa",
                format!("Prune SW, +SA{mark}"),
                vec![prune(), restore],
                n,
            )?,
        ];
        Ok((settings, variants))
    }
}

/// The super weights whose activation can be put back: the census finds weights of other maps too, and those have none.
fn restorable(found: &Found) -> Vec<WeightCoord> {
    let given = found.report.is_none();
    let here = |c: &&WeightCoord| given || c.linear == Linear::Down && c.expert.is_none();
    found.coords.iter().filter(here).copied().collect()
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

/// A column of the table.
#[derive(Clone, Copy, PartialEq)]
enum Column {
    /// The accuracy on a task.
    Accuracy(&'static str),
    /// The mean of the seven accuracies.
    Average,
    /// The perplexity on a text.
    Perplexity(&'static str),
}

impl Column {
    /// The paper's columns, in its order, with their headings.
    fn all() -> impl Iterator<Item = (Self, &'static str)> {
        let accuracies = ACCURACIES
            .into_iter()
            .map(|(task, heading)| (Self::Accuracy(task), heading));
        let perplexities = PERPLEXITIES
            .into_iter()
            .map(|(text, heading)| (Self::Perplexity(text), heading));
        accuracies
            .chain([(Self::Average, "AVG")])
            .chain(perplexities)
    }

    /// What a setting has in this column: percent, or a perplexity.
    fn of(self, setting: &Setting) -> Option<f64> {
        let scores = setting.results.as_ref()?;
        match self {
            Self::Accuracy(task) => Some(100.0 * scores.value(task, Metric::Acc)?),
            Self::Average => Some(100.0 * scores.average(ACCURACIES.map(|t| t.0))?),
            Self::Perplexity(text) => scores.value(text, Metric::Perplexity),
        }
    }
}

fn table(settings: &[Setting]) -> Table {
    let headings = Column::all().map(|(_, heading)| heading);
    let mut table = Table::new(["Setting"].into_iter().chain(headings));
    for setting in settings {
        let cells = Column::all().map(|(column, _)| fixed(column.of(setting), 2));
        table.push([setting.label.clone()].into_iter().chain(cells));
    }
    table
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
        let cells = paper.values.iter().map(|v| format!("{v:.2}"));
        table.push(["  the paper".to_owned()].into_iter().chain(cells));
        // The published columns are these, in this order.
        let pairs = Column::all().zip(paper.values);
        let cells =
            pairs.map(|((column, _), paper)| signed(column.of(setting).map(|v| v - paper), 2));
        table.push(["  difference".to_owned()].into_iter().chain(cells));
    }
}

/// Those of the tasks that have an accuracy.
fn tasks_with_accuracy<'a>(tasks: &[&'a str]) -> Vec<&'a str> {
    let accuracy = |t: &&&str| ACCURACIES.iter().any(|a| a.0 == **t);
    tasks.iter().filter(accuracy).copied().collect()
}

/// The text whose perplexity is spoken of: the first that was measured.
fn spoken_of(settings: &[Setting]) -> Option<(Column, &'static str)> {
    let texts = PERPLEXITIES.into_iter().rev();
    let texts = texts.map(|(text, heading)| (Column::Perplexity(text), heading));
    texts
        .into_iter()
        .find(|(column, _)| value(settings, "original", *column).is_some())
}

fn value(settings: &[Setting], name: &str, column: Column) -> Option<f64> {
    column.of(settings.iter().find(|s| s.name == name)?)
}

/// What the table shows, in sentences.
fn finding(settings: &[Setting], changes: &[Change], found: &Found, lab: &Lab) -> String {
    let mut sentences = Vec::new();
    let rows = |column: Column| {
        ["original", "prune_sw", "prune_non_sw", "prune_sw_plus_sa"]
            .map(|name| value(settings, name, column))
    };
    let others = settings
        .iter()
        .find(|s| s.name == "prune_non_sw")
        .map_or(0, |s| s.weights);
    if let Some((column @ Column::Perplexity(text), name)) = spoken_of(settings)
        && let [Some(before), Some(after), Some(other), Some(restored)] = rows(column)
    {
        let said = |name, value| {
            let interval = perplexity_interval(changes, name, text, before);
            format!("{}{interval}", plain(value))
        };
        sentences.push(format!(
            "Setting {} ({} of {} weights) to zero takes the perplexity on {name} from {} to {}; zeroing the {others} largest other weights, to {}. Putting only the super activation back gives {}.",
            found.noun(),
            found.coords.len(),
            lab.parameters(),
            plain(before),
            said("prune_sw", after),
            said("prune_non_sw", other),
            said("prune_sw_plus_sa", restored),
        ));
    }
    if let [Some(before), Some(after), Some(other), Some(restored)] = rows(Column::Average) {
        let said =
            |name, value: f64| format!("{value:.2} %{}", average_interval(changes, name, before));
        sentences.push(format!(
            "The mean zero-shot accuracy goes from {before:.2} % to {}; without the others, {}; with the activation back, {}.",
            said("prune_sw", after),
            said("prune_non_sw", other),
            said("prune_sw_plus_sa", restored),
        ));
    }
    if !sentences.is_empty() && !changes.is_empty() {
        sentences.push(
            "In brackets: 95 % intervals of the paired bootstrap over windows and documents."
                .into(),
        );
    }
    sentences.join(" ")
}

/// From so many times on, a perplexity only says that nothing is left; the accuracies say it better.
const BEYOND_COUNTING: f64 = 1e6;

/// How many times the perplexity grows, or how the accuracies fall where that is beyond counting.
fn headline(settings: &[Setting], found: &Found, lab: &Lab) -> Option<Headline> {
    let of = |name, column| value(settings, name, column);
    let (text, _) = spoken_of(settings)?;
    let factor = of("prune_sw", text)? / of("original", text)?;
    let accuracies = of("original", Column::Average).zip(of("prune_sw", Column::Average));
    let (number, what) = match accuracies {
        Some((before, after)) if factor >= BEYOND_COUNTING => (
            format!("{before:.0} \u{2192} {after:.0} %"),
            "mean zero-shot accuracy",
        ),
        _ => (plain(factor) + "\u{d7}", "the perplexity"),
    };
    let text = format!(
        "{what}, from setting {} of {} weights to zero",
        found.coords.len(),
        lab.parameters()
    );
    Some(Headline { number, text })
}
