//! `sw quantize`: a quantized checkpoint on disk that keeps its super weights.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sw_detect::{DetectOptions, coordinates, detect};
use sw_intervene::{
    Calibrated, Check, Export, Exporting, Format, Override, Plan, Rule, calibrate, check, judges,
};
use sw_model::{Model, WeightCoord};
use sw_quant::{Clip, Grouping, Levels, Scheme, Steps, Tail, ZeroPoint};
use sw_tensor::files;

use crate::{
    args::{ModelArgs, PromptArgs},
    candidates::{TEXT, TextArgs, census_if_possible},
    program::{say, stop_on_interrupt, stopped, tell},
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
    /// Let the last blocks be shorter where blocks do not divide a matrix
    #[arg(long, alias = "short_tail")]
    short_tail: bool,
    /// Clip beyond z standard deviations of the magnitudes: this z, one that is searched for each matrix, or none. With --calib
    /// a searched z is kept only where the model's predictions gain; without it, it is the one of least weight error, which
    /// can ruin a model [default: with --calib search, else none]
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
        let scheme = Scheme::new(levels, self.grouping()?).with_clip(clip);
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
        let (calibration, measured) = self.measured(&model, &mut export)?;
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
            if let Some(c) = &calibration {
                report["calibration"] = json!({
                    "kl_unclipped": c.kl_unclipped, "kl_clipped": c.kl_proposed, "kinds": c.kinds, "kept": c.kept,
                });
            }
            if let Some(c) = &measured {
                report["check"] = serde_json::to_value(c)?;
            }
            say(serde_json::to_string_pretty(&report)?)?;
            return Ok(verdict(measured.as_ref()));
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
        if let Some(c) = &calibration {
            say(chosen(c))?;
        }
        if let Some(c) = &measured {
            say(effect(c))?;
        }
        Ok(verdict(measured.as_ref()))
    }

    /// Chooses the clips on `--calib`, and measures on the windows that the choice did not see, or on `--check`.
    fn measured(
        &self,
        model: &Model,
        export: &mut Export,
    ) -> Result<(Option<Calibrated>, Option<Check>)> {
        let mut calibration = None;
        let mut texts = None;
        if let Some(file) = &self.calib {
            let windows = windows(model, file).context("--calib")?;
            let chosen = calibrate(model, export, &windows).context("--calib")?;
            *export = chosen.export.clone();
            texts = Some(judges(&windows).map(<[u32]>::to_vec).collect::<Vec<_>>());
            calibration = Some(chosen);
        }
        if let Some(file) = &self.check {
            texts = Some(windows(model, file).context("--check")?);
        }
        let measured = texts.map(|texts| check(model, export, &texts));
        Ok((calibration, measured.transpose()?))
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
/// Rows that are read of a file, at most.
const ROWS: usize = 2000;

/// The first windows of a file of texts, each with the tokens that the tokenizer puts before a text.
fn windows(model: &Model, file: &Path) -> Result<Vec<Vec<u32>>> {
    let texts = if file.extension().is_some_and(|e| e == "txt") {
        vec![files::read_text_at_most(file, TEXT).with_context(|| file.display().to_string())?]
    } else {
        sw_eval::read_texts(file, ROWS).map_err(anyhow::Error::msg)?
    };
    let tokenizer = model.tokenizer()?;
    let most = WINDOW.min(model.spec().max_positions);
    // A BOS stands before each window where the tokenizer puts one before a text.
    let before: Vec<u32> = tokenizer
        .bos()
        .filter(|_| tokenizer.adds_bos())
        .into_iter()
        .collect();
    let room = most.saturating_sub(before.len()).max(2);
    let mut tokens = Vec::new();
    for text in texts {
        tokens.extend(tokenizer.encode(&text, false)?);
        if tokens.len() >= room * WINDOWS {
            break;
        }
    }
    let pieces = tokens.chunks(room).take(WINDOWS);
    let whole = pieces.filter(|piece| piece.len() > 1);
    Ok(whole.map(|piece| [&before[..], piece].concat()).collect())
}

fn chosen(c: &Calibrated) -> String {
    let (without, with) = (c.kl_unclipped, c.kl_proposed);
    if c.kinds.is_empty() {
        return "Clip: none; no searched threshold brought the model's predictions nearer to the original's.".into();
    }
    let kinds: Vec<_> = c.kinds.iter().map(ToString::to_string).collect();
    let kinds = kinds.join(", ");
    if c.kept {
        format!(
            "Clip: searched in {kinds}; on text that the choice did not see, KL falls from {without:.4} to {with:.4} nats a token."
        )
    } else {
        format!(
            "Clip: none; thresholds searched in {kinds} did not win on text that the choice did not see (KL {without:.4} without them, {with:.4} with them)."
        )
    }
}

fn effect(c: &Check) -> String {
    let mut text = format!(
        "On {} tokens: KL from the original {:.4} nats a token; perplexity {:.3} before, {:.3} after.\nMatrices whose outputs change most:",
        c.tokens, c.kl, c.perplexity_before, c.perplexity_after
    );
    for (name, share) in &c.worst {
        text.push_str(&format!(
            "\n  {name}  {:.2} % of the output's energy",
            share * 100.0
        ));
    }
    text
}

/// Exit code 3, with a sentence, where the quantized model is worth little.
fn verdict(measured: Option<&Check>) -> ExitCode {
    // A model that predicts NaN is ruined, too.
    let ruined =
        |c: &&Check| c.perplexity_after.is_nan() || c.perplexity_after > 2.0 * c.perplexity_before;
    match measured.filter(ruined) {
        Some(c) => {
            tell(format!(
                "warning: quantization more than doubles the perplexity, from {:.3} to {:.3}; take more bits, smaller groups or --calib",
                c.perplexity_before, c.perplexity_after
            ));
            ExitCode::from(3)
        }
        None => ExitCode::SUCCESS,
    }
}

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
