//! One forward pass, watched: the largest values at the inputs and outputs of every `down_proj`, and what made them.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView1, ArrayView2};
use sw_model::{Hook, Linear, Model, Site, SiteView, WeightCoord};

use crate::{
    options::DetectOptions,
    report::{LayerProfile, Peak},
    weight,
};

/// How many output channels of one layer are looked into, at most.
const CHANNELS_PER_LAYER: usize = 16;

/// An output value, and the input that contributes most to it.
#[derive(Clone, Debug)]
pub(crate) struct Spike {
    pub(crate) layer: usize,
    pub(crate) linear: Linear,
    pub(crate) expert: Option<usize>,
    pub(crate) token: usize,
    pub(crate) row: usize,
    pub(crate) col: usize,
    /// Input at (token, col).
    pub(crate) x: f32,
    /// Weight at (row, col).
    pub(crate) w: f32,
    /// Output at (token, row).
    pub(crate) y: f32,
    /// How many inputs it takes to make half of `y`.
    pub(crate) columns_for_half: usize,
    /// What is usual among the inputs, and among the outputs: medians of the channels' largest |values|.
    pub(crate) medians: [f32; 2],
    /// The residual stream at (token, row) as it entered the layer.
    pub(crate) resid: f32,
    /// The inputs that together make [`MOST`] of `y`, largest contributions first, at most [`CONTRIBUTORS`] of them, with
    /// their parts of it.
    pub(crate) makers: Vec<(usize, f32)>,
}

/// The share of an output that its listed contributors make.
const MOST: f32 = 0.9;
/// Listed contributors, at most.
const CONTRIBUTORS: usize = 64;

impl Spike {
    /// The output `y` of the weight's linear map, made from the inputs `x` of its token and the weights `w` of its row, as
    /// far as the weight is concerned.
    pub(crate) fn new(
        coord: WeightCoord,
        token: usize,
        x: ArrayView1<'_, f32>,
        w: &[f32],
        y: f32,
        medians: [f32; 2],
    ) -> Self {
        let (makers, columns_for_half) = contributions(x, w, y);
        let WeightCoord {
            layer,
            linear,
            expert,
            row,
            col,
        } = coord;
        let (x, w) = (x[col], w[col]);
        Self {
            layer,
            linear,
            expert,
            token,
            row,
            col,
            x,
            w,
            y,
            columns_for_half,
            medians,
            resid: 0.0,
            makers,
        }
    }

    /// The largest contributor's.
    fn of_largest(
        (layer, expert, row): (usize, Option<usize>, usize),
        token: usize,
        x: ArrayView1<'_, f32>,
        w: &[f32],
        y: f32,
        medians: [f32; 2],
    ) -> Self {
        let parts = x.iter().zip(w).map(|(x, w)| x * w / y).enumerate();
        let largest = parts.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        let coord = WeightCoord {
            expert,
            ..WeightCoord::down(layer, row, largest.map_or(0, |(col, _)| col))
        };
        Self::new(coord, token, x, w, y, medians)
    }

    /// The weight's coordinate.
    pub(crate) fn coord(&self) -> WeightCoord {
        WeightCoord {
            layer: self.layer,
            linear: self.linear,
            expert: self.expert,
            row: self.row,
            col: self.col,
        }
    }

    /// This weight's part of the output.
    pub(crate) fn share(&self) -> f32 {
        if self.y == 0.0 {
            return 0.0;
        }
        self.x * self.w / self.y
    }
}

/// The residual stream entering a layer.
pub(crate) struct Kept {
    pub(crate) layer: usize,
    pub(crate) resid: Array2<f32>,
}

