//! Two settings on the same documents.

use anyhow::{Context, Result};
use serde::Serialize;
use sw_eval::{McNemar, Metric, Value, mcnemar, paired_bootstrap};

use crate::lab::Scores;

/// Draws of the bootstrap.
pub(crate) const RESAMPLES: usize = 2000;

/// How the mean of some tasks' accuracies differs between two settings, second minus first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Paired {
    /// The difference of the means, from -1 to 1.
    pub(crate) difference: f64,
    /// 95 % of the resampled differences lie in it: documents are drawn, each with its task's weight.
    pub(crate) interval: [f64; 2],
    /// The exact test over all documents together.
    pub(crate) mcnemar: McNemar,
    /// Documents.
    pub(crate) documents: usize,
}

/// Compares two settings on tasks that both have.
///
/// # Errors
/// When they have no two documents in common.
pub(crate) fn compare(first: &Scores, second: &Scores, tasks: &[&str]) -> Result<Paired> {
    let mut pairs: Vec<Vec<(bool, bool)>> = Vec::new();
    for task in tasks {
        let of = |scores: &Scores| -> Option<Vec<(usize, bool)>> {
            let run = scores.tasks().find(|t| t.task == *task)?;
            let right = |s: &sw_eval::Sample| {
                (
                    s.doc_id,
                    s.metrics.get(&Metric::Acc) == Some(&Value::One(1.0)),
                )
            };
            Some(run.samples.iter().map(right).collect())
        };
        let (Some(a), Some(b)) = (of(first), of(second)) else {
            continue;
        };
        let both = a.iter().zip(&b).filter(|(a, b)| a.0 == b.0);
        pairs.push(both.map(|(a, b)| (a.1, b.1)).collect());
    }
    pairs.retain(|task| !task.is_empty());
    let documents: usize = pairs.iter().map(Vec::len).sum();
    // Weighted so that the mean over documents is the mean over tasks of the means over their documents.
    let weighted: Vec<f64> = pairs
        .iter()
        .flat_map(|task| {
            let weight = documents as f64 / (pairs.len() * task.len()) as f64;
            task.iter()
                .map(move |&(a, b)| weight * (f64::from(u8::from(b)) - f64::from(u8::from(a))))
        })
        .collect();
    let bootstrap = paired_bootstrap(&weighted, RESAMPLES, 0)
        .context("a comparison needs at least two documents; raise --limit")?;
    Ok(Paired {
        difference: bootstrap.difference,
        interval: bootstrap.interval,
        mcnemar: mcnemar(pairs.into_iter().flatten()),
        documents,
    })
}

/// How the perplexity on a text differs between two settings, second minus first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PairedPerplexity {
    /// The text's task.
    pub(crate) text: &'static str,
    pub(crate) difference: f64,
    /// 95 % of the resampled differences lie in it: windows are drawn, each with its two losses; their ratio is set against
    /// the first setting's perplexity.
    pub(crate) interval: [f64; 2],
    /// Windows.
    pub(crate) windows: usize,
}

impl PairedPerplexity {
    /// Whether the second setting is worse by more than the interval.
    pub(crate) fn is_loss(&self) -> bool {
        self.interval[0] > 0.0
    }
}

/// Compares the perplexities of two settings on a text, window by window; nothing where fewer than two windows are common.
pub(crate) fn perplexities(
    first: &Scores,
    second: &Scores,
    text: &'static str,
) -> Option<PairedPerplexity> {
    let losses = |scores: &Scores| -> Option<Vec<(usize, f64)>> {
        let run = scores.tasks().find(|t| t.task == text)?;
        let loss = |s: &sw_eval::Sample| match s.metrics.get(&Metric::Perplexity) {
            Some(Value::One(log_likelihood)) => Some((s.doc_id, -log_likelihood)),
            _ => None,
        };
        run.samples.iter().map(loss).collect()
    };
    let (a, b) = (losses(first)?, losses(second)?);
    let both = a.iter().zip(&b).filter(|(a, b)| a.0 == b.0);
    let differences: Vec<f64> = both.map(|(a, b)| b.1 - a.1).collect();
    let bootstrap = paired_bootstrap(&differences, RESAMPLES, 0)?;
    let base = first.value(text, Metric::Perplexity)?;
    let against = |log_ratio: f64| base * log_ratio.exp_m1();
    Some(PairedPerplexity {
        text,
        difference: second.value(text, Metric::Perplexity)? - base,
        interval: bootstrap.interval.map(against),
        windows: differences.len(),
    })
}
