//! The proof: what candidates do to the log-likelihood of a text, beside matched controls.

mod all_variants;
mod controls;
mod effect;
mod variants;

use serde::{Deserialize, Serialize};
use sw_model::{Model, Precision, Site, WeightCoord};

use self::all_variants::ProofVariants;
pub use self::{controls::Control, effect::Effect};
pub(crate) use self::{
    controls::{Chosen, Matched, choose},
    variants::{Baseline, Channel, Edit, Outcome, Variant},
};
use crate::{
    error::{Error, Result},
    prompt::at_least,
    report::{Candidate, Report, Verdict},
};

/// How to prove; the thresholds of the verdicts are explained in `docs/detection.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProofOptions {
    /// Damage is at least this much, in nats per token.
    pub min_effect: f64,
    /// And at least so many times the largest effect of a random control.
    pub control_factor: f64,
    /// A part in joint damage is at least this share of it.
    pub joint_share: f64,
    /// Random controls per candidate.
    pub random_controls: usize,
    /// Chooses the random controls.
    pub seed: u64,
    /// Tokens of one batch of variants, at most (one variant is always run).
    pub max_rows: usize,
}

impl Default for ProofOptions {
    fn default() -> Self {
        Self {
            min_effect: 0.1,
            control_factor: 5.0,
            joint_share: 0.1,
            random_controls: 3,
            seed: 0,
            max_rows: 2048,
        }
    }
}

/// What the proof measured for one candidate; every effect is in nats per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effects {
    /// The weight becomes zero.
    pub zero: Effect,
    /// The weight becomes zero, and at each text's largest contribution the mean of those contributions is put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Effect>,
    /// The weight changes its sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip: Option<Effect>,
    /// Its whole row becomes zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<Effect>,
    /// Its whole column becomes zero: the input neuron is cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neuron: Option<Effect>,
    /// All candidates but this one become zero (with more than one candidate).
    pub leave_one_out: Option<Effect>,
    /// What zeroing this one adds when all others are zero already.
    pub added_last: Option<Effect>,
    /// What zeroing this one adds when those accepted before it are zero already.
    pub added_in_order: Option<Effect>,
    /// The weight's rank by magnitude in its matrix, from 1.
    pub rank: usize,
    /// Random weights of the same matrix and the same magnitude.
    pub random: Vec<Control>,
    /// The largest other weight of the matrix.
    pub largest: Option<Control>,
    /// The largest other weight of the row.
    pub same_row: Option<Control>,
    /// The largest other weight of the column.
    pub same_col: Option<Control>,
}

impl Effects {
    /// The effects of a weight that was zeroed alone; there are no controls.
    pub(crate) fn alone(zero: Effect) -> Self {
        Self {
            zero,
            mean: None,
            flip: None,
            row: None,
            neuron: None,
            leave_one_out: None,
            added_last: None,
            added_in_order: None,
            rank: 0,
            random: Vec::new(),
            largest: None,
            same_row: None,
            same_col: None,
        }
    }
}

/// What the proof measured for the candidates together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Negative log-likelihood of the unchanged model, in nats per token.
    pub nll: f64,
    /// Tokens that were scored.
    pub scored: usize,
    /// All candidates become zero.
    pub joint: Effect,
    /// The thresholds that were applied.
    pub options: ProofOptions,
}

/// Proves a report's super weights (or else its weak candidate) on texts; fills in `effects`, `verdict` and `proof`.
///
/// Every variant of the model rides as extra sequences of one batch, resumed at its first edited layer. Effects are measured in
/// float32, whatever the model's precision.
///
/// # Errors
/// Texts in which nothing is scored (fewer than two tokens), coordinates that the model does not have, and whatever
/// stops a forward pass.
pub fn prove(
    model: &Model,
    report: &mut Report,
    texts: &[Vec<u32>],
    options: &ProofOptions,
) -> Result<()> {
    report.proof = if report.super_weights.is_empty() {
        prove_candidates(model, report.weak_candidate.as_mut_slice(), texts, options)?
    } else {
        prove_candidates(model, &mut report.super_weights, texts, options)?
    };
    Ok(())
}

/// [`prove`] for candidates that come without a report; `None` when there are none.
///
/// # Errors
/// See [`prove`].
pub fn prove_candidates(
    model: &Model,
    candidates: &mut [Candidate],
    texts: &[Vec<u32>],
    options: &ProofOptions,
) -> Result<Option<Proof>> {
    let model = &model.with_precision(Precision::Float32);
    for text in texts {
        at_least(2, text, || format!("{text:?}"))?;
    }
    at_least(2, &texts.concat(), || "the texts of the proof".into())?;
    if candidates.is_empty() {
        return Ok(None);
    }
    for c in candidates.iter() {
        seen(model, c.coord())?;
    }
    let baseline = Baseline::run(model, texts, candidates.iter().map(|c| (c.at(), c.col)), [])?;
    let controls: Vec<_> = candidates
        .iter()
        .map(|c| controls_of(model, c, candidates, options))
        .collect();
    let plan = ProofVariants::new(model, &baseline, candidates, &controls);
    let unchanged = &baseline.nll;
    let nll = baseline.nll_of(&plan.variants, options.max_rows)?;
    let proof = Proof {
        nll: unchanged.iter().sum::<f64>() / unchanged.len() as f64,
        scored: unchanged.len(),
        joint: plan.joint(unchanged, &nll),
        options: options.clone(),
    };
    for (i, (candidate, controls)) in candidates.iter_mut().zip(&controls).enumerate() {
        let effects = plan.effects(i, unchanged, &nll, controls);
        candidate.verdict = Some(verdict(&effects, &proof));
        candidate.effects = Some(effects);
    }
    Ok(Some(proof))
}

