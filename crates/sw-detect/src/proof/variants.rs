//! Many variants of a model in one batch: each is a copy of the texts with edits at the outputs of linear maps.
//!
//! Setting `weight[row, col]` to another value changes `y = x * w^T` by `y[:, row] += (new - old) * x[:, col]`, so a
//! variant needs no model of its own: it rides as extra sequences, resumed from the residual stream that enters its
//! first edited layer.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array2, Axis, concatenate};
use sw_model::{Hook, LinearAt, Model, Seq, Site, SiteView, WeightCoord};

use crate::error::Result;

/// What happens at the output of one linear map; `x` and `y` are its input and output, row by row.
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
    pub(crate) at: LinearAt,
    pub(crate) change: Change,
}

impl Edit {
    /// The weight, whose value is given, becomes zero.
    pub(crate) fn zero(coord: WeightCoord, value: f32) -> Self {
        let WeightCoord { row, col, .. } = coord;
        let delta = -value;
        Self {
            at: coord.at(),
            change: Change::Weight { row, col, delta },
        }
    }

    /// The output channels that it writes, and how much of its amount each gets.
    fn writes(&self) -> Vec<(usize, f32)> {
        match &self.change {
            Change::Weight { row, .. } | Change::Restore { row, .. } | Change::Row { row, .. } => {
                vec![(*row, 1.0)]
            }
            Change::Neuron { weights, .. } => (0..).zip(weights.iter().copied()).collect(),
        }
    }

    /// Its amount for one token of a text, from what the map reads there.
    fn amount(&self, x: ndarray::ArrayView1<'_, f32>, token: usize) -> f32 {
        match &self.change {
            Change::Weight { col, delta, .. } => delta * x[*col],
            Change::Restore {
                col,
                delta,
                at,
                value,
                ..
            } => delta * x[*col] + if at.contains(&token) { *value } else { 0.0 },
            Change::Row { weights, .. } => -x.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>(),
            Change::Neuron { col, .. } => -x[*col],
        }
    }
}

/// Edits that are made together; never empty.
pub(crate) type Variant = Vec<Edit>;

/// The first layer that a variant edits: what enters it is as in the unchanged model.
fn first_layer(variant: &Variant) -> usize {
    variant.iter().map(|e| e.at.layer).min().unwrap_or(0)
}

/// An input channel of a linear map.
pub(crate) type Channel = (LinearAt, usize);

/// What came of one variant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Negative log-likelihood of every token but the first of each text, text after text.
    pub(crate) nll: Vec<f64>,
    /// The largest |value| of each watched input, in the order in which they are kept; 0 before the first edited layer.
    pub(crate) largest: Vec<f32>,
}

/// The unchanged model's pass over the texts, and what variants need of it.
pub(crate) struct Baseline<'a> {
    model: &'a Model,
    pub(crate) texts: &'a [Vec<u32>],
    /// Negative log-likelihood of every token but the first of each text, text after text.
    pub(crate) nll: Vec<f64>,
    /// The residual stream entering the layers asked for; `[tokens, hidden]`.
    resid: BTreeMap<usize, Array2<f32>>,
    /// The inputs asked for, one value per token; 0 where an expert did not see the token.
    pub(crate) inputs: BTreeMap<Channel, Vec<f32>>,
}

