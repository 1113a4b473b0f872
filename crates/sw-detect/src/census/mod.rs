//! The causal census: weights that were proposed are zeroed, and what that costs decides.
//!
//! In stages, each with fewer weights and more text: every proposal on one short text, the best on two short ones, the
//! finalists on the whole texts. Variants ride as extra sequences of a batch, resumed at their first edited layer.

mod relations;
mod sentence;
mod stages;
mod units;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sw_model::{Model, Precision, WeightCoord};

pub use self::relations::{Kind, Relation};
use self::{
    relations::{Related, relate},
    sentence::sentence,
    stages::{Beside, Stages, beginnings, rank},
};
use crate::{
    error::Result,
    measure::measure,
    options::DetectOptions,
    prompt::at_least,
    proof::{Chosen, Control, Effect, Effects, Matched, Proof, ProofOptions, seen},
    proposal::{Proposal, Source, screen},
    report::{Candidate, Groups, Report, Verdict},
};

/// How many weights go how far, and what counts as damage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CensusOptions {
    /// Proposals that are zeroed in the first stage, at most.
    pub candidates: usize,
    /// Weights proposed by one pass forward and back over the short texts, where the family's backward pass is known; 0 for none.
    pub gradients: usize,
    /// Weights of the second stage, at most.
    pub second: usize,
    /// Weights of the last stage, at most, beside those that cost as much as a decisive one in the second.
    pub finalists: usize,
    /// Tokens of a text in the first two stages.
    pub short: usize,
    /// Random controls per finalist.
    pub controls: usize,
    /// Thresholds of the verdicts.
    pub proof: ProofOptions,
}

impl Default for CensusOptions {
    fn default() -> Self {
        Self {
            candidates: 100,
            gradients: 48,
            second: 24,
            finalists: 12,
            short: 64,
            controls: 2,
            proof: ProofOptions::default(),
        }
    }
}

/// Where a census is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The stage, from 1.
    pub stage: usize,
    /// Variants of the model that have been run in it.
    pub done: usize,
    /// Variants that are to be run in it.
    pub of: usize,
}

/// Weights that are zeroed together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightSet {
    /// The weights.
    pub weights: Vec<WeightCoord>,
    /// What zeroing all of them adds, in nats per token, on the whole texts.
    pub effect: Effect,
    /// The same as a factor of the perplexity: `exp(effect)`.
    pub perplexity_factor: f64,
    /// Whether the model then predicts no better than a uniform guess over its vocabulary.
    pub ruins: bool,
}

/// How a census came to its list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Census {
    /// The answer in one sentence.
    pub sentence: String,
    /// Weights of the model: of its linear maps, embeddings, norms and head.
    pub parameters: usize,
    /// Sources that proposed something.
    pub sources: Vec<Source>,
    /// Weights zeroed in each stage.
    pub stages: Vec<usize>,
    /// Tokens of each text.
    pub tokens: Vec<usize>,
    /// Perplexity of the unchanged model on the texts.
    pub perplexity: f64,
    /// The most costly weight, the most costly pair, and the smallest set found that ruins the model, where there are such.
    pub sets: Vec<WeightSet>,
}

