//! Which variants of the model a proof runs, and how their log-likelihoods become effects.

use sw_model::Model;

use super::{
    Control, Effect, Effects,
    controls::{Chosen, Matched},
    variants::{Baseline, Change, Edit, Variant},
};
use crate::{report::Candidate, weight};

/// All variants of a proof, and for each candidate which of them are its own.
pub(super) struct ProofVariants {
    pub(super) variants: Vec<Variant>,
    candidates: Vec<Indices>,
    /// All candidates become zero.
    joint: usize,
    /// The first 1, 2, ... candidates become zero.
    in_order: Vec<usize>,
}

/// Indices into the variants.
struct Indices {
    zero: usize,
    mean: usize,
    flip: usize,
    row: usize,
    neuron: usize,
    leave_one_out: Option<usize>,
    random: Vec<usize>,
    largest: Option<usize>,
    same_row: Option<usize>,
    same_col: Option<usize>,
}

impl ProofVariants {
    pub(super) fn new(
        model: &Model,
        baseline: &Baseline<'_>,
        candidates: &[Candidate],
        controls: &[Matched],
    ) -> Self {
        let mut variants = Vec::new();
        let mut push = |variant: Variant| {
            variants.push(variant);
            variants.len() - 1
        };
        let several = candidates.len() > 1;
        let mut all = Vec::new();
        for (i, (c, matched)) in candidates.iter().zip(controls).enumerate() {
            let mut control = |chosen: &Chosen| {
                let at = |c: &Chosen| (c.row, c.col, -c.value);
                push(vec![becomes(c, at(chosen))])
            };
            let random = matched.random.iter().map(&mut control).collect();
            let [largest, same_row, same_col] =
                [&matched.largest, &matched.same_row, &matched.same_col]
                    .map(|m| m.as_ref().map(&mut control));
            let w = model
                .weight_at(c.at())
                .expect("its coordinate has been checked");
            let others = candidates
                .iter()
                .enumerate()
                .filter(|&(j, _)| j != i)
                .map(|(_, c)| zero(c));
            all.push(Indices {
                zero: push(vec![zero(c)]),
                mean: push(vec![edit(c, mean(baseline, c))]),
                flip: push(vec![becomes(c, (c.row, c.col, -2.0 * c.value))]),
                row: push(vec![edit(
                    c,
                    Change::Row {
                        row: c.row,
                        weights: weight::row(w, c.row),
                    },
                )]),
                neuron: push(vec![edit(
                    c,
                    Change::Neuron {
                        col: c.col,
                        weights: weight::column(w, c.col),
                    },
                )]),
                leave_one_out: several.then(|| push(others.collect())),
                random,
                largest,
                same_row,
                same_col,
            });
        }
        let in_order: Vec<_> = (1..=candidates.len())
            .map(|n| push(candidates[..n].iter().map(zero).collect()))
            .collect();
        let joint = in_order[candidates.len() - 1];
        Self {
            variants,
            candidates: all,
            joint,
            in_order,
        }
    }

    /// All candidates become zero. `nll`: of each variant.
    pub(super) fn joint(&self, unchanged: &[f64], nll: &[Vec<f64>]) -> Effect {
        Effect::between(unchanged, &nll[self.joint])
    }

    /// The effects of the i-th candidate.
    pub(super) fn effects(
        &self,
        i: usize,
        unchanged: &[f64],
        nll: &[Vec<f64>],
        matched: &Matched,
    ) -> Effects {
        let effect = |v: usize| Effect::between(unchanged, &nll[v]);
        let control = |(chosen, v): (&Chosen, usize)| Control {
            row: chosen.row,
            col: chosen.col,
            value: chosen.value,
            effect: effect(v),
        };
        let own = &self.candidates[i];
        let added = |before: usize, after: usize| Effect::between(&nll[before], &nll[after]);
        Effects {
            zero: effect(own.zero),
            mean: Some(effect(own.mean)),
            flip: Some(effect(own.flip)),
            row: Some(effect(own.row)),
            neuron: Some(effect(own.neuron)),
            leave_one_out: own.leave_one_out.map(effect),
            added_last: own.leave_one_out.map(|others| added(others, self.joint)),
            added_in_order: (i > 0).then(|| added(self.in_order[i - 1], self.in_order[i])),
            rank: matched.rank,
            random: matched
                .random
                .iter()
                .zip(own.random.iter().copied())
                .map(control)
                .collect(),
            largest: matched.largest.as_ref().zip(own.largest).map(control),
            same_row: matched.same_row.as_ref().zip(own.same_row).map(control),
            same_col: matched.same_col.as_ref().zip(own.same_col).map(control),
        }
    }
}

fn edit(candidate: &Candidate, change: Change) -> Edit {
    let at = candidate.at();
    Edit { at, change }
}

/// A weight of the candidate's matrix becomes larger by `delta`.
fn becomes(candidate: &Candidate, (row, col, delta): (usize, usize, f32)) -> Edit {
    edit(candidate, Change::Weight { row, col, delta })
}

fn zero(candidate: &Candidate) -> Edit {
    becomes(candidate, (candidate.row, candidate.col, -candidate.value))
}

/// Zero, but where the weight contributes most to each text, the mean of those contributions is put back.
fn mean(baseline: &Baseline<'_>, c: &Candidate) -> Change {
    let inputs = &baseline.inputs[&(c.at(), c.col)];
    let mut at = Vec::new();
    let mut first = 0;
    for text in baseline.texts {
        let largest = (first..first + text.len())
            .rev()
            .max_by(|&a, &b| inputs[a].abs().total_cmp(&inputs[b].abs()));
        at.extend(largest);
        first += text.len();
    }
    let value = at.iter().map(|&t| inputs[t] * c.value).sum::<f32>() / at.len() as f32;
    Change::Restore {
        row: c.row,
        col: c.col,
        delta: -c.value,
        at,
        value,
    }
}
