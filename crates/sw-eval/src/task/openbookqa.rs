//! OpenBookQA: elementary science, four answers.

use super::{Item, Kind, Task};
use crate::{
    data::{Dataset, Doc, Split},
    error::Result,
    metric::Metric,
};

pub(super) const TASK: Task = Task {
    name: "openbookqa",
    version: 1.0,
    dataset: Dataset::new("allenai/openbookqa", Some("main")),
    split: Split::Test,
    shots: Split::Train,
    metrics: Metric::CHOICE,
    kind: Kind::rows(item),
};

fn item(doc: &Doc) -> Result<Item> {
    let context = doc.text("question_stem")?.to_owned();
    let gold = super::labelled(doc, doc.text("answerKey")?.trim_start())?;
    Ok(Item::Choice {
        context,
        choices: doc.texts("choices.text")?,
        gold,
    })
}
