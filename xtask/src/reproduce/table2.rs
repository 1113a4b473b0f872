//! Table 2: which weights, in one or several checkpoints, beside what is known of them.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sw_detect::{
    Candidate, Directory, Match, ProofOptions, Report, Unit, Verdict, Verification, proof_texts,
    prove,
};

use super::{Experiment, further};
use crate::{
    lab::Lab,
    outcome::Outcome,
    page::table::{Table, fixed},
};

/// Find the super weights of one or several checkpoints, prove what they do, and compare with the directory (Table 2).
///
/// Example:
///   cargo xtask reproduce-table2 --model huggyllama/llama-7b --models mistralai/Mistral-7B-v0.1 --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table2 {
    /// Further checkpoints
    #[arg(long, value_name = "MODEL,...", value_delimiter = ',')]
    models: Vec<String>,
    /// Search only, no effect on the log-likelihood of texts
    #[arg(long)]
    no_proof: bool,
}

/// What was found in one checkpoint.
#[derive(Serialize)]
pub(crate) struct Checkpoint {
    #[serde(skip)]
    name: String,
    report: Report,
    verification: Verification,
}

impl Experiment for Table2 {
    const NAME: &'static str = "table2";

    type Measured = Vec<Checkpoint>;

    fn measure(&self, lab: &Lab) -> Result<Vec<Checkpoint>> {
        let others = further(lab, &self.models)?;
        let mut checkpoints = Vec::new();
        for lab in std::iter::once(lab).chain(&others) {
            let mut report = lab.detect()?;
            if !self.no_proof {
                prove(
                    &lab.model,
                    &mut report,
                    &proof_texts(&lab.model)?,
                    &ProofOptions::default(),
                )?;
            }
            let verification =
                Directory::shipped().verify(&lab.model, &lab.inputs.model, &report)?;
            checkpoints.push(Checkpoint {
                name: lab.name(),
                report,
                verification,
            });
        }
        Ok(checkpoints)
    }

    fn show(&self, lab: &Lab, checkpoints: Vec<Checkpoint>) -> Result<Outcome> {
        let mut table = Table::new([
            "Model",
            "Layer",
            "[row, col]",
            "Value",
            "Input",
            "Output",
            "Share",
            "Unit",
            "Alone (nats)",
            "Verdict",
            "Directory",
        ]);
        for checkpoint in &checkpoints {
            rows(&mut table, checkpoint);
        }
        let weights = || checkpoints.iter().flat_map(|c| &c.report.super_weights);
        let decisive = |c: &&Candidate| {
            matches!(
                c.verdict,
                Some(Verdict::Decisive | Verdict::DecisiveJointly)
            )
        };
        let (found, proven) = (weights().count(), weights().filter(decisive).count());
        let mut outcome = Outcome::new("Table 2. Which weights");
        let models = checkpoints.len();
        outcome.finding = format!(
            "In {models} checkpoint{}, {found} weight{} pass{} detection{}.",
            if models == 1 { "" } else { "s" },
            if found == 1 { "" } else { "s" },
            if found == 1 { "es" } else { "" },
            if self.no_proof {
                String::new()
            } else {
                format!("; the proof finds {proven} of them decisive, alone or jointly")
            },
        );
        outcome.table("table2", "", table, format!(
            "Rows are output, columns input channels of down_proj; all count from 0. Input and output: the spikes at one token of {:?}; share: the weight's part of the output. Alone: what zeroing it adds to the negative log-likelihood per token of eight short texts, with its 95 % interval. Directory: the shipped list of published coordinates (paper, its code, and measurements by others).",
            lab.inputs.prompt
        ));
        outcome.notes.push("Verdicts: decisive, if zeroing the weight alone damages the model beyond matched random controls; decisive jointly, if it does so only with the others; inert, if neither. A detected weight may be inert.".into());
        outcome.data("checkpoints", checkpoints)?;
        Ok(outcome)
    }
}

fn rows(table: &mut Table, checkpoint: &Checkpoint) {
    let Checkpoint {
        name,
        report,
        verification,
    } = checkpoint;
    let strongest = report.strongest();
    let mut model = name.clone();
    for c in strongest {
        let known = verification
            .entries
            .iter()
            .find(|v| v.entry.coord() == c.coord());
        let directory = match (known, verification.matched) {
            (Some(v), _) => match v.agrees {
                Some(false) => format!("listed, value {} there", v.entry.value.unwrap_or(f32::NAN)),
                _ => "listed".into(),
            },
            (None, Match::None) => "model not listed".into(),
            (None, _) => "not listed".into(),
        };
        let effect = c.effects.as_ref().map(|e| &e.zero);
        table.push([
            std::mem::take(&mut model),
            c.layer.to_string(),
            format!("[{}, {}]", c.row, c.col),
            format!("{:.4}", c.value),
            format!("{:.1}", c.down_in),
            format!("{:.1}", c.down_out),
            format!("{:.2}", c.share),
            format!("{}{}", unit(c.unit), if c.weak { ", weak" } else { "" }),
            effect.map_or_else(
                || "-".into(),
                |e| format!("{:.3} ({:.3} to {:.3})", e.nll, e.low, e.high),
            ),
            c.verdict.map_or("-", verdict).into(),
            directory,
        ]);
    }
    let coords: Vec<_> = strongest.iter().map(Candidate::coord).collect();
    for v in verification
        .entries
        .iter()
        .filter(|v| !coords.contains(&v.entry.coord()))
    {
        let e = &v.entry;
        table.push([
            std::mem::take(&mut model),
            e.layer.to_string(),
            format!("[{}, {}]", e.row, e.col),
            fixed(Some(f64::from(v.found)), 4),
            "-".into(),
            "-".into(),
            "-".into(),
            "-".into(),
            "-".into(),
            if v.canceller {
                "canceller".into()
            } else {
                "not detected".into()
            },
            format!("listed ({})", e.source),
        ]);
    }
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Scalar => "scalar",
        Unit::Neuron => "neuron",
        Unit::Row => "row",
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Decisive => "decisive",
        Verdict::DecisiveJointly => "decisive jointly",
        Verdict::Inert => "inert",
    }
}
