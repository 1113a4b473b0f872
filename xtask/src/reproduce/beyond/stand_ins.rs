//! The weight at zero with something in its place, on tasks and texts.

use anyhow::{Result, ensure};
use serde::Serialize;
use sw_eval::Metric;
use sw_intervene::{Constant, Intervention, RowRepair, SpikeInputs};

use super::Beyond;
use crate::{
    lab::{ACCURACIES, Lab, PERPLEXITIES, Scores},
    outcome::Outcome,
    page::table::{Table, fixed, p_value, plain, signed},
    paired::{self, Paired},
};

/// Documents of each task (windows of each text) on the embedded checkpoint.
const DOCUMENTS: usize = 300;
/// Tokens of one calibration text.
const TEXT: usize = 64;

/// One setting on the tasks.
#[derive(Serialize)]
struct Setting {
    name: &'static str,
    interventions: Vec<Intervention>,
    average: Option<f64>,
    perplexities: Vec<(&'static str, f64)>,
    /// Against the original.
    paired: Option<Paired>,
}

/// The weight at zero with something in its place, on tasks and texts.
pub(super) struct StandIns {
    tasks: Vec<&'static str>,
    texts: Vec<&'static str>,
    settings: Vec<Setting>,
    constants: Vec<Constant>,
    /// Share of the calibration texts whose spike stands at the constant's position.
    steady: f64,
    repair: RowRepair,
    /// What constants and row come from.
    calibrated_on: String,
}

impl Beyond {
    /// Measures the stand-ins.
    pub(super) fn stand_ins(&self, lab: &Lab) -> Result<StandIns> {
        let coords = lab.found()?.coords.clone();
        ensure!(
            coords.iter().all(|c| c.expert.is_none()),
            "the super weight is an expert's; constants and rows are fitted to dense layers only"
        );
        let calibration = lab.calibration_texts(self.fit_tokens.div_ceil(2), TEXT)?;
        let samples =
            SpikeInputs::collect(&lab.model, &calibration.texts, &coords, self.fit_tokens)?;
        let (constants, steady) = samples.constants(&lab.model, &coords)?;
        let repair = RowRepair::fit(&lab.model, &samples, &coords, self.ridge)?;
        let prune = lab.prune()?;
        let flip = Intervention::ScaleWeights {
            coords: coords.clone(),
            factor: -1.0,
        };
        let restore = Intervention::RestoreSuperActivation {
            coords: coords.clone(),
        };
        let plans = [
            ("as it is", vec![]),
            ("at zero", vec![prune.clone()]),
            (
                "at zero, super activation restored",
                vec![prune.clone(), restore],
            ),
            (
                "at zero, its mean as a constant",
                vec![
                    prune,
                    Intervention::AddConstants {
                        constants: constants.clone(),
                    },
                ],
            ),
            ("sign flipped", vec![flip]),
            (
                "at zero, row fitted in its place",
                vec![Intervention::SetWeights {
                    weights: repair.weights.clone(),
                }],
            ),
        ];
        let tasks = lab.with_data(ACCURACIES.map(|t| t.0))?;
        let texts = lab.with_data(PERPLEXITIES.map(|t| t.0))?;
        let all = lab.columns(tasks.iter().chain(&texts).copied())?;
        let limit = lab.limit(DOCUMENTS);
        let mut settings = Vec::new();
        let mut original: Option<Scores> = None;
        for (name, interventions) in plans {
            let scores = lab.evaluate(name, &all, &interventions, limit)?;
            let value = |&t: &&'static str| Some((t, scores.value(t, Metric::Perplexity)?));
            let paired = match &original {
                Some(original) if !tasks.is_empty() => {
                    Some(paired::compare(original, &scores, &tasks)?)
                }
                _ => None,
            };
            settings.push(Setting {
                name,
                average: scores.average(tasks.iter().copied()),
                perplexities: texts.iter().filter_map(value).collect(),
                interventions,
                paired,
            });
            original.get_or_insert(scores);
        }
        Ok(StandIns {
            tasks,
            texts,
            settings,
            constants,
            steady,
            repair,
            calibrated_on: calibration.source,
        })
    }
}

impl StandIns {
    pub(super) fn show(&self, outcome: &mut Outcome) -> Result<()> {
        let Self {
            tasks,
            texts,
            settings,
            constants,
            steady,
            repair,
            calibrated_on,
        } = self;
        outcome.finding = finding(settings);
        let mut header = vec!["The super weight".to_owned()];
        header.extend(
            PERPLEXITIES
                .iter()
                .filter(|t| texts.contains(&t.0))
                .map(|t| format!("{} perplexity", t.1)),
        );
        header.extend(["Mean accuracy (%)", "Difference", "from", "to", "p"].map(String::from));
        let mut table = Table::new(header);
        for s in settings {
            let mut row = vec![s.name.to_owned()];
            row.extend(
                PERPLEXITIES
                    .iter()
                    .filter(|t| texts.contains(&t.0))
                    .map(|t| fixed(s.perplexities.iter().find(|p| p.0 == t.0).map(|p| p.1), 2)),
            );
            let p = s.paired.as_ref();
            row.extend([
                fixed(s.average.map(|v| 100.0 * v), 2),
                signed(p.map(|p| 100.0 * p.difference), 2),
                signed(p.map(|p| 100.0 * p.interval[0]), 2),
                signed(p.map(|p| 100.0 * p.interval[1]), 2),
                p.map_or("-".into(), |p| p_value(p.mcnemar.p_value)),
            ]);
            table.push(row);
        }
        outcome.table("beyond", "Stand-ins", table, format!(
            "Perplexity, mean accuracy of {} tasks, its difference from the first row with the paired 95 % interval, McNemar's exact test. The constant is the weight's mean product at its spike, added at the same position of every sequence; the fitted row changes the other weights of the super weight's row (a change of rank one) by ridge regression to do its work. Both come from {}.",
            tasks.len(), calibrated_on
        ));
        outcome.notes.push(format!(
            "Constants: {}. In {:.0} % of the calibration texts the spike stands at the constant's position.",
            constants.iter().map(|c| format!("{:.2} at position {}, channel {} of layer {}", c.value, c.position, c.channel, c.layer)).collect::<Vec<_>>().join("; "),
            100.0 * steady
        ));
        outcome.notes.push(format!(
            "The fitted change is {:.2} times as long as the row (cosine {:+.2} with it) and leaves {:.1} % of the weight's work undone on its calibration tokens.",
            repair.length, repair.cosine, 100.0 * repair.residual
        ));
        outcome.data("settings", settings)?;
        outcome.data("repair", repair)?;
        outcome.data("calibrated_on", calibrated_on)?;
        Ok(())
    }
}

fn finding(settings: &[Setting]) -> String {
    let get = |name: &str| settings.iter().find(|s| s.name == name);
    let show = |s: &Setting| {
        let ppl = s
            .perplexities
            .iter()
            .find(|p| p.0 == "wikitext2")
            .or(s.perplexities.first());
        match (ppl, s.average) {
            (Some((task, ppl)), _) => {
                let heading = PERPLEXITIES
                    .iter()
                    .find(|t| t.0 == *task)
                    .map_or(*task, |t| t.1);
                format!("{} on {heading}", plain(*ppl))
            }
            (None, Some(average)) => format!("{:.2} % mean accuracy", 100.0 * average),
            _ => "nothing to measure".into(),
        }
    };
    let names = [
        ("as it is", "as it is"),
        ("at zero", "at zero"),
        (
            "at zero, its mean as a constant",
            "with its mean as a constant",
        ),
        ("sign flipped", "with its sign flipped"),
        (
            "at zero, row fitted in its place",
            "with a fitted row in its place",
        ),
    ];
    let parts: Vec<_> = names
        .iter()
        .filter_map(|(name, words)| Some(format!("{words} {}", show(get(name)?))))
        .collect();
    format!("Perplexity with the super weight {}.", parts.join("; "))
}
