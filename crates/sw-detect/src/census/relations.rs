//! How the effects of weights depend on each other.

use serde::{Deserialize, Serialize};
use sw_model::WeightCoord;

use super::{
    Stage,
    stages::{Length, Stages},
};
use crate::{
    error::Result,
    proof::{Effect, ProofOptions},
};

/// Pairs that are zeroed, at most.
const PAIRS: usize = 24;
/// An input has gone when its largest |value| falls below this share.
const GONE: f32 = 0.5;

/// How a weight's effect depends on another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Together they cost about the sum.
    #[serde(rename = "independent")]
    Independent,
    /// What it reads goes when the other is zero: then zeroing it too changes little.
    #[serde(rename = "dependent on")]
    DependentOn,
    /// Each makes up for the other: together they cost far more than the sum.
    #[serde(rename = "redundant with")]
    RedundantWith,
    /// It works against the other: together they cost less than the more costly one.
    #[serde(rename = "cancels")]
    Cancels,
    /// One of many weights that make one output of about equal parts.
    #[serde(rename = "part of row")]
    PartOfRow,
}

/// A relation of one weight to others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    /// Which one.
    pub kind: Kind,
    /// To which weights; none where it is independent.
    pub with: Vec<WeightCoord>,
    /// What zeroing all of them adds, in nats per token, on the short texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<f64>,
}

/// What is known of the finalists, on the short texts.
pub(super) struct Related {
    alone: Vec<f64>,
    /// All finalists.
    pub(super) joint: f64,
    pub(super) leave_one_out: Vec<Effect>,
    pub(super) added_last: Vec<Effect>,
    /// Pairs that were zeroed, and what that costs.
    pairs: Vec<(usize, usize, f64)>,
    /// `gone[i][j]`: whether what j reads goes when i is zero.
    gone: Vec<Vec<bool>>,
    least: f64,
    /// Sets that are worth the whole texts.
    pub(super) sets: Vec<Vec<usize>>,
}

/// Zeroes the finalists alone, in pairs, all but one, and all.
pub(super) fn relate(
    stages: &mut Stages<'_>,
    finalists: &[WeightCoord],
    options: &ProofOptions,
    progress: &mut dyn FnMut(Stage),
) -> Result<Related> {
    let n = finalists.len();
    let mut related = Related {
        alone: Vec::new(),
        joint: 0.0,
        leave_one_out: Vec::new(),
        added_last: Vec::new(),
        pairs: Vec::new(),
        gone: vec![vec![false; n]; n],
        least: options.min_effect,
        sets: Vec::new(),
    };
    if n < 2 {
        return Ok(related);
    }
    let pairs = pairs(finalists);
    let mut sets: Vec<Vec<usize>> = (0..n).map(|i| vec![i]).collect();
    sets.extend(pairs.iter().map(|&(i, j)| vec![i, j]));
    sets.push((0..n).collect());
    sets.extend((0..n).map(|i| (0..n).filter(|&j| j != i).collect::<Vec<_>>()));
    let of = |set: &Vec<usize>| set.iter().map(|&i| finalists[i]).collect();
    let coords: Vec<Vec<WeightCoord>> = sets.iter().map(of).collect();
    let (mut ran, total) = (0, coords.len());
    let (base, outcomes) = stages.run(&coords, Length::Short, &mut |k| {
        ran += k;
        progress(Stage {
            stage: 2,
            done: ran,
            of: total,
        });
    })?;
    let effect = |i: usize| Effect::between(&base.nll, &outcomes[i].nll);
    related.alone = (0..n).map(|i| effect(i).nll).collect();
    for (k, &(i, j)) in pairs.iter().enumerate() {
        related.pairs.push((i, j, effect(n + k).nll));
    }
    let all = n + pairs.len();
    related.joint = effect(all).nll;
    related.leave_one_out = (0..n).map(|i| effect(all + 1 + i)).collect();
    related.added_last = (0..n)
        .map(|i| Effect::between(&outcomes[all + 1 + i].nll, &outcomes[all].nll))
        .collect();
    for (i, gone) in related.gone.iter_mut().enumerate() {
        for (j, gone) in gone.iter_mut().enumerate() {
            let channel = (finalists[j].at(), finalists[j].col);
            let at = base.watched.iter().position(|w| *w == channel);
            *gone = finalists[i].layer < finalists[j].layer
                && at.is_some_and(|k| outcomes[i].largest[k] < GONE * base.largest[k]);
        }
    }
    related.sets = related.worth_the_whole_texts(n);
    Ok(related)
}

