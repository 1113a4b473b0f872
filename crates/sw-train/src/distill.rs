//! Distillation: what a student learns from a teacher's probabilities beside the text (Mixture-of-Students, arXiv 2201.05596,
//! section 4.2).

use ndarray::{Array2, ArrayView1, ArrayView2};

use crate::error::{Error, Result};
use crate::model::{Batch, IGNORE, forward};
use crate::params::Params;

/// A teacher and how much of it. The loss has `weight * temperature^2 * KL(softmax(t / temperature) || softmax(s / temperature))` more,
/// the mean over the scored targets, where `t` and `s` are the logits of teacher and student.
///
/// The teacher runs as at inference: no token is turned away and no noise is added, whatever the student's routing.
#[derive(Clone, Copy, Debug)]
pub struct Distill<'a> {
    /// Its weights do not change.
    pub teacher: &'a Params,
    /// Factor of the term.
    pub weight: f32,
    /// Logits of both are divided by it.
    pub temperature: f32,
    /// The step, counted from 0, from which on the student learns from the text alone.
    pub until: usize,
}

impl Distill<'_> {
    /// Checks the numbers, and that teacher and student have the same vocabulary.
    ///
    /// # Errors
    /// [`Error::Shape`] says what does not fit.
    pub fn check(&self, student: &Params) -> Result<()> {
        let [theirs, ours] = [self.teacher, student].map(|p| p.shape().vocab);
        if theirs != ours {
            return Err(Error::Shape(format!(
                "the teacher has {theirs} tokens in its vocabulary and the student {ours}"
            )));
        }
        let fine = |x: f32| x.is_finite() && x > 0.0;
        match fine(self.temperature) && (fine(self.weight) || self.weight == 0.0) {
            true => Ok(()),
            false => Err(Error::Shape(format!(
                "temperature {} and weight {}: expected numbers above 0",
                self.temperature, self.weight
            ))),
        }
    }

    /// The gradient of the student's logits, `[tokens, vocab]`, where each target counts `share`; and the sum over the targets of
    /// `temperature^2 * KL`.
    pub(crate) fn gradient(
        &self,
        batch: &Batch,
        logits: ArrayView2<f32>,
        share: f32,
    ) -> Result<(Array2<f32>, f64)> {
        let taught = forward(self.teacher, batch)?.logits;
        let mut gradient = Array2::zeros(logits.dim());
        let mut sum = 0.0;
        let rows = gradient
            .rows_mut()
            .into_iter()
            .zip(taught.rows())
            .zip(logits.rows());
        for (((mut d, teacher), student), &target) in rows.zip(&batch.targets) {
            if target == IGNORE {
                continue;
            }
            sum += divergence(
                teacher,
                student,
                self.temperature,
                d.as_slice_mut().unwrap_or(&mut []),
            );
            d *= share * self.weight;
        }
        Ok((gradient, sum))
    }
}

/// `T^2 KL(softmax(teacher / T) || softmax(student / T))`, and its gradient with respect to the student's logits,
/// `T (softmax(student / T) - softmax(teacher / T))`. Equal logits give exactly zero.
pub fn divergence(
    teacher: ArrayView1<f32>,
    student: ArrayView1<f32>,
    temperature: f32,
    gradient: &mut [f32],
) -> f64 {
    let soft = |logits: ArrayView1<f32>| -> (Vec<f32>, f32) {
        let mut p = logits.mapv(|z| z / temperature).to_vec();
        let max = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        sw_tensor::softmax(&mut p);
        (p, max)
    };
    let ((p, p_max), (q, q_max)) = (soft(teacher), soft(student));
    // ln p = z / T - ln(sum exp(z / T)); the largest probability is 1 / sum exp(z / T - max).
    let log_sum = |p: &[f32], max: f32| {
        let largest = p.iter().copied().fold(0.0, f32::max);
        f64::from(max) - f64::from(largest).ln()
    };
    let shift = log_sum(&q, q_max) - log_sum(&p, p_max);
    let (mut kl, mut all) = (0.0, 0.0);
    for (((&p, &q), d), (&t, &s)) in p
        .iter()
        .zip(&q)
        .zip(gradient)
        .zip(teacher.iter().zip(student))
    {
        kl += f64::from(p) * f64::from((t - s) / temperature);
        all += f64::from(p);
        *d = temperature * (q - p);
    }
    f64::from(temperature).powi(2) * (kl + all * shift)
}

#[cfg(test)]
mod tests {
    use ndarray::Array1;

    use super::*;
    use crate::draw::Draw;

    /// The definition in 64 bits: the term, and its gradient.
    fn reference(teacher: &[f32], student: &[f32], temperature: f64) -> (f64, Vec<f64>) {
        let soft = |z: &[f32]| -> Vec<f64> {
            let z: Vec<f64> = z.iter().map(|&z| f64::from(z) / temperature).collect();
            let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
            z.iter().map(|z| (z - max).exp() / sum).collect()
        };
        let (p, q) = (soft(teacher), soft(student));
        let kl: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let gradient = p.iter().zip(&q).map(|(p, q)| temperature * (q - p));
        (temperature * temperature * kl, gradient.collect())
    }

    #[test]
    fn the_term_and_its_gradient_are_those_of_the_definition() {
        let mut draw = Draw::new(4, 0);
        let mut logits = || Array1::from_shape_simple_fn(37, || 3.0 * draw.normal() as f32);
        let (teacher, student) = (logits(), logits());
        for temperature in [0.5f32, 1.0, 2.0] {
            let mut gradient = vec![0.0; 37];
            let term = divergence(teacher.view(), student.view(), temperature, &mut gradient);
            let (t, s) = (teacher.as_slice().unwrap(), student.as_slice().unwrap());
            let (expected, slopes) = reference(t, s, f64::from(temperature));
            assert!(
                (term - expected).abs() < 1e-4 * expected,
                "{temperature}: {term} {expected}"
            );
            for (found, slope) in gradient.iter().zip(&slopes) {
                assert!((f64::from(*found) - slope).abs() < 1e-5, "{temperature}");
            }
            // The gradient is that of the term.
            let h = 1e-2f32;
            for i in [0, 7, 30] {
                let moved = |by: f32| {
                    let mut s = s.to_vec();
                    s[i] += by;
                    reference(t, &s, f64::from(temperature)).0
                };
                let slope = (moved(h) - moved(-h)) / (2.0 * f64::from(h));
                assert!((slope - slopes[i]).abs() < 1e-3, "{temperature} {i}");
            }
        }
    }

    #[test]
    fn equal_logits_give_exactly_zero() {
        let mut draw = Draw::new(5, 0);
        let logits = Array1::from_shape_simple_fn(99, || 9.0 * draw.normal() as f32);
        let mut gradient = vec![1.0; 99];
        assert_eq!(
            divergence(logits.view(), logits.view(), 2.0, &mut gradient),
            0.0
        );
        assert!(gradient.iter().all(|&d| d == 0.0));
    }
}
