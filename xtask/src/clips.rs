//! Whether the clip that `sw quantize --calib` chooses pays, and never hurts.

use std::{fs, io::Write, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use sw_cli::{
    program::{say, tell},
    windows::windows,
};
use sw_eval::{Split, Task};
use sw_intervene::{Calibrated, Check, Export, calibrate, check};
use sw_model::WeightCoord;
use sw_quant::{Grouping, Levels, Scheme, Tail};

use crate::{
    inputs::Inputs,
    lab::Lab,
    page::table::{Table, fixed},
};

/// Measure what the clip that `sw quantize --calib` chooses does, beside no clip, over bits, groups and held weights.
///
/// Exit code 3 where it raises the perplexity by more than 1 percent anywhere. Without --calib, `sw quantize` clips nothing, so
/// that its default is the column of no clip.
///
/// Example:
///   cargo xtask bench-clips --model MODEL --data DATA --calib TEXTS --record clips.jsonl
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct BenchClips {
    #[command(flatten)]
    inputs: Inputs,
    /// Text that is measured on: plain text, or rows with a `text` [default: WikiText-2's test split in the data]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Windows of that text
    #[arg(long, value_name = "N", default_value_t = 4)]
    windows: usize,
    /// Windows of the calibration text
    #[arg(long, value_name = "N", default_value_t = 12)]
    calib_windows: usize,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 512)]
    length: usize,
    /// Bits of a code
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "3,4,8"
    )]
    bits: Vec<u8>,
    /// What shares a scale: tensor, row, or N consecutive weights
    #[arg(
        long,
        value_name = "GROUP,...",
        value_delimiter = ',',
        default_value = "row,128,32,tensor"
    )]
    groups: Vec<String>,
    /// Which weights are held: none, auto (what the census finds), or LAYER:ROW:COL,... or a JSON file as one item
    #[arg(long, value_name = "WHICH", default_values = ["none", "auto"])]
    hold: Vec<String>,
    /// Where settings are kept, one JSON object a line; those that are there are not measured again
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// One setting with its numbers.
#[derive(Serialize, Deserialize)]
struct Row {
    model: String,
    bits: u8,
    group: String,
    hold: String,
    /// How many weights are held.
    held: usize,
    /// Windows that were measured, those calibrated on, and tokens of each.
    windows: [usize; 3],
    original: f64,
    unclipped: Measured,
    calibrated: Measured,
    /// Kinds of linear maps that are clipped.
    kinds: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Measured {
    perplexity: f64,
    /// From the original, in nats a token.
    kl: f64,
}

impl From<&Check> for Measured {
    fn from(c: &Check) -> Self {
        Self {
            perplexity: c.perplexity_after,
            kl: c.kl,
        }
    }
}

impl Row {
    /// How much higher the perplexity is with the clip, in percent.
    fn rise(&self) -> f64 {
        100.0 * (self.calibrated.perplexity / self.unclipped.perplexity - 1.0)
    }

    /// How much of the distance from the original's perplexity the clip takes away, in percent; nothing where there is none.
    fn gain(&self) -> Option<f64> {
        let distance = |m: &Measured| m.perplexity - self.original;
        let before = distance(&self.unclipped);
        (before > 0.0).then(|| 100.0 * (1.0 - distance(&self.calibrated) / before))
    }
}

impl BenchClips {
    /// Whether no setting was hurt.
    pub(crate) fn run(&self) -> Result<bool> {
        self.inputs.set_threads()?;
        let lab = Lab::open(&self.inputs)?;
        let mut rows = self.known()?;
        let sizes = [self.windows, self.calib_windows, self.length];
        let name = lab.name();
        let is = |row: &Row| row.model == name && row.windows == sizes;
        let text = windows(&lab.model, &self.text(&lab)?, self.length, sizes[0])?;
        let (file, source) = lab.calibration()?;
        let calibration = windows(&lab.model, &file, self.length, sizes[1])?;
        for hold in &self.hold {
            let mut coords = None;
            for group in &self.groups {
                for &bits in &self.bits {
                    let same = |row: &Row| {
                        (row.bits, &row.group, &row.hold) == (bits, group, hold) && is(row)
                    };
                    if rows.iter().any(same) {
                        continue;
                    }
                    let coords = match &mut coords {
                        Some(coords) => coords,
                        None => coords.insert(held(&lab, hold)?),
                    };
                    let mut export = Export::default();
                    export.rule.scheme = Scheme::new(Levels::asymmetric(bits), grouping(group)?);
                    export.hold = coords.clone();
                    let unclipped = check(&lab.model, &export, &text)?;
                    export.rule.search = true;
                    let found = calibrate(&lab.model, &export, &calibration)?;
                    let calibrated = if found.kept {
                        check(&lab.model, &found.export, &text)?
                    } else {
                        unclipped.clone()
                    };
                    let row = Row {
                        model: name.clone(),
                        bits,
                        group: group.clone(),
                        hold: hold.clone(),
                        held: coords.len(),
                        windows: sizes,
                        original: unclipped.perplexity_before,
                        unclipped: (&unclipped).into(),
                        calibrated: (&calibrated).into(),
                        kinds: kinds(&found),
                    };
                    tell(format!(
                        "{bits} bits, {group}, hold {hold}: {:.4} without a clip, {:.4} with it",
                        row.unclipped.perplexity, row.calibrated.perplexity
                    ));
                    self.keep(&row)?;
                    rows.push(row);
                }
            }
        }
        let rows: Vec<&Row> = rows.iter().filter(|row| is(row)).collect();
        say(format!(
            "{name}: {} windows of {} tokens, calibrated on {} windows of {source}.",
            sizes[0], sizes[2], sizes[1]
        ))?;
        say(table(&rows).markdown())?;
        Ok(rows.iter().all(|row| row.rise() <= 1.0))
    }

