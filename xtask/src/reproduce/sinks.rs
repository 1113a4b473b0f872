//! Attention sinks as the model is, and with its super weights at zero.

use anyhow::Result;
use sw_detect::{Candidate, SinkOptions, Sinks, proof_texts, pruned, sinks};

use crate::{
    lab::Lab,
    page::chart::{Axis, Chart, Mark, Panel, Series, Tone, points},
};

/// Attention sinks as it is and with the super weights at zero, at the token of the first one's spike.
pub(super) fn both_sinks(lab: &Lab, candidates: &[Candidate]) -> Result<[Sinks; 2]> {
    let texts = proof_texts(&lab.model)?;
    let shortest = texts.iter().map(Vec::len).min().unwrap_or(1);
    let mut options = SinkOptions::default();
    options.token = candidates[0].token.min(shortest.saturating_sub(1));
    let without = pruned(&lab.model, candidates)?;
    Ok([
        sinks(&lab.model, &texts, &options)?,
        sinks(&without, &texts, &options)?,
    ])
}

/// The mean importance of the token over the heads of each layer.
pub(super) fn sink_chart([before, after]: &[Sinks; 2]) -> Panel {
    let layers = |s: &Sinks| s.heads.iter().map(|h| h.layer + 1).max().unwrap_or(0);
    let by_layer = |s: &Sinks| {
        let mean = |layer| {
            let here = s.heads.iter().filter(|h| h.layer == layer);
            let heads: Vec<f64> = here.map(|h| h.importance).collect();
            let sum: f64 = heads.iter().sum();
            (layer as f64, sum / heads.len().max(1) as f64)
        };
        points((0..layers(s)).map(mean))
    };
    Panel::Chart(Chart {
        title: format!("Attention paid to token {}", before.options.token),
        x: Axis::bands("layer", (0..layers(before)).map(|l| l.to_string())),
        y: Axis::linear("mean share of attention, over heads"),
        series: vec![
            Series::new("as it is", Mark::Line, Tone::Original, by_layer(before)),
            Series::new(
                "super weight at zero",
                Mark::Line,
                Tone::Super,
                by_layer(after),
            ),
        ],
        guides: vec![],
    })
}
