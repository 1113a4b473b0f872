//! The search: spikes at input and output of the same token, zero what made them, run again.

use sw_model::{Linear, Model, Seq, WeightEdit};

use crate::{
    error::{Error, Result},
    options::{DetectOptions, Mode},
    prompt::encode,
    report::{Applied, Candidate, Groups, LayerProfile, Peak, Report, Unit},
    scan::{Kept, Scan, Spike, median},
    weight,
};

/// Searches the super weights of a model with a prompt.
///
/// # Errors
/// A prompt that encodes to nothing, a model without a tokenizer, and whatever stops a forward pass.
pub fn detect_prompt(model: &Model, prompt: &str, options: &DetectOptions) -> Result<Report> {
    let report = detect(model, &encode(model, prompt)?, options)?;
    Ok(Report {
        prompt: Some(prompt.into()),
        ..report
    })
}

/// Searches the super weights of a model with the tokens of a prompt.
///
/// One forward pass records the largest values at the input and the output of every `down_proj`. A candidate is an
/// output spike with an input spike at the same token that contributes enough to it. The earliest is accepted, zeroed,
/// and the pass is run again from its layer on, until nothing new stands out. The model itself is never changed.
///
/// # Errors
/// No tokens, a token beyond the vocabulary, a non-finite activation.
pub fn detect(model: &Model, tokens: &[u32], options: &DetectOptions) -> Result<Report> {
    if tokens.is_empty() {
        return Err(Error::Prompt {
            prompt: String::new(),
            expected: 1,
            found: 0,
        });
    }
    let mut scan = Scan::new(model, options);
    model.forward(&[Seq::from(tokens)], &mut scan)?;
    let Scan {
        profile,
        mut spikes,
        kept,
        ..
    } = scan;
    let mut thresholds = Thresholds::new(options, &profile);
    if options.mode == Mode::Auto {
        let any = spikes.iter().any(|s| thresholds.accepts(s));
        thresholds.mode = if any { Mode::Absolute } else { Mode::Relative };
    }
    let mut kept = kept.into_iter().nth(thresholds.index()).flatten();
    let mut found = Found::default();
    let weak_candidate = strongest(model, &spikes, &thresholds);
    let mut edited = model.clone();
    let mut complete = false;
    let mut round = 1;
    loop {
        let Some(accepted) = found.accept(model, &spikes, &thresholds, round) else {
            complete = true;
            break;
        };
        if round == options.max_rounds.max(1) {
            break;
        }
        edited = edited.edited(&[WeightEdit::prune(accepted)])?;
        // The residual stream that enters the earliest layer with a spike: no edit reaches it.
        let Some(Kept { layer, resid }) = kept else {
            break;
        };
        let mut scan = Scan::new(&edited, options);
        edited.forward_from(layer, resid.clone(), &[tokens.len()], &mut scan)?;
        spikes = scan.spikes;
        let later = scan.kept.into_iter().nth(thresholds.index()).flatten();
        kept = Some(later.unwrap_or(Kept { layer, resid }));
        round += 1;
    }
    Ok(Report {
        model: model.dir().display().to_string(),
        prompt: None,
        weak_candidate: weak_candidate.filter(|_| found.super_weights.is_empty()),
        groups: Groups::of(&found.super_weights),
        super_weights: found.super_weights,
        cancellers: found.cancellers,
        profile,
        threshold: thresholds.applied(),
        rounds: round,
        complete,
        tokens: tokens.to_vec(),
        proof: None,
    })
}

/// What a value must exceed.
struct Thresholds<'a> {
    options: &'a DetectOptions,
    mode: Mode,
    /// Medians over the layers of what is usual at their inputs, and at their outputs.
    medians: [f32; 2],
}

impl<'a> Thresholds<'a> {
    fn new(options: &'a DetectOptions, first_round: &[LayerProfile]) -> Self {
        let over_layers =
            |side: fn(&LayerProfile) -> Peak| median(first_round.iter().map(|l| side(l).median));
        Self {
            options,
            mode: if options.mode == Mode::Auto {
                Mode::Absolute
            } else {
                options.mode
            },
            medians: [over_layers(|l| l.down_in), over_layers(|l| l.down_out)],
        }
    }

