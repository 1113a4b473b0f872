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

/// Writes `DIR/NAME.json` and `DIR/NAME.md`, and of each table and figure the CSV, of each figure the drawing.
///
/// The JSON comes last: where it stands, everything else does.
pub(crate) fn write(
    dir: &Path,
    name: &str,
    command: &str,
    outcome: &Outcome,
    json: &Value,
) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    for block in &outcome.blocks {
        let csv = match &block.content {
            Content::Table(table) => table.csv(),
            Content::Figure(panels) => {
                whole(
                    &dir.join(format!("{}.svg", block.id)),
                    &svg::standalone(panels),
                )?;
                chart::table(panels).csv()
            }
        };
        whole(&dir.join(format!("{}.csv", block.id)), &csv)?;
    }
    whole(&dir.join(format!("{name}.md")), &outcome.markdown(command))?;
    whole(
        &dir.join(format!("{name}.json")),
        &(serde_json::to_string_pretty(json)? + "\n"),
    )
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
