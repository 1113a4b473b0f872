//! SciQ: science exam questions after a supporting passage, which may be empty.

use super::{Item, Kind, Task};
use crate::{
    data::{Dataset, Doc, Split},
    error::Result,
    metric::Metric,
    text::is_space,
};

pub(super) const TASK: Task = Task {
    name: "sciq",
    version: 1.0,
    dataset: Dataset::new("allenai/sciq", None),
    split: Split::Test,
    shots: Split::Train,
    metrics: Metric::CHOICE,
    kind: Kind::rows(item),
};

fn item(doc: &Doc) -> Result<Item> {
    let support = doc.text("support")?.trim_start_matches(is_space);
    let context = format!("{support}\nQuestion: {}\nAnswer:", doc.text("question")?);
    let columns = [
        "distractor1",
        "distractor2",
        "distractor3",
        "correct_answer",
    ];
    let choices = columns
        .map(|c| Ok(doc.text(c)?.to_owned()))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    Ok(Item::Choice {
        context,
        choices,
        gold: 3,
    })
}
