//! SmoothQuant (arXiv 2211.10438) on a model: what is divided out of the norms' outputs is multiplied into the weights.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use ndarray::Axis;
use sw_model::{Bos, Hook, Linear, LinearAt, Model, Seq, Site, SiteView};
use sw_quant::smooth::{column_maxima, scale_columns, scales};

use super::{ReadTexts, Refused, quantize::in_own_type};

/// Calibration rows without being told otherwise, as SmoothQuant's repository takes them.
pub(super) fn samples() -> usize {
    512
}

/// Tokens of a calibration row, likewise.
pub(super) fn tokens() -> usize {
    512
}

/// A model, and the ranges of its activations on calibration texts: measured when an intervention asks for them first, and
/// kept for all others that ask for the same.
pub struct Ranges {
    model: Model,
    /// By everything that decides them: the interventions before, and which texts.
    known: Mutex<HashMap<String, Arc<PerNorm>>>,
}

impl Ranges {
    /// Nothing is measured yet.
    pub fn new(model: &Model) -> Self {
        Self {
            model: model.clone(),
            known: Mutex::default(),
        }
    }

    /// The model that they are of.
    pub fn model(&self) -> &Model {
        &self.model
    }

    pub(super) fn get_or(
        &self,
        key: String,
        measure: impl FnOnce() -> Result<PerNorm, Refused>,
    ) -> Result<Arc<PerNorm>, Refused> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ranges) = known.get(&key) {
            return Ok(ranges.clone());
        }
        let ranges = Arc::new(measure()?);
        known.insert(key, ranges.clone());
        Ok(ranges)
    }
}

/// Which texts a model is calibrated on.
pub(super) struct Texts<'a> {
    pub(super) file: &'a Path,
    pub(super) samples: usize,
    pub(super) tokens: usize,
    pub(super) bos: Bos,
}

/// The first tokens of the first rows of a file.
fn texts(model: &Model, which: &Texts<'_>, read: &ReadTexts<'_>) -> Result<Vec<Vec<u32>>, String> {
    let &Texts {
        file,
        samples,
        tokens,
        bos,
    } = which;
    let rows = read(file, samples)?;
    let tokenizer = model.tokenizer().map_err(|e| e.to_string())?;
    let most = tokens.min(model.spec().max_positions);
    let mut texts = Vec::new();
    for text in rows {
        let mut ids = tokenizer
            .encode_with(&text, bos)
            .map_err(|e| e.to_string())?;
        ids.truncate(most);
        if !ids.is_empty() {
            texts.push(ids);
        }
    }
    if texts.is_empty() {
        return Err(format!("{}: no text to calibrate on", file.display()));
    }
    Ok(texts)
}

/// The two norms of a layer whose outputs feed linear maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fed {
    Attention,
    Mlp,
}

fn fed(site: Site) -> Option<(usize, Fed)> {
    match site {
        Site::AttnIn(l) => Some((l, Fed::Attention)),
        Site::MlpIn(l) => Some((l, Fed::Mlp)),
        _ => None,
    }
}

/// Which norm feeds a map alone; experts share theirs with the router, which is left as it is.
fn feeds(at: LinearAt) -> Option<Fed> {
    match (at.linear, at.expert) {
        (Linear::Q | Linear::K | Linear::V | Linear::Qkv, None) => Some(Fed::Attention),
        (Linear::Gate | Linear::Up | Linear::GateUp, None) => Some(Fed::Mlp),
        _ => None,
    }
}

/// Something for each channel of each norm's output.
pub(super) type PerNorm = BTreeMap<(usize, Fed), Vec<f32>>;

/// The largest magnitude in each channel of each norm's output, over all tokens of the texts.
pub(super) fn maxima(
    model: &Model,
    which: &Texts<'_>,
    read: &ReadTexts<'_>,
    hooks: &mut dyn Hook,
) -> Result<PerNorm, Refused> {
    let mut maxima = Maxima::default();
    for text in texts(model, which, read).map_err(Refused::Here)? {
        model.forward(&[Seq::from(&text[..])], &mut (&mut *hooks, &mut maxima))?;
    }
    Ok(maxima.0)
}

/// The smoothed model, and the hook that divides what its weights were multiplied by.
pub(super) fn smooth(
    model: &Model,
    alpha: f32,
    maxima: &PerNorm,
) -> Result<(Model, Divide), Refused> {
    let mut weights = PerNorm::new();
    for at in model.linears() {
        let (Some(fed), Some(w)) = (feeds(at), model.weight_at(at)) else {
            continue;
        };
        let maxima = weights
            .entry((at.layer, fed))
            .or_insert_with(|| vec![0.0; w.cols()]);
        let mut row = vec![0.0; w.cols()];
        for r in 0..w.rows() {
            w.row_into(r, &mut row);
            column_maxima(&row, [1, w.cols()], maxima)?;
        }
    }
    let scale = |(norm, weight): (_, Vec<f32>)| {
        let none = Vec::new();
        Ok((
            norm,
            scales(maxima.get(&norm).unwrap_or(&none), &weight, alpha)?,
        ))
    };
    let all: PerNorm = weights
        .into_iter()
        .map(scale)
        .collect::<Result<_, Refused>>()?;
    let smoothed = model.replaced(|at, w| {
        let scales = feeds(at).and_then(|fed| all.get(&(at.layer, fed)));
        let scaled =
            scales.map(|s| in_own_type(w, |values, shape| scale_columns(values, shape, s)));
        scaled.transpose().map_err(Refused::from)
    })?;
    Ok((smoothed, Divide(all)))
}

/// The largest magnitude of each channel.
#[derive(Default)]
struct Maxima(PerNorm);

impl Hook for Maxima {
    fn wants(&self, site: Site) -> bool {
        fed(site).is_some()
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let Some(norm) = fed(site) else { return };
        let maxima = self
            .0
            .entry(norm)
            .or_insert_with(|| vec![0.0; view.data.ncols()]);
        for row in view.data.axis_iter(Axis(0)) {
            maxima
                .iter_mut()
                .zip(row)
                .for_each(|(m, v)| *m = m.max(v.abs()));
        }
    }
}

/// Divides the norms' outputs: the norm's weight and bias by the scales, without a change of the norm.
#[derive(Clone)]
pub(super) struct Divide(PerNorm);

impl Hook for Divide {
    fn wants(&self, site: Site) -> bool {
        fed(site).is_some_and(|norm| self.0.contains_key(&norm))
    }

    fn visit(&mut self, site: Site, mut view: SiteView<'_>) {
        let Some(scales) = fed(site).and_then(|norm| self.0.get(&norm)) else {
            return;
        };
        for mut row in view.data.axis_iter_mut(Axis(0)) {
            row.iter_mut().zip(scales).for_each(|(v, s)| *v /= s);
        }
    }
}
