//! What `sw detect`, `sw verify` and `sw directory` share: the proof, the directory, and candidates as a table.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};
use sw_detect::{Candidate, CensusOptions, Directory, Report, Stage, census, census_texts, encode};
use sw_model::Model;
use sw_tensor::files;

use crate::program::tell;

/// Texts of a census, by what the command line says of them.
#[derive(clap::Args)]
pub(crate) struct TextArgs {
    /// A text to measure effects on (repeatable): plain, or rows with a `text` (parquet, JSON lines, json.gz), joined by empty
    /// lines [default: two that come with this program]
    #[arg(long, value_name = "FILE")]
    text: Vec<PathBuf>,
    /// Tokens of each text, at most
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        alias = "tokens_per_text"
    )]
    tokens_per_text: usize,
}

impl Default for TextArgs {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            tokens_per_text: 256,
        }
    }
}

impl TextArgs {
    /// The texts as tokens.
    fn texts(&self, model: &Model) -> Result<Vec<Vec<u32>>> {
        if self.tokens_per_text < 2 {
            bail!(
                "--tokens-per-text {}: expected at least 2",
                self.tokens_per_text
            );
        }
        if self.text.is_empty() {
            return Ok(census_texts(model, self.tokens_per_text)?);
        }
        let most = self.tokens_per_text.min(model.spec().max_positions);
        let one = |path: &PathBuf| {
            // More characters than these tokens have in any language.
            let enough = most.saturating_mul(32).max(4096);
            let mut tokens = encode(model, &content(path, enough)?)
                .with_context(|| path.display().to_string())?;
            tokens.truncate(most);
            if tokens.len() < 2 {
                bail!("{}: expected a text of at least 2 tokens", path.display());
            }
            Ok(tokens)
        };
        self.text.iter().map(one).collect()
    }
}

/// The most bytes of a file of plain text.
pub(crate) const TEXT: u64 = 1 << 30;

/// The beginning of a file's text.
fn content(path: &Path, enough: usize) -> Result<String> {
    let ends = |end: &str| path.to_string_lossy().ends_with(end);
    let rows = [".parquet", ".json", ".jsonl", ".gz", ".zst"];
    let mut text = if rows.iter().any(|end| ends(end)) {
        let docs = sw_eval::read(std::slice::from_ref(&path.to_path_buf()))?;
        let mut text = String::new();
        for (i, doc) in docs.iter().enumerate() {
            if i > 0 {
                text += "\n\n";
            }
            text += doc.text("text")?;
            if text.len() > enough {
                break;
            }
        }
        text
    } else {
        files::read_text_at_most(path, TEXT).with_context(|| path.display().to_string())?
    };
    if text.len() > enough {
        let end = (enough..text.len()).find(|&i| text.is_char_boundary(i));
        text.truncate(end.unwrap_or(text.len()));
    }
    Ok(text)
}

/// Takes the census of a report's candidates; a model without a tokenizer goes without, where no text is given.
///
/// # Errors
/// Texts that cannot be read or scored, and whatever stops a forward pass.
pub(crate) fn census_if_possible(
    model: &Model,
    report: &mut Report,
    texts: &TextArgs,
) -> Result<()> {
    if let Err(error) = model.tokenizer() {
        tell(format!("note: no effects without a tokenizer ({error})"));
        return Ok(());
    }
    let texts = match texts.texts(model) {
        Err(error)
            if matches!(
                error.downcast_ref(),
                Some(sw_detect::Error::Model(sw_model::Error::TokenId { .. }))
            ) =>
        {
            tell(format!(
                "note: no effects, the texts do not fit the vocabulary ({error})"
            ));
            return Ok(());
        }
        texts => texts?,
    };
    let bar = ProgressBar::new(1);
    bar.set_style(ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}").expect("a constant"));
    let mut show = |stage: Stage| {
        bar.set_length(stage.of as u64);
        bar.set_position(stage.done as u64);
        bar.set_message(format!("zeroing weights, stage {} of 3", stage.stage));
    };
    let taken = census(
        model,
        report,
        &[],
        &texts,
        &CensusOptions::default(),
        &mut show,
    );
    bar.finish_and_clear();
    Ok(taken?)
}

/// The directory in a file, or the shipped one.
pub(crate) fn directory(file: Option<&PathBuf>) -> Result<Directory> {
    Ok(file
        .map(Directory::read)
        .transpose()?
        .unwrap_or_else(Directory::shipped))
}

/// Candidates, one a line: what each costs and how it relates to others, where that was measured; with `details` (and where it was
/// not) its value, and what its linear map reads and writes there.
pub(crate) fn table(candidates: &[Candidate], details: bool) -> Table {
    let measured = candidates.iter().any(|c| c.effects.is_some());
    let mut head = vec!["weight"];
    if details || !measured {
        head.extend(["value", "input", "output"]);
    }
    if measured {
        head.extend(["costs (nats per token)", "verdict", "relation"]);
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head);
    for c in candidates {
        let mut row = vec![format!("{}[{}, {}]", c.tensor, c.row, c.col)];
        if details || !measured {
            row.push(format!("{:.4}", c.value));
            row.extend([c.down_in, c.down_out].map(|v| format!("{v:.1}")));
        }
        if measured {
            let costs = c.effects.as_ref().map(|e| e.zero);
            let costs = costs.map(|e| format!("{:.3} ({:.3} to {:.3})", e.nll, e.low, e.high));
            let verdict = c.verdict.and_then(|v| serde_json::to_value(v).ok());
            let verdict = verdict.as_ref().and_then(|v| v.as_str()).unwrap_or("-");
            let weak = if c.weak { ", weak" } else { "" };
            row.push(costs.unwrap_or_else(|| "-".into()));
            row.push(format!("{verdict}{weak}"));
            row.push(relations(c));
        }
        table.add_row(row);
    }
    table
}

/// What a candidate has to do with others, in words.
fn relations(c: &Candidate) -> String {
    let one = |r: &sw_detect::Relation| {
        let kind = serde_json::to_value(r.kind).ok();
        let kind = kind
            .and_then(|k| k.as_str().map(String::from))
            .unwrap_or_default();
        let with = r
            .with
            .iter()
            .take(1)
            .map(|w| format!(" L{}[{}, {}]", w.layer, w.row, w.col));
        let more = r.with.len().saturating_sub(1);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        kind + &with.collect::<String>() + &more
    };
    let mut all: Vec<_> = c.relations.iter().take(2).map(one).collect();
    if c.relations.len() > 2 {
        all.push("...".into());
    }
    all.join("\n")
}
