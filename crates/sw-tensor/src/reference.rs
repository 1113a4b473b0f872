//! Slow, obvious f64 twins of everything in this crate, for tests and for readers.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, s};

use crate::{AttentionSeq, AttentionShape, GeluKind, Mat, Rope};

/// `x` in f64.
pub fn widen(x: ArrayView2<f32>) -> Array2<f64> {
    x.mapv(f64::from)
}

/// The weights in f64, overlay applied.
pub fn weights(w: &Mat) -> Array2<f64> {
    Array2::from_shape_fn((w.rows(), w.cols()), |(r, c)| f64::from(w.get(r, c)))
}

/// `x * w^T`.
pub fn matmul_t(x: ArrayView2<f32>, w: &Mat) -> Array2<f64> {
    widen(x).dot(&weights(w).t())
}

/// The nearest BF16, ties to even.
pub fn bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

/// `x * w^T` of factors that are rounded to BF16: the twin of [`Precision::Bfloat16`](crate::Precision::Bfloat16).
pub fn matmul_t_bf16(x: ArrayView2<f32>, w: &Mat) -> Array2<f64> {
    let w = Array2::from_shape_fn((w.rows(), w.cols()), |(r, c)| bf16(w.get(r, c)));
    widen(x.mapv(bf16).view()).dot(&widen(w.view()).t())
}

/// `sum_k |x[t, k]| |w[r, k]|`: what the rounding error of a product is proportional to.
pub fn matmul_t_abs(x: ArrayView2<f32>, w: &Mat) -> Array2<f64> {
    widen(x).mapv(f64::abs).dot(&weights(w).mapv(f64::abs).t())
}

/// RMSNorm.
pub fn rms_norm(x: ArrayView2<f32>, weight: &[f32], eps: f32) -> Array2<f64> {
    let mut out = widen(x);
    for mut row in out.rows_mut() {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        for (x, &w) in row.iter_mut().zip(weight) {
            *x *= scale * f64::from(w);
        }
    }
    out
}

/// LayerNorm.
pub fn layer_norm(
    x: ArrayView2<f32>,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
) -> Array2<f64> {
    let mut out = widen(x);
    for mut row in out.rows_mut() {
        let n = row.len() as f64;
        let mean = row.sum() / n;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        for (i, x) in row.iter_mut().enumerate() {
            let weight = weight.map_or(1.0, |w| f64::from(w[i]));
            let bias = bias.map_or(0.0, |b| f64::from(b[i]));
            *x = (*x - mean) / (variance + f64::from(eps)).sqrt() * weight + bias;
        }
    }
    out
}

/// Rotary embedding; the angle is rounded to f32 as everywhere, the rest is f64.
pub fn rope(rope: &Rope, x: ArrayView2<f32>, head_dim: usize, positions: &[u32]) -> Array2<f64> {
    let n = rope.inv_freq().len();
    let mut out = widen(x);
    for (mut row, &position) in out.rows_mut().into_iter().zip(positions) {
        for head in 0..row.len() / head_dim {
            for i in 0..n {
                let (sin, cos) = f64::from(position as f32 * rope.inv_freq()[i]).sin_cos();
                let (low, high) = (head * head_dim + i, head * head_dim + n + i);
                let (a, b) = (row[low], row[high]);
                row[low] = (a * cos - b * sin) * f64::from(rope.scale());
                row[high] = (b * cos + a * sin) * f64::from(rope.scale());
            }
        }
    }
    out
}

/// `z / (1 + exp(-z))`.
pub fn silu(z: f64) -> f64 {
    z / (1.0 + (-z).exp())
}

/// GELU of either kind.
pub fn gelu(z: f64, kind: GeluKind) -> f64 {
    match kind {
        GeluKind::Tanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z.powi(3));
            // (1 + tanh u) / 2, without its cancellation.
            z / (1.0 + (-2.0 * inner).exp())
        }
        GeluKind::Erf => z * normal(z),
    }
}

/// The distribution function of the standard normal.
pub fn normal(z: f64) -> f64 {
    0.5 * erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
}

/// The complementary error function to about 1e-14 relative: its Taylor series where that converges fast, else the
/// continued fraction of Laplace, both evaluated to the last bit of f64.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        // erf(x) = 2/sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!: all terms positive.
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        return 1.0 - std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum;
    }
    // erfc(x) = exp(-x^2)/sqrt(pi) / (x + (1/2)/(x + 1/(x + (3/2)/(x + ...)))).
    let fraction = (1..=80).rev().fold(x, |f, n| x + f64::from(n) / 2.0 / f);
    (-x * x).exp() / (std::f64::consts::PI.sqrt() * fraction)
}

/// Softmax of one row.
pub fn softmax(row: &[f64]) -> Vec<f64> {
    let lse = log_sum_exp(row);
    row.iter().map(|x| (x - lse).exp()).collect()
}

/// `ln sum exp`.
pub fn log_sum_exp(row: &[f64]) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// Causal attention; rows outside of every sequence are zero.
pub fn attention(
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    seqs: &[AttentionSeq<'_>],
    shape: &AttentionShape,
) -> Array2<f64> {
    let head_dim = shape.head_dim;
    let mut out = Array2::zeros((q.nrows(), shape.heads * head_dim));
    for seq in seqs {
        // All keys and values of the sequence, prefix first: [positions, kv_heads * head_dim].
        let part = |rows: Range<usize>, x: &ArrayView2<f32>| widen(x.slice(s![rows, ..]));
        let mut keys: Vec<Vec<f64>> = Vec::new();
        let mut values: Vec<Vec<f64>> = Vec::new();
        for span in &seq.prefix {
            keys.extend(widen(span.k).rows().into_iter().map(|row| row.to_vec()));
            values.extend(widen(span.v).rows().into_iter().map(|row| row.to_vec()));
        }
        let start = keys.len();
        keys.extend(
            part(seq.rows.clone(), &k)
                .rows()
                .into_iter()
                .map(|row| row.to_vec()),
        );
        values.extend(
            part(seq.rows.clone(), &v)
                .rows()
                .into_iter()
                .map(|row| row.to_vec()),
        );

        for (i, row) in seq
            .rows
            .clone()
            .enumerate()
            .map(|(i, row)| (start + i, row))
        {
            let first = shape
                .window
                .map_or(0, |window| (i + 1).saturating_sub(window));
            for head in 0..shape.heads {
                let kv = head / (shape.heads / shape.kv_heads) * head_dim;
                let score = |j: usize| {
                    let dot: f64 = (0..head_dim)
                        .map(|d| f64::from(q[[row, head * head_dim + d]]) * keys[j][kv + d])
                        .sum();
                    let score = dot * f64::from(shape.scale);
                    shape.softcap.map_or(score, |cap| {
                        f64::from(cap) * (score / f64::from(cap)).tanh()
                    })
                };
                let weights = softmax(&(first..=i).map(score).collect::<Vec<_>>());
                for d in 0..head_dim {
                    out[[row, head * head_dim + d]] = weights
                        .iter()
                        .zip(first..)
                        .map(|(p, j)| p * values[j][kv + d])
                        .sum();
                }
            }
        }
    }
    out
}
