//! How the effects of weights depend on each other.

use serde::{Deserialize, Serialize};
use sw_model::WeightCoord;

use super::stages::{Length, Second, Stages};
use crate::{
    error::Result,
    proof::{Effect, Outcome, ProofOptions},
};

/// Pairs that are zeroed, at most.
const PAIRS: usize = 16;
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
    /// What zeroing all of them adds, in nats per token, on the beginning of the first text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<f64>,
}

/// What is known of the finalists together, on the beginning of the first text; log-likelihoods are negative, token by token.
pub(super) struct Related {
    /// Each alone: log-likelihoods, and what that costs.
    nll: Vec<Vec<f64>>,
    alone: Vec<f64>,
    pairs: Vec<Pair>,
    /// All but one: log-likelihoods; empty where that was not run.
    without: Vec<Vec<f64>>,
    /// All but one, against none; `None` where what is left without it was seen to damage too much already.
    pub(super) leave_one_out: Vec<Option<Effect>>,
    /// All, against all but one.
    pub(super) added_last: Vec<Option<Effect>>,
    /// What all cost together.
    pub(super) joint: Effect,
    /// What a guess costs more than the unchanged model.
    guess: f64,
    /// `gone[i][j]`: whether what j reads goes when i is zero.
    gone: Vec<Vec<bool>>,
    least: f64,
}

/// Two finalists that were zeroed together.
struct Pair {
    of: [usize; 2],
    /// What that costs.
    both: f64,
    /// What the first adds to the second, and the second to the first.
    gains: [Effect; 2],
}

impl Pair {
    /// The other one's place in `of`.
    fn other(&self, i: usize) -> Option<usize> {
        self.of.iter().position(|&j| j == i).map(|place| 1 - place)
    }
}

/// What a weight adds when others are zero already.
pub(super) struct Claim<'a> {
    /// Which finalists.
    pub(super) others: Vec<usize>,
    /// Negative log-likelihoods when those are zero.
    pub(super) nll: &'a [f64],
    pub(super) gain: Effect,
}

/// Zeroes the finalists in pairs, all but one, and all. `alone`: what came of each alone.
pub(super) fn relate(
    stages: &mut Stages<'_>,
    finalists: &[WeightCoord],
    alone: &[&Second],
    options: &ProofOptions,
) -> Result<Related> {
    let n = finalists.len();
    let named = |set: &[usize]| set.iter().map(|&i| finalists[i]).collect::<Vec<_>>();
    let of = if n < 2 { Vec::new() } else { pairs(finalists) };
    let mut sets: Vec<_> = of.iter().map(|pair| named(pair)).collect();
    if n > 0 {
        sets.push(finalists.to_vec());
    }
    let mut outcomes = stages.run(&sets, Length::First, 2)?;
    let base = stages.base(Length::First).nll.clone();
    let cost = |nll: &[f64]| Effect::between(&base, nll);
    let guess = stages.guess() - base.iter().sum::<f64>() / base.len() as f64;
    let joint = outcomes.pop().map_or_else(|| base.clone(), |all| all.nll);
    let nll: Vec<Vec<f64>> = alone.iter().map(|o| o.nll[0].clone()).collect();
    let pair = |(&[i, j], both): (&[usize; 2], &Outcome)| Pair {
        of: [i, j],
        both: cost(&both.nll).nll,
        gains: [j, i].map(|other| Effect::between(&nll[other], &both.nll)),
    };
    let pairs: Vec<_> = of.iter().zip(&outcomes).map(pair).collect();
    let costs: Vec<_> = nll.iter().map(|nll| cost(nll).nll).collect();
    // All but one, where what is left is not known to leave too little to be damaged.
    let lost = |i: usize| {
        let one = (0..n).any(|j| j != i && costs[j] >= guess / 2.0);
        let two = pairs
            .iter()
            .any(|p| !p.of.contains(&i) && p.both >= guess / 2.0);
        one || two
    };
    let run: Vec<_> = (0..n).filter(|&i| n > 1 && !lost(i)).collect();
    let all_but = |&i: &usize| named(&(0..n).filter(|&j| j != i).collect::<Vec<_>>());
    let sets: Vec<_> = run.iter().map(all_but).collect();
    let mut without = vec![Vec::new(); n];
    for (&i, outcome) in run.iter().zip(stages.run(&sets, Length::First, 2)?) {
        without[i] = outcome.nll;
    }
    let there = |nll: &Vec<f64>| (!nll.is_empty()).then_some(());
    let inputs = stages.base(Length::Second).largest();
    let goes = |i: usize, j: usize| {
        let channel = (finalists[j].at(), finalists[j].col);
        let at = inputs.iter().position(|(c, _)| *c == channel);
        finalists[i].layer < finalists[j].layer
            && at.is_some_and(|k| alone[i].largest[k] < GONE * inputs[k].1)
    };
    Ok(Related {
        leave_one_out: without.iter().map(|w| there(w).map(|()| cost(w))).collect(),
        added_last: without
            .iter()
            .map(|w| there(w).map(|()| Effect::between(w, &joint)))
            .collect(),
        joint: cost(&joint),
        gone: (0..n)
            .map(|i| (0..n).map(|j| goes(i, j)).collect())
            .collect(),
        least: options.min_effect,
        alone: costs,
        pairs,
        without,
        guess,
        nll,
    })
}

