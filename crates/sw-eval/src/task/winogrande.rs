//! WinoGrande: which of two names fills the gap? Scored on what follows the gap, after either beginning.

use super::{Item, Kind, Task};
use crate::{
    data::{Dataset, Doc, Split},
    error::Result,
    metric::Metric,
    text::strip,
};

pub(super) const TASK: Task = Task {
    name: "winogrande",
    version: 1.0,
    dataset: Dataset::new("allenai/winogrande", Some("winogrande_xl")),
    split: Split::Validation,
    shots: Split::Train,
    metrics: &[Metric::Acc],
    kind: Kind::rows(item),
};

fn item(doc: &Doc) -> Result<Item> {
    let sentence = doc.text("sentence")?;
    let (before, after) = sentence
        .split_once('_')
        .ok_or_else(|| doc.error("column \"sentence\": no gap, which is written _"))?;
    let contexts: Vec<String> = ["option1", "option2"]
        .map(|o| Ok(format!("{before}{}", doc.text(o)?)))
        .into_iter()
        .collect::<Result<_>>()?;
    let gold = doc.gold("answer", doc.integer("answer")? - 1, contexts.len())?;
    Ok(Item::Cloze {
        contexts,
        continuation: strip(after).to_owned(),
        gold,
    })
}