/// The hook of a detection's forward pass.
pub(crate) struct Scan<'a> {
    model: &'a Model,
    options: &'a DetectOptions,
    pub(crate) profile: Vec<LayerProfile>,
    /// In the order of the layers; per layer, largest first.
    pub(crate) spikes: Vec<Spike>,
    /// What enters the first layer that has a spike by the absolute, and by the relative threshold.
    pub(crate) kept: [Option<Kept>; 2],
    /// What enters the current layer; `[tokens, hidden]`.
    resid: Option<Array2<f32>>,
    /// Inputs whose outputs are still to come, by expert: `[tokens, intermediate]`, and the median of their largest values.
    inputs: BTreeMap<Option<usize>, (Array2<f32>, f32)>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(model: &'a Model, options: &'a DetectOptions) -> Self {
        let layers = 0..model.spec().layers.len();
        let blank = |layer| LayerProfile {
            layer,
            ..LayerProfile::default()
        };
        Self {
            model,
            options,
            profile: layers.map(blank).collect(),
            spikes: Vec::new(),
            kept: [None, None],
            resid: None,
            inputs: BTreeMap::new(),
        }
    }

    fn input(&mut self, layer: usize, expert: Option<usize>, view: &SiteView<'_>) {
        let data = view.data.view();
        let peak = peak(&channel_maxima(data), data, view.tokens);
        let median = peak.median;
        let seen = &mut self.profile[layer].down_in;
        if peak.value.abs() > seen.value.abs() {
            *seen = peak;
        }
        self.inputs.insert(expert, (data.to_owned(), median));
    }

    fn output(&mut self, layer: usize, expert: Option<usize>, view: &SiteView<'_>) {
        let y = view.data.view();
        let maxima = channel_maxima(y);
        let peak = peak(&maxima, y, view.tokens);
        if expert.is_none() {
            self.profile[layer].down_out = peak;
        }
        // A mixture's weighted sum has no input of its own.
        let Some((x, usual)) = self.inputs.remove(&expert) else {
            return;
        };
        let Some(matrix) = weight::down(self.model, layer, expert) else {
            return;
        };
        let medians = [usual, peak.median];
        let limit = self
            .options
            .absolute
            .min(self.options.relative * peak.median);
        // Of equals, the first channels.
        let larger_first =
            |&a: &usize, &b: &usize| maxima[b].0.total_cmp(&maxima[a].0).then(a.cmp(&b));
        let mut rows: Vec<usize> = (0..maxima.len()).collect();
        if rows.len() > CHANNELS_PER_LAYER {
            rows.select_nth_unstable_by(CHANNELS_PER_LAYER, larger_first);
            rows.truncate(CHANNELS_PER_LAYER);
        }
        rows.sort_unstable_by(larger_first);
        let looked_into = rows.iter().enumerate();
        // The largest is always looked into: it may be the strongest candidate although nothing passes.
        let standing_out = looked_into.filter(|&(i, &row)| i == 0 || maxima[row].0 > limit);
        for (_, &row) in standing_out {
            let t = maxima[row].1;
            if y[[t, row]] == 0.0 {
                continue;
            }
            let at = (layer, expert, row);
            let token = view.tokens.map_or(t, |tokens| tokens[t]);
            let resid = self.resid.as_ref().and_then(|r| r.get([token, row]));
            let mut spike = Spike::of_largest(
                at,
                token,
                x.row(t),
                &weight::row(matrix, row),
                y[[t, row]],
                medians,
            );
            spike.resid = resid.copied().unwrap_or_default();
            let size = spike.x.abs().min(spike.y.abs());
            let ratio = (spike.x.abs() / medians[0]).min(spike.y.abs() / medians[1]);
            let stands_out = [size > self.options.absolute, ratio > self.options.relative];
            for (kept, stands_out) in self.kept.iter_mut().zip(stands_out) {
                if stands_out && kept.is_none() {
                    *kept = self.resid.clone().map(|resid| Kept { layer, resid });
                }
            }
            self.spikes.push(spike);
        }
    }
}

impl Hook for Scan<'_> {
    fn wants(&self, site: Site) -> bool {
        matches!(
            site,
            Site::ResidPre(_)
                | Site::DownIn(_)
                | Site::DownOut(_)
                | Site::ExpertDownIn(..)
                | Site::ExpertDownOut(..)
        )
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        match site {
            Site::ResidPre(_) => self.resid = Some(view.data.to_owned()),
            Site::DownIn(l) => self.input(l, None, &view),
            Site::DownOut(l) => self.output(l, None, &view),
            Site::ExpertDownIn(l, e) => self.input(l, Some(e), &view),
            Site::ExpertDownOut(l, e) => self.output(l, Some(e), &view),
            _ => {}
        }
    }
}

/// The largest |value| of each channel, and its row.
pub(crate) fn channel_maxima(x: ArrayView2<'_, f32>) -> Vec<(f32, usize)> {
    let (mut largest, mut rows) = (vec![0.0f32; x.ncols()], vec![0u32; x.ncols()]);
    let x = x.as_standard_layout();
    for (t, row) in x.rows().into_iter().enumerate() {
        let row = row.to_slice().expect("adjacent columns");
        for ((max, at), v) in largest.iter_mut().zip(&mut rows).zip(row) {
            // Without a branch, which could not be foreseen: what is larger has all bits set here.
            let larger = u32::from(v.abs() > *max).wrapping_neg();
            let choose = |new: u32, old: u32| (new & larger) | (old & !larger);
            *max = f32::from_bits(choose(v.abs().to_bits(), max.to_bits()));
            *at = choose(t as u32, *at);
        }
    }
    let rows = rows.into_iter().map(|t| t as usize);
    largest.into_iter().zip(rows).collect()
}

pub(crate) fn peak(
    maxima: &[(f32, usize)],
    x: ArrayView2<'_, f32>,
    tokens: Option<&[usize]>,
) -> Peak {
    // Of equals, the first channel: `max_by` would take the last.
    let largest = maxima
        .iter()
        .enumerate()
        .rev()
        .max_by(|a, b| a.1.0.total_cmp(&b.1.0));
    let Some((channel, &(_, t))) = largest.filter(|_| x.nrows() > 0) else {
        return Peak::default();
    };
    Peak {
        value: x[[t, channel]],
        token: tokens.map_or(t, |tokens| tokens[t]),
        channel,
        median: median(maxima.iter().map(|m| m.0)),
    }
}

/// The median; of an even number of values, the lower middle one; 0 of none.
pub(crate) fn median(values: impl Iterator<Item = f32>) -> f32 {
    let mut values: Vec<f32> = values.collect();
    if values.is_empty() {
        return 0.0;
    }
    let middle = (values.len() - 1) / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// Of `y = sum_k x[k] w[k]`: the columns that contribute most in the direction of `y`, with their shares, and how many
/// columns, largest contributions first, make half of it.
fn contributions(x: ArrayView1<'_, f32>, w: &[f32], y: f32) -> (Vec<(usize, f32)>, usize) {
    let parts = x.iter().zip(w).map(|(x, w)| x * w / y);
    let mut parts: Vec<(usize, f32)> = parts.enumerate().collect();
    // Of equals, the first columns.
    parts.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let until = |share: f32| {
        let mut sum = 0.0;
        let enough = parts.iter().position(|(_, part)| {
            sum += part;
            sum >= share
        });
        enough.map_or(parts.len(), |i| i + 1)
    };
    let (half, most) = (until(0.5), until(MOST));
    parts.truncate(most.min(CONTRIBUTORS));
    (parts, half)
}
