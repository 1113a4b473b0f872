//! How far the settings of Table 1 are from the model as it is, each difference with its interval.

use serde::Serialize;

use super::Setting;
use crate::{
    lab::{ACCURACIES, PERPLEXITIES},
    page::table::{Table, plain, signed},
    paired::{self, Paired, PairedPerplexity},
};

/// What a setting changes.
#[derive(Serialize)]
pub(super) struct Change {
    name: &'static str,
    #[serde(skip)]
    label: String,
    /// The change of the mean accuracy; nothing where fewer than two documents were answered.
    average: Option<Paired>,
    /// The change of each perplexity; nothing of a text with fewer than two windows.
    perplexities: Vec<PairedPerplexity>,
}

impl Change {
    /// The changes of all settings but the first against the first.
    pub(super) fn all<'s>(settings: impl Iterator<Item = &'s Setting>) -> Vec<Self> {
        let mut measured = settings.filter_map(|s| Some((s, s.results.as_ref()?)));
        let Some((_, original)) = measured.next() else {
            return Vec::new();
        };
        let change = |(setting, scores): (&Setting, _)| Self {
            name: setting.name,
            label: setting.label.clone(),
            average: paired::compare(original, scores, &ACCURACIES.map(|t| t.0)).ok(),
            perplexities: PERPLEXITIES
                .into_iter()
                .filter_map(|(text, _)| paired::perplexities(original, scores, text))
                .collect(),
        };
        measured.map(change).collect()
    }

    fn perplexity(&self, text: &str) -> Option<&PairedPerplexity> {
        self.perplexities.iter().find(|p| p.text == text)
    }
}

/// A change and the ends of its interval.
fn cells(change: Option<(f64, [f64; 2])>) -> [String; 3] {
    let [from, to] = [0, 1].map(|end| change.map(|c| c.1[end]));
    [change.map(|c| c.0), from, to].map(|value| signed(value, 2))
}

/// All changes with their intervals.
pub(super) fn table(changes: &[Change]) -> Table {
    let headings = ["AVG"].into_iter().chain(PERPLEXITIES.map(|t| t.1));
    let headings =
        headings.flat_map(|h| ["change", "from", "to"].map(|column| format!("{h}: {column}")));
    let mut table = Table::new(["Setting".to_owned()].into_iter().chain(headings));
    for change in changes {
        let points = |p: &Paired| (100.0 * p.difference, p.interval.map(|v| 100.0 * v));
        let average = cells(change.average.as_ref().map(points));
        let texts = PERPLEXITIES.map(|(text, _)| {
            let found = change.perplexity(text);
            cells(found.map(|p| (p.difference, p.interval)))
        });
        let row = [average].into_iter().chain(texts).flatten();
        table.push([change.label.clone()].into_iter().chain(row));
    }
    table
}

/// The interval of a setting's perplexity, in brackets, given that of the model as it is; nothing where there is none.
pub(super) fn perplexity_interval(changes: &[Change], name: &str, text: &str, base: f64) -> String {
    let change = changes.iter().find(|c| c.name == name);
    change
        .and_then(|c| c.perplexity(text))
        .map_or_else(String::new, |p| {
            let [from, to] = p.interval.map(|v| plain(base + v));
            format!(" ({from} to {to})")
        })
}

/// The interval of a setting's mean accuracy, in brackets, given that of the model as it is in percent; nothing where there is
/// none.
pub(super) fn average_interval(changes: &[Change], name: &str, base: f64) -> String {
    let change = changes.iter().find(|c| c.name == name);
    change
        .and_then(|c| c.average.as_ref())
        .map_or_else(String::new, |p| {
            let [from, to] = p.interval.map(|v| base + 100.0 * v);
            format!(" ({from:.2} to {to:.2})")
        })
}
