//! What a changed model predicts beside the original, on windows of tokens.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array2, ArrayView1, Axis, Slice};
use rayon::prelude::*;
use sw_model::{Hook, LinearAt, Model, Seq, Site, SiteView};

use crate::error::{Error, Result};

/// Rows whose logits are in memory at once.
const BLOCK: usize = 128;

/// What a changed model predicts beside the original.
#[derive(Clone)]
pub(crate) struct Compared {
    pub(crate) tokens: usize,
    /// Mean of KL(original || changed) over all predictions.
    pub(crate) kl: f64,
    /// Mean of KL(original || changed) over the predictions of each window.
    kl_of_windows: Vec<f64>,
    /// Negative log-likelihoods of the actual tokens, in nats.
    pub(crate) nll: [f64; 2],
}

impl Compared {
    /// Whether this one is nearer to the original than `other` on the same windows: its KL divergence is lower beyond the 95 %
    /// interval of Student's t for the windows' differences (which a single window does not have), and the actual tokens are
    /// no less probable.
    pub(crate) fn wins(&self, other: &Self) -> bool {
        let pairs = self.kl_of_windows.iter().zip(&other.kl_of_windows);
        let gains: Vec<f64> = pairs.map(|(a, b)| b - a).collect();
        let Some(t) = gains.len().checked_sub(2).map(student) else {
            return false;
        };
        let n = gains.len() as f64;
        let mean = gains.iter().sum::<f64>() / n;
        let squares: f64 = gains.iter().map(|g| (g - mean).powi(2)).sum();
        let error = (squares / (n - 1.0) / n).sqrt();
        mean > t * error && self.nll[1] <= other.nll[1]
    }
}

/// The 97.5 % quantile of Student's t with so many degrees of freedom and one.
fn student(freedom: usize) -> f64 {
    const FEW: [f64; 10] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    ];
    // Beyond, the first terms of the quantile's expansion at the normal one (Abramowitz and Stegun 26.7.5).
    let (z, n) = (1.959_964_f64, freedom as f64 + 1.0);
    let expanded = z
        + (z.powi(3) + z) / (4.0 * n)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n);
    FEW.get(freedom).copied().unwrap_or(expanded)
}

/// Windows of tokens, and what the original puts out for them.
pub(crate) struct Texts<'a> {
    original: &'a Model,
    windows: Vec<&'a [u32]>,
    /// The rows after the final norm.
    rows: Vec<Array2<f32>>,
}

impl<'a> Texts<'a> {
    /// Runs the original; `hook` looks on.
    pub(crate) fn new(
        original: &'a Model,
        windows: &[&'a [u32]],
        hook: &mut impl Hook,
    ) -> Result<Self> {
        let windows: Vec<&[u32]> = windows.iter().copied().filter(|w| w.len() > 1).collect();
        let rows = windows.iter().map(|window| rows(original, window, hook));
        Ok(Self {
            original,
            rows: rows.collect::<Result<_>>()?,
            windows,
        })
    }

    pub(crate) fn compare(&self, changed: &Model) -> Result<Compared> {
        let (mut tokens, mut kl, mut nll) = (0, 0.0, [0.0; 2]);
        let mut kl_of_windows = Vec::new();
        for (window, original) in self.windows.iter().zip(&self.rows) {
            let (rows, targets) = (rows(changed, window, &mut ())?, &window[1..]);
            let before = kl;
            for (start, targets) in (0..).step_by(BLOCK).zip(targets.chunks(BLOCK)) {
                let block = Slice::from(start..start + targets.len());
                let a = self.original.logits(original.slice_axis(Axis(0), block))?;
                let b = changed.logits(rows.slice_axis(Axis(0), block))?;
                let token =
                    |(i, &target): (usize, &u32)| token(a.row(i), b.row(i), target as usize);
                // Collected before they are summed: the sums do not depend on the threads.
                let each: Vec<[f64; 3]> = targets.par_iter().enumerate().map(token).collect();
                for [d, a, b] in each {
                    kl += d;
                    nll[0] += a;
                    nll[1] += b;
                }
                tokens += targets.len();
            }
            kl_of_windows.push((kl - before) / (window.len() - 1) as f64);
        }
        if tokens == 0 {
            return Err(Error::Options(
                "calibration: the texts have no two tokens in a row to predict".into(),
            ));
        }
        kl /= tokens as f64;
        Ok(Compared {
            tokens,
            kl,
            kl_of_windows,
            nll,
        })
    }
}

/// The rows after the final norm that predict all tokens of a window but the first.
fn rows(model: &Model, window: &[u32], hook: &mut impl Hook) -> Result<Array2<f32>> {
    let read = &window[..window.len() - 1];
    Ok(model.forward(&[Seq::from(read)], hook)?)
}

/// KL(a || b), and both negative log-likelihoods of the target.
fn token(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>, target: usize) -> [f64; 3] {
    let normalizer = |logits: ArrayView1<'_, f32>| {
        let most = logits.fold(f32::NEG_INFINITY, |m, &v| m.max(v));
        let sum: f64 = logits.iter().map(|&v| f64::from(v - most).exp()).sum();
        f64::from(most) + sum.ln()
    };
    let (na, nb) = (normalizer(a), normalizer(b));
    let kl = a.iter().zip(b).map(|(&x, &y)| {
        let (x, y) = (f64::from(x) - na, f64::from(y) - nb);
        x.exp() * (x - y)
    });
    let nll = |logits: ArrayView1<'_, f32>, n: f64| n - f64::from(logits[target]);
    [kl.sum(), nll(a, na), nll(b, nb)]
}

