//! Two results, document by document: differences that the spread over documents does not hide.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    metric::{Metric, Value, deviation, mean},
    random::PyRandom,
    run::{Run, TaskRun},
    workload::check_resamples,
};

/// McNemar's test of two accuracies on the same documents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Documents that only the first got right.
    pub only_first: usize,
    /// Documents that only the second got right.
    pub only_second: usize,
    /// Two-sided exact p-value: how probable so uneven a split is if either is as likely.
    pub p_value: f64,
}

/// A bootstrap of the mean difference of two paired samples, second minus first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedBootstrap {
    /// The mean difference.
    pub difference: f64,
    /// Its standard error: the deviation of the resampled means.
    pub stderr: f64,
    /// The interval that holds 95 % of the resampled means.
    pub interval: [f64; 2],
}

/// One task under two settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskComparison {
    /// The task.
    pub task: String,
    /// Documents that both evaluated.
    pub documents: usize,
    /// For each kind of accuracy, the test.
    pub accuracies: Vec<(Metric, McNemar)>,
    /// The log-likelihood of the right answer (of the text, where perplexity is measured).
    pub log_likelihood: PairedBootstrap,
}

/// Compares two runs on the tasks and documents they share.
///
/// # Errors
/// When they share no document; too many resamples.
pub fn compare(
    first: &Run,
    second: &Run,
    resamples: usize,
    seed: u64,
) -> Result<Vec<TaskComparison>> {
    check_resamples("resamples", resamples)?;
    let pairs = first
        .tasks
        .iter()
        .filter_map(|a| Some((a, second.tasks.iter().find(|b| b.task == a.task)?)));
    let all: Vec<_> = pairs
        .filter_map(|(a, b)| compare_task(a, b, resamples, seed))
        .collect();
    if all.is_empty() {
        return Err(Error::Options(
            "compare: the two results share no document".into(),
        ));
    }
    Ok(all)
}

fn compare_task(
    first: &TaskRun,
    second: &TaskRun,
    resamples: usize,
    seed: u64,
) -> Option<TaskComparison> {
    let find = |doc| second.samples.iter().find(|s| s.doc_id == doc);
    let in_order = first
        .samples
        .iter()
        .zip(&second.samples)
        .all(|(a, b)| a.doc_id == b.doc_id);
    let pairs: Vec<_> = if in_order {
        first.samples.iter().zip(&second.samples).collect()
    } else {
        first
            .samples
            .iter()
            .filter_map(|a| Some((a, find(a.doc_id)?)))
            .collect()
    };
    let (a, _) = pairs.first()?;
    let accuracy = [Metric::Acc, Metric::AccNorm, Metric::AccBytes]
        .into_iter()
        .filter(|m| a.metrics.contains_key(m));
    let right = |value: Option<&Value>| value == Some(&Value::One(1.0));
    let accuracies = accuracy.map(|m| {
        let outcomes = pairs
            .iter()
            .map(|(a, b)| (right(a.metrics.get(&m)), right(b.metrics.get(&m))));
        (m, mcnemar(outcomes))
    });
    let difference: Vec<f64> = pairs
        .iter()
        .filter_map(|(a, b)| Some(b.resps.get(b.gold)?.log_prob - a.resps.get(a.gold)?.log_prob))
        .collect();
    Some(TaskComparison {
        task: first.task.clone(),
        documents: pairs.len(),
        accuracies: accuracies.collect(),
        log_likelihood: paired_bootstrap(&difference, resamples, seed)?,
    })
}

/// McNemar's exact test of paired outcomes (first right, second right).
pub fn mcnemar(outcomes: impl IntoIterator<Item = (bool, bool)>) -> McNemar {
    let (mut only_first, mut only_second) = (0, 0);
    for outcome in outcomes {
        only_first += usize::from(outcome == (true, false));
        only_second += usize::from(outcome == (false, true));
    }
    let (n, k) = (only_first + only_second, only_first.min(only_second));
    // Twice the binomial tail P(X <= k), X ~ B(n, 1/2), summed in logarithms.
    let mut log_choose = 0.0; // ln C(n, 0)
    let mut tail = 0.0;
    for i in 0..=k {
        tail += (log_choose - n as f64 * std::f64::consts::LN_2).exp();
        log_choose += ((n - i) as f64 / (i + 1) as f64).ln();
    }
    McNemar {
        only_first,
        only_second,
        p_value: (2.0 * tail).min(1.0),
    }
}

/// Resamples documents; `None` for fewer than two differences or resamples.
pub fn paired_bootstrap(
    difference: &[f64],
    resamples: usize,
    seed: u64,
) -> Option<PairedBootstrap> {
    let n = difference.len();
    if n < 2 || resamples < 2 {
        return None;
    }
    let mut random = PyRandom::new(seed);
    let mut draw = || (0..n).map(|_| difference[random.choice(n)]).sum::<f64>() / n as f64;
    let mut means: Vec<f64> = (0..resamples).map(|_| draw()).collect();
    means.sort_by(f64::total_cmp);
    let quantile = |q: f64| means[((means.len() - 1) as f64 * q).round() as usize];
    Some(PairedBootstrap {
        difference: mean(difference),
        stderr: deviation(&means),
        interval: [quantile(0.025), quantile(0.975)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_is_the_binomial_test() {
        let outcomes = |a: usize, b: usize| {
            let first = std::iter::repeat_n((true, false), a);
            mcnemar(
                first
                    .chain(std::iter::repeat_n((false, true), b))
                    .chain([(true, true), (false, false)]),
            )
        };
        // scipy.stats.binomtest(k, n).pvalue
        for (a, b, p) in [
            (0, 0, 1.0),
            (1, 1, 1.0),
            (0, 5, 0.0625),
            (2, 10, 0.03857421875),
            (30, 10, 0.002221),
            (400, 300, 0.00018),
        ] {
            let found = outcomes(a, b).p_value;
            assert!((found - p).abs() < 1e-3 * p.max(1e-2), "{a} {b}: {found}");
        }
    }

    #[test]
    fn the_bootstrap_covers_the_mean() {
        let x: Vec<f64> = (0..200).map(|i| f64::from(i % 7) - 2.0).collect();
        let found = paired_bootstrap(&x, 2000, 1).unwrap();
        let expected = deviation(&x) / 200f64.sqrt();
        assert!(
            (found.stderr / expected - 1.0).abs() < 0.1,
            "{found:?} {expected}"
        );
        assert!(found.interval[0] < found.difference && found.difference < found.interval[1]);
        assert_eq!(paired_bootstrap(&x[..1], 10, 1), None);
    }
}
