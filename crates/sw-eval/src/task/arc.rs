//! ARC, easy and challenge: grade-school science questions with three to five answers.

use super::{Item, Kind, Task};
use crate::{
    data::{Dataset, Doc, Split},
    error::Result,
    metric::Metric,
};

pub(super) const EASY: Task = Task {
    name: "arc_easy",
    version: 1.0,
    dataset: Dataset::new("allenai/ai2_arc", Some("ARC-Easy")),
    split: Split::Test,
    shots: Split::Train,
    metrics: Metric::CHOICE,
    kind: Kind::rows(item),
};

pub(super) const CHALLENGE: Task = Task {
    name: "arc_challenge",
    dataset: Dataset::new("allenai/ai2_arc", Some("ARC-Challenge")),
    ..EASY
};

fn item(doc: &Doc) -> Result<Item> {
    let context = format!("Question: {}\nAnswer:", doc.text("question")?);
    let gold = super::labelled(doc, doc.text("answerKey")?)?; // labels are A to E, or 1 to 5
    Ok(Item::Choice {
        context,
        choices: doc.texts("choices.text")?,
        gold,
    })
}
