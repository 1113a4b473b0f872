//! The search: spikes at input and output of the same token, zero what made them, run again.

use std::collections::BTreeSet;

use sw_model::{Model, Seq, WeightCoord, WeightEdit};

use crate::{
    error::Result,
    options::DetectOptions,
    prompt::{encode, some},
    proposal::{Pool, Readers},
    report::{Candidate, Groups, LayerProfile, Report, Unit},
    scan::{Kept, Scan, Spike},
    thresholds::Thresholds,
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

/// The largest values at the input and the output of every `down_proj`, by one forward pass (Figures 3 and 10 of the
/// paper; for after the pruning, call it with [`pruned`](crate::pruned)).
///
/// # Errors
/// As [`detect`].
pub fn profile(model: &Model, tokens: &[u32]) -> Result<Vec<LayerProfile>> {
    some(tokens)?;
    let model = &model.for_few_tokens();
    let options = DetectOptions::default();
    let mut scan = Scan::new(model, &options);
    model.forward(&[Seq::from(tokens)], &mut scan)?;
    Ok(scan.profile)
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
    some(tokens)?;
    let model = &model.for_few_tokens();
    let mut hook = (
        Scan::new(model, options),
        Readers::new(model, options.relative),
    );
    model.forward(&[Seq::from(tokens)], &mut hook)?;
    let (
        Scan {
            profile,
            mut spikes,
            kept,
            ..
        },
        readers,
    ) = hook;
    let thresholds = Thresholds::new(options, &profile);
    let mut pool = Pool::default();
    pool.readers(readers.found);
    let mut kept = kept.into_iter().nth(thresholds.index()).flatten();
    let mut found = Found::new(&spikes, &thresholds);
    let weak_candidate = strongest(model, &spikes, &thresholds);
    let mut edited = model.clone();
    let mut complete = false;
    let mut round = 1;
    loop {
        let accepted = found.accept(model, &spikes, &thresholds, round);
        for spike in spikes.iter().filter(|s| thresholds.output_stands_out(s)) {
            pool.spike(model, spike, found.cancels(spike, &thresholds), &thresholds);
        }
        let Some(accepted) = accepted else {
            complete = true;
            break;
        };
        if round == options.max_rounds {
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
    let (candidates, rows) = pool.into_lists();
    Ok(Report {
        model: model.source().display().to_string(),
        prompt: None,
        weak_candidate: weak_candidate.filter(|_| found.super_weights.is_empty()),
        groups: Groups::of(&found.super_weights),
        super_weights: found.super_weights,
        inert: Vec::new(),
        cancellers: found.cancellers,
        candidates,
        rows,
        profile,
        threshold: thresholds.applied(),
        rounds: round,
        complete,
        tokens: tokens.to_vec(),
        proof: None,
        census: None,
    })
}

/// An output of up to this many times what the residual stream carries takes that back; a larger one makes its own.
const MOST_CANCELLED: f32 = 2.0;

struct Found {
    super_weights: Vec<Candidate>,
    cancellers: Vec<Candidate>,
    /// Outputs (layer, expert, row) that stand out in the unedited model with an input that makes enough of them.
    loud: BTreeSet<(usize, Option<usize>, usize)>,
}

impl Found {
    /// `spikes`: of the first round.
    fn new(spikes: &[Spike], thresholds: &Thresholds<'_>) -> Self {
        let loud = spikes.iter().filter(|s| thresholds.accepts(s));
        Self {
            super_weights: Vec::new(),
            cancellers: Vec::new(),
            loud: loud.map(|s| (s.layer, s.expert, s.row)).collect(),
        }
    }

    /// Accepts the earliest new candidate of a round, and takes down the cancellers of all that are accepted.
    fn accept(
        &mut self,
        model: &Model,
        spikes: &[Spike],
        thresholds: &Thresholds<'_>,
        round: usize,
    ) -> Option<WeightCoord> {
        let mut accepted = None;
        for spike in spikes.iter().filter(|s| thresholds.output_stands_out(s)) {
            if self.cancels(spike, thresholds) {
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
                && !self.let_loose(spike)
                && !self.suppressed(spike, thresholds)
                && !self.known(spike, thresholds)
            {
                let candidate = thresholds.candidate(model, spike, round);
                accepted = Some(candidate.coord());
                self.super_weights.push(candidate);
            }
        }
        accepted
    }

    /// Whether a spike is the damage that zeroing has done: the output was quiet in the unedited model, and it is no other
    /// part of a super activation that has been found, at its token and in its channel.
    fn let_loose(&self, spike: &Spike) -> bool {
        let part = |c: &Candidate| (c.token, c.row) == (spike.token, spike.row);
        let place = (spike.layer, spike.expert, spike.row);
        !self.loud.contains(&place) && !self.super_weights.iter().any(part)
    }

    /// Whether a later layer's spike only cancels a super activation: at the same token and channel with the opposite
    /// sign, or wherever else the residual stream carries something as large of the opposite sign.
    fn cancels(&self, spike: &Spike, thresholds: &Thresholds<'_>) -> bool {
        let carried = spike.resid * spike.y < 0.0
            && thresholds.carried(spike)
            && spike.y.abs() <= MOST_CANCELLED * spike.resid.abs();
        self.super_weights.iter().any(|c| {
            let there = (c.token, c.row) == (spike.token, spike.row) && c.down_out * spike.y < 0.0;
            c.layer < spike.layer && (there || carried)
        })
    }

    /// Whether a spike is the small remainder of what has been found at the same matrix: its neurons still fire, and
    /// their ordinary weights now make its largest output. The paper's stop: "greatly suppressed".
    fn suppressed(&self, spike: &Spike, thresholds: &Thresholds<'_>) -> bool {
        self.super_weights.iter().any(|c| {
            (c.layer, c.expert) == (spike.layer, spike.expert)
                && spike.y.abs() < thresholds.options.suppressed * c.down_out.abs()
        })
    }

    /// Whether a spike is the work of a canceller (at another token now), or what remains of a row that has been
    /// reported as a whole: no weight of it has a share, or a part comparable to the reported one's.
    fn known(&self, spike: &Spike, thresholds: &Thresholds<'_>) -> bool {
        let here =
            |c: &Candidate| (c.layer, c.expert, c.row) == (spike.layer, spike.expert, spike.row);
        let enough = thresholds.options.scalar_share;
        let part = (spike.x * spike.w).abs();
        let remains = |c: &Candidate| {
            here(c) && c.unit == Unit::Row && part < enough * (c.down_in * c.value).abs()
        };
        self.cancellers.iter().any(here)
            || spike.share() < enough && self.super_weights.iter().any(remains)
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
