//! Many variants of a model in one batch: each is a copy of the texts with edits at its layers' outputs.
//!
//! Setting `weight[row, col]` to another value changes `y = x * w^T` by `y[:, row] += (new - old) * x[:, col]`, so a
//! variant needs no model of its own: it rides as extra sequences, resumed from the residual stream that enters its
//! first edited layer.

use std::collections::BTreeMap;

use ndarray::{Array2, Axis, concatenate};
use sw_model::{Hook, Model, Seq, Site, SiteView};

use crate::error::Result;

/// What happens at the output of one `down_proj`; `x` and `y` are its input and output, row by row.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// `y[row] += delta * x[col]`: the weight becomes another.
    Weight { row: usize, col: usize, delta: f32 },
    /// As `Weight`, and at some tokens `y[row] += value`: what the weight contributed there is put back.
    Restore {
        row: usize,
        col: usize,
        delta: f32,
        at: Vec<usize>,
        value: f32,
    },
    /// `y[row] -= x . weights`: the whole row becomes zero.
    Row { row: usize, weights: Vec<f32> },
    /// `y -= x[col] * weights`: the whole column becomes zero.
    Neuron { col: usize, weights: Vec<f32> },
}

/// A change, and where.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) layer: usize,
    pub(crate) expert: Option<usize>,
    pub(crate) change: Change,
}

/// Edits that are made together; never empty.
pub(crate) type Variant = Vec<Edit>;

/// The first layer that a variant edits: what enters it is as in the unchanged model.
fn first_layer(variant: &Variant) -> usize {
    variant.iter().map(|e| e.layer).min().unwrap_or(0)
}

/// The unchanged model's pass over the texts, and what variants need of it.
pub(crate) struct Baseline<'a> {
    model: &'a Model,
    pub(crate) texts: &'a [Vec<u32>],
    /// Negative log-likelihood of every token but the first of each text, text after text.
    pub(crate) nll: Vec<f64>,
    /// The residual stream entering the layers asked for; `[tokens, hidden]`.
    resid: BTreeMap<usize, Array2<f32>>,
    /// The inputs asked for, `(layer, expert, col)`, one value per token; 0 where an expert did not see the token.
    pub(crate) inputs: BTreeMap<(usize, Option<usize>, usize), Vec<f32>>,
}

impl<'a> Baseline<'a> {
    /// Runs the unchanged model. `watched`: the inputs, and with their layers the residual streams, to be kept.
    pub(crate) fn run(
        model: &'a Model,
        texts: &'a [Vec<u32>],
        watched: impl IntoIterator<Item = (usize, Option<usize>, usize)>,
    ) -> Result<Self> {
        let tokens: usize = texts.iter().map(Vec::len).sum();
        let mut baseline = Self {
            model,
            texts,
            nll: Vec::new(),
            resid: BTreeMap::new(),
            inputs: BTreeMap::new(),
        };
        for input in watched {
            baseline.inputs.insert(input, vec![0.0; tokens]);
            baseline
                .resid
                .insert(input.0, Array2::zeros((tokens, model.spec().hidden_size)));
        }
        let seqs: Vec<_> = texts.iter().map(|t| Seq::from(t.as_slice())).collect();
        let rows = model.forward(&seqs, &mut baseline)?;
        baseline.nll = baseline.score(rows)?;
        Ok(baseline)
    }

    /// The tokens of all texts together.
    fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// Negative log-likelihoods from the rows after the final norm of one copy of the texts.
    fn score(&self, rows: Array2<f32>) -> Result<Vec<f64>> {
        let mut predicting = Vec::new();
        let mut targets = Vec::new();
        let mut first = 0;
        for text in self.texts {
            predicting.extend(first..first + text.len() - 1);
            targets.extend_from_slice(&text[1..]);
            first += text.len();
        }
        let rows = rows.select(Axis(0), &predicting);
        let scores = self.model.score(rows.view(), &targets)?;
        Ok(scores.iter().map(|s| -s.log_prob).collect())
    }

    /// The negative log-likelihoods under each variant, in order. `max_rows` bounds the tokens of one batch.
    pub(crate) fn nll_of(&self, variants: &[Variant], max_rows: usize) -> Result<Vec<Vec<f64>>> {
        let per_batch = (max_rows / self.tokens()).max(1);
        let mut order: Vec<usize> = (0..variants.len()).collect();
        order.sort_by_key(|&v| first_layer(&variants[v]));
        let mut all = vec![Vec::new(); variants.len()];
        let same_layer =
            |a: &usize, b: &usize| first_layer(&variants[*a]) == first_layer(&variants[*b]);
        for group in order.chunk_by(same_layer) {
            for batch in group.chunks(per_batch) {
                let edits: Vec<_> = batch.iter().map(|&v| &variants[v]).collect();
                let rows = self.forward(&edits)?;
                for (copy, &v) in rows.axis_chunks_iter(Axis(0), self.tokens()).zip(batch) {
                    all[v] = self.score(copy.to_owned())?;
                }
            }
        }
        Ok(all)
    }

