//! Files, each written whole or not at all, and lines on stdout.

use std::{fs, io::Write, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    chart,
    outcome::{Content, Outcome},
    svg,
};

/// Writes a line to stdout; a reader that has gone away (`| head`) ends the program quietly.
pub(crate) fn say(text: impl std::fmt::Display) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

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
                whole(&drawing, &svg::standalone(panels))?;
                chart::table(panels).csv()
            }
        };
        whole(&dir.join(format!("{}.csv", block.id)), &csv)?;
    }
    page(dir, name, json, &outcome.markdown(command))
}

/// Writes `DIR/NAME.json`, `DIR/NAME.md` and `DIR/NAME.csv`, each whole or not at all.
pub(crate) fn write(dir: &Path, name: &str, json: &Value, markdown: &str, csv: &str) -> Result<()> {
    whole(&dir.join(format!("{name}.csv")), csv)?;
    page(dir, name, json, markdown)
}

/// The JSON comes last: where it stands, everything else does.
fn page(dir: &Path, name: &str, json: &Value, markdown: &str) -> Result<()> {
    whole(&dir.join(format!("{name}.md")), markdown)?;
    let json = serde_json::to_string_pretty(json)? + "\n";
    whole(&dir.join(format!("{name}.json")), &json)
}

/// Makes the folder, and makes sure that it can be written to.
pub(crate) fn probe(dir: &Path) -> Result<()> {
    let probe =
        || fs::create_dir_all(dir).and_then(|()| tempfile::NamedTempFile::new_in(dir).map(drop));
    probe().with_context(|| format!("--out {}", dir.display()))
}

/// Writes beside the target, then renames.
pub(crate) fn whole(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
        let mut file = builder.tempfile_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| path.display().to_string())
}
