//! LAMBADA, OpenAI's version: the last word of a passage.

use super::{Item, Kind, Task};
use crate::{
    data::{Dataset, Doc, Split},
    error::Result,
    metric::Metric,
};

pub(super) const TASK: Task = Task {
    name: "lambada_openai",
    version: 1.0,
    dataset: Dataset::new("EleutherAI/lambada_openai", Some("default")),
    split: Split::Test,
    shots: Split::Test, // it has no other
    metrics: &[Metric::Perplexity, Metric::Acc],
    kind: Kind::rows(item),
};

fn item(doc: &Doc) -> Result<Item> {
    let text = doc.text("text")?;
    let (context, word) = text.rsplit_once(' ').unwrap_or(("", text));
    Ok(Item::Completion {
        context: context.to_owned(),
        continuation: format!(" {word}"),
    })
}
