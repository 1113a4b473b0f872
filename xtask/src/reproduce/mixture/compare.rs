//! Two models on the same held-out sequences, and what was expected.

use nano::world::Dice;
use serde::Serialize;
use sw_eval::paired_bootstrap;

use super::{bench::mean, run::Trained};
use crate::page::table::{Table, fixed, signed};

/// Draws of the bootstrap.
const RESAMPLES: usize = 2000;

/// What stands under a table of differences.
pub(super) const PAIRED: &str = "Nats per token of the first less those of the second, on the same held-out sequences under the same seeds, and the same for the part of facts recalled at the end. From and to: the 95 % interval of a paired bootstrap that draws seeds, and of each its sequences or facts; with so few seeds it is rather too narrow. Seeds: in how many of them the difference at the end has the sign of the mean.";

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
    /// In how many seeds the loss at the end differs as its mean does, and of how many.
    seeds: [usize; 2],
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
    let losses = |share: f64| -> Vec<Vec<f64>> {
        let of = |(a, b): &(&Found, &Found)| {
            let both = a.trained.at(share).iter().zip(b.trained.at(share));
            both.map(|(a, b)| a - b).collect()
        };
        pairs.iter().map(of).collect()
    };
    let right = |b: &bool| f64::from(u8::from(*b));
    let recall = pairs.iter().map(|(a, b)| {
        let both = a.trained.recall.iter().zip(&b.trained.recall);
        both.map(|(a, b)| right(a) - right(b)).collect()
    });
    let ends: Vec<f64> = losses(1.0).iter().map(|seed| mean(seed)).collect();
    let alike = ends.iter().filter(|end| **end * mean(&ends) > 0.0);
    Some(Difference {
        about,
        first,
        second,
        loss: SHARES.map(|share| interval(&losses(share))),
        recall: interval(&recall.collect::<Vec<_>>()),
        seeds: [alike.count(), ends.len()],
    })
}

/// The mean of the differences of each seed, and its 95 % interval: seeds are drawn, and of each its sequences.
fn interval(seeds: &[Vec<f64>]) -> Option<(f64, [f64; 2])> {
    if let [one] = seeds {
        let found = paired_bootstrap(one, RESAMPLES, 0)?;
        return Some((found.difference, found.interval));
    }
    if seeds.iter().any(Vec::is_empty) {
        return None;
    }
    let mut dice = Dice::new(0, 0);
    let mut draw = || {
        let of = |_: &Vec<f64>| {
            let seed = &seeds[dice.below(seeds.len())];
            let sum: f64 = seed.iter().map(|_| seed[dice.below(seed.len())]).sum();
            sum / seed.len() as f64
        };
        mean(&seeds.iter().map(of).collect::<Vec<_>>())
    };
    let mut drawn: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn[(share * (RESAMPLES - 1) as f64).round() as usize];
    let means: Vec<f64> = seeds.iter().map(|seed| mean(seed)).collect();
    Some((mean(&means), [at(0.025), at(0.975)]))
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
        "seeds",
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
        let seeds = format!("{} of {}", d.seeds[0], d.seeds[1]);
        table.push(row.chain(loss).chain(cells(d.recall)).chain([seeds]));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_that_disagree_make_the_interval_wide() {
        let of = |mean: f64| vec![mean - 0.01, mean, mean + 0.01];
        let (difference, [from, to]) = interval(&[of(-0.3), of(-0.2), of(-0.25)]).unwrap();
        assert!((difference + 0.25).abs() < 1e-9 && -0.31 <= from && to < -0.19);
        let (_, [from, to]) = interval(&[of(-0.3), of(0.2), of(-0.25)]).unwrap();
        assert!(from < -0.2 && to > 0.1);
        let (_, [from, to]) = interval(&[of(-0.3)]).unwrap();
        assert!(from >= -0.31 && to <= -0.29);
    }
}
