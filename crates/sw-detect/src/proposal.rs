//! Weights that may matter, from all sources: a plain list, which a census decides by effect.

use std::collections::BTreeMap;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};
use sw_model::{Hook, LinearAt, Model, Site, SiteView, WeightCoord};

use crate::{
    error::{Error, Result},
    scan::{Spike, channel_maxima, median},
    thresholds::Thresholds,
    weight,
};

/// How a weight came to be proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// It contributes most to an output of `down_proj` that stands out, in any round.
    Spike,
    /// It takes such an output back.
    Canceller,
    /// It reads the input of a spike, or writes to the output of one.
    Behind,
    /// It reads a channel that stands out, in any linear map.
    Reader,
    /// `|w * dL/dw|` is among the largest.
    Gradient,
}

/// A weight that may matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Which weight.
    #[serde(flatten)]
    pub coord: WeightCoord,
    /// Who proposes it.
    pub source: Source,
    /// How strongly: for gradients `|w * dL/dw|`, else its part of the output in units of what is usual there. Scores of
    /// different sources do not compare.
    pub score: f32,
    /// What zeroing it costs on the census' first, short text, in nats per token; `None` where it was not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<f64>,
}

/// The weights that together make most of one output that stands out: no single one of them makes enough of it to be a spike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowUnit {
    /// Its weights, largest contributions first: together 90 % of the output, or 64.
    pub weights: Vec<WeightCoord>,
    /// The output in units of what is usual there.
    pub score: f32,
}

/// The weights with the largest `|w * dL/dw|`, by one pass forward and back over the texts; `None` for a family whose backward
/// pass is not known: such a model is screened by spikes alone.
///
/// # Errors
/// A gradient that is not finite, and whatever stops a forward pass.
pub fn screen(model: &Model, texts: &[Vec<u32>], top: usize) -> Result<Option<Vec<Proposal>>> {
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let screened = match sw_train::screen(model, &texts, top) {
        Err(sw_train::Error::Unsupported { .. }) => return Ok(None),
        screened => screened.map_err(|e| Error::Screening {
            problem: e.to_string(),
        })?,
    };
    let proposal = |s: sw_train::Screened| Proposal {
        coord: s.at,
        source: Source::Gradient,
        score: s.score,
        effect: None,
    };
    Ok(Some(screened.into_iter().map(proposal).collect()))
}

/// How many further weights of a spike's row, and of its column, are proposed.
const BEHIND: usize = 3;
/// How many standing-out channels of an input are followed, and to how many outputs of a map.
const READ: (usize, usize) = (3, 2);

/// What the rounds of a search have seen.
#[derive(Default)]
pub(crate) struct Pool {
    proposals: BTreeMap<WeightCoord, Proposal>,
    rows: BTreeMap<(LinearAt, usize), RowUnit>,
}

impl Pool {
    fn add(&mut self, coord: WeightCoord, source: Source, score: f32) {
        let new = Proposal {
            coord,
            source,
            score,
            effect: None,
        };
        let known = self.proposals.entry(coord).or_insert_with(|| new.clone());
        if (source, -score) < (known.source, -known.score) {
            *known = new;
        }
    }

    /// Takes down what stands behind an output that stands out.
    pub(crate) fn spike(
        &mut self,
        model: &Model,
        spike: &Spike,
        cancels: bool,
        thresholds: &Thresholds<'_>,
    ) {
        let coord = spike.coord();
        let usual = thresholds.usual(spike, 1).max(f32::MIN_POSITIVE);
        let score = |part: f32| part.abs() / usual;
        let source = if cancels {
            Source::Canceller
        } else {
            Source::Spike
        };
        self.add(coord, source, score(spike.x * spike.w));
        for &(col, share) in spike.makers.iter().take(1 + BEHIND) {
            self.add(
                WeightCoord { col, ..coord },
                Source::Behind,
                score(share * spike.y),
            );
        }
        if let Some(w) = model.weight_at(coord.at()) {
            let column = weight::column(w, spike.col);
            for row in largest(&column, 1 + BEHIND) {
                let part = score(column[row] * spike.x);
                self.add(WeightCoord { row, ..coord }, Source::Behind, part);
            }
        }
        if spike.share() < thresholds.options.min_share && spike.makers.len() > 1 {
            let makers = spike.makers.iter();
            let unit = RowUnit {
                weights: makers
                    .map(|&(col, _)| WeightCoord { col, ..coord })
                    .collect(),
                score: score(spike.y),
            };
            let known = self
                .rows
                .entry((coord.at(), coord.row))
                .or_insert(unit.clone());
            if known.score < unit.score {
                *known = unit;
            }
        }
    }