/// Those of one row or column, those that write to one channel, and then those with the most costly ones.
fn pairs(finalists: &[WeightCoord]) -> Vec<[usize; 2]> {
    let n = finalists.len();
    let close = |a: &WeightCoord, b: &WeightCoord| {
        a.at() == b.at() && (a.row == b.row || a.col == b.col)
            || a.linear == b.linear && a.row == b.row
    };
    let all = || (0..n).flat_map(move |i| (i + 1..n).map(move |j| [i, j]));
    let is_close = |&[i, j]: &[usize; 2]| close(&finalists[i], &finalists[j]);
    let (mut pairs, far): (Vec<_>, Vec<_>) = all().partition(is_close);
    pairs.extend(far);
    pairs.truncate(PAIRS);
    pairs
}

impl Related {
    /// The kind of a pair, as seen from `i`. Of models that are ruined, the worse one says nothing.
    fn kind(&self, i: usize, j: usize, both: f64) -> Kind {
        let (a, b) = (self.alone[i], self.alone[j]);
        let depends =
            |i: usize, j: usize| self.gone[j][i] && both - self.alone[j] < 0.5 * self.alone[i];
        if both - a - b >= self.least.max(0.5 * (a.max(0.0) + b.max(0.0))) {
            Kind::RedundantWith
        } else if depends(i, j) {
            Kind::DependentOn
        } else if !depends(j, i) && a.max(b) < self.guess && both < a.max(b) - self.least {
            Kind::Cancels
        } else {
            Kind::Independent
        }
    }

    /// The relations of the i-th finalist, without those in which it is independent of the other; the costliest pairs first.
    pub(super) fn of(&self, i: usize, finalists: &[WeightCoord]) -> Vec<Relation> {
        let mut relations = Vec::new();
        for pair in &self.pairs {
            let Some(other) = pair.other(i).map(|place| pair.of[place]) else {
                continue;
            };
            let kind = self.kind(i, other, pair.both);
            if kind != Kind::Independent {
                relations.push(Relation {
                    kind,
                    with: vec![finalists[other]],
                    together: Some(pair.both),
                });
            }
        }
        let together = |r: &Relation| r.together.unwrap_or(f64::MIN);
        relations.sort_by(|a, b| together(b).total_cmp(&together(a)));
        if relations.is_empty() {
            relations.push(Relation {
                kind: Kind::Independent,
                with: Vec::new(),
                together: None,
            });
        }
        relations
    }

    /// What the i-th finalist adds to others that are zero already, where that may make it decisive jointly: to the partner
    /// with which it is redundant, or to all other finalists. Where those have cost half of what a guess costs, too little is
    /// left to be damaged.
    pub(super) fn claim(&self, i: usize, least: f64, share: f64) -> Option<Claim<'_>> {
        let in_pair = self.pairs.iter().filter_map(|pair| {
            let place = pair.other(i)?;
            let (other, gain) = (pair.of[place], pair.gains[1 - place]);
            let redundant = self.kind(i, other, pair.both) == Kind::RedundantWith;
            let claim = Claim {
                others: vec![other],
                nll: &self.nll[other],
                gain,
            };
            (redundant && self.alone[other] < self.guess / 2.0).then_some((claim, pair.both))
        });
        let others = self.leave_one_out[i].filter(|others| others.nll < self.guess / 2.0);
        let in_all = others.zip(self.added_last[i]).map(|(_, gain)| Claim {
            others: (0..self.alone.len()).filter(|&j| j != i).collect(),
            nll: &self.without[i],
            gain,
        });
        let enough = |(claim, together): &(Claim<'_>, f64)| {
            claim.gain.low > 0.0 && claim.gain.nll >= least.max(share * together)
        };
        in_pair
            .chain(in_all.map(|claim| (claim, self.joint.nll)))
            .filter(enough)
            .map(|(claim, _)| claim)
            .max_by(|a, b| a.gain.nll.total_cmp(&b.gain.nll))
    }

    /// Whether all together leave nothing better than a guess.
    pub(super) fn all_ruin(&self) -> bool {
        self.joint.nll >= self.guess
    }

    /// The most costly pair.
    pub(super) fn pair(&self) -> Option<[usize; 2]> {
        let costly = self.pairs.iter().max_by(|a, b| a.both.total_cmp(&b.both));
        costly.map(|pair| pair.of)
    }

    /// The most costly pair with one more, and with two more: those that cost most beside one of them.
    pub(super) fn growing(&self) -> Vec<Vec<usize>> {
        let Some(pair) = self.pair() else {
            return Vec::new();
        };
        let beside = |i: usize| {
            let with = |p: &&Pair| p.other(i).is_some_and(|place| pair.contains(&p.of[place]));
            let together = self.pairs.iter().filter(with).map(|p| p.both);
            together.fold(self.alone[i], f64::max)
        };
        let mut rest: Vec<usize> = (0..self.alone.len())
            .filter(|i| !pair.contains(i))
            .collect();
        rest.sort_by(|&a, &b| beside(b).total_cmp(&beside(a)));
        let most = rest.len().min(2);
        (1..=most)
            .map(|n| [&pair[..], &rest[..n]].concat())
            .collect()
    }
}
