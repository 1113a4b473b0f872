//! BoolQ, as SuperGLUE has it: yes-or-no questions about a passage.

use super::{Item, Kind, Task};
use crate::{
    data::{Dataset, Doc, Split},
    error::Result,
    metric::Metric,
};

pub(super) const TASK: Task = Task {
    name: "boolq",
    version: 2.0,
    dataset: Dataset::new("aps/super_glue", Some("boolq")),
    split: Split::Validation,
    shots: Split::Train,
    metrics: &[Metric::Acc],
    kind: Kind::rows(item),
};

fn item(doc: &Doc) -> Result<Item> {
    let context = format!(
        "{}\nQuestion: {}?\nAnswer:",
        doc.text("passage")?,
        doc.text("question")?
    );
    let choices = vec!["no".to_owned(), "yes".to_owned()];
    let gold = doc.gold("label", doc.integer("label")?, choices.len())?;
    Ok(Item::Choice {
        context,
        choices,
        gold,
    })
}
