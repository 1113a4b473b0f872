//! Metrics: one value for each document, an aggregate over all, and its standard error, as the harness computes them.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::random::PyRandom;

/// What is reported about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The most probable choice is the right one; for completions, every token is the greedy one.
    Acc,
    /// Accuracy where each choice's log-probability is divided by the number of its characters.
    AccNorm,
    /// Accuracy where each choice's log-probability is divided by the number of its bytes (UTF-8).
    AccBytes,
    /// `exp` of minus the mean log-likelihood (per document for completions, per token for windows).
    Perplexity,
    /// `exp` of minus the log-likelihood per word.
    WordPerplexity,
    /// `exp` of minus the log-likelihood per byte.
    BytePerplexity,
    /// Minus the log-likelihood per byte, in bits.
    BitsPerByte,
}

/// A metric's value for one document.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A number to average.
    One(f64),
    /// A sum and its weight.
    Weighted(f64, f64),
}

impl Metric {
    /// What multiple-choice tasks report.
    pub const CHOICE: &'static [Metric] = &[Metric::Acc, Metric::AccNorm, Metric::AccBytes];

    /// lm-eval's name.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Acc => "acc",
            Metric::AccNorm => "acc_norm",
            Metric::AccBytes => "acc_bytes",
            Metric::Perplexity => "perplexity",
            Metric::WordPerplexity => "word_perplexity",
            Metric::BytePerplexity => "byte_perplexity",
            Metric::BitsPerByte => "bits_per_byte",
        }
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        matches!(self, Metric::Acc | Metric::AccNorm | Metric::AccBytes)
    }

    /// The aggregate of the documents' values.
    ///
    /// # Panics
    /// When there are none.
    pub fn aggregate(self, values: &[Value]) -> f64 {
        assert!(!values.is_empty(), "an aggregate of nothing");
        match self {
            Metric::Acc | Metric::AccNorm | Metric::AccBytes => mean(&plain(values)),
            Metric::Perplexity => (-mean(&plain(values))).exp(),
            Metric::WordPerplexity | Metric::BytePerplexity => (-weighted_mean(values)).exp(),
            Metric::BitsPerByte => -weighted_mean(values) / std::f64::consts::LN_2,
        }
    }

    /// The standard error of the aggregate; `None` where the harness gives none.
    ///
    /// Accuracies: sample deviation over the root of the count. Perplexity: the deviation of `resamples` bootstrap
    /// draws, in chunks of 1000 seeded 0, 1, 2, ... as the harness draws them.
    pub fn stderr(self, values: &[Value], resamples: usize) -> Option<f64> {
        if values.len() < 2 || resamples == 0 {
            return None;
        }
        let x = plain(values);
        match self {
            Metric::Acc | Metric::AccNorm | Metric::AccBytes => {
                Some(deviation(&x) / (x.len() as f64).sqrt())
            }
            Metric::Perplexity => {
                let chunk = resamples.min(1000);
                let chunks: Vec<Vec<f64>> = (0..resamples / chunk)
                    .into_par_iter()
                    .map(|seed| bootstrap(&x, seed as u64, chunk))
                    .collect();
                let draws = chunks.concat();
                (draws.len() > 1).then(|| deviation(&draws))
            }
            Metric::WordPerplexity | Metric::BytePerplexity | Metric::BitsPerByte => None,
        }
    }
}

fn bootstrap(x: &[f64], seed: u64, draws: usize) -> Vec<f64> {
    let mut random = PyRandom::new(seed);
    let mut draw = || (0..x.len()).map(|_| x[random.choice(x.len())]).sum::<f64>() / x.len() as f64;
    (0..draws).map(|_| (-draw()).exp()).collect()
}

fn plain(values: &[Value]) -> Vec<f64> {
    values
        .iter()
        .map(|v| match v {
            Value::One(x) | Value::Weighted(x, _) => *x,
        })
        .collect()
}

fn weighted_mean(values: &[Value]) -> f64 {
    let pairs = values.iter().map(|v| match *v {
        Value::One(x) => (x, 1.0),
        Value::Weighted(x, w) => (x, w),
    });
    let (sum, weight) = pairs.fold((0.0, 0.0), |(a, b), (x, w)| (a + x, b + w));
    sum / weight
}

pub(crate) fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// The sample deviation, with n - 1.
pub(crate) fn deviation(x: &[f64]) -> f64 {
    let mu = mean(x);
    (x.iter().map(|v| (v - mu).powi(2)).sum::<f64>() / (x.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ones(x: &[f64]) -> Vec<Value> {
        x.iter().map(|&v| Value::One(v)).collect()
    }

    #[test]
    fn accuracies_and_their_errors() {
        let x = ones(&[1.0, 0.0, 1.0, 1.0]);
        assert_eq!(Metric::Acc.aggregate(&x), 0.75);
        assert!((Metric::Acc.stderr(&x, 1).unwrap() - 0.25).abs() < 1e-15); // sqrt(0.75 / 3) / 2
        assert_eq!(Metric::Acc.stderr(&x[..1], 1), None);
        assert_eq!(Metric::Acc.stderr(&x, 0), None);
    }

    #[test]
    fn the_bootstrap_is_the_harness() {
        // lm_eval.api.metrics: bootstrap_stderr(perplexity, [-1.0, -2.5, -0.25, -3.0, -1.75], iters=2000)
        let x = ones(&[-1.0, -2.5, -0.25, -3.0, -1.75]);
        let stderr = Metric::Perplexity.stderr(&x, 2000).unwrap();
        assert!((stderr - 2.744272142521654).abs() < 1e-12, "{stderr}");
        assert!((Metric::Perplexity.aggregate(&x) - 1.7f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn weighted_metrics() {
        let x = [Value::Weighted(-8.0, 2.0), Value::Weighted(-4.0, 1.0)];
        assert!((Metric::WordPerplexity.aggregate(&x) - 4f64.exp()).abs() < 1e-12);
        assert!((Metric::BitsPerByte.aggregate(&x) - 4.0 / std::f64::consts::LN_2).abs() < 1e-12);
        assert_eq!(Metric::BytePerplexity.stderr(&x, 100), None);
    }
}
