//! `sw quantize`: a quantized checkpoint on disk that keeps its super weights.

use std::{ops::ControlFlow, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sw_detect::{DetectOptions, coordinates, detect};
use sw_intervene::{
    Export, Exporting, Format, Override, Plan, Rule, calibrate, check, hold_more, judges,
};
use sw_model::{Model, WeightCoord};
use sw_quant::{Clip, Dtype, Grouping, Levels, Scheme, Steps, Tail, ZeroPoint};

use crate::{
    args::{ModelArgs, PromptArgs},
    candidates::{TextArgs, census_if_possible},
    measured::{Measured, bought, chosen, effect, verdict},
    program::{say, stop_on_interrupt, stopped, tell},
    windows::windows,
};

/// Write a quantized checkpoint that keeps its super weights, one matrix in memory at a time.
///
/// All linear maps of the layers are quantized; embeddings, norms and the head are copied, and so are config and
/// tokenizer. The folder is there when it is complete, or not at all.
///
/// Formats:
///   fake       the rounded values in the original's type; loads anywhere, saves no space
///   packed     compressed-tensors pack-quantized, for transformers and vLLM; a matrix with a held weight stays as it is
///   packed-sw  any scheme, with the held weights beside the codes; sw reads it
///
/// Examples:
///   sw quantize MODEL --out OUT --bits 4 --group 128
///   sw quantize MODEL --out OUT --bits 4 --group row --calib texts.jsonl
///   sw quantize MODEL --out OUT --bits 4 --group 64 --scale-bits 16 --calib texts.jsonl --hold-budget 0.01
///   sw quantize MODEL --out OUT --format packed --bits 4 --group 128 --dry-run
///   sw quantize MODEL --out OUT --group 1024x1024 --flat --clip-z 9 --hold 2:3968:7003
///   sw quantize MODEL --out OUT --format packed-sw --override '*.down_proj.weight=bits=8,group=row'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Quantize {
    #[command(flatten)]
    model: ModelArgs,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    rule: RuleArgs,
    /// Another rule for the matrices whose names match (repeatable, the last match counts): PATTERN=KEY=VALUE,... with
    /// * and ? in the pattern and the keys bits, levels, group, clip-z; or PATTERN=keep
    #[arg(long = "override", value_name = "PATTERN=RULE")]
    overrides: Vec<String>,
    /// Weights that keep their values: those that detection finds, those of a file (a list, or sw detect --json) or of a
    /// list LAYER:ROW:COL,..., or none
    #[arg(long, value_name = "auto|FILE|LIST|none", default_value = "auto")]
    hold: String,
    /// Hold more weights, those whose rounding costs most on --calib, for so many bits per quantized weight (0.01, say); kept
    /// only where the model's predictions gain
    #[arg(long, value_name = "BITS", requires = "calib", alias = "hold_budget")]
    hold_budget: Option<f64>,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Texts to choose each matrix' clip on, and to measure what quantization does to the model: plain text (.txt), or rows
    /// with a "text" (.jsonl, .json.gz, .parquet); every third window of 512 tokens judges a choice made on the others
    #[arg(long, value_name = "FILE")]
    calib: Option<PathBuf>,
    /// Texts to measure what quantization does to the model, in the same formats: KL divergence, perplexity, worst matrices
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// How quantized matrices are stored
    #[arg(long, value_enum, default_value_t = FormatName::Fake)]
    format: FormatName,
    /// Size of a file, at most
    #[arg(long, value_name = "GB", default_value_t = 5.0, alias = "shard_size")]
    shard_size: f64,
    /// Replace the folder if it is there
    #[arg(long)]
    force: bool,
    /// Say what would be written, and how large; write nothing
    #[arg(long, alias = "dry_run")]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a matrix is quantized.
#[derive(Args, Clone)]
struct RuleArgs {
    /// Bits of a code, 2 to 8 (nf4 and nf3 have their own)
    #[arg(long, value_name = "N", default_value_t = 4)]
    bits: u8,
    /// The grid: from minimum to maximum with a float offset or with an integer zero-point, symmetric about zero, or
    /// quantiles of a normal distribution [default: float, with --format packed symmetric]
    #[arg(long, value_enum)]
    levels: Option<LevelsName>,
    /// What shares a scale: the tensor, a row, N consecutive elements, or a tile of A rows by B columns
    #[arg(long, value_name = "tensor|row|N|AxB", default_value = "128")]
    group: String,
    /// Take AxB as A*B consecutive elements, as the paper does
    #[arg(long)]
    flat: bool,
    /// Bits of each scale and float offset (with --format packed they have the type of the weights)
    #[arg(long, value_name = "32|16", default_value_t = 32, value_parser = scale_bits, alias = "scale_bits")]
    scale_bits: u8,
    /// Let the last blocks be shorter where blocks do not divide a matrix
    #[arg(long, alias = "short_tail")]
    short_tail: bool,
    /// Clip beyond z standard deviations of the magnitudes: this z, what is searched, or none. With --calib the threshold of
    /// each block is searched by the error of the outputs, and kept only where the model's predictions gain; without it,
    /// a z for each matrix by the error of the weights, which can ruin a model [default: with --calib search, else none]
    #[arg(long, value_name = "Z|search|none", alias = "clip_z")]
    clip_z: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    Fake,
    Packed,
    PackedSw,
}

#[derive(Clone, Copy, ValueEnum)]
enum LevelsName {
    Float,
    Integer,
    Symmetric,
    Nf4,
    Nf3,
}

fn scale_bits(given: &str) -> Result<u8, String> {
    match given {
        "32" => Ok(32),
        "16" => Ok(16),
        _ => Err("expected 32 or 16".into()),
    }
}

impl RuleArgs {
    fn rule(&self, format: FormatName, calibrated: bool) -> Result<Rule> {
        let bits = self.bits;
        let default = match format {
            FormatName::Packed => LevelsName::Symmetric,
            _ => LevelsName::Float,
        };
        let levels = match self.levels.unwrap_or(default) {
            LevelsName::Float => Levels::asymmetric(bits),
            LevelsName::Integer => Levels::Asymmetric {
                bits,
                steps: Steps::Full,
                zero: ZeroPoint::Integer,
            },
            LevelsName::Symmetric => Levels::symmetric(bits),
            LevelsName::Nf4 => Levels::Nf4,
            LevelsName::Nf3 => Levels::Nf3,
        };
        levels.check()?;
        let default = if calibrated { "search" } else { "none" };
        let (clip, search) = match self.clip_z.as_deref().unwrap_or(default) {
            "search" => (Clip::None, true),
            "none" => (Clip::None, false),
            z => {
                let z = z
                    .parse()
                    .with_context(|| format!("--clip-z {z}: expected a number, search or none"))?;
                (Clip::ZScore { z }, false)
            }
        };
        clip.check()?;
        let scales = if self.scale_bits == 16 {
            Dtype::F16
        } else {
            Dtype::F32
        };
        let scheme = Scheme::new(levels, self.grouping()?);
        let scheme = scheme.with_clip(clip).with_scales(scales);
        Ok(Rule { scheme, search })
    }

    fn grouping(&self) -> Result<Grouping> {
        let group = self.group.as_str();
        let size = |text: &str| text.parse().ok().filter(|n| *n > 0usize);
        let grouping = match group.split_once('x') {
            _ if group == "tensor" => Some(Grouping::Tensor),
            _ if group == "row" => Some(Grouping::Row),
            None => size(group).map(Grouping::flat),
            Some((a, b)) => size(a).zip(size(b)).and_then(|(rows, cols)| {
                if self.flat {
                    rows.checked_mul(cols).map(Grouping::flat)
                } else {
                    Some(Grouping::tile(rows, cols))
                }
            }),
        };
        let grouping = grouping.with_context(|| {
            format!("--group {group}: expected tensor, row, a number N, or AxB")
        })?;
        let tail = if self.short_tail {
            Tail::Short
        } else {
            Tail::Error
        };
        Ok(grouping.with_tail(tail))
    }

    /// `PATTERN=KEY=VALUE,...` or `PATTERN=keep`, on top of these.
    fn overridden(&self, given: &str, format: FormatName, calibrated: bool) -> Result<Override> {
        let wrong = || {
            format!(
                "--override {given}: expected PATTERN=keep, or PATTERN=KEY=VALUE,... with the keys bits, levels, group, clip-z"
            )
        };
        let (pattern, rule) = given.split_once('=').with_context(wrong)?;
        let pattern = pattern.to_owned();
        if rule == "keep" {
            return Ok(Override {
                pattern,
                rule: None,
            });
        }
        let mut args = self.clone();
        for item in rule.split(',') {
            let (key, value) = item.split_once('=').with_context(wrong)?;
            match key {
                "bits" => args.bits = value.parse().ok().with_context(wrong)?,
                "levels" => {
                    args.levels = Some(
                        LevelsName::from_str(value, false)
                            .ok()
                            .with_context(wrong)?,
                    );
                }
                "group" => args.group = value.to_owned(),
                "clip-z" => args.clip_z = Some(value.to_owned()),
                _ => bail!(wrong()),
            }
        }
        let rule = args
            .rule(format, calibrated)
            .with_context(|| format!("--override {given}"))?;
        Ok(Override {
            pattern,
            rule: Some(rule),
        })
    }
}

impl Quantize {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let calibrated = self.calib.is_some();
        let mut export = Export::default();
        export.rule = self.rule.rule(self.format, calibrated)?;
        export.format = match self.format {
            FormatName::Fake => Format::Fake,
            FormatName::Packed => Format::Packed,
            FormatName::PackedSw => Format::PackedSw,
        };
        for given in &self.overrides {
            export
                .overrides
                .push(self.rule.overridden(given, self.format, calibrated)?);
        }
        if !(self.shard_size > 0.0 && self.shard_size.is_finite()) {
            bail!(
                "--shard-size {}: expected a number above 0",
                self.shard_size
            );
        }
        export.shard_bytes = (self.shard_size * 1e9) as u64;
        if let Some(dir) = &self.model.adapter {
            bail!(
                "--adapter {}: quantized checkpoints are made of stored weights; write it into a checkpoint first (sw tune MODEL --merge DIR --out OUT)",
                dir.display()
            );
        }
        let model = self.model.open()?;
        export.hold = self.held(&model)?;
        let measured = self.measured(&model, &mut export)?;
        let plan = Plan::new(&model, &export)?;
        let mut outcomes = Default::default();
        if !self.dry_run {
            let bar = bar(plan.bytes()[1]);
            stop_on_interrupt("matrix")?;
            let mut progress = |at: Exporting| {
                bar.set_position(at.done);
                match stopped() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            outcomes = plan.write(&self.out, self.force, &mut progress)?;
            bar.finish_and_clear();
        }
        let ([before, after], [bits, all_bits]) = (plan.bytes(), plan.bits_per_weight());
        if self.json {
            let mut report = json!({
                "model": self.model.model,
                "gguf": model.gguf(),
                "out": if self.dry_run { None } else { Some(&self.out) },
                "export": export,
                "bytes_before": before,
                "bytes": after,
                "bits_per_weight": bits,
                "bits_per_weight_with_the_rest": all_bits,
                "tensors": plan.summary(&outcomes),
            });
            if let Some(c) = &measured.calibration {
                report["calibration"] = json!({
                    "kl_unclipped": c.kl_unclipped, "kl_clipped": c.kl_proposed, "kinds": c.kinds, "kept": c.kept,
                });
            }
            if let Some(held) = &measured.held {
                report["hold_budget"] = serde_json::to_value(held)?;
            }
            if let Some(c) = &measured.check {
                report["check"] = serde_json::to_value(c)?;
            }
            say(serde_json::to_string_pretty(&report)?)?;
            return Ok(verdict(measured.check.as_ref()));
        }
        say(table(&plan, &outcomes))?;
        say(format!(
            "{:.1} MB become {:.1} MB; {bits:.3} bits per quantized weight, {all_bits:.3} with all that is copied.",
            before as f64 / 1e6,
            after as f64 / 1e6
        ))?;
        if !self.dry_run {
            tell(format!("written: {}", self.out.display()));
        }
        if let Some(c) = &measured.calibration {
            say(chosen(c))?;
        }
        if let Some(held) = &measured.held {
            say(bought(held))?;
        }
        if let Some(c) = &measured.check {
            say(effect(c))?;
        }
        Ok(verdict(measured.check.as_ref()))
    }

    /// Chooses clips and held weights on `--calib`, and measures on the windows that the choice did not see, or on `--check`.
    fn measured(&self, model: &Model, export: &mut Export) -> Result<Measured> {
        let mut measured = Measured::default();
        let mut texts = None;
        if let Some(file) = &self.calib {
            let windows = windows(model, file, WINDOW, WINDOWS).context("--calib")?;
            let chosen = calibrate(model, export, &windows).context("--calib")?;
            *export = chosen.export.clone();
            measured.calibration = Some(chosen);
            if let Some(budget) = self.hold_budget {
                let more = hold_more(model, export, &windows, budget).context("--hold-budget")?;
                *export = more.export.clone();
                measured.held = Some(more);
            }
            texts = Some(judges(&windows).map(<[u32]>::to_vec).collect::<Vec<_>>());
        }
        if let Some(file) = &self.check {
            texts = Some(windows(model, file, WINDOW, WINDOWS).context("--check")?);
        }
        let check = texts.map(|texts| check(model, export, &texts));
        measured.check = check.transpose()?;
        Ok(measured)
    }

    fn held(&self, model: &Model) -> Result<Vec<WeightCoord>> {
        match self.hold.as_str() {
            "none" => Ok(Vec::new()),
            "auto" => {
                let (_, tokens) = self.prompt.encode(model)?;
                let mut report = detect(model, &tokens, &DetectOptions::default())?;
                census_if_possible(model, &mut report, &TextArgs::default())?;
                if report.super_weights.is_empty() {
                    tell(
                        "note: no weight is decisive, so none is held (--hold LAYER:ROW:COL names one)",
                    );
                }
                Ok(report
                    .super_weights
                    .iter()
                    .map(sw_detect::Candidate::coord)
                    .collect())
            }
            given => Ok(coordinates(given).context("--hold")?),
        }
    }
}

/// Tokens of a window of calibration text, at most.
const WINDOW: usize = 512;
/// Windows that are read of a file, at most.
const WINDOWS: usize = 24;

/// Quantized matrices of one kind, a line each.
fn table(
    plan: &Plan,
    outcomes: &std::collections::BTreeMap<String, sw_intervene::Outcome>,
) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["tensor", "weights", "bits", "per weight", "held", "z"]);
    for t in plan.tensors().iter().filter(|t| t.bits.is_some()) {
        let z = outcomes.get(&t.name).and_then(|o| o.z);
        table.add_row([
            t.name.clone(),
            t.weights.to_string(),
            t.bits.map_or_else(String::new, |b| b.to_string()),
            format!("{:.3}", t.bits_per_weight),
            t.held.to_string(),
            z.map_or_else(|| "-".into(), |z| z.to_string()),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = "{bar:30} {percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("a constant"));
    bar
}