/// Those of one row, one column or one channel of the residual stream, and those with the most costly ones.
fn pairs(finalists: &[WeightCoord]) -> Vec<(usize, usize)> {
    let n = finalists.len();
    let close = |a: &WeightCoord, b: &WeightCoord| {
        a.at() == b.at() && (a.row == b.row || a.col == b.col)
            || a.linear == b.linear && a.row == b.row
    };
    let all = || (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)));
    let mut pairs: Vec<_> = all()
        .filter(|&(i, j)| close(&finalists[i], &finalists[j]))
        .collect();
    for pair in all() {
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    pairs.truncate(PAIRS);
    pairs
}

impl Related {
    /// The kind of a pair, as seen from `i`.
    fn kind(&self, i: usize, j: usize, both: f64) -> Kind {
        let (a, b) = (self.alone[i], self.alone[j]);
        if both - a - b >= self.least.max(0.5 * (a.max(0.0) + b.max(0.0))) {
            Kind::RedundantWith
        } else if both < a.max(b) - self.least {
            Kind::Cancels
        } else if self.gone[j][i] && both - b < 0.5 * a {
            Kind::DependentOn
        } else {
            Kind::Independent
        }
    }

    /// The relations of the i-th finalist, without those in which it is independent of the other.
    pub(super) fn of(&self, i: usize, finalists: &[WeightCoord]) -> Vec<Relation> {
        let mut relations = Vec::new();
        for &(a, b, both) in self.pairs.iter().filter(|p| p.0 == i || p.1 == i) {
            let other = if a == i { b } else { a };
            let kind = self.kind(i, other, both);
            if kind != Kind::Independent {
                relations.push(Relation {
                    kind,
                    with: vec![finalists[other]],
                    together: Some(both),
                });
            }
        }
        if relations.is_empty() {
            relations.push(Relation {
                kind: Kind::Independent,
                with: Vec::new(),
                together: None,
            });
        }
        relations
    }

    /// Whether the i-th finalist makes a pair that costs far more than the other alone.
    pub(super) fn completes(&self, i: usize, least: f64, share: f64) -> bool {
        self.pairs.iter().any(|&(a, b, both)| {
            let other = if a == i { b } else { a };
            (a == i || b == i)
                && self.kind(i, other, both) == Kind::RedundantWith
                && both - self.alone[other] >= least.max(share * both)
        })
    }

    /// The most costly pairs, and sets that grow from the first of them.
    fn worth_the_whole_texts(&self, n: usize) -> Vec<Vec<usize>> {
        let mut pairs = self.pairs.clone();
        pairs.sort_by(|a, b| b.2.total_cmp(&a.2));
        let mut sets: Vec<Vec<usize>> = pairs.iter().take(3).map(|p| vec![p.0, p.1]).collect();
        let Some(mut grown) = sets.first().cloned() else {
            return sets;
        };
        let mut rest: Vec<usize> = (0..n).filter(|i| !grown.contains(i)).collect();
        let together = |i: usize, with: &[usize]| {
            let pair = |p: &&(usize, usize, f64)| {
                p.0 == i && with.contains(&p.1) || p.1 == i && with.contains(&p.0)
            };
            self.pairs
                .iter()
                .filter(pair)
                .map(|p| p.2)
                .fold(self.alone[i], f64::max)
        };
        rest.sort_by(|&a, &b| together(b, &grown).total_cmp(&together(a, &grown)));
        for i in rest.into_iter().take(2) {
            grown.push(i);
            sets.push(grown.clone());
        }
        sets
    }
}