impl<'a> Baseline<'a> {
    /// Runs the unchanged model. `watched`: the inputs to be kept, and with their layers the residual streams; `layers`: those
    /// of which the residual stream is kept beside them. A variant's first layer must be among both.
    pub(crate) fn run(
        model: &'a Model,
        texts: &'a [Vec<u32>],
        watched: impl IntoIterator<Item = Channel>,
        layers: impl IntoIterator<Item = usize>,
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
        }
        let of_inputs: Vec<_> = baseline.inputs.keys().map(|k| k.0.layer).collect();
        for layer in layers.into_iter().chain(of_inputs) {
            let resid = Array2::zeros((tokens, model.spec().hidden_size));
            baseline.resid.insert(layer, resid);
        }
        let seqs: Vec<_> = texts.iter().map(|t| Seq::from(t.as_slice())).collect();
        let rows = model.forward(&seqs, &mut baseline)?;
        baseline.nll = baseline.score(&rows)?.swap_remove(0);
        Ok(baseline)
    }

    /// The watched inputs, in the order of [`Outcome::largest`], with their largest |values|.
    pub(crate) fn largest(&self) -> Vec<(Channel, f32)> {
        let largest = |x: &Vec<f32>| x.iter().fold(0f32, |m, x| m.max(x.abs()));
        self.inputs
            .iter()
            .map(|(&at, x)| (at, largest(x)))
            .collect()
    }

    /// The tokens of all texts together.
    pub(crate) fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// Negative log-likelihoods of each copy of the texts, from the rows after the final norm of all copies.
    fn score(&self, rows: &Array2<f32>) -> Result<Vec<Vec<f64>>> {
        let (mut predicting, mut targets) = (Vec::new(), Vec::new());
        let copies = rows.nrows() / self.tokens();
        let mut first = 0;
        for text in (0..copies).flat_map(|_| self.texts) {
            predicting.extend(first..first + text.len() - 1);
            targets.extend_from_slice(&text[1..]);
            first += text.len();
        }
        let rows = rows.select(Axis(0), &predicting);
        let scores = self.model.score(rows.view(), &targets)?;
        let nll: Vec<f64> = scores.iter().map(|s| -s.log_prob).collect();
        Ok(nll
            .chunks(nll.len() / copies)
            .map(<[f64]>::to_vec)
            .collect())
    }

    /// The negative log-likelihoods under each variant, in order. `max_rows` bounds the tokens of one batch.
    pub(crate) fn nll_of(&self, variants: &[Variant], max_rows: usize) -> Result<Vec<Vec<f64>>> {
        let outcomes = self.outcomes(variants, max_rows, &mut |_| ())?;
        Ok(outcomes.into_iter().map(|o| o.nll).collect())
    }

    /// What comes of each variant, in order; `done` is told how many more are done.
    pub(crate) fn outcomes(
        &self,
        variants: &[Variant],
        max_rows: usize,
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Outcome>> {
        let mut order: Vec<usize> = (0..variants.len()).collect();
        order.sort_by_key(|&v| first_layer(&variants[v]));
        let mut all = vec![Outcome::default(); variants.len()];
        for batch in order.chunks((max_rows / self.tokens()).max(1)) {
            let edits: Vec<_> = batch.iter().map(|&v| &variants[v]).collect();
            let (rows, largest) = self.forward(&edits)?;
            let copies = self.score(&rows)?.into_iter().zip(largest);
            for ((nll, largest), &v) in copies.zip(batch) {
                all[v] = Outcome { nll, largest };
            }
            done(batch.len());
        }
        Ok(all)
    }

    /// One batch of variants, in the order of their first layers, each of which joins at its own: `[variants * tokens, hidden]`, and
    /// each one's largest inputs.
    fn forward(&self, variants: &[&Variant]) -> Result<(Array2<f32>, Vec<Vec<f32>>)> {
        let lens: Vec<usize> = self.texts.iter().map(Vec::len).collect();
        let edits = || variants.iter().flat_map(|v| v.iter());
        let spec = self.model.spec();
        let outputs = edits().flat_map(|e| {
            let site = |(row, _)| Some(Site::output_of(spec, e.at, row)?.0);
            e.writes().into_iter().filter_map(site)
        });
        let read = edits().map(|e| e.at).chain(self.inputs.keys().map(|k| k.0));
        let mut hook = Riders {
            model: self.model,
            inputs: read.filter_map(Site::input_of).collect(),
            outputs: outputs.collect(),
            variants,
            tokens: self.tokens(),
            pending: Vec::new(),
            watched: self.inputs.keys().copied().collect(),
            largest: vec![vec![0.0; self.inputs.len()]; variants.len()],
        };
        let end = spec.layers.len();
        let mut rows = Array2::zeros((0, spec.hidden_size));
        let mut rest = variants;
        let mut layer = first_layer(variants[0]);
        while layer < end {
            let joining = rest.partition_point(|v| first_layer(v) <= layer);
            rest = &rest[joining..];
            let mut parts = vec![rows.view()];
            parts.resize(1 + joining, self.resid[&layer].view());
            rows = concatenate(Axis(0), &parts).expect("rows of one width");
            let next = rest.first().map_or(end, |v| first_layer(v));
            let lens = lens.repeat(variants.len() - rest.len());
            rows = self
                .model
                .forward_layers(layer..next, rows, &lens, &mut hook)?;
            layer = next;
        }
        Ok((rows, hook.largest))
    }
}

