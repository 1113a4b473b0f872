//! The files of an experiment, each written whole or not at all.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;
use sw_cli::program::write_whole;

use crate::{
    outcome::{Content, Outcome},
    page::{chart, svg},
};

/// Writes an outcome: of each table and figure the CSV, of each figure the drawing, then its page and its JSON.
pub(crate) fn outcome(
    dir: &Path,
    name: &str,
    command: &str,
    outcome: &Outcome,
    json: &Value,
) -> Result<()> {
    for block in &outcome.blocks {
        let csv = match &block.content {
            Content::Table(table) => table.csv(),
            Content::Figure(panels) => {
                let drawing = dir.join(format!("{}.svg", block.id));
                write_whole(&drawing, &svg::standalone(panels))?;
                chart::table(panels).csv()
            }
        };
        write_whole(&dir.join(format!("{}.csv", block.id)), &csv)?;
    }
    page(dir, name, json, &outcome.markdown(command))
}

/// Writes `DIR/NAME.json`, `DIR/NAME.md` and `DIR/NAME.csv`, each whole or not at all.
pub(crate) fn write(dir: &Path, name: &str, json: &Value, markdown: &str, csv: &str) -> Result<()> {
    write_whole(&dir.join(format!("{name}.csv")), csv)?;
    page(dir, name, json, markdown)
}

/// The JSON comes last: where it stands, everything else does.
fn page(dir: &Path, name: &str, json: &Value, markdown: &str) -> Result<()> {
    write_whole(&dir.join(format!("{name}.md")), markdown)?;
    let json = serde_json::to_string_pretty(json)? + "\n";
    write_whole(&dir.join(format!("{name}.json")), &json)
}

/// Makes the folder, and makes sure that it can be written to.
pub(crate) fn probe(dir: &Path) -> Result<()> {
    let probe =
        || fs::create_dir_all(dir).and_then(|()| tempfile::NamedTempFile::new_in(dir).map(drop));
    probe().with_context(|| format!("--out {}", dir.display()))
}