/// Decides a report's candidates, and further `proposals`, by what zeroing them costs on `texts`; fills in the report's
/// lists, their effects, relations and verdicts. Effects are measured in float32, whatever the model's precision.
///
/// `progress` is told how far it is.
///
/// # Errors
/// Texts in which nothing is scored (fewer than two tokens), coordinates that the model does not have, and whatever stops
/// a forward pass.
pub fn census(
    model: &Model,
    report: &mut Report,
    proposals: &[Proposal],
    texts: &[Vec<u32>],
    options: &CensusOptions,
    progress: &mut dyn FnMut(Stage),
) -> Result<()> {
    let model = &model.with_precision(Precision::Float32);
    at_least(2, &texts.concat(), || "the texts of the census".into())?;
    for text in texts {
        at_least(2, text, || format!("{text:?}"))?;
    }
    let short = beginnings(texts, options.short);
    let mut more = proposals.to_vec();
    if options.gradients > 0 {
        more.extend(screen(model, &short, options.gradients)?.unwrap_or_default());
    }
    let pool = pool(model, report, &more, options)?;
    let mut stages = Stages::new(model, texts, &short, options.proof.max_rows, progress);
    let min_effect = options.proof.min_effect;

    // Stage 1: each alone, accepted spikes one after the other, rows as units; one short text.
    let mut accepted: Vec<_> = report.super_weights.iter().collect();
    accepted.sort_by(|a, b| b.out_ratio.total_cmp(&a.out_ratio));
    let accepted: Vec<_> = accepted.into_iter().map(Candidate::coord).collect();
    let rows = report.rows.iter().take(ROWS).map(|r| r.weights.clone());
    let rows: Vec<_> = rows.collect();
    let first = stages.first(&pool, &accepted, &rows)?;
    report.candidates.extend(more);
    tell(&mut report.candidates, &pool, &first.alone);
    // Stage 2: the best, on the beginning of another text too.
    let score = |i: usize| first.alone[i].max(first.added(&pool, &accepted, pool[i].coord));
    let chosen = rank(pool.len(), score, options.second, min_effect / 4.0);
    let second: Vec<_> = chosen.iter().map(|&i| pool[i].coord).collect();
    let alone = stages.second(&pool, &chosen, &first)?;
    let keep = |i: usize| alone[i].cost.max(first.added(&pool, &accepted, second[i]));
    let suspects = (0..second.len()).filter(|&i| keep(i) >= min_effect).count();
    let most = options.finalists.max(suspects);
    let best = rank(second.len(), keep, most, min_effect / 2.0);
    // A weight that a limit left out may have been decisive.
    let tried = |c: &WeightCoord| pool.iter().any(|p| p.coord == *c);
    let followed = |i: usize| chosen.contains(&i) || score(i) < min_effect;
    report.complete &= accepted.iter().all(tried) && (0..pool.len()).all(followed);
    let finalists: Vec<_> = best.iter().map(|&i| second[i]).collect();
    // Stage 3: relations among the finalists, the finalists on the whole texts, and controls of what costs enough.
    let alone: Vec<_> = best.iter().map(|&i| &alone[i]).collect();
    let related = relate(&mut stages, &finalists, &alone, &options.proof)?;
    let last = stages.last(&finalists, &alone, &related, min_effect)?;
    let verdicts = verdicts(
        &mut stages,
        &pool,
        &finalists,
        &related,
        &last.alone,
        options,
    )?;

    let mut found = Vec::new();
    for (i, (&coord, (verdict, matched, random))) in finalists.iter().zip(verdicts).enumerate() {
        let drawn = matched.random.iter().zip(random);
        let control = |(c, effect): (&Chosen, Effect)| Control {
            row: c.row,
            col: c.col,
            value: c.value,
            effect,
        };
        let mut candidate = describe(model, report, coord)?;
        candidate.relations = related.of(i, &finalists);
        candidate.verdict = Some(verdict);
        candidate.effects = Some(Effects {
            leave_one_out: related.leave_one_out[i],
            added_last: related.added_last[i],
            rank: matched.rank,
            random: drawn.map(control).collect(),
            ..Effects::alone(last.alone[i])
        });
        found.push(candidate);
    }
    let units = rows.iter().zip(&first.rows);
    let units = units.filter(|(_, effect)| **effect >= min_effect);
    let units: Vec<_> = units.map(|(row, _)| &row[..]).collect();
    units::members(model, report, &units, &mut found, &mut stages, options)?;
    let sources: std::collections::BTreeSet<_> = pool.iter().map(|p| p.source).collect();
    let proof = Proof {
        nll: stages.nll(),
        scored: stages.scored(),
        joint: related.joint,
        options: options.proof.clone(),
    };
    let mut census = Census {
        sentence: String::new(),
        parameters: model.parameters(),
        sources: sources.into_iter().collect(),
        stages: vec![pool.len(), second.len(), finalists.len()],
        tokens: texts.iter().map(Vec::len).collect(),
        perplexity: proof.nll.exp(),
        sets: last.sets,
    };
    sort(report, found);
    census.sentence = sentence(&census, report);
    report.proof = Some(proof);
    report.census = Some(census);
    Ok(())
}

/// Rows that are tried as units, at most.
const ROWS: usize = 8;
/// Proposals from spikes, at most, what cancels them and what is behind them included.
const SPIKES: usize = 40;
/// Proposals that read a channel which stands out, at most.
const READERS: usize = 12;

/// Tells each proposal that was tried what it costs; the most costly ones come first.
fn tell(candidates: &mut [Proposal], pool: &[Proposal], alone: &[f64]) {
    let costs = pool.iter().map(|p| p.coord).zip(alone.iter().copied());
    let costs: BTreeMap<_, _> = costs.collect();
    for p in &mut *candidates {
        p.effect = costs.get(&p.coord).copied();
    }
    let cost = |p: &Proposal| p.effect.unwrap_or(f64::MIN);
    candidates.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
}

/// What is tried: each weight once, the strongest of each kind of source first, zeros left out.
fn pool(
    model: &Model,
    report: &Report,
    more: &[Proposal],
    options: &CensusOptions,
) -> Result<Vec<Proposal>> {
    let mut gradients: Vec<_> = more.to_vec();
    gradients.sort_by(|a, b| b.score.total_cmp(&a.score));
    let of = |reader: bool| {
        let all = report.candidates.iter();
        all.filter(move |c| (c.source == Source::Reader) == reader)
    };
    // Accepted spikes come first: they are what the search stands for.
    let accepted = |c: &&Proposal| report.super_weights.iter().any(|s| s.coord() == c.coord);
    let (first, rest): (Vec<&Proposal>, Vec<&Proposal>) = of(false).partition(accepted);
    let spikes = first.into_iter().chain(rest).cloned();
    let spikes = spikes.take(SPIKES);
    let rest = gradients.into_iter().chain(of(true).take(READERS).cloned());
    let (mut pool, mut known) = (Vec::new(), BTreeSet::new());
    for p in spikes.chain(rest) {
        if pool.len() < options.candidates && seen(model, p.coord)? != 0.0 && known.insert(p.coord)
        {
            pool.push(p);
        }
    }
    Ok(pool)
}

