//! How the super weight came to be.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{
    lab::Lab,
    outcome::Outcome,
    page::chart::{Axis, Chart, Mark, Panel, Series, Tone, points},
};

/// The measurements that were recorded beside the checkpoint while it was trained, column by column.
pub(super) struct Emergence {
    columns: Vec<(String, Vec<f64>)>,
    path: PathBuf,
}

impl Emergence {
    /// Reads `emergence.csv`, if it is there.
    pub(super) fn read(lab: &Lab) -> Result<Option<Self>> {
        let path = lab.model.dir().join("emergence.csv");
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default().split(',');
        let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
        let columns = header.enumerate().map(|(i, name)| {
            let value = |row: &Vec<&str>| row.get(i).and_then(|v| v.parse().ok());
            let values: Option<Vec<f64>> = rows.iter().map(value).collect();
            let values = values
                .with_context(|| format!("{}: column {name} is not numeric", path.display()))?;
            anyhow::Ok((name.to_owned(), values))
        });
        Ok(Some(Self {
            columns: columns.collect::<Result<_>>()?,
            path,
        }))
    }

    fn column(&self, name: &str) -> Result<Vec<f64>> {
        let column = self.columns.iter().find(|c| c.0 == name);
        let column =
            column.with_context(|| format!("{}: no column {name}", self.path.display()))?;
        Ok(column.1.clone())
    }

    pub(super) fn show(&self, outcome: &mut Outcome) -> Result<()> {
        let column = |name: &str| self.column(name);
        let steps = column("step")?;
        let line = |name: &str, tone, values: Vec<f64>| {
            Series::new(
                name,
                Mark::Line,
                tone,
                points(steps.iter().copied().zip(values)),
            )
        };
        let chart = |title: &str, y: Axis, series| {
            Panel::Chart(Chart {
                title: title.into(),
                x: Axis::linear("training step"),
                y,
                series,
                guides: vec![],
            })
        };
        let (nll, without) = (column("nll")?, column("nll_pruned")?);
        let mut panels = vec![chart(
            "Loss with and without the candidate",
            Axis::linear("nats per token, held-out text"),
            vec![
                line("as it is", Tone::Original, nll.clone()),
                line("candidate at zero", Tone::Super, without.clone()),
                line(
                    "100 largest others at zero",
                    Tone::Other,
                    column("nll_100_others")?,
                ),
            ],
        )];
        panels.push(chart(
            "The spike",
            Axis::log("largest output over the median (logarithmic)"),
            vec![line("", Tone::Super, column("spike_ratio")?)],
        ));
        let tones = [
            Tone::Original,
            Tone::Super,
            Tone::Other,
            Tone::Third,
            Tone::Fourth,
            Tone::Fifth,
        ];
        let names = self.columns.iter().map(|c| c.0.as_str());
        let sinks = names.filter_map(|h| Some((h, h.strip_prefix("sink_")?)));
        let sinks = sinks.enumerate().map(|(i, (name, layer))| {
            Ok(line(
                &format!("layer {layer}"),
                tones[i % tones.len()],
                column(name)?,
            ))
        });
        panels.push(chart(
            "Attention sinks",
            Axis::linear("share of attention, by layer"),
            sinks.collect::<Result<_>>()?,
        ));
        outcome.figure("beyond-emergence", "Emergence during training", panels, format!(
        "From emergence.csv beside the checkpoint: {} measurements. The candidate is the down_proj entry behind the output spike that stands out most at that step.",
        steps.len()
    ));
        Ok(())
    }
}
