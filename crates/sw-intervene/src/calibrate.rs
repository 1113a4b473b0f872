//! Which clip thresholds pay, by what the model says on texts; and what a quantization does to a model.
//!
//! Weight error misleads: averaged over a matrix, it ignores the few rows and channels that a model lives on. So a threshold
//! is proposed by the error of a map's output, and kept only where the model's next-token distributions on other texts
//! are nearer to the original's than without any clip.

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
    /// Whether the proposed thresholds were nearer to the original, and so were kept.
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
/// windows of the choice; and all of them only where it falls on every third window, which the choice did not see. A
/// quantized model is held in memory: as much as the checkpoint's layers.
///
/// # Errors
/// Fewer than two windows, an export that does not fit the model, a model that cannot be run.
pub fn calibrate(model: &Model, export: &Export, windows: &[Vec<u32>]) -> Result<Calibrated> {
    let (judges, chosen_on) = split(windows);
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
        let mut values = vec![0.0; w.rows() * w.cols()];
        w.widen(0..w.rows(), 0..w.cols(), &mut values);
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
    let kl_unclipped = kl(&BTreeMap::new(), &judges)?;
    let kl_proposed = if zs.is_empty() {
        kl_unclipped
    } else {
        kl(&zs, &judges)?
    };
    let kept = kl_proposed < kl_unclipped;
    if !kept {
        zs.clear();
    }
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

/// Every third window, and the others.
fn split(windows: &[Vec<u32>]) -> (Vec<&[u32]>, Vec<&[u32]>) {
    let (mut judges, mut rest) = (Vec::new(), Vec::new());
    for (i, window) in windows.iter().enumerate() {
        let judge = i % JUDGES == 1;
        if judge { &mut judges } else { &mut rest }.push(&window[..]);
    }
    (judges, rest)
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

/// Sums over the predictions of some windows.
struct Compared {
    tokens: usize,
    kl: f64,
    /// Negative log-likelihoods of the actual tokens, in nats.
    nll: [f64; 2],
}

fn compare(original: &Model, changed: &Model, windows: &[&[u32]]) -> Result<Compared> {
    let (mut tokens, mut kl, mut nll) = (0, 0.0, [0.0; 2]);
    for window in windows.iter().filter(|w| w.len() > 1) {
        let (read, targets) = (&window[..window.len() - 1], &window[1..]);
        let rows = [
            original.forward(&[Seq::from(read)], &mut ())?,
            changed.forward(&[Seq::from(read)], &mut ())?,
        ];
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
    }
    if tokens == 0 {
        return Err(Error::Options(
            "calibration: the texts have no two tokens in a row to predict".into(),
        ));
    }
    kl /= tokens as f64;
    Ok(Compared { tokens, kl, nll })
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
