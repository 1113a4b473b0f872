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
    let mut seen = LogSumExp::default();
    seen.add(row);
    seen.value()
}

/// [`log_sum_exp`] of a row that comes in parts, with the same bound: what is known of the parts so far.
///
/// ```
/// use sw_tensor::{LogSumExp, log_sum_exp};
///
/// let mut seen = LogSumExp::default();
/// seen.add(&[1.0, 2.0]);
/// seen.add(&[3.0]);
/// assert_eq!(seen.largest(), 3.0);
/// assert!((seen.value() - log_sum_exp(&[1.0, 2.0, 3.0])).abs() < 1e-6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSumExp {
    largest: f32,
    /// The sum of the exponentials relative to the largest.
    sum: f64,
}

impl Default for LogSumExp {
    fn default() -> Self {
        Self {
            largest: f32::NEG_INFINITY,
            sum: 0.0,
        }
    }
}

impl LogSumExp {
    /// Adds the next part of the row; returns the part's largest element.
    pub fn add(&mut self, part: &[f32]) -> f32 {
        let (largest, sum) = Isa::current().run(SumExp(part));
        if largest > self.largest || largest.is_nan() {
            *self = Self {
                largest,
                sum: self.sum * f64::from(self.largest - largest).exp() + sum,
            };
        } else if largest > f32::NEG_INFINITY {
            self.sum += sum * f64::from(largest - self.largest).exp();
        }
        largest
    }

    /// The largest element so far; negative infinity where there was none. NaN where any element was.
    pub fn largest(&self) -> f32 {
        self.largest
    }

    /// The logarithm of the sum of the exponentials of all elements so far.
    pub fn value(&self) -> f64 {
        let largest = f64::from(self.largest);
        if largest.is_finite() {
            largest + self.sum.ln()
        } else {
            largest
        }
    }
}

/// The largest element, and the sum of exponentials relative to it where it is finite.
struct SumExp<'a>(&'a [f32]);

impl Work for SumExp<'_> {
    type Output = (f32, f64);

    #[inline(always)]
    fn work(self) -> (f32, f64) {
        let max = max(self.0);
        if max.is_infinite() || max.is_nan() {
            return (max, 0.0);
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
        (max, tree(lanes, |a, b| a + b))
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
