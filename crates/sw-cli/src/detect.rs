//! `sw detect`: which weights must not be touched.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use sw_detect::{Candidate, DetectOptions, Mode, ProofOptions, Report, detect, proof_texts, prove};
use sw_model::Model;

use crate::{
    args::{ModelArgs, PromptArgs},
    say,
};

/// Find the super weights of a checkpoint with a few forward passes over one prompt.
///
/// Examples:
///   sw detect MODEL
///   sw detect MODEL --json
///   sw detect org/name --prompt "Summer is hot. Winter is"
///   sw detect MODEL --tokens 1,400,7 --threshold absolute
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Detect {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// What stands out: |value| above 50, or above a multiple of the layer's usual, or whichever fits
    #[arg(long, value_enum, default_value_t = Threshold::Auto)]
    threshold: Threshold,
    /// The absolute threshold
    #[arg(long, value_name = "X", default_value_t = DetectOptions::default().absolute)]
    absolute: f32,
    /// The relative threshold: how many times the median over channels
    #[arg(long, value_name = "X", default_value_t = DetectOptions::default().relative)]
    relative: f32,
    /// Rounds of zeroing and searching again, at most
    #[arg(long, value_name = "N", default_value_t = DetectOptions::default().max_rounds, alias = "max_rounds")]
    max_rounds: usize,
    /// Search only: no effect on the log-likelihood of texts, no verdict
    #[arg(long)]
    no_proof: bool,
    /// Add what was found to a directory file (made from the shipped one where it does not exist)
    #[arg(long, value_name = "FILE", requires = "name")]
    add_to: Option<PathBuf>,
    /// The name of the model in that directory, such as ORG/NAME
    #[arg(long, value_name = "ID", requires = "add_to")]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Threshold {
    /// Absolute where anything passes it, else relative
    Auto,
    /// As the paper's released code has it
    Absolute,
    /// For models whose activations are small throughout
    Relative,
}

impl Detect {
    pub(crate) fn run(&self) -> Result<()> {
        for (name, value) in [("--absolute", self.absolute), ("--relative", self.relative)] {
            if !(value > 0.0 && value.is_finite()) {
                bail!("{name} {value}: expected a number above 0");
            }
        }
        let model = self.model.open()?;
        let (prompt, tokens) = self.prompt.encode(&model)?;
        let mut options = DetectOptions::default();
        options.mode = match self.threshold {
            Threshold::Auto => Mode::Auto,
            Threshold::Absolute => Mode::Absolute,
            Threshold::Relative => Mode::Relative,
        };
        options.absolute = self.absolute;
        options.relative = self.relative;
        options.max_rounds = self.max_rounds;
        let mut report = detect(&model, &tokens, &options)?;
        if !self.no_proof {
            prove_if_possible(&model, &mut report)?;
        }
        report.prompt = Some(prompt);
        report.model.clone_from(&self.model.model);
        if let (Some(path), Some(id)) = (&self.add_to, &self.name) {
            let known = crate::directory::read(path.exists().then_some(path))?;
            let text = serde_json::to_string_pretty(&known.with(id, &model, &report))?;
            let part = path.with_extension("part");
            let write =
                || std::fs::write(&part, text + "\n").and_then(|()| std::fs::rename(&part, path));
            write().with_context(|| path.display().to_string())?;
            eprintln!("written: {}", path.display());
        }
        if self.json {
            say(serde_json::to_string_pretty(&report)?)?;
        } else {
            print(&report)?;
        }
        Ok(())
    }
}

/// Proves the candidates on the shipped texts; a model without a tokenizer goes without.
pub(crate) fn prove_if_possible(model: &Model, report: &mut Report) -> Result<()> {
    if let Err(error) = model.tokenizer() {
        eprintln!("note: no proof without a tokenizer ({error})");
        return Ok(());
    }
    Ok(prove(
        model,
        report,
        &proof_texts(model)?,
        &ProofOptions::default(),
    )?)
}

fn print(report: &Report) -> Result<()> {
    let mode = match report.threshold.mode {
        Mode::Absolute => format!("|value| above {}", report.threshold.value),
        _ => format!("{} times the median over channels", report.threshold.value),
    };
    if report.super_weights.is_empty() {
        say(format!("No super weight stands out (threshold: {mode})."))?;
    } else {
        say(format!(
            "Super weights (threshold: {mode}):\n{}",
            table(&report.super_weights)
        ))?;
    }
    if let Some(weak) = &report.weak_candidate {
        say(format!(
            "The strongest candidate, below the threshold:\n{}",
            table(std::slice::from_ref(weak))
        ))?;
    }
    if !report.cancellers.is_empty() {
        say(format!(
            "Later weights that only cancel the spike:\n{}",
            table(&report.cancellers)
        ))?;
    }
    Ok(())
}

/// Candidates, one a line.
pub(crate) fn table(candidates: &[Candidate]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "tensor", "row, col", "value", "input", "output", "token", "share", "unit", "verdict",
    ]);
    for c in candidates {
        let unit = serde_json::to_value(c.unit).ok();
        let verdict = c.verdict.and_then(|v| serde_json::to_value(v).ok());
        let text = |v: Option<serde_json::Value>| v.and_then(|v| v.as_str().map(String::from));
        table.add_row([
            c.tensor.clone(),
            format!("{}, {}", c.row, c.col),
            format!("{:.4}", c.value),
            format!("{:.1}", c.down_in),
            format!("{:.1}", c.down_out),
            c.token.to_string(),
            format!("{:.2}", c.share),
            text(unit).unwrap_or_default(),
            text(verdict).unwrap_or_else(|| if c.weak { "weak".into() } else { "-".into() }),
        ]);
    }
    table
}
