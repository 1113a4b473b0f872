//! What Tables 3, 4 and 7 measure: 8-bit weights and activations in several readings, as rows of one table.

use anyhow::Result;
use serde::Serialize;
use sw_eval::Metric;
use sw_intervene::{ActivationSite, Arithmetic, Intervention};
use sw_quant::{Activation, Grouping, Levels, Pick, Scheme};

use crate::{
    lab::{Lab, PERPLEXITIES, Scores},
    outcome::Outcome,
    page::{
        chart::{Axis, Chart, Mark, Panel, Point, Series, Tone},
        table::{Table, fixed, signed},
    },
    paired::{self, PairedPerplexity},
    published,
};

/// Windows of each text on the embedded checkpoint.
const WINDOWS: usize = 150;

/// One row.
#[derive(Serialize)]
pub(super) struct Setting {
    /// `fp16`, `naive`, `smoothquant`, `ours` are the paper's rows.
    pub(super) name: &'static str,
    pub(super) label: String,
    pub(super) interventions: Vec<Intervention>,
    pub(super) perplexities: Perplexities,
    /// The same quantization computed in integers, where there is one.
    pub(super) integer: Option<Integer>,
    /// The perplexities of this setting against those of the stored weights; empty for the stored weights.
    paired: Vec<PairedPerplexity>,
    /// The label of the naive setting that this one is to better.
    #[serde(skip)]
    against: &'static str,
    #[serde(skip)]
    scores: Scores,
}

/// The label of the plain naive setting.
pub(super) const NAIVE: &str = "naive W8A8";

impl Setting {
    /// Whether it is more than a naive setting.
    fn is_ours(&self) -> bool {
        self.name != "fp16" && !self.label.starts_with("naive")
    }
}

/// Perplexity of each text.
pub(super) type Perplexities = Vec<(&'static str, f64)>;

/// A setting as integer arithmetic.
#[derive(Serialize)]
pub(super) struct Integer {
    pub(super) interventions: Vec<Intervention>,
    pub(super) perplexities: Perplexities,
    /// Why integers cannot say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
}

/// A plan whose linear maps multiply integers.
fn in_integers(plan: &[Intervention]) -> Vec<Intervention> {
    let mut plan = plan.to_vec();
    for intervention in &mut plan {
        if let Intervention::QuantizeWeights { arithmetic, .. }
        | Intervention::QuantizeActivations { arithmetic, .. } = intervention
        {
            *arithmetic = Arithmetic::Integer;
        }
    }
    plan
}

/// How activations are quantized beside the weights, which are symmetric with one scale for each matrix.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) act: Activation,
    pub(super) sites: Vec<ActivationSite>,
    /// Whether the super weight itself keeps its value.
    pub(super) hold: bool,
}

impl Reading {
    /// SmoothQuant's simulation: symmetric, for each token, everywhere.
    pub(super) fn naive() -> Self {
        Self {
            act: Activation::naive(8),
            sites: ActivationSite::linear_inputs_and_bmm(),
            hold: false,
        }
    }

    /// Eq. 1 on top: the largest element of each tensor is replaced by its token's median, and put back.
    pub(super) fn ours() -> Self {
        let mut ours = Self::naive();
        ours.act.pick = Pick::Largest;
        ours
    }

    pub(super) fn interventions(&self, lab: &Lab) -> Result<Vec<Intervention>> {
        let hold = if self.hold {
            lab.found()?.coords.clone()
        } else {
            vec![]
        };
        Ok(vec![
            Intervention::QuantizeWeights {
                scheme: weights(),
                hold,
                arithmetic: Arithmetic::Simulated,
            },
            Intervention::QuantizeActivations {
                recipe: self.act.clone(),
                sites: self.sites.clone(),
                arithmetic: Arithmetic::Simulated,
            },
        ])
    }
}

pub(super) fn weights() -> Scheme {
    Scheme::new(Levels::symmetric(8), Grouping::Tensor)
}

/// The rows of one table as they are evaluated.
pub(super) struct Bench<'a> {
    lab: &'a Lab,
    tasks: Vec<&'static str>,
    settings: Vec<Setting>,
}

/// The rows of one table as they were measured.
pub(crate) struct Rows {
    tasks: Vec<&'static str>,
    settings: Vec<Setting>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(lab: &'a Lab) -> Result<Self> {
        let tasks = lab.perplexities()?;
        let mut bench = Self {
            lab,
            tasks,
            settings: vec![],
        };
        let stored = format!("{}, as stored", lab.model.coding());
        bench.add("fp16", stored, NAIVE, vec![])?;
        Ok(bench)
    }

    /// What was measured.
    pub(super) fn rows(self) -> Rows {
        Rows {
            tasks: self.tasks,
            settings: self.settings,
        }
    }