    /// Takes down who reads channels that stand out.
    pub(crate) fn readers(&mut self, readers: Vec<(WeightCoord, f32)>) {
        for (coord, score) in readers {
            self.add(coord, Source::Reader, score);
        }
    }

    /// Everything, strongest first.
    pub(crate) fn into_lists(self) -> (Vec<Proposal>, Vec<RowUnit>) {
        let mut proposals: Vec<_> = self.proposals.into_values().collect();
        proposals.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut rows: Vec<_> = self.rows.into_values().collect();
        rows.sort_by(|a, b| b.score.total_cmp(&a.score));
        (proposals, rows)
    }
}

/// The indices of the largest |values|, largest first.
fn largest(values: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()));
    order.truncate(n);
    order
}

/// A hook that follows input channels that stand out to the weights of any linear map that read them.
pub(crate) struct Readers<'a> {
    model: &'a Model,
    /// How many times the median over the channels stands out.
    relative: f32,
    /// Weights whose output is still to come, and their part of it.
    pending: Vec<(WeightCoord, f32)>,
    pub(crate) found: Vec<(WeightCoord, f32)>,
}

impl<'a> Readers<'a> {
    pub(crate) fn new(model: &'a Model, relative: f32) -> Self {
        Self {
            model,
            relative,
            pending: Vec::new(),
            found: Vec::new(),
        }
    }

    fn input(&mut self, maps: &[LinearAt], x: ArrayView2<'_, f32>) {
        let maxima: Vec<f32> = channel_maxima(x).iter().map(|m| m.0).collect();
        let limit = self.relative * median(maxima.iter().copied());
        let loud = largest(&maxima, READ.0);
        for &at in maps {
            let Some(w) = self.model.weight_at(at) else {
                continue;
            };
            for &col in loud.iter().filter(|&&col| maxima[col] > limit) {
                let column = weight::column(w, col);
                for row in largest(&column, READ.1) {
                    let coord = WeightCoord {
                        layer: at.layer,
                        linear: at.linear,
                        expert: at.expert,
                        row,
                        col,
                    };
                    self.pending
                        .push((coord, (column[row] * maxima[col]).abs()));
                }
            }
        }
    }

    fn output(&mut self, site: Site, y: ArrayView2<'_, f32>) {
        let spec = self.model.spec();
        let here =
            |c: &WeightCoord| Site::output_of(spec, c.at(), c.row).is_some_and(|(s, _)| s == site);
        if !self.pending.iter().any(|(c, _)| here(c)) {
            return;
        }
        let usual = median(channel_maxima(y).iter().map(|m| m.0)).max(f32::MIN_POSITIVE);
        for (coord, part) in self.pending.iter().filter(|(c, _)| here(c)) {
            self.found.push((*coord, part / usual));
        }
    }

    /// The dense maps that read at a site.
    fn maps(&self, site: Site) -> Vec<LinearAt> {
        let (Site::AttnIn(l) | Site::OIn(l) | Site::MlpIn(l)) = site else {
            return Vec::new();
        };
        let all = sw_model::Linear::ALL.map(|linear| LinearAt::dense(l, linear));
        let reads = |at: &LinearAt| Site::input_of(*at) == Some(site);
        let there = all.into_iter().filter(reads);
        there
            .filter(|&at| self.model.weight_at(at).is_some())
            .collect()
    }
}

impl Hook for Readers<'_> {
    fn wants(&self, site: Site) -> bool {
        matches!(
            site,
            Site::AttnIn(_)
                | Site::OIn(_)
                | Site::MlpIn(_)
                | Site::Query(_)
                | Site::Key(_)
                | Site::Value(_)
                | Site::AttnOut(_)
                | Site::GateOut(_)
                | Site::UpOut(_)
        )
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let maps = self.maps(site);
        if maps.is_empty() {
            self.output(site, view.data.view());
        } else {
            if matches!(site, Site::AttnIn(_)) {
                self.pending.clear();
            }
            self.input(&maps, view.data.view());
        }
    }
}
