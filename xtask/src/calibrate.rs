//! Inputs of the linear maps on calibration texts, and what is searched on them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;
use sw_model::{Hook, Linear, LinearAt, Model, Seq, Site, SiteView, WeightCoord};
use sw_quant::{
    Activation, Clip, Scheme, fake_quantize,
    search::{output_error, weight_error},
    smooth::{ALPHAS, search_alpha},
};

/// What feeds a linear map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fed {
    Attention,
    Output,
    Mlp,
    Down,
}

impl Fed {
    fn of(at: LinearAt) -> Option<Self> {
        Some(match (at.linear, at.expert) {
            (_, Some(_)) => return None, // its tokens depend on the router
            (Linear::Q | Linear::K | Linear::V | Linear::Qkv, _) => Self::Attention,
            (Linear::O, _) => Self::Output,
            (Linear::Gate | Linear::Up | Linear::GateUp, _) => Self::Mlp,
            (Linear::Down, _) => Self::Down,
            _ => return None,
        })
    }

    fn at(site: Site) -> Option<(usize, Self)> {
        match site {
            Site::AttnIn(l) => Some((l, Self::Attention)),
            Site::OIn(l) => Some((l, Self::Output)),
            Site::MlpIn(l) => Some((l, Self::Mlp)),
            Site::DownIn(l) => Some((l, Self::Down)),
            _ => None,
        }
    }
}

/// A row-major matrix.
struct Rows {
    values: Vec<f32>,
    cols: usize,
}

impl Rows {
    fn shape(&self) -> [usize; 2] {
        [self.values.len() / self.cols.max(1), self.cols]
    }
}

/// The inputs of all dense linear maps, at most so many tokens.
pub(crate) struct Calibration {
    inputs: BTreeMap<(usize, Fed), Rows>,
    most: usize,
}

impl Calibration {
    /// Runs the texts until `most` tokens are collected.
    ///
    /// # Errors
    /// Whatever stops a forward pass.
    pub(crate) fn run(model: &Model, texts: &[Vec<u32>], most: usize) -> Result<Self> {
        let mut collected = Self {
            inputs: BTreeMap::new(),
            most,
        };
        let mut tokens = 0;
        for text in texts {
            if tokens >= most {
                break;
            }
            model.forward(&[Seq::from(&text[..])], &mut collected)?;
            tokens += text.len();
        }
        Ok(collected)
    }

    fn of(&self, at: LinearAt) -> Option<&Rows> {
        self.inputs.get(&(at.layer, Fed::of(at)?))
    }

    /// The `alpha` of SmoothQuant with the least output error, summed over all norms relative to their outputs.
    ///
    /// # Errors
    /// Values that are not finite.
    pub(crate) fn best_alpha(
        &self,
        model: &Model,
        activation: &Activation,
        scheme: &Scheme,
    ) -> Result<Searched> {
        let mut sum = vec![0.0; ALPHAS.len()];
        for (&(layer, fed), x) in &self.inputs {
            if !matches!(fed, Fed::Attention | Fed::Mlp) {
                continue;
            }
            let here = |at: &LinearAt| at.layer == layer && Fed::of(*at) == Some(fed);
            let maps = model
                .linears()
                .filter(here)
                .filter_map(|at| model.weight_at(at));
            let weights: Vec<_> = maps
                .map(|w| {
                    let mut values = vec![0.0; w.rows() * w.cols()];
                    w.widen(0..w.rows(), 0..w.cols(), &mut values);
                    (values, [w.rows(), w.cols()])
                })
                .collect();
            let views: Vec<(&[f32], [usize; 2])> =
                weights.iter().map(|(w, shape)| (&w[..], *shape)).collect();
            let found = search_alpha(&x.values, x.shape(), &views, activation, scheme, &ALPHAS)?;
            let usual = found.baseline.max(f64::MIN_POSITIVE);
            for (sum, (_, error)) in sum.iter_mut().zip(&found.curve) {
                *sum += error / usual;
            }
        }
        Ok(Searched::new(ALPHAS.iter().copied().zip(sum)))
    }