    pub(super) fn add(
        &mut self,
        name: &'static str,
        label: impl Into<String>,
        against: &'static str,
        interventions: Vec<Intervention>,
    ) -> Result<()> {
        let label = label.into();
        let scores = self.evaluate(&label, &interventions)?;
        let integer = in_integers(&interventions);
        let integer = (integer != interventions)
            .then(|| self.integer(&label, integer))
            .transpose()?;
        let stored = self.settings.first().map(|s| &s.scores);
        let paired = |stored| {
            let texts = self.tasks.iter();
            texts
                .filter_map(|text| paired::perplexities(stored, &scores, text))
                .collect()
        };
        self.settings.push(Setting {
            paired: stored.map(paired).unwrap_or_default(),
            against,
            name,
            label,
            interventions,
            perplexities: self.perplexities(&scores),
            integer,
            scores,
        });
        Ok(())
    }

    fn integer(&self, label: &str, interventions: Vec<Intervention>) -> Result<Integer> {
        let scores = self.evaluate(&format!("{label}, as integers"), &interventions);
        let (perplexities, refused) = match scores {
            Ok(scores) => (self.perplexities(&scores), None),
            Err(error) => match error.downcast::<sw_eval::Error>()? {
                sw_eval::Error::Intervention(sw_intervene::Error::Intervention {
                    problem, ..
                }) => (vec![], Some(problem)),
                other => return Err(other.into()),
            },
        };
        Ok(Integer {
            interventions,
            perplexities,
            refused,
        })
    }

    fn evaluate(&self, label: &str, interventions: &[Intervention]) -> Result<Scores> {
        let limit = self.lab.limit(WINDOWS);
        self.lab.evaluate(label, &self.tasks, interventions, limit)
    }

    fn perplexities(&self, scores: &Scores) -> Perplexities {
        let value = |&task: &&'static str| Some((task, scores.value(task, Metric::Perplexity)?));
        self.tasks.iter().filter_map(value).collect()
    }

    pub(super) fn reading(
        &mut self,
        name: &'static str,
        label: impl Into<String>,
        against: &'static str,
        reading: &Reading,
    ) -> Result<()> {
        let interventions = reading.interventions(self.lab)?;
        self.add(name, label, against, interventions)
    }
}

impl Rows {
    fn value(&self, name: &str, task: &str) -> Option<f64> {
        let setting = self.settings.iter().find(|s| s.name == name)?;
        of(&setting.perplexities, task)
    }

    /// How much of its naive setting's damage a setting takes back, in percent: `(naive - x) / (naive - best)`; nothing
    /// where naive is not worse than the stored weights by more than its interval, or not worse than `best` at all.
    fn recovered(&self, setting: &Setting, task: &str, best: &str) -> Option<f64> {
        let naive = self.settings.iter().find(|s| s.label == setting.against)?;
        let damage = naive.paired.iter().find(|p| p.text == task)?;
        let (before, best) = (of(&naive.perplexities, task)?, self.value(best, task)?);
        let span = before - best;
        let there = of(&setting.perplexities, task)?;
        (damage.is_loss() && span > 0.0).then(|| 100.0 * (before - there) / span)
    }

    /// The table; `best`: which row counts as all damage undone.
    pub(super) fn table(&self, best: &str, lab: &Lab) -> Table {
        let headings: Vec<_> = PERPLEXITIES
            .iter()
            .rev()
            .filter(|t| self.tasks.contains(&t.0))
            .collect();
        let published = lab.known.as_deref().map_or(&[][..], published::w8a8);
        let mut header = vec!["Setting".to_owned()];
        for (_, heading) in &headings {
            header.extend([
                (*heading).to_owned(),
                format!("{heading}: change"),
                format!("{heading}: from"),
                format!("{heading}: to"),
                format!("{heading}: recovered (%)"),
                format!("{heading}, as integers"),
            ]);
            if !published.is_empty() {
                header.extend([
                    format!("{heading}, the paper"),
                    format!("{heading}: difference"),
                ]);
            }
        }
        let mut table = Table::new(header);
        for setting in &self.settings {
            let mut row = vec![setting.label.clone()];
            for (task, _) in &headings {
                let value = of(&setting.perplexities, task);
                let base = self.value("fp16", task);
                let change = value
                    .zip(base)
                    .map(|(v, b)| v - b)
                    .filter(|_| setting.name != "fp16");
                let recovered = self
                    .recovered(setting, task, best)
                    .filter(|_| setting.is_ours());
                let paired = setting.paired.iter().find(|p| p.text == *task);
                row.extend([
                    fixed(value, 3),
                    signed(change, 3),
                    signed(paired.map(|p| p.interval[0]), 3),
                    signed(paired.map(|p| p.interval[1]), 3),
                    fixed(recovered, 0),
                ]);
                row.push(match &setting.integer {
                    Some(integer) if integer.refused.is_some() => "not available".into(),
                    Some(integer) => fixed(of(&integer.perplexities, task), 3),
                    None => String::new(),
                });
                if !published.is_empty() {
                    let paper = published.iter().find(|p| p.name == setting.name);
                    let paper = paper.and_then(|p| p.perplexity(task));
                    row.push(fixed(paper, 2));
                    row.push(signed(value.zip(paper).map(|(v, p)| v - p), 2));
                }
            }
            table.push(row);
        }
        table
    }

