//! Rotary positions and causal attention over sequences of one length, forward and backward.

use ndarray::{Array2, Array3, ArrayView2, s};

use sw_tensor::product;

use crate::params::Shape;

/// Cosines and sines of the rotary angles, `[positions, head_dim / 2]` each.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    cos: Array2<f32>,
    sin: Array2<f32>,
}

impl Rope {
    pub(crate) fn new(shape: &Shape, positions: usize) -> Rope {
        let half = shape.head_dim / 2;
        let angle = |t: usize, i: usize| {
            let inv_freq = shape
                .rope_theta
                .powf(-(2.0 * i as f64) / shape.head_dim as f64) as f32;
            t as f32 * inv_freq
        };
        Rope {
            cos: Array2::from_shape_fn((positions, half), |(t, i)| angle(t, i).cos()),
            sin: Array2::from_shape_fn((positions, half), |(t, i)| angle(t, i).sin()),
        }
    }

    /// Rotates every head of `x` (`[sequences * len, heads * head_dim]`) by its position; `back` undoes it, which is
    /// the backward pass.
    pub(crate) fn rotate(&self, x: &mut Array2<f32>, head_dim: usize, len: usize, back: bool) {
        let half = head_dim / 2;
        let sign = if back { -1.0 } else { 1.0 };
        for (t, mut row) in x.rows_mut().into_iter().enumerate() {
            let (cos, sin) = (self.cos.row(t % len), self.sin.row(t % len));
            for mut head in row.exact_chunks_mut(head_dim) {
                for i in 0..half {
                    let (a, b) = (head[i], head[i + half]);
                    let (c, s) = (cos[i], sign * sin[i]);
                    head[i] = a * c - b * s;
                    head[i + half] = b * c + a * s;
                }
            }
        }
    }
}

/// `softmax(q k^T / sqrt(head_dim)) v` for every sequence and head. Returns the mixed values and the attention
/// weights `[sequences * heads, len, len]`.
pub(crate) fn forward(
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    shape: &Shape,
    len: usize,
) -> (Array2<f32>, Array3<f32>) {
    let (n, hd, heads) = (q.nrows() / len, shape.head_dim, shape.heads);
    let scale = 1.0 / (hd as f32).sqrt();
    let mut out = Array2::zeros(q.dim());
    let mut probs = Array3::zeros((n * heads, len, len));
    for b in 0..n {
        let rows = b * len..(b + 1) * len;
        for h in 0..heads {
            let kv = h / (heads / shape.kv_heads);
            let cols = h * hd..(h + 1) * hd;
            let kv = kv * hd..(kv + 1) * hd;
            let mut p = probs.index_axis_mut(ndarray::Axis(0), b * heads + h);
            let (q, k) = (
                q.slice(s![rows.clone(), cols.clone()]),
                k.slice(s![rows.clone(), kv.clone()]),
            );
            product(scale, q.view(), k.t(), 0.0, p.view_mut());
            for (t, mut row) in p.rows_mut().into_iter().enumerate() {
                softmax_prefix(row.as_slice_mut().unwrap_or(&mut []), t + 1);
            }
            let v = v.slice(s![rows.clone(), kv]);
            let mut o = out.slice_mut(s![rows.clone(), cols]);
            product(1.0, p.view(), v.view(), 0.0, o.view_mut());
        }
    }
    (out, probs)
}

/// Softmax over the first `n` scores, zero behind them.
fn softmax_prefix(row: &mut [f32], n: usize) {
    let (seen, hidden) = row.split_at_mut(n);
    hidden.fill(0.0);
    let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in seen.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    let inv = 1.0 / sum;
    seen.iter_mut().for_each(|v| *v *= inv);
}

/// Gradients of [`forward`]'s `q`, `k` and `v` given that of its output.
pub(crate) fn backward(
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    probs: &Array3<f32>,
    dout: ArrayView2<f32>,
    shape: &Shape,
    len: usize,
) -> (Array2<f32>, Array2<f32>, Array2<f32>) {
    let (n, hd, heads) = (q.nrows() / len, shape.head_dim, shape.heads);
    let scale = 1.0 / (hd as f32).sqrt();
    let (mut dq, mut dk, mut dv) = (
        Array2::zeros(q.dim()),
        Array2::zeros(k.dim()),
        Array2::zeros(v.dim()),
    );
    let mut ds = Array2::zeros((len, len));
    for b in 0..n {
        let rows = b * len..(b + 1) * len;
        for h in 0..heads {
            let kv = h / (heads / shape.kv_heads);
            let cols = h * hd..(h + 1) * hd;
            let kv = kv * hd..(kv + 1) * hd;
            let p = probs.index_axis(ndarray::Axis(0), b * heads + h);
            let dout = dout.slice(s![rows.clone(), cols.clone()]);
            let mut dv = dv.slice_mut(s![rows.clone(), kv.clone()]);
            product(1.0, p.t(), dout.view(), 1.0, dv.view_mut());
            let v = v.slice(s![rows.clone(), kv.clone()]);
            product(1.0, dout.view(), v.t(), 0.0, ds.view_mut());
            // Through the softmax: ds = p (dp - sum(p dp)); hidden scores have p = 0.
            for (mut ds, p) in ds.rows_mut().into_iter().zip(p.rows()) {
                let dot: f32 = ds.iter().zip(p).map(|(d, p)| d * p).sum();
                ds.zip_mut_with(&p, |d, p| *d = p * (*d - dot));
            }
            let k = k.slice(s![rows.clone(), kv.clone()]);
            let mut dq = dq.slice_mut(s![rows.clone(), cols.clone()]);
            product(scale, ds.view(), k.view(), 1.0, dq.view_mut());
            let q = q.slice(s![rows.clone(), cols]);
            let mut dk = dk.slice_mut(s![rows.clone(), kv]);
            product(scale, ds.t(), q.view(), 1.0, dk.view_mut());
        }
    }
    (dq, dk, dv)
}
