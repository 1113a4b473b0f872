//! What the tests of several modules share: random data, matrices in awkward places, and error bounds.

use std::sync::Arc;

use half::{bf16, f16};
use ndarray::{Array2, ArrayView2};

use crate::mat::Owned;
use crate::{Dtype, Mat};

/// Unit roundoff of f32.
pub(crate) const U: f64 = 1.0 / (1 << 24) as f64;

/// `n u / (1 - n u)`: relative error of `n` roundings in a row (Higham, "Accuracy and Stability", lemma 3.1).
pub(crate) fn gamma(n: usize) -> f64 {
    let nu = n as f64 * U;
    nu / (1.0 - nu)
}

/// A small generator (SplitMix64), so that a seed is a test's whole input.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Mostly around one, with a spike of a few hundred now and then, as activations have.
    pub(crate) fn array(&mut self, rows: usize, cols: usize) -> Array2<f32> {
        Array2::from_shape_simple_fn((rows, cols), || {
            let spike = if self.next().is_multiple_of(61) {
                300.0
            } else {
                1.0
            };
            self.signed() * spike
        })
    }

    /// A matrix whose elements start `shift` bytes into their storage.
    pub(crate) fn mat(&mut self, dtype: Dtype, rows: usize, cols: usize, shift: usize) -> Mat {
        let mut bytes = vec![0u8; shift];
        for _ in 0..rows * cols {
            let value = self.signed();
            match dtype {
                Dtype::F32 => bytes.extend(value.to_le_bytes()),
                Dtype::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
                Dtype::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            }
        }
        Mat::from_bytes(Arc::new(Owned(bytes)), shift, dtype, rows, cols)
    }
}

pub(crate) const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// Runs `f` in a pool of its own.
pub(crate) fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(f)
}

/// Panics unless the two agree bit for bit (zeros of either sign included).
#[track_caller]
pub(crate) fn assert_same(a: ArrayView2<f32>, b: ArrayView2<f32>, what: &str) {
    assert_eq!(a.dim(), b.dim(), "{what}");
    for ((at, a), b) in a.indexed_iter().zip(b) {
        assert!(
            a.to_bits() == b.to_bits(),
            "{what}: {a:e} and {b:e} at {at:?}"
        );
    }
}

/// Panics unless `|found - expected| <= bound` everywhere.
#[track_caller]
pub(crate) fn assert_near(
    found: ArrayView2<f32>,
    expected: &Array2<f64>,
    bound: &Array2<f64>,
    what: &str,
) {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    for ((at, &found), (expected, bound)) in found.indexed_iter().zip(expected.iter().zip(bound)) {
        let error = (f64::from(found) - expected).abs();
        assert!(
            error <= *bound,
            "{what}: {found:e} for {expected:e} at {at:?}, error {error:e} above {bound:e}"
        );
    }
}