    /// The reconstruction error of a scheme with each `z`: over all linear maps the mean of `|X W^T - X W^^T|^2 / |X W^T|^2`
    /// on the calibration inputs (of `|W - W^|^2 / |W|^2` for experts, whose inputs depend on the router).
    ///
    /// # Errors
    /// A scheme that does not fit a matrix, values that are not finite.
    pub(crate) fn reconstruction(
        &self,
        model: &Model,
        scheme: &Scheme,
        hold: &[WeightCoord],
        zs: &[f32],
    ) -> Result<Reconstruction> {
        let mut unclipped = 0.0;
        let mut sum = vec![0.0; zs.len()];
        let mut maps = 0usize;
        for at in model.linears() {
            let Some(w) = model.weight_at(at) else {
                continue;
            };
            let shape = [w.rows(), w.cols()];
            let mut values = vec![0.0; w.rows() * w.cols()];
            w.widen(0..w.rows(), 0..w.cols(), &mut values);
            let held: Vec<_> = hold
                .iter()
                .filter(|c| c.at() == at)
                .map(|c| (c.row, c.col))
                .collect();
            let (found, usual) = match self.of(at) {
                Some(x) => (
                    output_error(&values, shape, &x.values, x.shape(), scheme, &held, zs)
                        .with_context(|| at.to_string())?,
                    energy(&values, shape, x),
                ),
                None => (
                    weight_error(&values, shape, scheme, &held, zs)
                        .with_context(|| at.to_string())?,
                    values.iter().map(|&v| f64::from(v).powi(2)).sum(),
                ),
            };
            let usual = usual.max(f64::MIN_POSITIVE);
            unclipped += found.baseline / usual;
            for (sum, (_, error)) in sum.iter_mut().zip(&found.curve) {
                *sum += error / usual;
            }
            maps += 1;
        }
        let n = maps.max(1) as f64;
        Ok(Reconstruction {
            unclipped: unclipped / n,
            clipped: Searched::new(zs.iter().copied().zip(sum.into_iter().map(|s| s / n))),
        })
    }
}

/// `|X W^T|^2`.
fn energy(w: &[f32], shape: [usize; 2], x: &Rows) -> f64 {
    use rayon::prelude::*;
    let row = |w: &[f32]| -> f64 {
        let each = x.values.chunks_exact(shape[1]);
        each.map(|x| {
            x.iter()
                .zip(w)
                .map(|(a, b)| f64::from(a * b))
                .sum::<f64>()
                .powi(2)
        })
        .sum()
    };
    // Collected before it is summed: the sum does not depend on the threads.
    let rows: Vec<f64> = w.par_chunks_exact(shape[1]).map(row).collect();
    rows.into_iter().sum()
}

/// Candidates with their errors.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Searched {
    /// The best candidate; the first one at a tie.
    pub(crate) best: f32,
    pub(crate) error: f64,
    pub(crate) curve: Vec<(f32, f64)>,
}

impl Searched {
    fn new(curve: impl Iterator<Item = (f32, f64)>) -> Self {
        let curve: Vec<_> = curve.collect();
        let first = (f32::NAN, f64::INFINITY);
        let (best, error) = curve
            .iter()
            .fold(first, |a, &b| if b.1 < a.1 { b } else { a });
        Self { best, error, curve }
    }

    /// The error of one candidate.
    pub(crate) fn at(&self, candidate: f32) -> Option<f64> {
        self.curve.iter().find(|c| c.0 == candidate).map(|c| c.1)
    }
}

/// Reconstruction errors of one scheme.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reconstruction {
    /// Without clipping.
    pub(crate) unclipped: f64,
    /// With each `z`.
    pub(crate) clipped: Searched,
}

/// The scheme itself, or without its clip rule where that clips no weight of the model: then both quantize alike, bit for
/// bit, and need to be evaluated once.
///
/// # Errors
/// A scheme that does not fit a matrix.
pub(crate) fn simplest(model: &Model, scheme: &Scheme) -> Result<Scheme> {
    for at in model.linears() {
        let Some(w) = model.weight_at(at) else {
            continue;
        };
        let mut values = vec![0.0; w.rows() * w.cols()];
        w.widen(0..w.rows(), 0..w.cols(), &mut values);
        let report = fake_quantize(&mut values, [w.rows(), w.cols()], scheme, &[])
            .with_context(|| at.to_string())?;
        if report.clipped > 0 {
            return Ok(*scheme);
        }
    }
    Ok(scheme.with_clip(Clip::None))
}

impl Hook for Calibration {
    fn wants(&self, site: Site) -> bool {
        Fed::at(site).is_some()
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let Some(at) = Fed::at(site) else { return };
        let cols = view.data.ncols();
        let rows = self.inputs.entry(at).or_insert_with(|| Rows {
            values: Vec::new(),
            cols,
        });
        for row in view.data.rows() {
            if rows.values.len() < self.most * cols {
                rows.values.extend(row.iter());
            }
        }
    }
}
