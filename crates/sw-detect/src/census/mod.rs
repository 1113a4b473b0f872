//! The causal census: weights that were proposed are zeroed, and what that costs decides.
//!
//! In stages, each with fewer weights and more text: every proposal on one short text, the best on two short ones, the
//! finalists on the whole texts. Variants ride as extra sequences of a batch, resumed at their first edited layer.

mod relations;
mod stages;

use serde::{Deserialize, Serialize};
use sw_model::{Model, WeightCoord};

pub use self::relations::{Kind, Relation};
use self::{
    relations::relate,
    stages::{Stages, effects_on, rank},
};
use crate::{
    error::Result,
    measure::measure,
    options::DetectOptions,
    prompt::at_least,
    proof::{Control, Effect, Effects, Proof, ProofOptions, choose, seen},
    proposal::{Proposal, Source, screen},
    report::{Candidate, Groups, Report, Verdict},
};

/// How many weights go how far, and what counts as damage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CensusOptions {
    /// Proposals that are zeroed in the first stage, at most; half of them at most from gradients, and half from spikes where
    /// there are gradients.
    pub candidates: usize,
    /// Weights proposed by one pass forward and back over the short texts; 0 for none.
    pub gradients: usize,
    /// Weights of the second stage, at most.
    pub second: usize,
    /// Weights of the last stage, at most.
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
/// lists, their effects, relations and verdicts.
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
    at_least(2, &texts.concat(), || "the texts of the census".into())?;
    for text in texts {
        at_least(2, text, || format!("{text:?}"))?;
    }
    let mut more = proposals.to_vec();
    if options.gradients > 0 {
        let short = stages::beginnings(texts, options.short);
        more.extend(screen(model, &short, options.gradients)?.unwrap_or_default());
    }
    let pool = pool(model, report, &more, options)?;
    let mut stages = Stages::new(model, texts, &pool, options)?;
    let accepted: Vec<_> = report.super_weights.iter().map(Candidate::coord).collect();

    // Stage 1: each alone, accepted spikes one after the other, rows as units; one short text.
    let rows: Vec<_> = report
        .rows
        .iter()
        .take(8)
        .map(|r| r.weights.clone())
        .collect();
    let prefixes: Vec<_> = (2..=accepted.len().min(16))
        .map(|n| accepted[..n].to_vec())
        .collect();
    let first = stages.first(&pool, &prefixes, &rows, progress)?;
    report.candidates.extend(more);
    for p in &mut report.candidates {
        p.effect = pool
            .iter()
            .position(|c| c.coord == p.coord)
            .map(|i| first.alone[i]);
    }
    let units: Vec<_> = rows
        .iter()
        .zip(&first.rows)
        .filter(|(_, effect)| **effect >= options.proof.min_effect)
        .map(|(row, _)| row.clone())
        .collect();
    // Stage 2: the best, two short texts.
    let score = |i: usize| first.alone[i].max(first.added(&accepted, pool[i].coord));
    let chosen = rank(pool.len(), score, options.second, 0.0);
    let second: Vec<_> = chosen.iter().map(|&i| pool[i].coord).collect();
    let alone = stages.second(&second, progress)?;
    let keep = |i: usize| alone[i].nll.max(first.added(&accepted, second[i]));
    let least = options.proof.min_effect / 4.0;
    let finalists: Vec<_> = rank(second.len(), keep, options.finalists, least)
        .into_iter()
        .map(|i| second[i])
        .collect();
    // Relations among the finalists, and their controls, on the short texts.
    let related = relate(&mut stages, &finalists, &options.proof, progress)?;
    let controls: Vec<_> = finalists
        .iter()
        .map(|&c| {
            let w = model.weight_at(c.at()).expect("its value has been read");
            let here = pool.iter().map(|p| p.coord).filter(|p| p.at() == c.at());
            let excluded: Vec<_> = here.map(|c| (c.row, c.col)).collect();
            choose(
                w,
                (c.row, c.col),
                &excluded,
                options.controls,
                options.proof.seed,
            )
        })
        .collect();
    let noise = stages.controls(&finalists, &controls, progress)?;
    // Stage 3: the finalists on the whole texts.
    let last = stages.last(&finalists, &related, progress)?;

    let mut found = Vec::new();
    for (i, &coord) in finalists.iter().enumerate() {
        let drawn = controls[i].random.iter().zip(&noise[i]);
        let random = drawn.map(|(c, &effect)| Control {
            row: c.row,
            col: c.col,
            value: c.value,
            effect,
        });
        let effects = Effects {
            zero: last.alone[i],
            mean: None,
            flip: None,
            row: None,
            neuron: None,
            leave_one_out: related.leave_one_out.get(i).copied(),
            added_last: related.added_last.get(i).copied(),
            added_in_order: None,
            rank: controls[i].rank,
            random: random.collect(),
            largest: None,
            same_row: None,
            same_col: None,
        };
        let mut candidate = describe(model, report, coord)?;
        candidate.relations = related.of(i, &finalists);
        candidate.verdict = Some(verdict(&effects, &related, i, &options.proof));
        candidate.effects = Some(effects);
        found.push(candidate);
    }
    let members = units_of(
        model,
        report,
        &units,
        &found,
        &mut stages,
        &first.rows_of(&rows, &units),
    )?;
    let sources: std::collections::BTreeSet<_> = pool.iter().map(|p| p.source).collect();
    let proof = Proof {
        nll: stages.nll(),
        scored: stages.scored(),
        joint: last.joint,
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
    sort(report, found, members);
    census.sentence = sentence(&census, report);
    report.proof = Some(proof);
    report.census = Some(census);
    Ok(())
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
    let half = options.candidates / 2;
    let readers = if gradients.is_empty() { half } else { half / 4 };
    let spikes = spikes.take(half + half / 4 - readers.min(half / 4));
    let rest = gradients.into_iter().chain(of(true).take(readers).cloned());
    let mut pool: Vec<Proposal> = Vec::new();
    for p in spikes.chain(rest) {
        if pool.len() < options.candidates
            && pool.iter().all(|q| q.coord != p.coord)
            && seen(model, p.coord)? != 0.0
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

/// The members of rows that cost something as a whole, where no finalist has said so already.
fn units_of(
    model: &Model,
    report: &Report,
    units: &[Vec<WeightCoord>],
    found: &[Candidate],
    stages: &mut Stages<'_>,
    shorts: &[f64],
) -> Result<Vec<Candidate>> {
    let mut members: Vec<Candidate> = Vec::new();
    for (unit, _) in units.iter().zip(shorts) {
        let decided =
            |c: &&Candidate| c.verdict != Some(Verdict::Inert) && unit.contains(&c.coord());
        if found.iter().any(|c| decided(&c)) {
            continue;
        }
        let effects = effects_on(stages, unit)?;
        for &(coord, zero, together) in &effects {
            if found.iter().chain(&members).any(|c| c.coord() == coord) {
                continue;
            }
            let mut candidate = describe(model, report, coord)?;
            let with = unit.iter().copied().filter(|&c| c != coord).collect();
            candidate.relations.push(Relation {
                kind: Kind::PartOfRow,
                with,
                together: Some(together),
            });
            candidate.verdict = Some(Verdict::DecisiveJointly);
            candidate.effects = Some(Effects::alone(zero));
            members.push(candidate);
        }
    }
    Ok(members)
}

/// Alone, else jointly, else inert.
fn verdict(effects: &Effects, related: &relations::Related, i: usize, o: &ProofOptions) -> Verdict {
    let noise = effects.random.iter().map(|c| c.effect.nll.abs());
    let least = o
        .min_effect
        .max(o.control_factor * noise.fold(0.0, f64::max));
    let added = effects
        .added_last
        .is_some_and(|e| e.low > 0.0 && e.nll >= least.max(o.joint_share * related.joint));
    if effects.zero.nll >= least && effects.zero.low > 0.0 {
        Verdict::Decisive
    } else if added || related.completes(i, least, o.joint_share) {
        Verdict::DecisiveJointly
    } else {
        Verdict::Inert
    }
}

/// Fills the report's lists.
fn sort(report: &mut Report, found: Vec<Candidate>, members: Vec<Candidate>) {
    let cost = |c: &Candidate| c.effects.as_ref().map_or(f64::MIN, |e| e.zero.nll);
    let (mut decisive, mut rest): (Vec<_>, Vec<_>) = found
        .into_iter()
        .chain(members)
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

/// The answer, with its numbers.
fn sentence(census: &Census, report: &Report) -> String {
    let n = grouped(census.parameters);
    let Some(one) = census.sets.first() else {
        return format!(
            "No weight of {n} was found whose zeroing changes what the model predicts."
        );
    };
    let times = |set: &WeightSet| factor(set.perplexity_factor);
    if report.super_weights.is_empty() {
        return format!(
            "No single weight is decisive: of {n}, the most costly one found multiplies perplexity by {}.",
            times(one)
        );
    }
    let mut text = format!(
        "Zeroing 1 of {n} weights multiplies perplexity by {}",
        times(one)
    );
    if let Some(set) = census.sets[1..].last() {
        text += &format!("; {} of them by {}", set.weights.len(), times(set));
        if set.ruins {
            text += ", no better than guessing";
        }
    }
    text + "."
}

/// A factor for people: 10.7, 218, 70,000.
fn factor(x: f64) -> String {
    if x < 1.095 {
        format!("{x:.3}")
    } else if x < 100.0 {
        format!("{x:.1}")
    } else if x < 1e12 {
        let unit = 10f64.powf(x.log10().floor() - 1.0).max(1.0);
        grouped(((x / unit).round() * unit) as usize)
    } else {
        format!("{x:.0e}")
    }
}

/// Digits in groups of three.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}
