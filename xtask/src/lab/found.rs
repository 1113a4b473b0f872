//! Which weights are super weights, and how they are spoken of.

use serde_json::{Value, json};
use sw_detect::{Candidate, Report, Unit};
use sw_model::WeightCoord;

/// The super weights, and where they came from.
pub(crate) struct Found {
    pub(crate) coords: Vec<WeightCoord>,
    pub(crate) report: Option<Report>,
}

impl Found {
    /// What is pruned, in words.
    pub(crate) fn summary(&self) -> String {
        let Some(report) = &self.report else {
            let list: Vec<_> = self.coords.iter().map(ToString::to_string).collect();
            return format!("Super weights, as given: {}", list.join(", "));
        };
        let lines: Vec<_> = report.strongest().iter().map(line).collect();
        let head = if report.super_weights.is_empty() {
            "No super weight stands out; the strongest candidate, marked weak, takes its place:"
        } else {
            "Super weights:"
        };
        format!("{head}\n{}", lines.join("\n"))
    }

    /// Whether a candidate below the thresholds stands in for a super weight.
    pub(crate) fn weak(&self) -> bool {
        let report = self.report.as_ref();
        report.is_some_and(|r| r.super_weights.is_empty())
    }

    /// How the pruned weight is called in sentences.
    pub(crate) fn noun(&self) -> &'static str {
        match (self.weak(), self.coords.len()) {
            (true, _) => "the strongest candidate (weak: nothing passes detection)",
            (_, 1) => "the super weight",
            _ => "the super weights",
        }
    }

    /// For results files: candidates as detected, or the given coordinates.
    pub(crate) fn json(&self) -> Value {
        match &self.report {
            Some(report) => json!(report.strongest()),
            None => json!(self.coords),
        }
    }
}

fn line(c: &Candidate) -> String {
    let unit = match c.unit {
        Unit::Scalar => "a scalar",
        Unit::Neuron => "a neuron (column) rather than a scalar",
        Unit::Row => "a row rather than a scalar",
    };
    format!(
        "  {}[{}, {}] = {:.4}: input {:.1}, output {:.1} at token {}, share {:.2}: {unit}{}",
        c.tensor,
        c.row,
        c.col,
        c.value,
        c.down_in,
        c.down_out,
        c.token,
        c.share,
        if c.weak { "; WEAK" } else { "" }
    )
}