impl Hook for Baseline<'_> {
    fn wants(&self, site: Site) -> bool {
        match site {
            Site::ResidPre(l) => self.resid.contains_key(&l),
            _ => self
                .inputs
                .keys()
                .any(|k| Site::input_of(k.0) == Some(site)),
        }
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        if let Site::ResidPre(l) = site {
            self.resid.insert(l, view.data.to_owned());
            return;
        }
        let here = |k: &Channel| Site::input_of(k.0) == Some(site);
        for ((_, col), values) in self.inputs.iter_mut().filter(|(k, _)| here(k)) {
            for (r, x) in view.data.column(*col).iter().enumerate() {
                values[view.tokens.map_or(r, |tokens| tokens[r])] = *x;
            }
        }
    }
}

/// What a row of the batch gets at an output that is still to come.
struct Pending<'a> {
    at: LinearAt,
    row: usize,
    amount: f32,
    edit: &'a Edit,
}

/// The hook that makes each copy of the texts its variant.
struct Riders<'a> {
    model: &'a Model,
    variants: &'a [&'a Variant],
    /// Where something is read, and where something is written.
    inputs: BTreeSet<Site>,
    outputs: BTreeSet<Site>,
    /// Tokens of one copy.
    tokens: usize,
    /// Changes whose input has been seen and whose output has not.
    pending: Vec<Pending<'a>>,
    watched: Vec<Channel>,
    /// The largest |value| of each watched input, `[variant][watched]`.
    largest: Vec<Vec<f32>>,
}

impl<'a> Riders<'a> {
    fn read(&mut self, site: Site, view: &SiteView<'_>) {
        let variants = self.variants;
        let row_of = |r: usize| view.tokens.map_or(r, |tokens| tokens[r]);
        for (i, (at, col)) in self.watched.iter().enumerate() {
            if Site::input_of(*at) == Some(site) {
                for (r, x) in view.data.column(*col).iter().enumerate() {
                    let largest = &mut self.largest[row_of(r) / self.tokens][i];
                    *largest = largest.max(x.abs());
                }
            }
        }
        for (v, variant) in variants.iter().enumerate() {
            let variant: &'a Variant = variant;
            for edit in variant {
                if Site::input_of(edit.at) != Some(site) {
                    continue;
                }
                self.pending.retain(|p| p.at.layer >= edit.at.layer);
                for (row, x) in view.data.rows().into_iter().enumerate() {
                    let token = row_of(row);
                    if token / self.tokens == v {
                        let amount = edit.amount(x, token % self.tokens);
                        let at = edit.at;
                        self.pending.push(Pending {
                            at,
                            row,
                            amount,
                            edit,
                        });
                    }
                }
            }
        }
    }

    fn write(&mut self, site: Site, view: &mut SiteView<'_>) {
        let spec = self.model.spec();
        for p in &self.pending {
            for (row, part) in p.edit.writes() {
                if let Some((_, channel)) =
                    Site::output_of(spec, p.at, row).filter(|(s, _)| *s == site)
                {
                    view.data[[p.row, channel]] += p.amount * part;
                }
            }
        }
    }
}

impl Hook for Riders<'_> {
    fn wants(&self, site: Site) -> bool {
        self.inputs.contains(&site) || self.outputs.contains(&site)
    }

    fn visit(&mut self, site: Site, mut view: SiteView<'_>) {
        self.write(site, &mut view);
        self.read(site, &view);
    }
}
