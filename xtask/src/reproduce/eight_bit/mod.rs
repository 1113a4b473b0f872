//! What Tables 3, 4 and 7 measure: 8-bit weights and activations in several readings, as rows of one table.

mod tables;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;
use sw_eval::Metric;
use sw_intervene::{ActivationSite, Arithmetic, Intervention, PickAt};
use sw_model::{Linear, WeightCoord};
use sw_quant::{Activation, Grouping, Levels, Pick, Scheme};

use crate::{
    lab::{Lab, Scores},
    outcome::Outcome,
    paired::{self, PairedPerplexity},
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
    /// This quantization computed in integers, where there is one.
    pub(super) integer: Option<Integer>,
    /// The perplexities of this setting against those of the stored weights; empty for the stored weights.
    paired: Vec<PairedPerplexity>,
    /// The label of the naive setting that this one is to better.
    against: &'static str,
    /// The perplexities of this setting against those of that naive one; empty for the stored weights and for it.
    against_naive: Vec<PairedPerplexity>,
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
    /// Its perplexities against those of the stored weights.
    paired: Vec<PairedPerplexity>,
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
    /// Whether the super activation, and nothing else, is replaced and put back, whatever `act` picks elsewhere.
    pub(super) alone: bool,
}

impl Reading {
    /// SmoothQuant's simulation: symmetric, for each token, everywhere.
    pub(super) fn naive() -> Self {
        Self {
            act: Activation::naive(8),
            sites: ActivationSite::linear_inputs_and_bmm(),
            hold: false,
            alone: false,
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
                picks: if self.alone {
                    super_activations(&lab.found()?.coords)
                } else {
                    vec![]
                },
                arithmetic: Arithmetic::Simulated,
            },
        ])
    }
}

/// What the super weights multiply: in their layers, of what `down_proj` reads, their columns' largest values.
fn super_activations(coords: &[WeightCoord]) -> Vec<PickAt> {
    let down = |c: &&WeightCoord| c.linear == Linear::Down && c.expert.is_none();
    let mut channels: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for coord in coords.iter().filter(down) {
        channels.entry(coord.layer).or_default().insert(coord.col);
    }
    let pick = |(layer, channels): (usize, BTreeSet<usize>)| PickAt {
        layer,
        site: ActivationSite::DownIn,
        pick: Pick::Channels {
            channels: channels.into_iter().collect(),
        },
    };
    channels.into_iter().map(pick).collect()
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
        let naive = self.settings.iter().find(|s| s.label == against);
        self.settings.push(Setting {
            paired: self.paired(self.settings.first(), &scores),
            against,
            against_naive: self.paired(naive, &scores),
            name,
            label,
            interventions,
            perplexities: self.perplexities(&scores),
            integer,
            scores,
        });
        Ok(())
    }

    /// The perplexities of a setting against those of an earlier one.
    fn paired(&self, earlier: Option<&Setting>, scores: &Scores) -> Vec<PairedPerplexity> {
        let texts = self.tasks.iter();
        let pairs = texts.filter_map(|text| paired::perplexities(&earlier?.scores, scores, text));
        pairs.collect()
    }

    fn integer(&self, label: &str, interventions: Vec<Intervention>) -> Result<Integer> {
        let scores = self.evaluate(&format!("{label}, as integers"), &interventions);
        let (perplexities, paired, refused) = match scores {
            Ok(scores) => (
                self.perplexities(&scores),
                self.paired(self.settings.first(), &scores),
                None,
            ),
            Err(error) => match error.downcast::<sw_eval::Error>()? {
                sw_eval::Error::Intervention(sw_intervene::Error::Intervention {
                    problem, ..
                }) => (vec![], vec![], Some(problem)),
                other => return Err(other.into()),
            },
        };
        Ok(Integer {
            interventions,
            perplexities,
            paired,
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
