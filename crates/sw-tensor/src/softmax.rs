//! Softmax and the logarithm of its denominator.

use crate::isa::{Isa, Work};
use crate::sum::{LANES, max, sum_by, tree};
use crate::vecmath::exp_neg;

/// `ln(sum_i exp(row[i]))`; negative infinity of an empty row.
///
/// Exponentials are taken in f32, relative to the largest element, and summed in f64. With `p_i` the softmax and `d_i` the
/// distance to the largest, the error is at most `sum_i p_i (d_i + 3) 2^-24`, in which the largest itself (`exp(0)`, exact)
/// does not count: far below what the rounding of f32 logits does, also where one element has nearly all the probability.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    Isa::current().run(LogSumExp(row))
}

struct LogSumExp<'a>(&'a [f32]);

impl Work for LogSumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn work(self) -> f64 {
        let max = max(self.0);
        if max.is_infinite() || max.is_nan() {
            return f64::from(max);
        }
        let mut lanes = [0.0; LANES];
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(exp_neg(x - max));
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(exp_neg(x - max));
        }
        f64::from(max) + tree(lanes, |a, b| a + b).ln()
    }
}

/// `row[i] = exp(row[i]) / sum_j exp(row[j])`. A row that is empty stays so.
pub fn softmax(row: &mut [f32]) {
    Isa::current().run(Softmax(row));
}

struct Softmax<'a>(&'a mut [f32]);

impl Work for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let max = max(self.0);
        for x in self.0.iter_mut() {
            *x = exp_neg(*x - max);
        }
        let scale = 1.0 / sum_by(self.0, |x| x);
        for x in self.0 {
            *x *= scale;
        }
    }
}
