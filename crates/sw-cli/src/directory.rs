//! `sw directory` and `sw verify`: what is known of published checkpoints, and whether this one agrees.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::Value;
use sw_detect::{DetectOptions, Entry, Match, detect};

use crate::{
    args::{ModelArgs, PromptArgs},
    candidates::{TextArgs, census_if_possible, directory, table},
    program::say,
};

/// List the known super weights: the paper's Table 2 with its corrections, each row with source and evidence.
///
/// Example: sw directory --model llama-7b
#[derive(Args)]
pub(crate) struct List {
    /// Only this model, by its id or an alias
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// A directory file instead of the shipped one
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub(crate) fn run(&self) -> Result<()> {
        let directory = directory(self.file.as_ref())?;
        let entries = match &self.model {
            Some(model) => directory.of(model),
            None => directory.super_weights.iter().collect(),
        };
        if entries.is_empty() {
            let known: Vec<_> = directory.models.iter().map(|m| m.id.as_str()).collect();
            let model = self.model.as_deref().unwrap_or_default();
            anyhow::bail!(
                "{model}: not in the directory; it knows {}",
                known.join(", ")
            );
        }
        if self.json {
            return say(serde_json::to_string_pretty(&entries)?);
        }
        let mut out = Table::new();
        out.load_style(UTF8_FULL_CONDENSED);
        out.set_header([
            "model", "layer", "row, col", "value", "role", "source", "note",
        ]);
        for e in entries {
            out.add_row([
                e.model.clone(),
                place(e),
                format!("{}, {}", e.row, e.col),
                e.value.map_or_else(|| "-".into(), |v| v.to_string()),
                name(serde_json::to_value(e.role)?),
                e.source.clone(),
                e.note.clone().unwrap_or_default(),
            ]);
        }
        say(out)
    }
}

/// Compare a checkpoint with the directory: are the published weights there, and do they stand out?
///
/// Example: sw verify huggyllama/llama-7b
#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// A directory file instead of the shipped one
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Search only: no effect on the log-likelihood of texts, no verdict
    #[arg(long)]
    no_proof: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) fn run(&self) -> Result<()> {
        let directory = directory(self.file.as_ref())?;
        let model = self.model.open()?;
        let (_, tokens) = self.prompt.encode(&model)?;
        let mut report = detect(&model, &tokens, &DetectOptions::default())?;
        if !self.no_proof {
            census_if_possible(&model, &mut report, &TextArgs::default())?;
        }
        let found = directory.verify(&model, &self.model.model, &report)?;
        if self.json {
            return say(serde_json::to_string_pretty(&found)?);
        }
        match found.matched {
            Match::Name => say(format!(
                "The directory knows this model: {}",
                found.models.join(", ")
            ))?,
            Match::Shape => say(format!(
                "No known name; family and shape are those of {}",
                found.models.join(", ")
            ))?,
            Match::None => say("The directory knows neither this name nor this shape.")?,
        }
        if !found.entries.is_empty() {
            let mut out = Table::new();
            out.load_style(UTF8_FULL_CONDENSED);
            out.set_header([
                "model", "layer", "row, col", "recorded", "found", "agrees", "detected", "verdict",
            ]);
            for v in &found.entries {
                let verdict = v.verdict.map(serde_json::to_value).transpose()?;
                out.add_row([
                    v.entry.model.clone(),
                    place(&v.entry),
                    format!("{}, {}", v.entry.row, v.entry.col),
                    v.entry.value.map_or_else(|| "-".into(), |x| x.to_string()),
                    v.found.to_string(),
                    v.agrees
                        .map_or("-", |yes| if yes { "yes" } else { "NO" })
                        .into(),
                    if v.detected {
                        "yes"
                    } else if v.canceller {
                        "canceller"
                    } else {
                        "no"
                    }
                    .into(),
                    verdict.map_or_else(|| "-".into(), name),
                ]);
            }
            say(out)?;
        }
        if !found.unlisted.is_empty() {
            say(format!(
                "Detected, but not in the directory:\n{}",
                table(&found.unlisted, false)
            ))?;
        }
        Ok(())
    }
}

fn name(value: Value) -> String {
    value.as_str().unwrap_or_default().replace('_', " ")
}

/// The layer of an entry, with the linear map where that is not `down_proj`.
fn place(entry: &Entry) -> String {
    match entry.linear {
        Some(linear) => format!("{} {linear}", entry.layer),
        None => entry.layer.to_string(),
    }
}
