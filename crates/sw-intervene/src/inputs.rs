//! The inputs of a model's linear maps on calibration texts, and what is searched on them: SmoothQuant's alpha, and the
//! output error of a scheme with each clip threshold.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use sw_model::{Hook, LinearAt, Model, Seq, Site, SiteView, WeightCoord};
use sw_quant::{
    Activation, Clip, Scheme, fake_quantize,
    search::{Search, output_error, weight_error},
    smooth::{ALPHAS, search_alpha},
};

use crate::{
    error::{Error, Result},
    intervention::quantize::held_in,
};

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

/// The inputs of all dense linear maps on texts, `[tokens, channels]` in f32 for each.
///
/// They are in memory: four bytes for each token and channel of every site that linear maps read.
pub struct LinearInputs {
    inputs: BTreeMap<Site, Rows>,
    wanted: BTreeSet<Site>,
    most: usize,
}

impl LinearInputs {
    /// Runs texts of tokens until the inputs of `most` tokens are collected.
    ///
    /// # Errors
    /// Whatever stops a forward pass.
    pub fn collect(model: &Model, texts: &[Vec<u32>], most: usize) -> Result<Self> {
        let mut collected = Self {
            inputs: BTreeMap::new(),
            wanted: dense(model).filter_map(LinearAt::input_site).collect(),
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

    /// What a map reads; nothing for experts, whose tokens depend on the router.
    fn of(&self, at: LinearAt) -> Option<&Rows> {
        let site = at.expert.is_none().then(|| at.input_site())??;
        self.inputs.get(&site)
    }

    /// The `alpha` of SmoothQuant (arXiv 2211.10438, equation 4) with the least output error: of the maps behind each norm,
    /// relative to their error without smoothing, summed over all norms. So `baseline` is the number of norms.
    ///
    /// # Errors
    /// Values that are not finite.
    pub fn best_alpha(
        &self,
        model: &Model,
        activation: &Activation,
        scheme: &Scheme,
    ) -> Result<Search> {
        let mut sum = vec![0.0; ALPHAS.len()];
        let mut norms = 0.0;
        let norms_of = |l| [Site::AttnIn(l), Site::MlpIn(l)];
        for site in (0..model.spec().layers.len()).flat_map(norms_of) {
            let Some(x) = self.inputs.get(&site) else {
                continue;
            };
            let weights: Vec<_> = dense(model)
                .filter(|at| at.input_site() == Some(site))
                .filter_map(|at| model.weight_at(at))
                .map(|w| (w.to_f32_vec(), [w.rows(), w.cols()]))
                .collect();
            let views: Vec<(&[f32], [usize; 2])> =
                weights.iter().map(|(w, shape)| (&w[..], *shape)).collect();
            let found = search_alpha(&x.values, x.shape(), &views, activation, scheme, &ALPHAS)
                .map_err(|e| Error::Options(format!("smoothing {site:?}: {e}")))?;
            norms += 1.0;
            let usual = found.baseline.max(f64::MIN_POSITIVE);
            for (sum, (_, error)) in sum.iter_mut().zip(&found.curve) {
                *sum += error / usual;
            }
        }
        Ok(Search::of(norms, ALPHAS.iter().copied().zip(sum).collect()))
    }

    /// The reconstruction error of a scheme with each `z`: over all linear maps the mean of `|X W^T - X W^^T|^2 / |X W^T|^2`
    /// on the calibration inputs (of `|W - W^|^2 / |W|^2` for experts, whose inputs depend on the router). `baseline` is the
    /// error without clipping.
    ///
    /// # Errors
    /// A scheme that does not fit a matrix, values that are not finite.
    pub fn reconstruction(
        &self,
        model: &Model,
        scheme: &Scheme,
        hold: &[WeightCoord],
        zs: &[f32],
    ) -> Result<Search> {
        let mut unclipped = 0.0;
        let mut sum = vec![0.0; zs.len()];
        let mut maps = 0usize;
        for at in model.linears() {
            let Some(w) = model.weight_at(at) else {
                continue;
            };
            let shape = [w.rows(), w.cols()];
            let values = w.to_f32_vec();
            let held = held_in(hold, at);
            let (found, usual) = match self.of(at) {
                Some(x) => (
                    output_error(&values, shape, &x.values, x.shape(), scheme, &held, zs),
                    energy(&values, shape, x),
                ),
                None => (
                    weight_error(&values, shape, scheme, &held, zs),
                    values.iter().map(|&v| f64::from(v).powi(2)).sum(),
                ),
            };
            let found = found.map_err(|e| Error::Options(format!("{at}: {e}")))?;
            let usual = usual.max(f64::MIN_POSITIVE);
            unclipped += found.baseline / usual;
            for (sum, (_, error)) in sum.iter_mut().zip(&found.curve) {
                *sum += error / usual;
            }
            maps += 1;
        }
        let n = maps.max(1) as f64;
        let mean = sum.into_iter().map(|s| s / n);
        Ok(Search::of(
            unclipped / n,
            zs.iter().copied().zip(mean).collect(),
        ))
    }
}

/// Linear maps outside of experts.
fn dense(model: &Model) -> impl Iterator<Item = LinearAt> {
    model.linears().filter(|at| at.expert.is_none())
}

/// `|X W^T|^2`.
fn energy(w: &[f32], shape: [usize; 2], x: &Rows) -> f64 {
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

/// The scheme itself, or without its clip rule where that clips no weight of the model: then both quantize alike, bit for
/// bit, and need to be evaluated once.
///
/// # Errors
/// A scheme that does not fit a matrix.
pub fn simplest(model: &Model, scheme: &Scheme) -> Result<Scheme> {
    for at in model.linears() {
        let Some(w) = model.weight_at(at) else {
            continue;
        };
        let report = fake_quantize(&mut w.to_f32_vec(), [w.rows(), w.cols()], scheme, &[])
            .map_err(|e| Error::Options(format!("{at}: {e}")))?;
        if report.clipped > 0 {
            return Ok(*scheme);
        }
    }
    Ok(scheme.with_clip(Clip::None))
}

impl Hook for LinearInputs {
    fn wants(&self, site: Site) -> bool {
        self.wanted.contains(&site)
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let cols = view.data.ncols();
        let rows = self.inputs.entry(site).or_insert_with(|| Rows {
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
