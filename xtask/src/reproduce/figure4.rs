//! Figure 4: the super activation on its way through the layers.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sw_detect::{Candidate, Trace, trace};
use sw_intervene::{Intervention, Largest, largest};

use super::Experiment;
use crate::{
    lab::Lab,
    outcome::{Headline, Outcome},
    page::{
        chart::{Axis, Chart, Mark, Panel, Series, Tone, points},
        table::Table,
    },
    published,
};

/// Follow the super activation through the layers: as it is, without the super weight, without the largest others.
///
/// Example:
///   cargo xtask reproduce-figure4 --model MODEL --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Figure4 {
    /// Share of each matrix that counts as outliers (the released code's)
    #[arg(long, value_name = "SHARE", default_value_t = 5e-7)]
    fraction: f64,
}

/// Outliers of a model whose matrices are so small that the share of each is nothing.
const SMALL_MODEL: Largest = Largest::Global { count: 100 };

/// The setting of the model as it is.
const ORIGINAL: &str = "original";
/// The setting without the super weights.
const WITHOUT: &str = "super weight at zero";

/// How the paper's Figure 4 changes for Llama-7B: from 1360 to 324 at their largest (released notebook).
const PAPER: &str = "-76 %";

/// A setting with what its layers put out.
#[derive(Serialize)]
struct Traced {
    name: &'static str,
    #[serde(skip)]
    tone: Tone,
    weights: usize,
    interventions: Vec<Intervention>,
    trace: Option<Trace>,
}

/// What Figure 4 measures.
pub(crate) struct Measured {
    /// The first super weight.
    first: Candidate,
    settings: [Traced; 4],
    /// Weights of "the other outliers".
    others: usize,
    /// How they are selected, in words.
    how: String,
}

