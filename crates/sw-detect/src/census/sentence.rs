//! The answer in words.

use super::{Census, WeightSet};
use crate::report::Report;

/// The answer, with its numbers.
pub(super) fn sentence(census: &Census, report: &Report) -> String {
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
