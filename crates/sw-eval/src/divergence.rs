//! How far two settings of a model are apart, token by token: more telling than a perplexity.

use ndarray::{ArrayView1, Axis, Slice};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    metric::{deviation, mean},
    runtime::Runtime,
};

/// The distance between two settings' next-token distributions, over the tokens of some texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Predictions compared: every token of the texts but the first of each.
    pub tokens: usize,
    /// Mean of KL(first || second), in nats.
    pub kl_mean: f64,
    /// Its standard error, tokens taken as independent.
    pub kl_stderr: f64,
    /// KL at the quantiles 0.5, 0.9, 0.99 and 1.
    pub kl_quantiles: [f64; 4],
    /// Share of predictions whose most probable token is the same.
    pub same_top: f64,
    /// Root mean square of the change of the actual token's probability.
    pub rms_probability_change: f64,
}

struct Token {
    kl: f64,
    same_top: bool,
    change: f64,
}

/// Rows whose logits are in memory at once.
const BLOCK: usize = 128;

/// Compares two settings on texts of tokens.
///
/// # Errors
/// Models of different vocabularies, texts without a second token, a model that cannot be run.
pub fn divergence(first: &Runtime, second: &Runtime, texts: &[Vec<u32>]) -> Result<Divergence> {
    let vocabularies = [first, second].map(|r| r.model().spec().vocab_size);
    if vocabularies[0] != vocabularies[1] {
        let [a, b] = vocabularies;
        return Err(Error::Options(format!(
            "divergence: vocabularies of {a} and {b} tokens cannot be compared"
        )));
    }
    let mut all = Vec::new();
    for text in texts.iter().filter(|text| text.len() > 1) {
        let (read, targets) = (&text[..text.len() - 1], &text[1..]);
        let rows = [first.rows(read)?, second.rows(read)?];
        for (start, targets) in (0..).step_by(BLOCK).zip(targets.chunks(BLOCK)) {
            let block = Slice::from(start..start + targets.len());
            let a = first.model().logits(rows[0].slice_axis(Axis(0), block))?;
            let b = second.model().logits(rows[1].slice_axis(Axis(0), block))?;
            let token = |(i, &target): (usize, &u32)| token(a.row(i), b.row(i), target as usize);
            all.par_extend(targets.par_iter().enumerate().map(token));
        }
    }
    if all.len() < 2 {
        return Err(Error::Options(
            "divergence: the texts have no two tokens to predict".into(),
        ));
    }
    let mut kl: Vec<f64> = all.iter().map(|t| t.kl).collect();
    let (kl_mean, kl_stderr) = (mean(&kl), deviation(&kl) / (kl.len() as f64).sqrt());
    kl.sort_by(f64::total_cmp);
    let share = |count: usize| count as f64 / all.len() as f64;
    Ok(Divergence {
        tokens: all.len(),
        kl_mean,
        kl_stderr,
        kl_quantiles: [0.5, 0.9, 0.99, 1.0]
            .map(|q| kl[((kl.len() - 1) as f64 * q).round() as usize]),
        same_top: share(all.iter().filter(|t| t.same_top).count()),
        rms_probability_change: (all.iter().map(|t| t.change * t.change).sum::<f64>()
            / all.len() as f64)
            .sqrt(),
    })
}

fn token(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>, target: usize) -> Token {
    let (la, lb) = (log_normalizer(a), log_normalizer(b));
    let kl = a.iter().zip(b).map(|(&x, &y)| {
        let (x, y) = (f64::from(x) - la, f64::from(y) - lb);
        x.exp() * (x - y)
    });
    let probability = |row: ArrayView1<'_, f32>, l: f64| (f64::from(row[target]) - l).exp();
    Token {
        kl: kl.sum(),
        same_top: top(a) == top(b),
        change: probability(b, lb) - probability(a, la),
    }
}

fn log_normalizer(row: ArrayView1<'_, f32>) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max)
        + row
            .iter()
            .map(|&x| f64::from(x - max).exp())
            .sum::<f64>()
            .ln()
}

/// The first of the largest.
fn top(row: ArrayView1<'_, f32>) -> usize {
    row.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| {
            if x > best.1 { (i, x) } else { best }
        })
        .0
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn one_token_by_hand() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = 1/2 ln 2 - 1/4 ln 2.
        let ln = |x: [f32; 3]| ndarray::Array1::from_iter(x.map(f32::ln));
        let (p, q) = (ln([0.5, 0.25, 0.25]), ln([0.25, 0.5, 0.25]) + 3.0);
        let found = token(p.view(), q.view(), 0);
        assert!((found.kl - 0.25 * std::f64::consts::LN_2).abs() < 1e-6);
        assert!(!found.same_top && (found.change + 0.25).abs() < 1e-6);
        let same = token(p.view(), (&p + 1.0).view(), 2);
        assert!(same.kl.abs() < 1e-6 && same.same_top && same.change.abs() < 1e-6);
        assert_eq!(top(array![1.0, 2.0, 2.0].view()), 1);
    }
}