impl Experiment for Figure4 {
    const NAME: &'static str = "figure4";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        let tokens = lab.prompt()?;
        let candidates = lab.candidates()?;
        let coords = lab.found()?.coords.clone();
        let first = candidates[0].clone();
        let count = |select: &Largest| {
            let found = largest(&lab.model, select, &coords).map_err(anyhow::Error::msg);
            found.map(|found| found.len())
        };
        let mut select = Largest::PerMatrix {
            fraction: self.fraction,
        };
        let mut how = format!("{:e} of each matrix", self.fraction);
        if count(&select)? == 0 {
            (select, how) = (SMALL_MODEL, "100 of all matrices".into());
        }
        let others = count(&select)?;
        let setting = |name, tone, weights, interventions| Traced {
            name,
            tone,
            weights,
            interventions,
            trace: None,
        };
        let prune = lab.prune()?;
        let without_others = Intervention::PruneLargest {
            select,
            keep: coords.clone(),
        };
        let mut settings = [
            setting(ORIGINAL, Tone::Original, 0, vec![]),
            setting(WITHOUT, Tone::Super, coords.len(), vec![prune.clone()]),
            setting(
                "other outliers at zero",
                Tone::Other,
                others,
                vec![without_others.clone()],
            ),
            setting(
                "all outliers at zero",
                Tone::Third,
                others + coords.len(),
                vec![without_others, prune],
            ),
        ];
        for s in &mut settings {
            let runtime = lab.runtime(&s.interventions)?;
            s.trace = Some(trace(runtime.model(), &tokens, first.token, first.row)?);
        }
        Ok(Measured {
            first,
            settings,
            others,
            how,
        })
    }

    fn show(&self, lab: &Lab, measured: Measured) -> Result<Outcome> {
        let Measured {
            first,
            settings,
            others,
            how,
        } = measured;
        let layers = |of: fn(&Trace) -> Vec<f64>| {
            let each = settings.iter().filter_map(|s| Some((s, s.trace.as_ref()?)));
            let series = each.map(|(s, trace)| {
                let xy = of(trace).into_iter().enumerate();
                let xy = xy.map(|(layer, value)| (layer as f64, value));
                Series::new(s.name, Mark::Line, s.tone, points(xy))
            });
            series.collect::<Vec<_>>()
        };
        let largest = |trace: &Trace| -> Vec<f64> {
            let each = trace
                .layers
                .iter()
                .map(|p| f64::from(p.largest.value.abs()));
            each.collect()
        };
        let there = |trace: &Trace| -> Vec<f64> {
            trace.layers.iter().map(|p| f64::from(p.value)).collect()
        };
        let chart = |title: String, y: Axis, series| {
            Panel::Chart(Chart {
                title,
                x: Axis::bands(
                    "layer",
                    (0..lab.model.spec().layers.len()).map(|l| l.to_string()),
                ),
                y,
                series,
                guides: vec![],
            })
        };
        let mut outcome =
            Outcome::new("Figure 4. The super activation on its way through the layers");
        let way = |name: &str| -> Vec<f64> {
            let setting = settings.iter().find(|s| s.name == name);
            let trace = setting.and_then(|s| s.trace.as_ref());
            trace.map(there).unwrap_or_default()
        };
        let (original, without) = (way(ORIGINAL), way(WITHOUT));
        let top = |values: &[f64]| {
            values
                .iter()
                .fold(0.0f64, |a, &v| if v.abs() > a.abs() { v } else { a })
        };
        let peak = |name: &str| -> f64 {
            let setting = settings.iter().find(|s| s.name == name);
            let trace = setting.and_then(|s| s.trace.as_ref());
            top(&trace.map(largest).unwrap_or_default())
        };
        let fall = |before: f64, after: f64| 100.0 * (after.abs() / before.abs() - 1.0);
        outcome.finding = format!(
            "At token {}, channel {} of the residual stream, the value written in layer {} reaches {:.1} and leaves the last layer as {:.1}. With {} at zero that value reaches {:.1} ({:+.0} %), and the largest magnitude of any channel that leaves a layer goes from {:.1} to {:.1} ({:+.0} %; this is the quantity of the paper's Figure 4, which shows {PAPER} for Llama-7B).",
            first.token,
            first.row,
            first.layer,
            top(&original),
            original.last().copied().unwrap_or(0.0),
            lab.found()?.noun(),
            top(&without),
            fall(top(&original), top(&without)),
            peak(ORIGINAL),
            peak(WITHOUT),
            fall(peak(ORIGINAL), peak(WITHOUT)),
        );
        outcome.headline = Some(Headline {
            number: format!(
                "{:.1}, without the weight {:.1}",
                top(&original),
                top(&without)
            ),
            text: "the largest value of the super activation".into(),
        });
        outcome.figure(
            "figure4",
            "",
            vec![
                chart(
                    "Largest value that leaves each layer".into(),
                    Axis::log("largest magnitude of the residual stream (logarithmic)"),
                    layers(largest),
                ),
                chart(
                    format!("The super activation itself: token {}, channel {}", first.token, first.row),
                    Axis::linear("value in the residual stream"),
                    layers(there),
                ),
            ],
            format!(
                "Prompt {:?}. Other outliers: the {others} largest other weights ({how}); all outliers: those and the super weight. No unit (activations).",
                lab.inputs.prompt
            ),
        );
        let mut table = Table::new(["Layer"].into_iter().chain(settings.iter().map(|s| s.name)));
        for layer in 0..lab.model.spec().layers.len() {
            let values = settings.iter().filter_map(|s| s.trace.as_ref());
            let cells = values.map(|t| format!("{:.2}", t.layers[layer].largest.value.abs()));
            table.push([layer.to_string()].into_iter().chain(cells));
        }
        outcome.table(
            "figure4-values",
            "Largest magnitude that leaves each layer",
            table,
            "Layers count from 0.",
        );
        if let Some(text) = lab.known.as_deref().and_then(published::figure4) {
            outcome.notes.push(text.into());
        }
        outcome.data("settings", &settings)?;
        Ok(outcome)
    }
}
