//! What an experiment leaves behind: a table for people, and JSON, Markdown and CSV files for everything else.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, TableStyle, presets};
use serde_json::Value;

/// Writes a line to stdout; a reader that has gone away (`| head`) ends the program quietly.
pub(crate) fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

/// A table whose first column names its rows.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        self.render(presets::UTF8_FULL_CONDENSED)
    }

    pub(crate) fn markdown(&self) -> String {
        self.render(presets::ASCII_MARKDOWN)
    }

    fn render(&self, style: TableStyle) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(style).set_header(&self.header);
        table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        for row in &self.rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    pub(crate) fn csv(&self) -> String {
        let quote = |cell: &String| {
            if cell.contains([',', '"', '\n']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        };
        let line = |row: &Vec<String>| row.iter().map(quote).collect::<Vec<_>>().join(",") + "\n";
        std::iter::once(&self.header)
            .chain(&self.rows)
            .map(line)
            .collect()
    }
}

/// Writes `DIR/NAME.json`, `DIR/NAME.md` and `DIR/NAME.csv`, each whole or not at all.
pub(crate) fn write(dir: &Path, name: &str, json: &Value, markdown: &str, csv: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    whole(dir.join(format!("{name}.md")), markdown)?;
    whole(dir.join(format!("{name}.csv")), csv)?;
    whole(
        dir.join(format!("{name}.json")),
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
fn whole(path: PathBuf, text: &str) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    write().with_context(|| path.display().to_string())
}