    /// The change of perplexity of each setting.
    pub(super) fn chart(&self) -> Panel {
        let shown: Vec<_> = self.settings.iter().filter(|s| s.name != "fp16").collect();
        let tones = [Tone::Super, Tone::Other];
        let series = PERPLEXITIES
            .iter()
            .rev()
            .zip(tones)
            .filter(|(t, _)| self.tasks.contains(&t.0));
        let series = series.map(|((task, heading), tone)| {
            let at = |(i, s): (usize, &&Setting)| {
                Some(Point {
                    x: of(&s.perplexities, task)? - self.value("fp16", task)?,
                    y: i as f64,
                    interval: s
                        .paired
                        .iter()
                        .find(|p| p.text == *task)
                        .map(|p| p.interval),
                })
            };
            Series::new(
                *heading,
                Mark::Bars,
                tone,
                shown.iter().enumerate().filter_map(at).collect(),
            )
        });
        Panel::Chart(Chart {
            title: String::new(),
            x: Axis::linear("perplexity above that of the stored weights"),
            y: Axis::bands("", shown.iter().map(|s| s.label.clone())),
            series: series.collect(),
            guides: vec![],
        })
    }

    pub(super) fn sentence(&self, names: &[(&'static str, &str)]) -> String {
        let task = if self.tasks.contains(&"wikitext2") {
            "wikitext2"
        } else {
            self.tasks[0]
        };
        let heading = PERPLEXITIES
            .iter()
            .find(|t| t.0 == task)
            .map_or(task, |t| t.1);
        let part = |(name, words): &(&'static str, &str)| {
            let setting = self.settings.iter().find(|s| s.name == *name)?;
            let simulated = of(&setting.perplexities, task)?;
            let integer = setting.integer.as_ref();
            let integer = integer.and_then(|i| of(&i.perplexities, task));
            let integer = integer.map_or_else(String::new, |p| format!(" (as integers {p:.3})"));
            Some(format!("{words} {simulated:.3}{integer}"))
        };
        let parts: Vec<_> = names.iter().filter_map(part).collect();
        format!("Perplexity on {heading}: {}.", parts.join(", "))
    }

    pub(super) fn finish(&self, lab: &Lab, outcome: &mut Outcome) -> Result<()> {
        if let Some(stored) = self.settings.first() {
            let scores = &stored.scores;
            for task in scores.tasks() {
                outcome.notes.push(format!(
                    "{}: split {}, {} windows of {} tokens.",
                    task.task,
                    task.source.split,
                    task.samples.len(),
                    task.source.window.unwrap_or(0)
                ));
            }
            outcome.data("sources", scores.sources())?;
        }
        outcome.notes.push(INTEGER.into());
        let refused = self.settings.iter().filter_map(|s| {
            let problem = s.integer.as_ref()?.refused.as_ref()?;
            Some(format!(
                "Not available as integers: {}: {problem}.",
                s.label
            ))
        });
        outcome.notes.extend(refused);
        outcome.data("super_weights", lab.found()?.json())?;
        outcome.data("settings", &self.settings)
    }
}

fn of(perplexities: &Perplexities, task: &str) -> Option<f64> {
    perplexities.iter().find(|p| p.0 == task).map(|p| p.1)
}

pub(super) const SIMULATED: &str = "Simulated, but for the columns as integers: values are rounded to the 8-bit grid and widened again before each product. Weights: symmetric, one scale for each matrix. Activations: symmetric, one scale for each token, at the inputs of all linear maps and of the attention's two products. Ours: in each of these tensors the element of largest magnitude is replaced by its token's median before the scale is taken, and put back (Eq. 1).";
pub(super) const SHARES: &str = "Intervals of changes: 95 % of the paired bootstrap over windows. A share is a quotient of small differences; it is given only where the naive setting is worse than the stored weights by more than its interval.";
pub(super) const INTEGER: &str = "As integers: the linear maps multiply 8-bit integers with exact sums, scaled once; elements that are put back and held-out weights are added in floats. A map whose input is not quantized meets it in 16 bits. What the attention multiplies, and down_proj's output where it is quantized, stay simulated. The simulation rounds its weights once more, to the type they are stored in.";
