//! HellaSwag: how does a scene go on? Its texts carry marks of their sources, which are cleaned away first.

use serde_json::Value;

use super::{Item, Kind, Prepare, Task};
use crate::{
    data::{Dataset, Doc, Split},
    error::Result,
    metric::Metric,
    text::{capitalize, strip},
};

pub(super) const TASK: Task = Task {
    name: "hellaswag",
    version: 1.0,
    dataset: Dataset::new("Rowan/hellaswag", None),
    split: Split::Validation,
    shots: Split::Train,
    metrics: Metric::CHOICE,
    kind: Kind::Items {
        prepare: Prepare::Each(prepare),
        item,
    },
};

/// Adds the columns `query`, `choices` and `gold`, as the harness does.
fn prepare(mut doc: Doc) -> Result<Doc> {
    let scene = format!("{} {}", doc.text("ctx_a")?, capitalize(doc.text("ctx_b")?));
    let query = clean(&format!("{}: {scene}", doc.text("activity_label")?));
    let endings = doc.texts("endings")?;
    let choices: Vec<Value> = endings.iter().map(|e| clean(e).into()).collect();
    let gold = doc.integer("label")?;
    doc.gold("label", gold, choices.len())?;
    doc.fields.insert("query".into(), query.into());
    doc.fields.insert("choices".into(), choices.into());
    doc.fields.insert("gold".into(), gold.into());
    Ok(doc)
}

fn item(doc: &Doc) -> Result<Item> {
    let choices = doc.texts("choices")?;
    let gold = doc.gold("label", doc.integer("label")?, choices.len())?;
    Ok(Item::Choice {
        context: doc.text("query")?.to_owned(),
        choices,
        gold,
    })
}

/// In this order: strip; " [title]" becomes ". "; bracketed marks go; double spaces become one, in one pass.
pub(super) fn clean(text: &str) -> String {
    let text = strip(text).replace(" [title]", ". ");
    without_brackets(&text).replace("  ", " ")
}

/// Deletes every shortest `[...]` within a line.
fn without_brackets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        out.push_str(&rest[..open]);
        let inside = &rest[open + 1..];
        match inside.find([']', '\n']) {
            Some(end) if inside.as_bytes()[end] == b']' => rest = &inside[end + 1..],
            _ => {
                out.push('[');
                rest = inside;
            }
        }
    }
    out + rest
}
