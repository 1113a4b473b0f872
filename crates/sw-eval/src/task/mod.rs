//! Tasks: where documents come from, what is asked about each, and how answers are measured. Models are unknown here.

mod arc;
mod boolq;
mod hellaswag;
mod item;
mod lambada;
mod openbookqa;
mod perplexity;
mod piqa;
mod sciq;
mod wikitext;
mod winogrande;

pub use item::{Item, Request};

use crate::{
    data::{Dataset, Doc, Split},
    encode::Encoder,
    error::{Error, Result},
    metric::Metric,
};

/// A benchmark, as data.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// lm-eval's name.
    pub name: &'static str,
    /// lm-eval's version of the task; changes when its prompts do.
    pub version: f64,
    /// Where its documents are.
    pub dataset: Dataset,
    /// The split that is evaluated.
    pub split: Split,
    /// The split that few-shot examples come from.
    pub shots: Split,
    /// What is reported.
    pub metrics: &'static [Metric],
    /// What is asked.
    pub kind: Kind,
}

/// What a task asks of its data.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One item for each document.
    Items {
        /// From the file's rows to documents.
        prepare: Prepare,
        /// From a document to what is asked.
        item: fn(&Doc) -> Result<Item>,
    },
    /// Windows of tokens from the text of all documents, each scored from its second token on.
    Windows(Windows),
}

/// From the rows of files to documents.
#[derive(Clone, Copy, Debug)]
pub enum Prepare {
    /// Each row is a document, when it is cleaned.
    Each(fn(Doc) -> Result<Doc>),
    /// All rows together are documents.
    All(fn(Vec<Doc>) -> Result<Vec<Doc>>),
}

/// From all rows to windows of tokens.
pub type Windows = fn(&[Doc], &Encoder<'_>, Cut) -> Result<Vec<Vec<u32>>>;

/// How a text is cut to windows.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Tokens of a window.
    pub window: usize,
    /// Windows at most.
    pub limit: usize,
}

impl Kind {
    /// One item for each row.
    const fn rows(item: fn(&Doc) -> Result<Item>) -> Self {
        Self::Items {
            prepare: Prepare::Each(Ok),
            item,
        }
    }
}

/// All tasks, the paper's seven in its column order first.
pub static TASKS: &[Task] = &[
    arc::CHALLENGE,
    arc::EASY,
    hellaswag::TASK,
    lambada::TASK,
    piqa::TASK,
    sciq::TASK,
    winogrande::TASK,
    boolq::TASK,
    openbookqa::TASK,
    perplexity::WIKITEXT2,
    perplexity::C4,
    perplexity::C4_NEW,
    wikitext::TASK,
];

impl Task {
    /// The task of a name.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one.
    pub fn named(name: &str) -> Result<&'static Task> {
        TASKS.iter().find(|t| t.name == name).ok_or_else(|| {
            let near = TASKS.iter().map(|t| (distance(name, t.name), t.name)).min();
            let nearest = near
                .filter(|&(d, _)| d < name.len() && d <= 2.max(name.len() / 3))
                .map(|(_, n)| n);
            let known = TASKS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
            Error::UnknownTask {
                name: name.into(),
                nearest,
                known,
            }
        })
    }
}

/// The index of a document's answer key among `choices.label`.
fn labelled(doc: &Doc, key: &str) -> Result<usize> {
    let labels = doc.texts("choices.label")?;
    let choices = doc.texts("choices.text")?.len();
    let index = labels
        .iter()
        .position(|label| label == key)
        .filter(|&i| i < choices);
    index.ok_or_else(|| {
        doc.error(format!(
            "column \"answerKey\": {key:?} is none of the labels of {choices} choices {labels:?}"
        ))
    })
}

/// Levenshtein's distance, letter case ignored.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
