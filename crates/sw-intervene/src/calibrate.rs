//! Which clip thresholds pay, by what the model says on texts; and what a quantization does to a model.
//!
//! Weight error misleads: it ignores the few channels that a model lives on. So the threshold of each block is proposed by the
//! error of what a map puts out ([`Clip::LeastError`] with the channels' second moments), and thresholds are kept only where
//! the model's next-token distributions on other texts are nearer to the original's than without any clip, by more than
//! chance gives, and its perplexity is no higher.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde::Serialize;
use sw_model::{Linear, LinearAt, Model};
use sw_quant::Clip;

use crate::{
    compare::{Moments, Texts},
    error::{Error, Result},
    export::{Export, Override, Plan, Rule},
    intervention::quantize::in_own_type,
};

/// One window in so many is kept from the choice, and judges it.
const JUDGES: usize = 3;

/// What a calibrated search chose.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Calibrated {
    /// The export with one rule for each matrix whose clip pays; nothing is searched any more.
    pub export: Export,
    /// Mean KL divergence from the original on windows that were not used for the choice, in nats: without clipping, and
    /// with the thresholds that were proposed.
    pub kl_unclipped: f64,
    /// See `kl_unclipped`.
    pub kl_proposed: f64,
    /// Kinds of linear maps whose thresholds were proposed; all or none of them are kept.
    pub kinds: Vec<Linear>,
    /// Whether the proposed thresholds won on those windows, beyond chance, and so were kept.
    pub kept: bool,
}

/// What a quantization does to a model.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// Predictions compared: every token of the texts but the first of each.
    pub tokens: usize,
    /// Mean of KL(original || quantized) of the next-token distributions, in nats.
    pub kl: f64,
    /// Perplexity of the original.
    pub perplexity_before: f64,
    /// Perplexity of the quantized model.
    pub perplexity_after: f64,
    /// The matrices whose outputs change most, the worst first: name, and the error's share of the output's energy,
    /// channels taken as uncorrelated.
    pub worst: Vec<(String, f64)>,
}

/// Chooses the clip of each matrix whose rule says `search`, on windows of tokens.
///
/// Proposed is [`Clip::LeastError`]: for each block the threshold of least output error, inputs weighted by their channels'
/// second moments. If the proposals together do not bring KL(original || quantized) down on the windows of the choice, they
/// are tried kind by kind of linear map. What is left stays only where it wins on every third window, which the choice
/// did not see: KL is lower beyond the 95 % interval of the windows' differences, and perplexity is no higher. A quantized model is held in memory: as much as the checkpoint's layers.
///
/// # Errors
/// Fewer than two windows, an export that does not fit the model, a model that cannot be run.
pub fn calibrate(model: &Model, export: &Export, windows: &[Vec<u32>]) -> Result<Calibrated> {
    let [chosen_on, judges] = split(windows)?;
    let plan = Plan::new(model, export)?;
    let mut moments = Moments::new(model);
    let choice = Texts::new(model, &chosen_on, &mut moments)?;
    let mut proposed: BTreeMap<LinearAt, Proposal> = BTreeMap::new();
    for (at, name, job) in jobs(model, &plan) {
        if let (true, Some(importance)) = (job.rule.search, moments.read_by(at)) {
            let scheme = job.rule.scheme.with_clip(Clip::LeastError);
            let rule = Rule {
                scheme,
                search: false,
            };
            let importance = importance.into();
            proposed.insert(
                at,
                Proposal {
                    name,
                    rule,
                    importance,
                },
            );
        }
    }
    let with = |kinds: &[Linear]| {
        let of_kinds = proposed.iter().filter(|(at, _)| kinds.contains(&at.linear));
        with_clips(export, of_kinds.map(|(_, p)| p))
    };
    let trial = |kinds: &[Linear]| quantized(model, &Plan::new(model, &with(kinds))?);
    let all: BTreeSet<Linear> = proposed.keys().map(|at| at.linear).collect();
    let all: Vec<Linear> = all.into_iter().collect();
    let mut kinds = Vec::new();
    let mut best = choice.compare(&trial(&kinds)?)?.kl;
    if !all.is_empty() && choice.compare(&trial(&all)?)?.kl < best {
        kinds = all;
    } else {
        for kind in all {
            kinds.push(kind);
            let now = choice.compare(&trial(&kinds)?)?.kl;
            if now < best {
                best = now;
            } else {
                kinds.pop();
            }
        }
    }
    let judges = Texts::new(model, &judges, &mut ())?;
    let unclipped = judges.compare(&trial(&[])?)?;
    let clipped = if kinds.is_empty() {
        unclipped.clone()
    } else {
        judges.compare(&trial(&kinds)?)?
    };
    let kept = clipped.wins(&unclipped);
    Ok(Calibrated {
        export: with(if kept { &kinds } else { &[] }),
        kl_unclipped: unclipped.kl,
        kl_proposed: clipped.kl,
        kinds,
        kept,
    })
}

