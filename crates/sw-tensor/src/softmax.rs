//! Softmax and the logarithm of its denominator.

use crate::isa::Isa;
use crate::sum::{LANES, max, sum_by, tree};
use crate::vecmath::{exp_neg, exp_neg_f64};

/// `ln(sum_i exp(row[i]))`, in f64 throughout; negative infinity of an empty row.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    Isa::current().run(|| {
        let max = f64::from(max(row));
        if max.is_infinite() || max.is_nan() {
            return max;
        }
        let mut lanes = [0.0; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += exp_neg_f64(f64::from(x) - max);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += exp_neg_f64(f64::from(x) - max);
        }
        max + tree(lanes, |a, b| a + b).ln()
    })
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
