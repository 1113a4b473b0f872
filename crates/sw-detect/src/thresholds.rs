//! Which spikes stand out, and what stands behind them.

use sw_model::Model;

use crate::{
    options::{DetectOptions, Mode},
    report::{Applied, Candidate, LayerProfile, Peak, Unit},
    scan::{Spike, median},
    weight,
};

/// What a value must exceed.
pub(crate) struct Thresholds<'a> {
    pub(crate) options: &'a DetectOptions,
    mode: Mode,
    /// Medians over the layers of what is usual at their inputs, and at their outputs.
    medians: [f32; 2],
}

impl<'a> Thresholds<'a> {
    /// `profile`: of the first round.
    pub(crate) fn new(options: &'a DetectOptions, profile: &[LayerProfile]) -> Self {
        let over_layers =
            |side: fn(&LayerProfile) -> Peak| median(profile.iter().map(|l| side(l).median));
        let medians = [over_layers(|l| l.down_in), over_layers(|l| l.down_out)];
        let with = |mode| Self {
            options,
            mode,
            medians,
        };
        match options.mode {
            Mode::Auto => with(Mode::Relative),
            mode => with(mode),
        }
    }

    /// What is usual at input (0) and output (1): for the layer's channels or over the layers, whichever is more.
    pub(crate) fn usual(&self, spike: &Spike, side: usize) -> f32 {
        spike.medians[side].max(self.medians[side])
    }

    /// What the input (0) and the output (1) must exceed.
    fn limit(&self, spike: &Spike, side: usize) -> f32 {
        match self.mode {
            Mode::Relative => self.options.relative * self.usual(spike, side),
            _ => self.options.absolute,
        }
    }

    /// Whether the output stands out.
    pub(crate) fn output_stands_out(&self, spike: &Spike) -> bool {
        spike.y.abs() > self.limit(spike, 1)
    }

    /// Whether the residual stream that enters the layer stands out there as an output must.
    pub(crate) fn carried(&self, spike: &Spike) -> bool {
        spike.resid.abs() > self.limit(spike, 1)
    }

    /// Whether output and input stand out, and this input makes enough of the output.
    pub(crate) fn accepts(&self, spike: &Spike) -> bool {
        let input = spike.x.abs() > self.limit(spike, 0);
        input && self.output_stands_out(spike) && spike.share() >= self.options.min_share
    }

    /// Which of [`Scan::kept`](crate::scan::Scan::kept) belongs to the mode.
    pub(crate) fn index(&self) -> usize {
        usize::from(self.mode == Mode::Relative)
    }

    pub(crate) fn applied(&self) -> Applied {
        let value = match self.mode {
            Mode::Relative => self.options.relative,
            _ => self.options.absolute,
        };
        Applied {
            mode: self.mode,
            value,
        }
    }

    pub(crate) fn candidate(&self, model: &Model, spike: &Spike, round: usize) -> Candidate {
        let tensor = model.spec().tensor_name_at(spike.coord().at());
        Candidate {
            layer: spike.layer,
            tensor: tensor.unwrap_or_default(),
            linear: spike.linear,
            expert: spike.expert,
            row: spike.row,
            col: spike.col,
            value: spike.w,
            round,
            down_in: spike.x,
            down_out: spike.y,
            token: spike.token,
            share: spike.share(),
            unit: self.unit(model, spike),
            weak: false,
            verdict: None,
            columns_for_half: spike.columns_for_half,
            in_ratio: ratio(spike.x, self.usual(spike, 0)),
            out_ratio: ratio(spike.y, self.usual(spike, 1)),
            effects: None,
            relations: Vec::new(),
        }
    }

    /// Tells row, neuron and scalar apart; the column is that of the unedited model.
    fn unit(&self, model: &Model, spike: &Spike) -> Unit {
        if spike.share() < self.options.scalar_share {
            return Unit::Row;
        }
        let Some(w) = model.weight_at(spike.coord().at()) else {
            return Unit::Scalar;
        };
        let column = weight::column(w, spike.col);
        let limit = self.limit(spike, 1);
        match column
            .iter()
            .filter(|w| (spike.x * **w).abs() > limit)
            .count()
        {
            0 | 1 => Unit::Scalar,
            _ => Unit::Neuron,
        }
    }
}

/// Finite, as JSON wants it, even where most channels are zero.
fn ratio(value: f32, usual: f32) -> f32 {
    (value.abs() / usual.max(f32::MIN_POSITIVE)).min(f32::MAX)
}
