//! A step of a prompt set, and where the projection stands in it.

use ndarray::{Array2, Zip};
use serde::{Deserialize, Serialize};

/// The optimiser of prompts and head, made anew for every task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimiser {
    /// Plain gradient descent.
    Sgd {
        /// Learning rate.
        rate: f64,
    },
    /// Adam with betas .9 and .999, without decay.
    Adam {
        /// Learning rate.
        rate: f64,
    },
}

/// What loses its part inside the space of old features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// The gradient, before the optimiser sees it: as published. Adam divides every channel by a size of its own and so turns
    /// the step back into the space.
    Gradient,
    /// The step that the optimiser makes of the gradient: nothing of it is inside the space, whatever the optimiser.
    Update,
}

/// An optimiser with the moments of one matrix.
pub(super) struct State {
    optimiser: Optimiser,
    first: Array2<f64>,
    second: Array2<f64>,
    steps: i32,
}

impl State {
    pub(super) fn new(optimiser: Optimiser, dim: (usize, usize)) -> Self {
        Self {
            optimiser,
            first: Array2::zeros(dim),
            second: Array2::zeros(dim),
            steps: 0,
        }
    }

    /// What is to be added to the weights.
    pub(super) fn update(&mut self, gradient: &Array2<f64>) -> Array2<f64> {
        const BETAS: [f64; 2] = [0.9, 0.999];
        const EPS: f64 = 1e-8;
        match self.optimiser {
            Optimiser::Sgd { rate } => gradient * -rate,
            Optimiser::Adam { rate } => {
                self.steps += 1;
                let bias = BETAS.map(|beta| 1.0 - beta.powi(self.steps));
                let mut step = gradient.clone();
                Zip::from(&mut step)
                    .and(&mut self.first)
                    .and(&mut self.second)
                    .for_each(|g, m, v| {
                        *m = BETAS[0] * *m + (1.0 - BETAS[0]) * *g;
                        *v = BETAS[1] * *v + (1.0 - BETAS[1]) * *g * *g;
                        *g = -rate * (*m / bias[0]) / ((*v / bias[1]).sqrt() + EPS);
                    });
                step
            }
        }
    }
}
