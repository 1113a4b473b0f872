//! Which weights are worth holding in a quantized model: those whose rounding costs most.

use std::collections::BTreeSet;

use serde::Serialize;
use sw_model::{Model, WeightCoord};

use crate::{
    calibrate::{jobs, quantized, split},
    compare::{Moments, Texts},
    error::{Error, Result},
    export::{Export, Format, Plan},
    intervention::quantize::in_own_type,
};

/// Bits that the place of a held weight takes: row and column, 64 bits each.
const PLACE_BITS: f64 = 128.0;

/// A weight that is worth holding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Bought {
    /// Its place.
    #[serde(flatten)]
    pub coord: WeightCoord,
    /// What its rounding costs: `m * (w - w^)^2`, with `m` the mean square of the input that it multiplies, as a share of the energy
    /// of what its matrix puts out.
    pub cost: f64,
}

/// What a budget for held weights bought.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct HeldMore {
    /// The export with all that is held now.
    #[serde(skip)]
    pub export: Export,
    /// The weights that were added, the most costly first; none where they did not pay.
    pub added: Vec<Bought>,
    /// How many weights the budget pays for.
    pub affordable: usize,
    /// Bits per quantized weight that the added ones take.
    pub bits_per_weight: f64,
    /// Mean KL divergence from the original on windows that the choice did not see, in nats: with what the export held, and
    /// with the weights that were proposed.
    pub kl_before: f64,
    /// See `kl_before`.
    pub kl_after: f64,
}

/// Adds to what an export holds the weights whose rounding costs most, as many as `budget` bits per quantized weight pay for
/// (each takes its value and 128 bits for its place, as packed-sw stores it).
///
/// A weight's cost is the error that its rounding makes in what its matrix puts out, inputs taken as uncorrelated, with their
/// second moments on two thirds of the windows, relative to the energy of that output. What is proposed stays where the
/// quantized model wins on the other windows: KL(original || quantized) is lower beyond the 95 % interval of the windows'
/// differences, and perplexity is no higher. A quantized model is held in memory.
///
/// # Errors
/// A budget that is not above 0 and finite, the format `packed` (which leaves a matrix with a held weight as it is), fewer than two
/// windows, an export that does not fit the model, a model that cannot be run.
pub fn hold_more(
    model: &Model,
    export: &Export,
    windows: &[Vec<u32>],
    budget: f64,
) -> Result<HeldMore> {
    if !(budget > 0.0 && budget.is_finite()) {
        let problem = format!("a budget of {budget} bits per weight: expected a number above 0");
        return Err(Error::Options(problem));
    }
    if export.format == Format::Packed {
        let problem = "a budget for held weights: the format packed leaves a matrix with a held weight as it is; use packed-sw or fake";
        return Err(Error::Options(problem.into()));
    }
    let [chosen_on, judges] = split(windows)?;
    let plan = Plan::new(model, export)?;
    let mut moments = Moments::new(model);
    Texts::new(model, &chosen_on, &mut moments)?;
    let (weights, affordable, bits) = affordable(model, &plan, budget);
    let added = costly(model, &plan, &moments, affordable)?;
    let mut more = export.clone();
    more.hold.extend(added.iter().map(|b| b.coord));
    let judges = Texts::new(model, &judges, &mut ())?;
    let before = judges.compare(&quantized(model, &plan)?)?;
    let after = judges.compare(&quantized(model, &Plan::new(model, &more)?)?)?;
    let pays = after.wins(&before);
    let added = if pays { added } else { Vec::new() };
    Ok(HeldMore {
        export: if pays { more } else { export.clone() },
        bits_per_weight: added.len() as f64 * bits / (weights as f64).max(1.0),
        added,
        affordable,
        kl_before: before.kl,
        kl_after: after.kl,
    })
}

/// The weights whose rounding costs most, `count` at most, the most costly first.
fn costly(model: &Model, plan: &Plan, moments: &Moments, count: usize) -> Result<Vec<Bought>> {
    let mut found: Vec<Bought> = Vec::new();
    for (at, _, job) in jobs(model, plan) {
        let (Some(w), Some(importance)) = (model.weight_at(at), moments.read_by(at)) else {
            continue;
        };
        let rounded = in_own_type(w, |values, _| {
            job.fake_values(values, &job.rule.scheme).map(drop)
        });
        let rounded = rounded.map_err(|e| Error::Options(format!("{at}: {e}")))?;
        let [rows, cols] = job.shape;
        let mut row = [vec![0.0; cols], vec![0.0; cols]];
        let (mut energy, mut costs) = (f64::MIN_POSITIVE, Vec::with_capacity(rows * cols));
        for r in 0..rows {
            w.row_into(r, &mut row[0]);
            rounded.row_into(r, &mut row[1]);
            for ((&a, &b), &m) in row[0].iter().zip(&row[1]).zip(&importance) {
                energy += f64::from(m) * f64::from(a).powi(2);
                costs.push(m * (a - b).powi(2));
            }
        }
        let mut places: Vec<usize> = (0..costs.len()).filter(|&p| costs[p] > 0.0).collect();
        if count < places.len() {
            places.select_nth_unstable_by(count, |&a, &b| costs[b].total_cmp(&costs[a]));
            places.truncate(count);
        }
        let coord = |place: usize| WeightCoord {
            layer: at.layer,
            linear: at.linear,
            expert: at.expert,
            row: place / cols,
            col: place % cols,
        };
        found.extend(places.into_iter().map(|place| Bought {
            coord: coord(place),
            cost: f64::from(costs[place]) / energy,
        }));
        // Of equal ones, the first in the model.
        found.sort_by(|a, b| b.cost.total_cmp(&a.cost).then(a.coord.cmp(&b.coord)));
        found.truncate(count);
    }
    Ok(found)
}

/// How many weights are quantized, how many held ones the budget pays for, and the bits of one.
fn affordable(model: &Model, plan: &Plan, budget: f64) -> (usize, usize, f64) {
    let sizes: Vec<_> = jobs(model, plan)
        .map(|(at, _, job)| (job.shape[0] * job.shape[1], at))
        .collect();
    let weights: usize = sizes.iter().map(|(n, _)| n).sum();
    let dtypes: BTreeSet<usize> = sizes
        .iter()
        .filter_map(|(_, at)| Some(model.weight_at(*at)?.dtype().size()))
        .collect();
    let bits = PLACE_BITS + 8.0 * dtypes.last().copied().unwrap_or(4) as f64;
    (weights, (budget * weights as f64 / bits) as usize, bits)
}
