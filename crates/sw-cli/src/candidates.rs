//! What `sw detect`, `sw verify` and `sw directory` share: the proof, the directory, and candidates as a table.

use std::path::PathBuf;

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use sw_detect::{Candidate, Directory, ProofOptions, Report, proof_texts, prove};
use sw_model::Model;

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

/// The directory in a file, or the shipped one.
pub(crate) fn directory(file: Option<&PathBuf>) -> Result<Directory> {
    Ok(file
        .map(Directory::read)
        .transpose()?
        .unwrap_or_else(Directory::shipped))
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
