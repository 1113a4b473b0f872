//! What an experiment yields: one value, from which JSON, Markdown, CSV, drawings and the report are written.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::page::{chart::Panel, table::Table};

/// Tables and figures with what they show, in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// `Table 1. What the super weight is worth`.
    pub(crate) title: String,
    /// What was found, in a sentence or two, with its numbers.
    pub(crate) finding: String,
    /// The one number, for the first screen of the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) headline: Option<Headline>,
    pub(crate) blocks: Vec<Block>,
    /// Units, sources, and what is missing.
    pub(crate) notes: Vec<String>,
    /// The numbers behind it, for other programs; they stand at the top of the JSON file.
    #[serde(skip)]
    pub(crate) data: Map<String, Value>,
}

/// A number that says it all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Headline {
    pub(crate) number: String,
    pub(crate) text: String,
}

/// A table or a figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Block {
    /// Stem of its files' names.
    pub(crate) id: String,
    /// The heading of this block, where the experiment has several; may be empty.
    pub(crate) title: String,
    /// What is shown, in which units, over what.
    pub(crate) caption: String,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Content {
    Table(Table),
    Figure(Vec<Panel>),
}

impl Outcome {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    /// Adds a table.
    pub(crate) fn table(
        &mut self,
        id: impl Into<String>,
        title: impl Into<String>,
        table: Table,
        caption: impl Into<String>,
    ) {
        self.push(id, title, Content::Table(table), caption);
    }

    /// Adds a figure.
    pub(crate) fn figure(
        &mut self,
        id: impl Into<String>,
        title: impl Into<String>,
        panels: Vec<Panel>,
        caption: impl Into<String>,
    ) {
        self.push(id, title, Content::Figure(panels), caption);
    }

    fn push(
        &mut self,
        id: impl Into<String>,
        title: impl Into<String>,
        content: Content,
        caption: impl Into<String>,
    ) {
        self.blocks.push(Block {
            id: id.into(),
            title: title.into(),
            caption: caption.into(),
            content,
        });
    }

    /// One of its tables and figures.
    pub(crate) fn block(&self, id: &str) -> Option<&Block> {
        self.blocks.iter().find(|b| b.id == id)
    }

    /// Adds numbers for other programs.
    ///
    /// # Errors
    /// When they are not JSON.
    pub(crate) fn data(&mut self, key: &str, value: impl Serialize) -> anyhow::Result<()> {
        self.data.insert(key.into(), serde_json::to_value(value)?);
        Ok(())
    }

    /// For a terminal: tables in full, figures by the names of their files.
    pub(crate) fn text(&self) -> String {
        let mut parts = vec![self.title.clone(), self.finding.clone()];
        for block in &self.blocks {
            if let Content::Table(table) = &block.content {
                parts.push(titled(&block.title, table.text()));
            }
        }
        parts.push(self.notes.join("\n"));
        parts.retain(|part| !part.is_empty());
        parts.join("\n\n")
    }

    /// A page of its own.
    pub(crate) fn markdown(&self, command: &str) -> String {
        let mut parts = vec![
            format!("# {}", self.title),
            self.finding.clone(),
            format!("`{command}`"),
        ];
        for block in &self.blocks {
            if !block.title.is_empty() {
                parts.push(format!("## {}", block.title));
            }
            parts.push(match &block.content {
                Content::Table(table) => table.markdown(),
                Content::Figure(_) => format!("![{}]({}.svg)", block.id, block.id),
            });
            parts.push(block.caption.clone());
        }
        if !self.notes.is_empty() {
            let notes = self.notes.iter().map(|note| format!("- {note}"));
            parts.push(notes.collect::<Vec<_>>().join("\n"));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("\n\n") + "\n"
    }
}

fn titled(title: &str, text: String) -> String {
    if title.is_empty() {
        text
    } else {
        format!("{title}:\n{text}")
    }
}
