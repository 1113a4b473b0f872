//! Two models on the same held-out sequences, and what was expected.

use serde::Serialize;
use sw_eval::paired_bootstrap;

use super::run::Trained;
use crate::page::table::{Table, fixed, signed};

/// Draws of the bootstrap.
const RESAMPLES: usize = 2000;

/// A model's training under one seed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Found {
    pub(super) row: &'static str,
    pub(super) seed: u64,
    pub(super) weights: usize,
    pub(super) active: usize,
    #[serde(flatten)]
    pub(super) trained: Trained,
}

/// First less second, on the sequences of all seeds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Difference {
    pub(super) about: &'static str,
    first: &'static str,
    second: &'static str,
    /// Nats per token at a quarter, half and the end, each with its 95 % interval.
    pub(super) loss: [Option<(f64, [f64; 2])>; 3],
    /// Share of facts recalled at the end.
    recall: Option<(f64, [f64; 2])>,
}

/// The parts of a training at which it is compared.
pub(super) const SHARES: [f64; 3] = [0.25, 0.5, 1.0];

pub(super) fn of<'f>(found: &'f [Found], row: &str) -> Vec<&'f Found> {
    found.iter().filter(|f| f.row == row).collect()
}

/// The mean over seeds of a number.
pub(super) fn mean_of(found: &[&Found], number: impl Fn(&Found) -> Option<f64>) -> Option<f64> {
    let all: Vec<f64> = found.iter().filter_map(|f| number(f)).collect();
    (!all.is_empty()).then(|| super::bench::mean(&all))
}

/// The mean loss of a model at a part of its training.
pub(super) fn loss(found: &[Found], row: &str, share: f64) -> Option<f64> {
    mean_of(&of(found, row), |f| {
        Some(super::bench::mean(f.trained.at(share)))
    })
}

pub(super) fn difference(
    found: &[Found],
    (about, first, second): (&'static str, &'static str, &'static str),
) -> Option<Difference> {
    let seconds = of(found, second);
    let pairs: Vec<(&Found, &Found)> = of(found, first)
        .into_iter()
        .filter_map(|a| Some((a, *seconds.iter().find(|b| b.seed == a.seed)?)))
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let interval = |differences: Vec<f64>| {
        let found = paired_bootstrap(&differences, RESAMPLES, 0)?;
        Some((found.difference, found.interval))
    };
    let at = |share: f64| {
        let each = pairs.iter().flat_map(|(a, b)| {
            let both = a.trained.at(share).iter().zip(b.trained.at(share));
            both.map(|(a, b)| a - b)
        });
        interval(each.collect())
    };
    let right = |b: &bool| f64::from(u8::from(*b));
    let recall = pairs.iter().flat_map(|(a, b)| {
        let both = a.trained.recall.iter().zip(&b.trained.recall);
        both.map(|(a, b)| right(a) - right(b))
    });
    Some(Difference {
        about,
        first,
        second,
        loss: SHARES.map(at),
        recall: interval(recall.collect()),
    })
}

pub(super) fn paired(differences: &[Difference]) -> Table {
    let mut table = Table::new([
        "Compared",
        "loss, 25 %",
        "from",
        "to",
        "50 %",
        "from ",
        "to ",
        "end",
        "from  ",
        "to  ",
        "recall",
        "from   ",
        "to   ",
    ]);
    for d in differences {
        let cells = |of: Option<(f64, [f64; 2])>| {
            let cell = |v: Option<f64>| signed(v, 4);
            [
                cell(of.map(|d| d.0)),
                cell(of.map(|d| d.1[0])),
                cell(of.map(|d| d.1[1])),
            ]
        };
        let row = [d.about.to_owned()].into_iter();
        let loss = d.loss.into_iter().flat_map(cells);
        table.push(row.chain(loss).chain(cells(d.recall)));
    }
    table
}

/// One expectation.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Expected {
    pub(super) what: &'static str,
    pub(super) bound: &'static str,
    pub(super) measured: f64,
    pub(super) holds: bool,
}

pub(super) fn expected(all: &[Expected]) -> Table {
    let mut table = Table::new(["Expected", "Bound", "Measured", "Holds"]);
    for e in all {
        let holds = if e.holds { "yes" } else { "NO" };
        table.push([e.what, e.bound, &signed(Some(e.measured), 4), holds]);
    }
    table
}

/// The columns that every row of models has.
pub(super) const COLUMNS: [&str; 9] = [
    "weights",
    "active",
    "KB",
    "loss, 25 %",
    "50 %",
    "end",
    "recall",
    "largest load",
    "dropped",
];

/// What stands under such a table.
pub(super) const CAPTION: &str = "Means over seeds. Weights: all, and those that work on one token (embeddings left out); KB: the weights in 32 bits. Loss: nats per token of held-out text after a quarter, half and all of the steps. Recall: part of the facts whose last word is the most probable one. Largest load: of a layer's choices, the largest part that one expert had, over all steps; dropped: part of the choices that found an expert full, in training (inference drops nothing).";

pub(super) fn cells(found: &[Found], row: &str) -> Option<Vec<String>> {
    let all = of(found, row);
    let first = all.first()?;
    let number = |f: fn(&Found) -> Option<f64>, decimals| fixed(mean_of(&all, f), decimals);
    let mut cells = vec![
        first.weights.to_string(),
        first.active.to_string(),
        (first.weights * 4 / 1024).to_string(),
    ];
    cells.extend(SHARES.map(|share| fixed(loss(found, row, share), 4)));
    cells.push(number(|f| Some(super::bench::share(&f.trained.recall)), 3));
    cells.push(number(|f| f.trained.largest_load(), 3));
    cells.push(number(|f| f.trained.dropped(), 3));
    Some(cells)
}