/// What an export does to the model's predictions on windows of tokens. The quantized model is held in memory.
///
/// # Errors
/// An export that does not fit the model, windows without a second token, a model that cannot be run.
pub fn check(model: &Model, export: &Export, windows: &[Vec<u32>]) -> Result<Check> {
    let plan = Plan::new(model, export)?;
    let windows: Vec<&[u32]> = windows.iter().map(|w| &w[..]).collect();
    let mut moments = Moments::new(model);
    let texts = Texts::new(model, &windows, &mut moments)?;
    let quantized = quantized(model, &plan)?;
    let compared = texts.compare(&quantized)?;
    let mut worst = Vec::new();
    for (at, name, job) in jobs(model, &plan) {
        let (Some(a), Some(b), Some(importance)) = (
            model.weight_at(at),
            quantized.weight_at(at),
            moments.read_by(at),
        ) else {
            continue;
        };
        let [rows, cols] = job.shape;
        let mut row = [vec![0.0; cols], vec![0.0; cols]];
        let (mut lost, mut all) = (0.0, f64::MIN_POSITIVE);
        for r in 0..rows {
            a.row_into(r, &mut row[0]);
            b.row_into(r, &mut row[1]);
            for ((&a, &b), &m) in row[0].iter().zip(&row[1]).zip(&importance) {
                lost += f64::from(m) * f64::from(a - b).powi(2);
                all += f64::from(m) * f64::from(a).powi(2);
            }
        }
        worst.push((name, lost / all));
    }
    worst.sort_by(|a, b| b.1.total_cmp(&a.1));
    worst.truncate(3);
    let tokens = compared.tokens as f64;
    Ok(Check {
        tokens: compared.tokens,
        kl: compared.kl,
        perplexity_before: (compared.nll[0] / tokens).exp(),
        perplexity_after: (compared.nll[1] / tokens).exp(),
        worst,
    })
}

/// The windows that [`calibrate`] does not choose on: every third, from the second.
pub fn judges(windows: &[Vec<u32>]) -> impl Iterator<Item = &[u32]> {
    windows.iter().skip(1).step_by(JUDGES).map(Vec::as_slice)
}

/// The windows to choose on, and those that judge the choice.
pub(crate) fn split(windows: &[Vec<u32>]) -> Result<[Vec<&[u32]>; 2]> {
    let judges: Vec<&[u32]> = judges(windows).collect();
    let others = windows.iter().enumerate().filter(|(i, _)| i % JUDGES != 1);
    let chosen_on: Vec<&[u32]> = others.map(|(_, w)| &w[..]).collect();
    if judges.is_empty() || chosen_on.is_empty() {
        return Err(Error::Options(format!(
            "calibration: {} windows of text; at least two are needed, one to choose on and one to judge the choice",
            windows.len()
        )));
    }
    Ok([chosen_on, judges])
}

/// The matrices that a plan quantizes, with their names.
pub(crate) fn jobs<'a>(
    model: &'a Model,
    plan: &'a Plan,
) -> impl Iterator<Item = (LinearAt, String, &'a crate::export::Job)> {
    model.linears().filter_map(|at| {
        let name = model.spec().tensor_name_at(at)?;
        let job = plan.job(&name)?;
        Some((at, name, job))
    })
}

/// The model as the plan writes it, where no rule searches any more.
pub(crate) fn quantized(model: &Model, plan: &Plan) -> Result<Model> {
    let jobs: HashMap<LinearAt, _> = jobs(model, plan).map(|(at, _, job)| (at, job)).collect();
    model.replaced(|at, w| {
        let Some(job) = jobs.get(&at) else {
            return Ok(None);
        };
        let quantized = in_own_type(w, |values, _| {
            job.fake_values(values, &job.rule.scheme).map(drop)
        });
        quantized
            .map(Some)
            .map_err(|e| Error::Options(format!("{at}: {e}")))
    })
}

/// A clip of one matrix.
struct Proposal {
    name: String,
    rule: Rule,
    importance: Arc<[f32]>,
}

/// The export with these clips as rules of single matrices, and no search.
fn with_clips<'a>(export: &Export, clips: impl Iterator<Item = &'a Proposal>) -> Export {
    let mut fixed = export.clone();
    fixed.rule.search = false;
    for rule in fixed.overrides.iter_mut().filter_map(|o| o.rule.as_mut()) {
        rule.search = false;
    }
    for clip in clips {
        fixed.overrides.push(Override {
            pattern: clip.name.clone(),
            rule: Some(clip.rule),
        });
        let importance = clip.importance.clone();
        fixed.importance.insert(clip.name.clone(), importance);
    }
    fixed
}