/// Whether the model has such a weight, and its map's input and output are seen.
pub(crate) fn seen(model: &Model, coord: WeightCoord) -> Result<f32> {
    let value = model.value(coord)?;
    match Site::input_of(coord.at()) {
        Some(_) => Ok(value),
        None => Err(Error::Unmeasured {
            coord: coord.to_string(),
        }),
    }
}

/// The controls of one candidate: weights of its matrix that are no candidates themselves.
fn controls_of(model: &Model, c: &Candidate, all: &[Candidate], options: &ProofOptions) -> Matched {
    let w = model
        .weight_at(c.at())
        .expect("its coordinate has been checked");
    let here = all.iter().filter(|other| other.at() == c.at());
    let excluded: Vec<_> = here.map(|c| (c.row, c.col)).collect();
    choose(
        w,
        (c.row, c.col),
        &excluded,
        options.random_controls,
        options.seed,
    )
}

/// Alone, else jointly, else inert.
fn verdict(effects: &Effects, proof: &Proof) -> Verdict {
    let options = &proof.options;
    let noise = effects
        .random
        .iter()
        .map(|c| c.effect.nll.abs())
        .fold(0.0, f64::max);
    let least = options.min_effect.max(options.control_factor * noise);
    let damages = |effect: &Effect, least: f64| effect.nll >= least && effect.low > 0.0;
    let part = least.max(options.joint_share * proof.joint.nll);
    let added = [&effects.added_last, &effects.added_in_order];
    if damages(&effects.zero, least) {
        Verdict::Decisive
    } else if damages(&proof.joint, least) && added.into_iter().flatten().any(|e| damages(e, part))
    {
        Verdict::DecisiveJointly
    } else {
        Verdict::Inert
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An effect with an interval of +- 0.05.
    fn effect(nll: f64) -> Effect {
        Effect {
            nll,
            low: nll - 0.05,
            high: nll + 0.05,
            tokens: 100,
        }
    }

    /// The verdict from: zeroed alone, all zeroed, added last, added in order, the largest random control.
    fn of(zero: f64, joint: f64, last: f64, in_order: f64, noise: f64) -> Verdict {
        let control = |nll| Control {
            row: 0,
            col: 0,
            value: 1.0,
            effect: effect(nll),
        };
        let effects = Effects {
            zero: effect(zero),
            mean: None,
            flip: None,
            row: None,
            neuron: None,
            leave_one_out: Some(effect(joint - last)),
            added_last: Some(effect(last)),
            added_in_order: Some(effect(in_order)),
            rank: 1,
            random: vec![control(0.0), control(-noise)],
            largest: None,
            same_row: None,
            same_col: None,
        };
        let proof = Proof {
            nll: 3.0,
            scored: 100,
            joint: effect(joint),
            options: ProofOptions::default(),
        };
        verdict(&effects, &proof)
    }

    #[test]
    fn alone_else_jointly_else_inert() {
        assert_eq!(of(0.2, 0.2, 0.0, 0.0, 0.01), Verdict::Decisive);
        assert_eq!(
            of(0.2, 0.2, 0.0, 0.0, 0.05),
            Verdict::Inert,
            "controls do a quarter as much"
        );
        assert_eq!(of(0.09, 0.09, 0.0, 0.0, 0.0), Verdict::Inert, "too little");
        assert_eq!(
            of(-0.5, -0.5, 0.0, 0.0, 0.0),
            Verdict::Inert,
            "an improvement is no damage"
        );
        assert_eq!(
            of(0.01, 6.0, 5.0, 0.0, 0.0),
            Verdict::DecisiveJointly,
            "the others alone do little"
        );
        assert_eq!(
            of(0.01, 6.0, 0.0, 4.0, 0.0),
            Verdict::DecisiveJointly,
            "completes those before it"
        );
        assert_eq!(
            of(0.01, 6.0, 0.3, 0.2, 0.0),
            Verdict::Inert,
            "less than a tenth of the joint damage"
        );
        assert_eq!(
            of(0.01, 0.02, 5.0, 0.0, 0.0),
            Verdict::Inert,
            "no joint damage"
        );
    }

    #[test]
    fn an_interval_that_reaches_zero_is_no_damage() {
        let wide = Effect {
            nll: 0.5,
            low: -0.1,
            high: 1.1,
            tokens: 100,
        };
        let with = |zero| Effects {
            zero,
            mean: None,
            flip: None,
            row: None,
            neuron: None,
            leave_one_out: None,
            added_last: None,
            added_in_order: None,
            rank: 1,
            random: Vec::new(),
            largest: None,
            same_row: None,
            same_col: None,
        };
        let proof = Proof {
            nll: 3.0,
            scored: 3,
            joint: wide,
            options: ProofOptions::default(),
        };
        assert_eq!(verdict(&with(wide), &proof), Verdict::Inert);
        assert_eq!(verdict(&with(effect(0.5)), &proof), Verdict::Decisive);
    }
}
