//! AdamW with decoupled weight decay, over the selected blocks only.

use ndarray::{Array2, Zip};

use crate::gradient::{Gradient, Selection};
use crate::params::{Params, Shape, Tensor};

/// Hyperparameters that stay the same over a training.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct AdamWOptions {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Share of a linear map's or head's weight that is taken off per step, times the learning rate. Norms, biases and
    /// the embedding are not decayed.
    pub weight_decay: f32,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        AdamWOptions {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
        }
    }
}

impl AdamWOptions {
    /// The update of one weight, its moments and gradient in the step `step`, counted from 1.
    pub(crate) fn update(
        &self,
        step: i32,
        rate: f32,
        decays: bool,
    ) -> impl Fn(&mut f32, &mut f32, &mut f32, &f32) + Copy + Send + Sync + use<> {
        let AdamWOptions {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = *self;
        let (bias1, bias2) = (1.0 - beta1.powi(step), 1.0 - beta2.powi(step));
        let keep = if decays {
            1.0 - rate * weight_decay
        } else {
            1.0
        };
        move |w, m, v, &g| {
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *w = keep * *w - rate * (*m / bias1) / ((*v / bias2).sqrt() + eps);
        }
    }
}

/// First and second moments of the selected weights.
#[derive(Clone, Debug)]
pub struct AdamW {
    options: AdamWOptions,
    pub(crate) first: Gradient,
    pub(crate) second: Gradient,
    pub(crate) steps: i32,
}

impl AdamW {
    /// Moments at zero.
    pub fn new(shape: &Shape, selection: &Selection, options: AdamWOptions) -> AdamW {
        let zeros = Gradient::zeros(shape, selection);
        AdamW {
            options,
            first: zeros.clone(),
            second: zeros,
            steps: 0,
        }
    }

    /// One step along `gradient`, which must have the selection this was made with.
    pub fn step(&mut self, params: &mut Params, gradient: &Gradient, rate: f32) {
        self.steps += 1;
        for tensor in Tensor::all(params.shape()) {
            let decays = !tensor.is_vector() && tensor != Tensor::Embed;
            let update = self.options.update(self.steps, rate, decays);
            let moments = self
                .first
                .get_mut(tensor)
                .iter_mut()
                .zip(self.second.get_mut(tensor));
            for (((block, m), (_, v)), (_, g)) in moments.zip(gradient.get(tensor)) {
                let mut w = Gradient::slice(params, tensor, block);
                let (m, v): (&mut Array2<f32>, &mut Array2<f32>) = (m, v);
                Zip::from(&mut w).and(m).and(v).and(g).for_each(&update);
            }
        }
    }
}

/// Learning rate over a training: linear warm-up, constant, then linear to a floor.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Schedule {
    /// Highest rate.
    pub peak: f32,
    /// Steps of warm-up.
    pub warmup: usize,
    /// Step at which the descent begins.
    pub descent: usize,
    /// Steps in all.
    pub steps: usize,
    /// Rate at the end, as a share of the peak.
    pub floor: f32,
}

impl Schedule {
    /// The rate of a step, counted from 0.
    pub fn rate(&self, step: usize) -> f32 {
        let warm = ((step + 1) as f32 / self.warmup.max(1) as f32).min(1.0);
        let past = step.saturating_sub(self.descent) as f32;
        let span = self.steps.saturating_sub(self.descent).max(1) as f32;
        self.peak * warm * (1.0 - past / span).max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_rises_stays_and_falls() {
        let s = Schedule {
            peak: 2.0,
            warmup: 4,
            descent: 10,
            steps: 20,
            floor: 0.1,
        };
        assert_eq!(
            [s.rate(0), s.rate(3), s.rate(10), s.rate(15)],
            [0.5, 2.0, 2.0, 1.0]
        );
        assert!((s.rate(20) - 0.2).abs() < 1e-6);
    }
}
