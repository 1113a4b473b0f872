//! Softmax and the logarithm of its denominator.

use crate::isa::Isa;
use crate::sum::{max, sum_by};
use crate::vecmath::exp_neg;

/// `ln(sum_i exp(row[i]))`, in f64 throughout; negative infinity of an empty row.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let max = f64::from(max(row));
    if max.is_infinite() || max.is_nan() {
        return max;
    }
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    max + sum.ln()
}

/// `row[i] = exp(row[i]) / sum_j exp(row[j])`. A row that is empty stays so.
pub fn softmax(row: &mut [f32]) {
    Isa::current().run(|| {
        let max = max(row);
        for x in row.iter_mut() {
            *x = exp_neg(*x - max);
        }
        let scale = 1.0 / sum_by(row, |x| x);
        for x in row {
            *x *= scale;
        }
    });
}
