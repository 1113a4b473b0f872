//! SiLU and GELU, alone or fused with the gate's product.

use std::sync::OnceLock;

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
    for_rows(
        x,
        #[inline(always)]
        |_, mut x| {
            row_mut(
                &mut x,
                #[inline(always)]
                |x| {
                    for x in x {
                        *x = f(*x);
                    }
                },
            );
        },
    );
}

#[inline]
fn map_mul(gate: ArrayViewMut2<f32>, up: ArrayView2<f32>, f: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(gate.dim(), up.dim(), "product of different shapes");
    for_rows(
        gate,
        #[inline(always)]
        |t, mut gate| {
            let up = row(up.row(t));
            row_mut(
                &mut gate,
                #[inline(always)]
                |gate| {
                    for (gate, up) in gate.iter_mut().zip(up.iter()) {
                        *gate = f(*gate) * up;
                    }
                },
            );
        },
    );
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

/// `z Phi(z)` in f64, because f32 would lose all digits of `1 + erf` for z below -3.
#[inline]
fn gelu_erf_of(z: f32) -> f32 {
    if z >= HIGHEST as f32 {
        return z; // 1 - Phi is below half an ulp of 1
    }
    if z <= LOWEST as f32 {
        return -0.0; // the product is below the smallest subnormal
    }
    let wide = f64::from(z);
    let position = (wide - LOWEST) * CELLS;
    let cell = normal_cells()[position as usize]; // NaN takes cell 0 and stays NaN
    let h = wide - (LOWEST + (position.floor() + 0.5) / CELLS);
    let phi = cell.iter().rev().fold(0.0, |sum, c| sum * h + c);
    (wide * phi) as f32
}

/// Where the table of the normal distribution begins and ends, and its cells per unit.
const LOWEST: f64 = -15.0;
const HIGHEST: f64 = 6.0;
const CELLS: f64 = 32.0;

/// Taylor coefficients of the normal distribution at the middle of every cell. Seven of them leave an error of
/// (15 / 64)^7 / 7! = 8e-9 relative at the far end, an eighth of an ulp of f32.
fn normal_cells() -> &'static [[f64; 7]] {
    static TABLE: OnceLock<Vec<[f64; 7]>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let cells = ((HIGHEST - LOWEST) * CELLS) as usize;
        let middle = |cell: usize| LOWEST + (cell as f64 + 0.5) / CELLS;
        (0..cells).map(|cell| normal_taylor(middle(cell))).collect()
    })
}

/// `Phi^(n)(z) / n!`: the derivatives are the density times Hermite polynomials, of which the next is
/// `-z He_n - n He_(n-1)` with the signs folded in.
fn normal_taylor(z: f64) -> [f64; 7] {
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (mut before, mut hermite, mut factorial) = (0.0, 1.0, 1.0);
    let mut taylor = [crate::reference::normal(z); 7];
    for (n, coefficient) in taylor.iter_mut().enumerate().skip(1) {
        factorial *= n as f64;
        *coefficient = density * hermite / factorial;
        (before, hermite) = (hermite, -z * hermite - (n - 1) as f64 * before);
    }
    taylor
}
