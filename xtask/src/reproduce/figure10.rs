//! Figure 10: the spikes before and after the super weights are set to zero.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
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

impl Experiment for Figure10 {
    const NAME: &'static str = "figure10";

    fn run(&self, lab: &Lab) -> Result<Outcome> {
        let others = further(lab, &self.models)?;
        let mut outcome = Outcome::new("Figure 10. The spikes go with the weight");
        let mut panels = Vec::new();
        let mut sentences = Vec::new();
        let mut profiles = Vec::new();
        let mut table = Table::new([
            "Model",
            "Layer",
            "Input",
            "Input, pruned",
            "Output",
            "Output, pruned",
        ]);
        for lab in std::iter::once(lab).chain(&others) {
            let tokens = lab.prompt()?;
            let candidates = lab.candidates()?;
            let without = pruned(&lab.model, &candidates)?;
            let both = [profile(&lab.model, &tokens)?, profile(&without, &tokens)?];
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
                    title: format!("{}: {title} of down_proj", lab.name()),
                    x: Axis::bands("layer", both[0].iter().map(|p| p.layer.to_string())),
                    y: Axis::log("largest magnitude (logarithmic)"),
                    series: vec![
                        series("as it is", Tone::Original, &both[0]),
                        series("super weight at zero", Tone::Super, &both[1]),
                    ],
                    guides: vec![],
                }));
            }
            for (a, b) in both[0].iter().zip(&both[1]) {
                let value = |peak: Peak| format!("{:.2}", peak.value);
                table.push([
                    lab.name(),
                    a.layer.to_string(),
                    value(a.down_in),
                    value(b.down_in),
                    value(a.down_out),
                    value(b.down_out),
                ]);
            }
            let first = &candidates[0];
            let after = &both[1][first.layer];
            sentences.push(format!(
                "In {}, with {} at zero, the largest output of layer {}'s down_proj falls from {:.1} to {:.1} in magnitude.",
                lab.name(),
                lab.found()?.noun(),
                first.layer,
                both[0][first.layer].down_out.value.abs(),
                after.down_out.value.abs(),
            ));
            profiles.push(serde_json::json!({ "model": lab.record(), "original": both[0], "pruned": both[1] }));
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
        outcome.data("profiles", profiles)?;
        Ok(outcome)
    }
}