    /// One batch of variants with the same first layer; `[variants * tokens, hidden]`.
    fn forward(&self, variants: &[&Variant]) -> Result<Array2<f32>> {
        let layer = first_layer(variants[0]);
        let copies = vec![self.resid[&layer].view(); variants.len()];
        let resid = concatenate(Axis(0), &copies).expect("copies of one array");
        let lens: Vec<usize> = self.texts.iter().map(Vec::len).collect();
        let lens = lens.repeat(variants.len());
        let mut hook = Riders {
            variants,
            tokens: self.tokens(),
            pending: Vec::new(),
        };
        Ok(self.model.forward_from(layer, resid, &lens, &mut hook)?)
    }
}

impl Hook for Baseline<'_> {
    fn wants(&self, site: Site) -> bool {
        match site {
            Site::ResidPre(l) => self.resid.contains_key(&l),
            Site::DownIn(l) => self.inputs.keys().any(|k| (k.0, k.1) == (l, None)),
            Site::ExpertDownIn(l, e) => self.inputs.keys().any(|k| (k.0, k.1) == (l, Some(e))),
            _ => false,
        }
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let place = match site {
            Site::ResidPre(l) => {
                self.resid.insert(l, view.data.to_owned());
                return;
            }
            Site::DownIn(l) => (l, None),
            Site::ExpertDownIn(l, e) => (l, Some(e)),
            _ => return,
        };
        for ((_, _, col), values) in self.inputs.iter_mut().filter(|(k, _)| (k.0, k.1) == place) {
            for (r, x) in view.data.column(*col).iter().enumerate() {
                values[view.tokens.map_or(r, |tokens| tokens[r])] = *x;
            }
        }
    }
}

/// The hook that makes each copy of the texts its variant.
struct Riders<'a> {
    variants: &'a [&'a Variant],
    /// Tokens of one copy.
    tokens: usize,
    /// Changes whose input has been seen and whose output has not: the row, the amount read from the input, the change.
    pending: Vec<(usize, f32, &'a Change)>,
}

impl<'a> Riders<'a> {
    fn edits(
        &self,
        place: (usize, Option<usize>),
    ) -> impl Iterator<Item = (usize, &'a Change)> + use<'a> {
        let variants = self.variants;
        let of = move |(v, variant): (usize, &&'a Variant)| {
            let variant: &'a Variant = variant;
            let here = variant.iter().filter(move |e| (e.layer, e.expert) == place);
            here.map(move |e| (v, &e.change))
        };
        variants.iter().enumerate().flat_map(of)
    }

    fn read(&mut self, place: (usize, Option<usize>), view: &SiteView<'_>) {
        self.pending.clear();
        for (variant, change) in self.edits(place) {
            for (r, x) in view.data.rows().into_iter().enumerate() {
                let token = view.tokens.map_or(r, |tokens| tokens[r]);
                if token / self.tokens != variant {
                    continue;
                }
                let amount = match change {
                    Change::Weight { col, delta, .. } => delta * x[*col],
                    Change::Restore {
                        col,
                        delta,
                        at,
                        value,
                        ..
                    } => {
                        let back = at.contains(&(token % self.tokens));
                        delta * x[*col] + if back { *value } else { 0.0 }
                    }
                    Change::Row { weights, .. } => {
                        -x.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>()
                    }
                    Change::Neuron { col, .. } => -x[*col],
                };
                self.pending.push((r, amount, change));
            }
        }
    }

    fn write(&mut self, view: &mut SiteView<'_>) {
        for (r, amount, change) in self.pending.drain(..) {
            match change {
                Change::Weight { row, .. }
                | Change::Restore { row, .. }
                | Change::Row { row, .. } => {
                    view.data[[r, *row]] += amount;
                }
                Change::Neuron { weights, .. } => {
                    let mut y = view.data.row_mut(r);
                    y.iter_mut()
                        .zip(weights)
                        .for_each(|(y, w)| *y += amount * w);
                }
            }
        }
    }
}

impl Hook for Riders<'_> {
    fn wants(&self, site: Site) -> bool {
        match site {
            Site::DownIn(l) | Site::DownOut(l) => self.edits((l, None)).next().is_some(),
            Site::ExpertDownIn(l, e) | Site::ExpertDownOut(l, e) => {
                self.edits((l, Some(e))).next().is_some()
            }
            _ => false,
        }
    }

    fn visit(&mut self, site: Site, mut view: SiteView<'_>) {
        match site {
            Site::DownIn(l) => self.read((l, None), &view),
            Site::ExpertDownIn(l, e) => self.read((l, Some(e)), &view),
            Site::DownOut(_) | Site::ExpertDownOut(..) => self.write(&mut view),
            _ => {}
        }
    }
}