/// Second moments of the channels of what linear maps read.
pub(crate) struct Moments {
    wanted: BTreeSet<Site>,
    /// Sums of squares by channel, and how many tokens they are over.
    sums: BTreeMap<Site, (Vec<f64>, usize)>,
}

impl Moments {
    pub(crate) fn new(model: &Model) -> Self {
        Self {
            wanted: model.linears().filter_map(LinearAt::input_site).collect(),
            sums: BTreeMap::new(),
        }
    }

    /// The mean of `x^2` of each channel that a map reads; none for experts, whose tokens depend on the router.
    pub(crate) fn read_by(&self, at: LinearAt) -> Option<Vec<f32>> {
        let (sums, tokens) = self.sums.get(&at.input_site()?)?;
        let n = *tokens as f64;
        (at.expert.is_none()).then(|| sums.iter().map(|s| (s / n) as f32).collect())
    }
}

impl Hook for Moments {
    fn wants(&self, site: Site) -> bool {
        self.wanted.contains(&site)
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let none = || (vec![0.0; view.data.ncols()], 0);
        let (sums, tokens) = self.sums.entry(site).or_insert_with(none);
        *tokens += view.data.nrows();
        for row in view.data.rows() {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Compared, student};

    fn compared(kl_of_windows: &[f64], nll: f64) -> Compared {
        Compared {
            tokens: kl_of_windows.len(),
            kl: kl_of_windows.iter().sum::<f64>() / kl_of_windows.len() as f64,
            kl_of_windows: kl_of_windows.to_vec(),
            nll: [1.0, nll],
        }
    }

    #[test]
    fn a_gain_within_chance_or_at_the_cost_of_perplexity_does_not_win() {
        let before = compared(&[0.10, 0.20, 0.30, 0.40], 2.0);
        assert!(compared(&[0.08, 0.17, 0.28, 0.37], 2.0).wins(&before));
        assert!(!compared(&[0.08, 0.17, 0.28, 0.37], 2.1).wins(&before));
        assert!(!compared(&[0.01, 0.25, 0.20, 0.45], 1.0).wins(&before)); // lower on average alone
        assert!(!before.wins(&before));
        // Few windows show little, one nothing.
        let before = compared(&[0.10, 0.20, 0.30], 2.0);
        assert!(!compared(&[0.09, 0.15, 0.26], 2.0).wins(&before));
        assert!(!compared(&[0.01], 2.0).wins(&compared(&[0.10], 2.0)));
        for (freedom, t) in [(10, 2.201), (20, 2.080), (60, 2.000)] {
            assert!(
                (student(freedom) - t).abs() < 5e-3,
                "{freedom}: {}",
                student(freedom)
            );
        }
    }
}
