//! Reproducible chance for the tests: one ChaCha8 stream per (seed, stream).
#![allow(dead_code, reason = "each test uses a part of it")]

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    pub(crate) fn new(seed: u64, stream: u64) -> Dice {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Dice(rng)
    }

    /// A number in `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }

    /// A standard normal number (Box-Muller, one of the pair).
    pub(crate) fn normal(&mut self) -> f32 {
        let mut unit = || (f64::from(self.0.next_u32()) + 0.5) / f64::from(u32::MAX);
        let (a, b) = (unit().min(1.0), unit());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }
}
