//! Which clip thresholds pay, by what the model says on texts; and what a quantization does to a model.
//!
//! Weight error misleads: averaged over a matrix, it ignores the few rows and channels that a model lives on. So a threshold
//! is proposed by the error of a map's output, and kept only where the model's next-token distributions on other texts
//! are nearer to the original's than without any clip, by more than chance gives, and its perplexity is no higher.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ndarray::{ArrayView1, Axis, Slice};
use rayon::prelude::*;
use serde::Serialize;
use sw_model::{Hook, Linear, LinearAt, Model, Seq, Site, SiteView};
use sw_quant::{Clip, fake_quantize, search};

use crate::{
    error::{Error, Result},
    export::{Export, Override, Plan, Rule},
    intervention::quantize::in_own_type,
};

/// Rows whose logits are in memory at once.
const BLOCK: usize = 128;
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
/// For each matrix the z of least output error is found, inputs weighted by their channels' second moments
/// ([`search::channel_error`]). Kind by kind of linear map, these are kept where KL(original || quantized) falls on the
/// windows of the choice. All of them stay only where they win on every third window, which the choice did not see: KL is
/// lower by more than twice the standard error of the windows' differences, and perplexity is no higher. A
/// quantized model is held in memory: as much as the checkpoint's layers.
///
/// # Errors
/// Fewer than two windows, an export that does not fit the model, a model that cannot be run.
pub fn calibrate(model: &Model, export: &Export, windows: &[Vec<u32>]) -> Result<Calibrated> {
    let judges: Vec<&[u32]> = judges(windows).collect();
    let others = windows.iter().enumerate().filter(|(i, _)| i % JUDGES != 1);
    let chosen_on: Vec<&[u32]> = others.map(|(_, w)| &w[..]).collect();
    if judges.is_empty() || chosen_on.is_empty() {
        return Err(Error::Options(format!(
            "calibration: {} windows of text; at least two are needed, one to choose on and one to judge the choice",
            windows.len()
        )));
    }
    let plan = Plan::new(model, export)?;
    let moments = Moments::of(model, chosen_on.iter().copied())?;
    let mut proposed: BTreeMap<LinearAt, f32> = BTreeMap::new();
    for (at, _, job) in jobs(model, &plan) {
        let (true, Some(w), Some(importance)) =
            (job.rule.search, model.weight_at(at), moments.read_by(at))
        else {
            continue;
        };
        let values = w.to_f32_vec();
        let found = search::channel_error(
            &values,
            job.shape,
            &importance,
            &job.rule.scheme,
            &job.held,
            &search::ZS,
        )
        .map_err(|e| Error::Options(format!("{at}: {e}")))?;
        if found.error < found.baseline {
            proposed.insert(at, found.best);
        }
    }
    let kl = |zs: &BTreeMap<LinearAt, f32>, windows: &[&[u32]]| {
        let quantized = quantized(model, &plan, zs)?;
        Ok::<_, Error>(compare(model, &quantized, windows)?.kl)
    };
    let mut zs = BTreeMap::new();
    let mut kinds = Vec::new();
    let mut best = kl(&zs, &chosen_on)?;
    for kind in proposed.keys().map(|at| at.linear).collect::<BTreeSet<_>>() {
        let mut with = zs.clone();
        with.extend(proposed.iter().filter(|(at, _)| at.linear == kind));
        let now = kl(&with, &chosen_on)?;
        if now < best {
            (best, zs) = (now, with);
            kinds.push(kind);
        }
    }
    let judged =
        |zs: &BTreeMap<LinearAt, f32>| compare(model, &quantized(model, &plan, zs)?, &judges);
    let unclipped = judged(&BTreeMap::new())?;
    let clipped = if zs.is_empty() {
        unclipped.clone()
    } else {
        judged(&zs)?
    };
    let kept = clipped.wins(&unclipped);
    if !kept {
        zs.clear();
    }
    let (kl_unclipped, kl_proposed) = (unclipped.kl, clipped.kl);
    Ok(Calibrated {
        export: with_clips(model, &plan, export, &zs),
        kl_unclipped,
        kl_proposed,
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
    let moments = Moments::of(model, windows.iter().copied())?;
    let quantized = quantized(model, &plan, &BTreeMap::new())?;
    let compared = compare(model, &quantized, &windows)?;
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

/// The matrices that a plan quantizes, with their names.
fn jobs<'a>(
    model: &'a Model,
    plan: &'a Plan,
) -> impl Iterator<Item = (LinearAt, String, &'a crate::export::Job)> {
    model.linears().filter_map(|at| {
        let name = model.spec().tensor_name_at(at)?;
        let job = plan.job(&name)?;
        Some((at, name, job))
    })
}

/// The model as the plan writes it, where searches found these thresholds.
fn quantized(model: &Model, plan: &Plan, zs: &BTreeMap<LinearAt, f32>) -> Result<Model> {
    let jobs: HashMap<LinearAt, _> = jobs(model, plan).map(|(at, _, job)| (at, job)).collect();
    model.replaced(|at, w| {
        let Some(job) = jobs.get(&at) else {
            return Ok(None);
        };
        let mut scheme = job.rule.scheme;
        if let Some(&z) = zs.get(&at) {
            scheme = scheme.with_clip(Clip::ZScore { z });
        }
        let quantized = in_own_type(w, |values, shape| {
            fake_quantize(values, shape, &scheme, &job.held).map(drop)
        });
        quantized
            .map(Some)
            .map_err(|e| Error::Options(format!("{at}: {e}")))
    })
}

/// The export with these thresholds as rules of single matrices, and no search.
fn with_clips(model: &Model, plan: &Plan, export: &Export, zs: &BTreeMap<LinearAt, f32>) -> Export {
    let mut fixed = export.clone();
    fixed.rule.search = false;
    for rule in fixed.overrides.iter_mut().filter_map(|o| o.rule.as_mut()) {
        rule.search = false;
    }
    for (at, name, job) in jobs(model, plan) {
        if let Some(&z) = zs.get(&at) {
            let rule = Rule {
                scheme: job.rule.scheme.with_clip(Clip::ZScore { z }),
                search: false,
            };
            fixed.overrides.push(Override {
                pattern: name,
                rule: Some(rule),
            });
        }
    }
    fixed
}

/// What a changed model predicts beside the original.
#[derive(Clone)]
struct Compared {
    tokens: usize,
    /// Mean of KL(original || changed) over all predictions.
    kl: f64,
    /// Mean of KL(original || changed) over the predictions of each window.
    kl_of_windows: Vec<f64>,
    /// Negative log-likelihoods of the actual tokens, in nats.
    nll: [f64; 2],
}

impl Compared {
    /// Whether this one is nearer to the original than `other` on the same windows: its KL divergence is lower by more than
    /// twice the standard error of the windows' differences (which a single window does not have), and the actual tokens
    /// are no less probable.
    fn wins(&self, other: &Self) -> bool {
        let pairs = self.kl_of_windows.iter().zip(&other.kl_of_windows);
        let gains: Vec<f64> = pairs.map(|(a, b)| b - a).collect();
        let n = gains.len() as f64;
        let mean = gains.iter().sum::<f64>() / n;
        let squares: f64 = gains.iter().map(|g| (g - mean).powi(2)).sum();
        let error = (squares / (n - 1.0).max(1.0) / n).sqrt();
        mean > 2.0 * error && self.nll[1] <= other.nll[1]
    }
}

fn compare(original: &Model, changed: &Model, windows: &[&[u32]]) -> Result<Compared> {
    let (mut tokens, mut kl, mut nll) = (0, 0.0, [0.0; 2]);
    let mut kl_of_windows = Vec::new();
    for window in windows.iter().filter(|w| w.len() > 1) {
        let (read, targets) = (&window[..window.len() - 1], &window[1..]);
        let rows = [
            original.forward(&[Seq::from(read)], &mut ())?,
            changed.forward(&[Seq::from(read)], &mut ())?,
        ];
        let before = kl;
        for (start, targets) in (0..).step_by(BLOCK).zip(targets.chunks(BLOCK)) {
            let block = Slice::from(start..start + targets.len());
            let a = original.logits(rows[0].slice_axis(Axis(0), block))?;
            let b = changed.logits(rows[1].slice_axis(Axis(0), block))?;
            let token = |(i, &target): (usize, &u32)| token(a.row(i), b.row(i), target as usize);
            // Collected before they are summed: the sums do not depend on the threads.
            let each: Vec<[f64; 3]> = targets.par_iter().enumerate().map(token).collect();
            for [d, a, b] in each {
                kl += d;
                nll[0] += a;
                nll[1] += b;
            }
            tokens += targets.len();
        }
        kl_of_windows.push((kl - before) / (window.len() - 1) as f64);
    }
    if tokens == 0 {
        return Err(Error::Options(
            "calibration: the texts have no two tokens in a row to predict".into(),
        ));
    }
    kl /= tokens as f64;
    Ok(Compared {
        tokens,
        kl,
        kl_of_windows,
        nll,
    })
}

/// KL(a || b), and both negative log-likelihoods of the target.
fn token(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>, target: usize) -> [f64; 3] {
    let normalizer = |logits: ArrayView1<'_, f32>| {
        let most = logits.fold(f32::NEG_INFINITY, |m, &v| m.max(v));
        let sum: f64 = logits.iter().map(|&v| f64::from(v - most).exp()).sum();
        f64::from(most) + sum.ln()
    };
    let (na, nb) = (normalizer(a), normalizer(b));
    let kl = a.iter().zip(b).map(|(&x, &y)| {
        let (x, y) = (f64::from(x) - na, f64::from(y) - nb);
        x.exp() * (x - y)
    });
    let nll = |logits: ArrayView1<'_, f32>, n: f64| n - f64::from(logits[target]);
    [kl.sum(), nll(a, na), nll(b, nb)]
}

/// Second moments of the channels of what linear maps read.
#[derive(Default)]
struct Moments {
    sums: BTreeMap<Site, Vec<f64>>,
    tokens: usize,
    wanted: BTreeSet<Site>,
}

impl Moments {
    fn of<'a>(model: &Model, windows: impl Iterator<Item = &'a [u32]>) -> Result<Self> {
        let mut moments = Self {
            wanted: model.linears().filter_map(LinearAt::input_site).collect(),
            ..Self::default()
        };
        for window in windows.filter(|w| !w.is_empty()) {
            model.forward(&[Seq::from(window)], &mut moments)?;
            moments.tokens += window.len();
        }
        Ok(moments)
    }

    /// The mean of `x^2` of each channel that a map reads; none for experts, whose tokens depend on the router.
    fn read_by(&self, at: LinearAt) -> Option<Vec<f32>> {
        let sums = self.sums.get(&at.input_site()?)?;
        let n = self.tokens as f64;
        (at.expert.is_none()).then(|| sums.iter().map(|s| (s / n) as f32).collect())
    }
}

impl Hook for Moments {
    fn wants(&self, site: Site) -> bool {
        self.wanted.contains(&site)
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let none = || vec![0.0; view.data.ncols()];
        let sums = self.sums.entry(site).or_insert_with(none);
        for row in view.data.rows() {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Compared;

    fn compared(kl_of_windows: &[f64], nll: f64) -> Compared {
        Compared {
            tokens: kl_of_windows.len(),
            kl: kl_of_windows.iter().sum::<f64>() / kl_of_windows.len() as f64,
            kl_of_windows: kl_of_windows.to_vec(),
            nll: [1.0, nll],
        }
    }

    #[test]
    fn a_gain_within_chance_or_at_the_cost_of_perplexity_does_not_win() {
        let before = compared(&[0.10, 0.20, 0.30, 0.40], 2.0);
        assert!(compared(&[0.08, 0.17, 0.28, 0.37], 2.0).wins(&before));
        assert!(!compared(&[0.08, 0.17, 0.28, 0.37], 2.1).wins(&before));
        assert!(!compared(&[0.01, 0.25, 0.20, 0.45], 1.0).wins(&before)); // lower on average alone
        assert!(!before.wins(&before));
    }
}