    fn text(&self, lab: &Lab) -> Result<PathBuf> {
        if let Some(file) = &self.text {
            return Ok(file.clone());
        }
        let task = Task::named("wikitext2")?;
        let mut files = lab.data.files(&task.dataset)?;
        let test = files.remove(&Split::Test).unwrap_or_default();
        test.into_iter().next().with_context(|| {
            format!(
                "no text: {}; or name one with --text",
                lab.data.missing(&task.dataset)
            )
        })
    }

    fn known(&self) -> Result<Vec<Row>> {
        let Some(file) = self.record.as_ref().filter(|file| file.exists()) else {
            return Ok(Vec::new());
        };
        let here = || file.display().to_string();
        let text = fs::read_to_string(file).with_context(here)?;
        let rows = text.lines().map(serde_json::from_str);
        rows.collect::<Result<_, _>>().with_context(here)
    }

    fn keep(&self, row: &Row) -> Result<()> {
        let Some(file) = &self.record else {
            return Ok(());
        };
        let mut options = fs::OpenOptions::new();
        let opened = options.create(true).append(true).open(file);
        let mut opened = opened.with_context(|| file.display().to_string())?;
        Ok(writeln!(opened, "{}", serde_json::to_string(row)?)?)
    }
}

fn kinds(found: &Calibrated) -> Vec<String> {
    let kinds = found.kinds.iter().filter(|_| found.kept);
    kinds.map(ToString::to_string).collect()
}

fn held(lab: &Lab, which: &str) -> Result<Vec<WeightCoord>> {
    Ok(match which {
        "none" => Vec::new(),
        "auto" => lab.decisive()?.coords.clone(),
        given => sw_detect::coordinates(given).context("--hold")?,
    })
}

fn grouping(name: &str) -> Result<Grouping> {
    Ok(match (name, name.parse()) {
        ("tensor", _) => Grouping::Tensor,
        ("row", _) => Grouping::Row,
        (_, Ok(len)) => {
            ensure!(len > 0usize, "--groups 0: expected at least 1");
            Grouping::flat(len).with_tail(Tail::Short)
        }
        _ => bail!("--groups {name}: expected tensor, row or a number"),
    })
}

fn table(rows: &[&Row]) -> Table {
    let mut table = Table::new([
        "bits",
        "group",
        "held",
        "original",
        "no clip",
        "KL",
        "calibrated",
        "KL ",
        "change (%)",
        "gain (%)",
        "clipped",
    ]);
    for row in rows {
        table.push([
            row.bits.to_string(),
            row.group.clone(),
            row.held.to_string(),
            fixed(Some(row.original), 3),
            fixed(Some(row.unclipped.perplexity), 3),
            fixed(Some(row.unclipped.kl), 4),
            fixed(Some(row.calibrated.perplexity), 3),
            fixed(Some(row.calibrated.kl), 4),
            format!("{:+.2}", row.rise()),
            fixed(row.gain(), 1),
            match row.kinds.len() {
                0 => "nothing".to_owned(),
                7 => "everything".to_owned(),
                _ => row.kinds.join(", "),
            },
        ]);
    }
    table
}
