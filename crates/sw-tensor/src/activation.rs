//! SiLU and GELU, alone or fused with the gate's product.

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::rows::{for_rows, row, row_mut};
use crate::vecmath::sigmoid;

/// Which GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GeluKind {
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`: `gelu_new`, `gelu_pytorch_tanh`.
    Tanh,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`: `gelu`.
    Erf,
}

/// `gate = silu(gate) * up`, where `silu(z) = z / (1 + exp(-z))`.
///
/// # Panics
/// If the shapes differ.
pub fn silu_mul(gate: ArrayViewMut2<f32>, up: ArrayView2<f32>) {
    map_mul(gate, up, silu_of);
}

/// `gate = gelu(gate) * up`.
///
/// # Panics
/// If the shapes differ.
pub fn gelu_mul(gate: ArrayViewMut2<f32>, up: ArrayView2<f32>, kind: GeluKind) {
    match kind {
        GeluKind::Tanh => map_mul(gate, up, gelu_tanh_of),
        GeluKind::Erf => map_mul(gate, up, gelu_erf_of),
    }
}

/// `x = silu(x)`.
pub fn silu(x: ArrayViewMut2<f32>) {
    map(x, silu_of);
}

/// `x = gelu(x)`.
pub fn gelu(x: ArrayViewMut2<f32>, kind: GeluKind) {
    match kind {
        GeluKind::Tanh => map(x, gelu_tanh_of),
        GeluKind::Erf => map(x, gelu_erf_of),
    }
}

#[inline]
fn map(x: ArrayViewMut2<f32>, f: impl Fn(f32) -> f32 + Sync) {
    for_rows(x, |_, mut x| {
        row_mut(&mut x, |x| {
            for x in x {
                *x = f(*x);
            }
        });
    });
}

#[inline]
fn map_mul(gate: ArrayViewMut2<f32>, up: ArrayView2<f32>, f: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(gate.dim(), up.dim(), "product of different shapes");
    for_rows(gate, |t, mut gate| {
        let up = row(up.row(t));
        row_mut(&mut gate, |gate| {
            for (gate, up) in gate.iter_mut().zip(up.iter()) {
                *gate = f(*gate) * up;
            }
        });
    });
}

#[inline(always)]
fn silu_of(z: f32) -> f32 {
    z * sigmoid(z)
}

/// `(1 + tanh(u)) / 2` is the sigmoid of `2 u`, which loses nothing where `tanh(u)` is near -1.
#[inline(always)]
fn gelu_tanh_of(z: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769;
    z * sigmoid(TWO_SQRT_2_OVER_PI * (z + 0.044715 * z * z * z))
}

#[inline]
fn gelu_erf_of(z: f32) -> f32 {
    // In f64, because f32 would lose all digits of 1 + erf for z below -3.
    crate::reference::gelu_erf(f64::from(z)) as f32
}
