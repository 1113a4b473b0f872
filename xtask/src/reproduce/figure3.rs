//! Figure 3: where the spikes are. Per layer, the largest input and output of `down_proj`.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sw_detect::{Candidate, LayerProfile, Peak, profile};

use super::Experiment;
use crate::{
    lab::Lab,
    numbers::median,
    outcome::Outcome,
    page::{
        chart::{Axis, Chart, Mark, Panel, Series, Tone, points},
        table::{Table, fixed, signed},
    },
    published,
};

/// Show the largest input and output of every layer's down_proj: one layer's spikes give the super weight away.
///
/// Example:
///   cargo xtask reproduce-figure3 --model MODEL --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Figure3 {}

impl Experiment for Figure3 {
    const NAME: &'static str = "figure3";

    type Measured = (Vec<LayerProfile>, Vec<Candidate>);

    fn measure(&self, lab: &Lab) -> Result<Self::Measured> {
        Ok((profile(&lab.model, &lab.prompt()?)?, lab.candidates()?))
    }

    fn show(&self, lab: &Lab, (profile, candidates): Self::Measured) -> Result<Outcome> {
        let first = &candidates[0];
        let mut outcome = Outcome::new("Figure 3. Where the spikes are");
        let typical = |of: fn(&LayerProfile) -> Peak| {
            let others = profile.iter().filter(|p| p.layer != first.layer);
            median(others.map(|p| of(p).value.abs()).collect())
        };
        outcome.finding = format!(
            "In layer {} the largest input of down_proj is {:.1} (channel {}) and the largest output {:.1} (channel {}), at token {}; the median of the other layers' largest values is {:.1} and {:.1}. Column {} and row {} are the coordinate of {}.",
            first.layer,
            first.down_in,
            first.col,
            first.down_out,
            first.row,
            first.token,
            typical(|p| p.down_in),
            typical(|p| p.down_out),
            first.col,
            first.row,
            lab.found()?.noun(),
        );
        let published = lab.known.as_deref().map_or(&[][..], published::figure3);
        let layers: Vec<usize> = candidates.iter().map(|c| c.layer).collect();
        let panel =
            |title: &str, of: fn(&LayerProfile) -> Peak, paper: fn(&published::Spikes) -> f64| {
                let bars = |name, tone, here: bool| {
                    let those = profile.iter().filter(|p| layers.contains(&p.layer) == here);
                    let xy = those.map(|p| (p.layer as f64, f64::from(of(p).value)));
                    Series::new(name, Mark::Bars, tone, points(xy))
                };
                let mut series = vec![
                    bars("layer of a super weight", Tone::Super, true),
                    bars("other layers", Tone::Original, false),
                ];
                let xy = published.iter().map(|s| (s.layer as f64, paper(s)));
                let xy: Vec<_> = xy.filter(|p| p.1.is_finite()).collect();
                if !xy.is_empty() {
                    series.push(Series::new(
                        "the paper",
                        Mark::Dots,
                        Tone::Muted,
                        points(xy),
                    ));
                }
                Panel::Chart(Chart {
                    title: title.into(),
                    x: Axis::bands("layer", profile.iter().map(|p| p.layer.to_string())),
                    y: Axis::linear("value of largest magnitude"),
                    series,
                    guides: vec![],
                })
            };
        outcome.figure(
            "figure3",
            "",
            vec![
                panel("Input of down_proj", |p| p.down_in, |s| s.down_in),
                panel("Output of down_proj", |p| p.down_out, |s| s.down_out),
            ],
            format!(
                "The value of largest magnitude over all tokens and channels, with its sign, for the prompt {:?}; no unit (activations). One forward pass.",
                lab.inputs.prompt
            ),
        );
        let mut header = vec![
            "Layer",
            "Input",
            "its channel",
            "its token",
            "Output",
            "its channel ",
            "its token ",
        ];
        if !published.is_empty() {
            header.extend(["Input, paper", "difference", "Output, paper", "difference "]);
        }
        let mut table = Table::new(header);
        for p in &profile {
            let mut row = vec![p.layer.to_string()];
            for peak in [p.down_in, p.down_out] {
                row.extend([
                    format!("{:.2}", peak.value),
                    peak.channel.to_string(),
                    peak.token.to_string(),
                ]);
            }
            if !published.is_empty() {
                let paper = published.iter().find(|s| s.layer == p.layer);
                for (value, measured) in [
                    (paper.map(|s| s.down_in), p.down_in.value),
                    (paper.map(|s| s.down_out), p.down_out.value),
                ] {
                    let value = value.filter(|v| v.is_finite());
                    row.push(fixed(value, 1));
                    row.push(signed(value.map(|v| f64::from(measured) - v), 1));
                }
            }
            table.push(row);
        }
        outcome.table(
            "figure3-values",
            "Layer by layer",
            table,
            "Layers, channels and tokens count from 0.",
        );
        outcome.data("super_weights", lab.found()?.json())?;
        outcome.data("profile", &profile)?;
        Ok(outcome)
    }
}
