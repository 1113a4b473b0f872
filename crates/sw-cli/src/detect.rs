//! `sw detect`: which weights must not be touched.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};
use sw_detect::{
    Candidate, DetectOptions, Mode, PROMPTS, RankOptions, Report, SinkOptions, detect, encode,
    invariance, proof_texts, pruned, rank_rows, sinks,
};
use sw_model::Model;
use sw_tensor::files;

use crate::{
    args::{DtypeArgs, ModelArgs, PromptArgs},
    candidates::{TextArgs, census_if_possible, directory, table},
    program::{say, tell, write_whole},
};

/// Find the weights of a checkpoint that must not be touched: each candidate is zeroed, and what that costs decides.
///
/// With --dtype bfloat16 the search computes in BF16; what it finds is measured in float32 all the same.
///
/// Examples:
///   sw detect MODEL
///   sw detect MODEL --text story.txt --text wiki.parquet --tokens-per-text 512
///   sw detect MODEL --json
///   sw detect org/name --prompt "Summer is hot. Winter is"
///   sw detect MODEL --tokens 1,400,7 --threshold absolute
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Detect {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// What stands out: |value| above a multiple of the layer's usual, or above 50 as in the paper's released code
    #[arg(long, value_enum, default_value_t = Threshold::Auto)]
    threshold: Threshold,
    /// The absolute threshold
    #[arg(long, value_name = "X", default_value_t = DetectOptions::default().absolute)]
    absolute: f32,
    /// The relative threshold: how many times the median over channels
    #[arg(long, value_name = "X", default_value_t = DetectOptions::default().relative)]
    relative: f32,
    /// Rounds of zeroing and searching again, at most; 0 for as many as find something new
    #[arg(long, value_name = "N", default_value_t = DetectOptions::default().max_rounds, alias = "max_rounds")]
    max_rounds: usize,
    #[command(flatten)]
    texts: TextArgs,
    /// Search only: no effect on the log-likelihood of texts, no verdict
    #[arg(long)]
    no_proof: bool,
    /// Show everything: all decisive weights, inert spikes, weights that only cancel, and the profile
    #[arg(long)]
    all: bool,
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
    /// Relative
    Auto,
    /// As the paper's released code has it
    Absolute,
    /// Does not depend on the scale of the residual stream
    Relative,
}

impl Detect {
    pub(crate) fn run(&self) -> Result<()> {
        for (name, value) in [("--absolute", self.absolute), ("--relative", self.relative)] {
            if !(value > 0.0 && value.is_finite()) {
                bail!("{name} {value}: expected a number above 0");
            }
        }
        let model = self.dtype.applied(&self.model.open()?);
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
            census_if_possible(&model, &mut report, &self.texts)?;
        }
        let report = report.named(&self.model.model, Some(prompt));
        if let (Some(path), Some(id)) = (&self.add_to, &self.name) {
            let _alone = alone(path)?;
            let there = files::is_there(path).with_context(|| path.display().to_string())?;
            let known = directory(there.then_some(path))?;
            let text = serde_json::to_string_pretty(&known.with(id, &model, &report))?;
            write_whole(path, &(text + "\n"))?;
            tell(format!("written: {}", path.display()));
        }
        let more = self.more(&model, &report, &options)?;
        if self.json {
            let mut json = serde_json::to_value(&report)?;
            json["dtype"] = model.coding().to_string().into();
            json["compute_dtype"] = model.precision().name().into();
            if let Some(file) = model.gguf() {
                json["gguf"] = json!(file);
            }
            if let (Value::Object(json), Value::Object(more)) = (&mut json, more) {
                json.extend(more);
            }
            return say(serde_json::to_string_pretty(&json)?);
        }
        print(&report, self.all)?;
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
            let mut options = RankOptions::default();
            options.top = n;
            more.insert(
                "ranking_by_weights".into(),
                json!(rank_rows(model, &options)?),
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

/// Waits until nobody else changes a file of this folder, and keeps others waiting until the answer is dropped. The lock is
/// the folder's, because the file is replaced when it is written.
fn alone(path: &Path) -> Result<Option<File>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !cfg!(unix) {
        return Ok(None); // other systems open no folders
    }
    let open = File::open(folder).with_context(|| path.display().to_string())?;
    let _ = open.lock(); // a file system without locks is trusted
    Ok(Some(open))
}

/// How many rows an answer has.
const ROWS: usize = 10;

fn print(report: &Report, everything: bool) -> Result<()> {
    let rows = if everything { usize::MAX } else { ROWS };
    let show = |head: String, list: &[Candidate]| {
        let list = &list[..list.len().min(rows)];
        if list.is_empty() {
            return Ok(());
        }
        say(format!("{head}\n{}", table(list, everything)))
    };
    let mode = match report.threshold.mode {
        Mode::Absolute => format!("|value| above {}", report.threshold.value),
        _ => format!("{} times the median over channels", report.threshold.value),
    };
    match &report.census {
        Some(census) => {
            say(&census.sentence)?;
            show(String::new(), &report.super_weights)?;
        }
        None if report.super_weights.is_empty() => {
            say(format!("No super weight stands out (threshold: {mode})."))?;
        }
        None => show(
            format!(
                "Weights that stand out (threshold: {mode}); what they matter was not measured:"
            ),
            &report.super_weights,
        )?,
    }
    show(
        "The strongest candidate, which is weak:".into(),
        report.weak_candidate.as_slice(),
    )?;
    let more = report.super_weights.len().saturating_sub(rows);
    let hidden = [
        (more, "more decisive weights"),
        (report.inert.len(), "inert spikes"),
        (report.cancellers.len(), "weights that only cancel"),
    ];
    if everything {
        show("Spikes that are inert:".into(), &report.inert)?;
        show(
            "Weights that only cancel a spike:".into(),
            &report.cancellers,
        )?;
        return say(profile(report));
    }
    let hidden = hidden
        .iter()
        .filter(|h| h.0 > 0)
        .map(|(n, what)| format!("{n} {what}"));
    let hidden: Vec<_> = hidden.collect();
    if !hidden.is_empty() {
        say(format!("Not shown: {} (--all, --json).", hidden.join(", ")))?;
    }
    Ok(())
}

/// The largest values at the input and the output of every `down_proj`.
fn profile(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "layer",
        "largest input",
        "at token, channel",
        "largest output",
        "at token, channel",
    ]);
    for l in &report.profile {
        let place = |p: &sw_detect::Peak| format!("{}, {}", p.token, p.channel);
        table.add_row([
            l.layer.to_string(),
            format!("{:.1}", l.down_in.value),
            place(&l.down_in),
            format!("{:.1}", l.down_out.value),
            place(&l.down_out),
        ]);
    }
    table
}
