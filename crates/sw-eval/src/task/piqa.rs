//! PIQA: which of two ways reaches the goal?

use super::{Item, Kind, Task};
use crate::{
    data::{Dataset, Doc, Split},
    error::Result,
    metric::Metric,
};

pub(super) const TASK: Task = Task {
    name: "piqa",
    version: 1.0,
    dataset: Dataset::new("baber/piqa", None),
    split: Split::Validation,
    shots: Split::Train,
    metrics: Metric::CHOICE,
    kind: Kind::rows(item),
};

fn item(doc: &Doc) -> Result<Item> {
    let context = format!("Question: {}\nAnswer:", doc.text("goal")?);
    let choices = vec![doc.text("sol1")?.to_owned(), doc.text("sol2")?.to_owned()];
    let gold = doc.gold("label", doc.integer("label")?, choices.len())?;
    Ok(Item::Choice {
        context,
        choices,
        gold,
    })
}
