//! An effect on the log-likelihood of a text, with its confidence interval.

use serde::{Deserialize, Serialize};

/// 97.5 % of the standard normal distribution lie below this.
const Z95: f64 = 1.959_963_984_540_054;
/// 95 % of it lie below this.
const Z90: f64 = 1.644_853_626_951_473;

/// How much a change adds to the negative log-likelihood, in nats per token, averaged over the scored tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The mean over the tokens of `nll(changed) - nll(unchanged)`.
    pub nll: f64,
    /// Lower end of the 95 % interval of that mean, tokens taken as independent: `nll - 1.96 sd / sqrt(n)`.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How many tokens that is the mean of; 0 in a report from before this was recorded.
    #[serde(default)]
    pub tokens: usize,
}

impl Effect {
    /// Whether the change costs something: the one-sided 95 % interval of the mean lies above 0.
    pub(crate) fn costs(&self) -> bool {
        self.nll > Z90 / Z95 * (self.high - self.low) / 2.0
    }

    /// The effect of a change, from the paired negative log-likelihoods of the same tokens, in nats.
    pub(crate) fn between(unchanged: &[f64], changed: &[f64]) -> Self {
        let n = unchanged.len() as f64;
        let differences = || changed.iter().zip(unchanged).map(|(c, u)| c - u);
        let nll = differences().sum::<f64>() / n;
        let square = differences().map(|d| (d - nll).powi(2)).sum::<f64>();
        let half = if n > 1.0 {
            Z95 * (square / (n - 1.0) / n).sqrt()
        } else {
            f64::MAX
        };
        Self {
            nll,
            low: nll - half,
            high: nll + half,
            tokens: unchanged.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_is_the_mean_of_paired_differences() {
        let effect = Effect::between(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]); // differences 1, 2, 3
        assert_eq!(effect.nll, 2.0);
        assert!((effect.high - 2.0 - 1.959964 / 3f64.sqrt()).abs() < 1e-6);
        assert!((effect.low + effect.high - 4.0).abs() < 1e-12);
    }

    #[test]
    fn what_costs_is_asked_in_one_direction() {
        let effect = |nll| Effect {
            nll,
            low: nll - Z95,
            high: nll + Z95,
            tokens: 1,
        };
        assert!(effect(1.65).costs() && effect(1.65).low < 0.0);
        assert!(!effect(1.64).costs());
        assert!(!effect(-5.0).costs());
    }

    #[test]
    fn one_token_says_nothing_about_its_spread() {
        let effect = Effect::between(&[1.0], &[3.0]);
        assert_eq!(effect.nll, 2.0);
        assert!(effect.low < -1e300 && effect.high > 1e300);
    }
}