    /// What is usual at input (0) and output (1): for the layer's channels or over the layers, whichever is more.
    fn usual(&self, spike: &Spike, side: usize) -> f32 {
        spike.medians[side].max(self.medians[side])
    }

    fn limit(&self, spike: &Spike, side: usize) -> f32 {
        match self.mode {
            Mode::Relative => self.options.relative * self.usual(spike, side),
            _ => self.options.absolute,
        }
    }

    fn stands_out(&self, spike: &Spike) -> bool {
        spike.x.abs() > self.limit(spike, 0) && spike.y.abs() > self.limit(spike, 1)
    }

    fn accepts(&self, spike: &Spike) -> bool {
        self.stands_out(spike) && spike.share() >= self.options.min_share
    }

    fn index(&self) -> usize {
        usize::from(self.mode == Mode::Relative)
    }

    fn applied(&self) -> Applied {
        let value = match self.mode {
            Mode::Relative => self.options.relative,
            _ => self.options.absolute,
        };
        Applied {
            mode: self.mode,
            value,
        }
    }

    fn candidate(&self, model: &Model, spike: &Spike, round: usize) -> Candidate {
        let tensor = model.spec().tensor_name(spike.layer, Linear::Down);
        Candidate {
            layer: spike.layer,
            tensor: tensor.unwrap_or_default(),
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
            in_ratio: spike.x.abs() / self.usual(spike, 0),
            out_ratio: spike.y.abs() / self.usual(spike, 1),
            effects: None,
        }
    }

    /// Tells row, neuron and scalar apart; the column is that of the unedited model.
    fn unit(&self, model: &Model, spike: &Spike) -> Unit {
        if spike.share() < self.options.scalar_share {
            return Unit::Row;
        }
        let Some(w) = weight::down(model, spike.layer, spike.expert) else {
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

#[derive(Default)]
struct Found {
    super_weights: Vec<Candidate>,
    cancellers: Vec<Candidate>,
}

impl Found {
    /// Accepts the earliest new candidate of a round, and takes down the cancellers of all that are accepted.
    fn accept(
        &mut self,
        model: &Model,
        spikes: &[Spike],
        thresholds: &Thresholds<'_>,
        round: usize,
    ) -> Option<sw_model::WeightCoord> {
        let mut accepted = None;
        for spike in spikes.iter().filter(|s| thresholds.stands_out(s)) {
            if self.cancels(spike) {
                let candidate = thresholds.candidate(model, spike, round);
                if self
                    .cancellers
                    .iter()
                    .all(|c| c.coord() != candidate.coord())
                {
                    self.cancellers.push(candidate);
                }
            } else if accepted.is_none()
                && thresholds.accepts(spike)
                && !self.known(spike, thresholds)
            {
                let candidate = thresholds.candidate(model, spike, round);
                accepted = Some(candidate.coord());
                self.super_weights.push(candidate);
            }
        }
        accepted
    }

    /// Whether a spike only cancels a super activation: a later layer, the same token and channel, the opposite sign.
    fn cancels(&self, spike: &Spike) -> bool {
        self.super_weights.iter().any(|c| {
            c.layer < spike.layer
                && (c.token, c.row) == (spike.token, spike.row)
                && c.down_out * spike.y < 0.0
        })
    }

    /// Whether a spike is the work of a canceller (at another token now), or what remains of a row that has been
    /// reported as a whole.
    fn known(&self, spike: &Spike, thresholds: &Thresholds<'_>) -> bool {
        let row =
            |c: &Candidate| (c.layer, c.expert, c.row) == (spike.layer, spike.expert, spike.row);
        let remains = spike.share() < thresholds.options.scalar_share;
        self.cancellers.iter().any(|c| row(c) && c.col == spike.col)
            || remains
                && self
                    .super_weights
                    .iter()
                    .any(|c| row(c) && c.unit == Unit::Row)
    }
}

/// The weight that contributes most to an output, measured by what is usual there: the best there is when none passes.
fn strongest(model: &Model, spikes: &[Spike], thresholds: &Thresholds<'_>) -> Option<Candidate> {
    let strength = |s: &Spike| (s.x * s.w).abs() / thresholds.usual(s, 1);
    let spike = spikes
        .iter()
        .max_by(|a, b| strength(a).total_cmp(&strength(b)))?;
    Some(Candidate {
        weak: true,
        ..thresholds.candidate(model, spike, 1)
    })
}
