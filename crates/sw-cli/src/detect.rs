//! `sw detect`: which weights must not be touched.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};
use sw_detect::{
    Candidate, DetectOptions, Mode, PROMPTS, ProofOptions, RankOptions, Report, SinkOptions,
    detect, encode, invariance, proof_texts, prove, pruned, rank_rows, sinks,
};
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
    /// Also search with ten other prompts: do they find the same weights?
    #[arg(long)]
    prompts: bool,
    /// Also rank the rows of down_proj by the weights alone, without any prompt; the N first
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10")]
    rank: Option<usize>,
    /// Also measure attention sinks on the proof's texts, with the super weights and without
    #[arg(long)]
    sinks: bool,
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
        let more = self.more(&model, &report, &options)?;
        if self.json {
            let mut json = serde_json::to_value(&report)?;
            if let (Value::Object(json), Value::Object(more)) = (&mut json, more) {
                json.extend(more);
            }
            return say(serde_json::to_string_pretty(&json)?);
        }
        print(&report)?;
        if let Value::Object(more) = more {
            for (name, value) in more {
                say(format!("{name}: {value:#}"))?;
            }
        }
        Ok(())
    }

    /// What was asked for beside the search, by name.
    fn more(&self, model: &Model, report: &Report, options: &DetectOptions) -> Result<Value> {
        let mut more = serde_json::Map::new();
        if self.prompts {
            let prompts: sw_detect::Result<Vec<_>> =
                PROMPTS.iter().map(|p| encode(model, p)).collect();
            more.insert(
                "prompts".into(),
                json!(invariance(model, &prompts?, options)?),
            );
        }
        if let Some(n) = self.rank {
            let rows = rank_rows(model, &RankOptions::default())?;
            more.insert(
                "ranking_by_weights".into(),
                json!(rows[..n.min(rows.len())]),
            );
        }
        if self.sinks {
            let (texts, options) = (proof_texts(model)?, SinkOptions::default());
            let without = pruned(model, report.strongest())?;
            let [before, after] = [
                sinks(model, &texts, &options)?,
                sinks(&without, &texts, &options)?,
            ];
            more.insert(
                "sink_share".into(),
                json!({"before": before.share, "after": after.share}),
            );
        }
        Ok(Value::Object(more))
    }
}

/// Proves the super weights on the shipped texts, if there are any; a model without a tokenizer goes without.
pub(crate) fn prove_if_possible(model: &Model, report: &mut Report) -> Result<()> {
    if report.super_weights.is_empty() {
        return Ok(());
    }
    if let Err(error) = model.tokenizer() {
        eprintln!("note: no proof without a tokenizer ({error})");
        return Ok(());
    }
    let texts = proof_texts(model)?;
    match prove(model, report, &texts, &ProofOptions::default()) {
        Err(sw_detect::Error::Model(error @ sw_model::Error::TokenId { .. })) => {
            eprintln!("note: no proof, its texts do not fit the vocabulary ({error})");
            Ok(())
        }
        proved => Ok(proved?),
    }
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
