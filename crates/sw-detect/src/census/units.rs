//! Rows as units: outputs that many weights make together.

use sw_model::{Model, WeightCoord};

use super::{
    CensusOptions, Kind, Relation, describe,
    stages::{Length, Stages},
};
use crate::{
    error::Result,
    proof::{Effect, Effects, Outcome},
    report::{Candidate, Report, Verdict},
};

/// Adds to what was found the members of rows that are decisive as a whole, where no finalist has said so already; all on the
/// beginning of the first text.
///
/// A row counts as a weight does: zeroing its members costs enough, and more than zeroing as many weights in the same columns
/// of other rows of the matrix.
pub(super) fn members(
    model: &Model,
    report: &Report,
    units: &[&[WeightCoord]],
    found: &mut Vec<Candidate>,
    stages: &mut Stages<'_>,
    options: &CensusOptions,
) -> Result<()> {
    let o = &options.proof;
    for &unit in units {
        let decided =
            |c: &Candidate| c.verdict != Some(Verdict::Inert) && unit.contains(&c.coord());
        let Some(rows) = unit.first().and_then(|c| model.weight_at(c.at())) else {
            continue;
        };
        if found.iter().any(decided) {
            continue;
        }
        let mut sets = vec![unit.to_vec()];
        let rows = rows.rows();
        sets.extend((1..=options.controls).map(|k| {
            let moved = k * rows / (options.controls + 1);
            let elsewhere = |&c: &WeightCoord| WeightCoord {
                row: (c.row + moved) % rows,
                ..c
            };
            unit.iter().map(elsewhere).collect()
        }));
        sets.extend(unit.iter().map(|&c| vec![c]));
        let outcomes = stages.run(&sets, Length::First, 3)?;
        let base = &stages.base(Length::First).nll;
        let effect = |o: &Outcome| Effect::between(base, &o.nll);
        let mut effects = outcomes.iter().map(effect);
        let Some(together) = effects.next() else {
            continue;
        };
        let controls = effects.by_ref().take(options.controls);
        let noise = controls.map(|e| e.nll.abs()).fold(0.0, f64::max);
        let least = o.min_effect.max(o.control_factor * noise);
        if !together.costs() || together.nll < least {
            continue;
        }
        for (&coord, zero) in unit.iter().zip(effects) {
            let relation = Relation {
                kind: Kind::PartOfRow,
                with: unit.iter().copied().filter(|&c| c != coord).collect(),
                together: Some(together.nll),
            };
            let mut candidate = match found.iter().position(|c| c.coord() == coord) {
                Some(inert) => found.swap_remove(inert),
                None => Candidate {
                    effects: Some(Effects::alone(zero)),
                    ..describe(model, report, coord)?
                },
            };
            candidate.relations.push(relation);
            candidate.relations.retain(|r| r.kind != Kind::Independent);
            candidate.verdict = Some(Verdict::DecisiveJointly);
            found.push(candidate);
        }
    }
    Ok(())
}