/// A weight as the search found it, or as it is on the search's prompt.
fn describe(model: &Model, report: &Report, coord: WeightCoord) -> Result<Candidate> {
    let lists = report.super_weights.iter().chain(&report.cancellers);
    if let Some(known) = lists.into_iter().find(|c| c.coord() == coord) {
        return Ok(known.clone());
    }
    let options = DetectOptions::default();
    let mut measured = measure(model, &report.tokens, &[coord], &options)?;
    let mut candidate = measured.swap_remove(0);
    candidate.weak = false;
    Ok(candidate)
}

/// A verdict, what it was compared with, and what those controls cost.
type Judged = (Verdict, Matched, Vec<Effect>);

/// Judges each finalist by what it costs alone on the whole texts, and else by what it adds to others.
fn verdicts(
    stages: &mut Stages<'_>,
    pool: &[Proposal],
    finalists: &[WeightCoord],
    related: &Related,
    alone: &[Effect],
    options: &CensusOptions,
) -> Result<Vec<Judged>> {
    let o = &options.proof;
    let matched = |&c: &WeightCoord| stages.matched(c, pool, options);
    let matched: Vec<_> = finalists.iter().map(matched).collect();
    // Controls can only acquit what costs enough.
    let enough = |i: &usize| alone[*i].nll >= o.min_effect && alone[*i].costs();
    let suspects: Vec<_> = (0..finalists.len()).filter(enough).collect();
    let of: Vec<_> = suspects
        .iter()
        .map(|&i| (finalists[i], &matched[i]))
        .collect();
    let mut controls = vec![Vec::new(); finalists.len()];
    for (i, effects) in suspects.iter().copied().zip(stages.controls(&of)?) {
        controls[i] = effects;
    }
    let noise = |of: &[Effect]| of.iter().map(|e| e.nll.abs()).fold(0.0, f64::max);
    let decisive =
        |i: usize| suspects.contains(&i) && alone[i].nll >= o.control_factor * noise(&controls[i]);
    // What is not decisive alone may add to others.
    let claim = |i: usize| {
        related
            .claim(i, o.min_effect, o.joint_share)
            .map(|c| (i, c))
    };
    let claims: Vec<_> = (0..finalists.len())
        .filter(|&i| !decisive(i))
        .filter_map(claim)
        .collect();
    let mut besides = Vec::new();
    for (i, claim) in &claims {
        besides.push(Beside {
            coord: finalists[*i],
            others: claim.others.iter().map(|&j| finalists[j]).collect(),
            nll: claim.nll,
            controls: &matched[*i],
        });
    }
    let noises = stages.noise_beside(&besides)?;
    let jointly: BTreeSet<_> = claims
        .iter()
        .zip(noises)
        .filter(|((_, claim), noise)| claim.gain.nll >= o.control_factor * noise)
        .map(|((i, _), _)| *i)
        .collect();
    let verdict = |i: usize| match (decisive(i), jointly.contains(&i)) {
        (true, _) => Verdict::Decisive,
        (false, true) => Verdict::DecisiveJointly,
        (false, false) => Verdict::Inert,
    };
    let verdicts: Vec<_> = (0..finalists.len()).map(verdict).collect();
    let judged = verdicts.into_iter().zip(matched).zip(controls);
    Ok(judged.map(|((v, m), c)| (v, m, c)).collect())
}

/// Fills the report's lists.
fn sort(report: &mut Report, found: Vec<Candidate>) {
    let cost = |c: &Candidate| c.effects.as_ref().map_or(f64::MIN, |e| e.zero.nll);
    let (mut decisive, mut rest): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|c| c.verdict != Some(Verdict::Inert));
    decisive.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    rest.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    let listed = |c: &Candidate| decisive.iter().any(|d| d.coord() == c.coord());
    let known = |list: Vec<Candidate>, rest: &[Candidate]| -> Vec<Candidate> {
        let of = |c: Candidate| match rest.iter().find(|r| r.coord() == c.coord()) {
            Some(measured) => measured.clone(),
            None => Candidate {
                verdict: Some(Verdict::Inert),
                ..c
            },
        };
        list.into_iter().filter(|c| !listed(c)).map(of).collect()
    };
    report.inert = known(std::mem::take(&mut report.super_weights), &rest);
    report.cancellers = known(std::mem::take(&mut report.cancellers), &rest);
    if decisive.is_empty() {
        let strongest = rest.into_iter().next();
        let strongest = strongest.or_else(|| report.inert.first().cloned());
        report.weak_candidate = strongest
            .or_else(|| report.weak_candidate.take())
            .map(|c| Candidate { weak: true, ..c });
    } else {
        report.weak_candidate = None;
    }
    report.groups = Groups::of(&decisive);
    report.super_weights = decisive;
}
