//! Reproducible chance: one ChaCha8 stream for each seed and purpose.

use ndarray::Array2;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream `stream` of `seed`; two streams of a seed never overlap.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// A number in `0..n`; 0 where `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }

    /// A number between 0 and 1, neither of them.
    pub(crate) fn unit(&mut self) -> f64 {
        (f64::from(self.0.next_u32()) + 0.5) / (f64::from(u32::MAX) + 1.0)
    }

    /// A standard normal number (Box-Muller, one of the pair).
    pub(crate) fn normal(&mut self) -> f64 {
        let (a, b) = (self.unit(), self.unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// A matrix of normal numbers with standard deviation `scale`.
    pub(crate) fn normals(&mut self, dim: (usize, usize), scale: f64) -> Array2<f64> {
        Array2::from_shape_simple_fn(dim, || scale * self.normal())
    }
}
