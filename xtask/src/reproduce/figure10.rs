//! Figure 10: the spikes before and after the super weights are set to zero.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use sw_detect::{LayerProfile, Peak, profile, pruned};

use super::{Experiment, further};
use crate::{
    lab::Lab,
    outcome::Outcome,
    page::{
        chart::{Axis, Chart, Mark, Panel, Series, Tone, points},
        table::Table,
    },
};

/// Show the same before and after the super weights are set to zero, for one or several checkpoints.
///
/// Example:
///   cargo xtask reproduce-figure10 --model MODEL --models OTHER,ANOTHER --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Figure10 {
    /// Further checkpoints
    #[arg(long, value_name = "MODEL,...", value_delimiter = ',')]
    models: Vec<String>,
}

/// One checkpoint, as it is and without its super weights.
#[derive(Serialize)]
pub(crate) struct Both {
    #[serde(skip)]
    name: String,
    #[serde(skip)]
    noun: &'static str,
    /// The layer of the first super weight.
    #[serde(skip)]
    layer: usize,
    model: Value,
    original: Vec<LayerProfile>,
    pruned: Vec<LayerProfile>,
}

impl Experiment for Figure10 {
    const NAME: &'static str = "figure10";

    type Measured = Vec<Both>;

    fn measure(&self, lab: &Lab) -> Result<Vec<Both>> {
        let others = further(lab, &self.models)?;
        let both = |lab: &Lab| {
            let tokens = lab.prompt()?;
            let candidates = lab.candidates()?;
            let without = pruned(&lab.model, &candidates)?;
            Ok(Both {
                name: lab.name(),
                noun: lab.found()?.noun(),
                layer: candidates[0].layer,
                model: lab.record(),
                original: profile(&lab.model, &tokens)?,
                pruned: profile(&without, &tokens)?,
            })
        };
        std::iter::once(lab).chain(&others).map(both).collect()
    }

    fn show(&self, lab: &Lab, all: Vec<Both>) -> Result<Outcome> {
        let mut outcome = Outcome::new("Figure 10. The spikes go with the weight");
        let mut panels = Vec::new();
        let mut sentences = Vec::new();
        let mut table = Table::new([
            "Model",
            "Layer",
            "Input",
            "Input, pruned",
            "Output",
            "Output, pruned",
        ]);
        for both in &all {
            for (title, of) in [
                ("input", (|p| p.down_in) as fn(&LayerProfile) -> Peak),
                ("output", |p| p.down_out),
            ] {
                let series = |name, tone, profile: &[LayerProfile]| {
                    let xy = profile
                        .iter()
                        .map(|p| (p.layer as f64, f64::from(of(p).value.abs())));
                    Series::new(name, Mark::Line, tone, points(xy))
                };
                panels.push(Panel::Chart(Chart {
                    title: format!("{}: {title} of down_proj", both.name),
                    x: Axis::bands("layer", both.original.iter().map(|p| p.layer.to_string())),
                    y: Axis::log("largest magnitude (logarithmic)"),
                    series: vec![
                        series("as it is", Tone::Original, &both.original),
                        series("super weight at zero", Tone::Super, &both.pruned),
                    ],
                    guides: vec![],
                }));
            }
            for (a, b) in both.original.iter().zip(&both.pruned) {
                let value = |peak: Peak| format!("{:.2}", peak.value);
                table.push([
                    both.name.clone(),
                    a.layer.to_string(),
                    value(a.down_in),
                    value(b.down_in),
                    value(a.down_out),
                    value(b.down_out),
                ]);
            }
            let output = |profile: &[LayerProfile]| profile[both.layer].down_out.value.abs();
            sentences.push(format!(
                "In {}, with {} at zero, the largest output of layer {}'s down_proj falls from {:.1} to {:.1} in magnitude.",
                both.name,
                both.noun,
                both.layer,
                output(&both.original),
                output(&both.pruned),
            ));
        }
        outcome.finding = sentences.join(" ");
        outcome.figure(
            "figure10",
            "",
            panels,
            format!(
                "The largest magnitude over all tokens and channels for the prompt {:?}; no unit (activations).",
                lab.inputs.prompt
            ),
        );
        outcome.table(
            "figure10-values",
            "Layer by layer",
            table,
            "Values of largest magnitude, with their sign.",
        );
        outcome.data("profiles", all)?;
        Ok(outcome)
    }
}
