//! The way back through causal grouped attention over sequences of any lengths.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;
use sw_tensor::product;

/// Heads and how a query sees keys.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) kv_count: usize,
    pub(super) dim: usize,
    /// Multiplies the scores.
    pub(super) scale: f32,
    /// A query sees keys at most `window - 1` positions back.
    pub(super) window: Option<usize>,
}

/// Gradients of rotated queries, rotated keys and values, given that of the heads' outputs; all `[tokens, channels]`,
/// sequences one after the other. The attention weights are computed again.
pub(super) fn backward(
    [q, k, v]: [ArrayView2<'_, f32>; 3],
    dout: ArrayView2<'_, f32>,
    seqs: &[Range<usize>],
    heads: Heads,
) -> [Array2<f32>; 3] {
    // The query heads that read one key head are one piece of work, so that its gradients are summed in their order.
    let pieces: Vec<(Range<usize>, usize)> = seqs
        .iter()
        .flat_map(|rows| (0..heads.kv_count).map(|group| (rows.clone(), group)))
        .collect();
    let done: Vec<[Array2<f32>; 3]> = pieces
        .par_iter()
        .map(|(rows, group)| group_backward([q, k, v], dout, rows.clone(), *group, heads))
        .collect();
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| Array2::zeros(x.dim()));
    let per_group = heads.count / heads.kv_count * heads.dim;
    for ((rows, group), [q, k, v]) in pieces.into_iter().zip(done) {
        let of = |width: usize| s![rows.clone(), group * width..(group + 1) * width];
        dq.slice_mut(of(per_group)).assign(&q);
        dk.slice_mut(of(heads.dim)).assign(&k);
        dv.slice_mut(of(heads.dim)).assign(&v);
    }
    [dq, dk, dv]
}

/// One sequence, one key head and the query heads that read it.
fn group_backward(
    [q, k, v]: [ArrayView2<'_, f32>; 3],
    dout: ArrayView2<'_, f32>,
    rows: Range<usize>,
    group: usize,
    heads: Heads,
) -> [Array2<f32>; 3] {
    let (len, dim, per_group) = (rows.len(), heads.dim, heads.count / heads.kv_count);
    let kv = s![rows.clone(), group * dim..(group + 1) * dim];
    let (k, v) = (k.slice(kv), v.slice(kv));
    let mut dq = Array2::zeros((len, per_group * dim));
    let mut dk = Array2::zeros((len, dim));
    let mut dv = Array2::zeros((len, dim));
    let (mut p, mut ds) = (Array2::zeros((len, len)), Array2::zeros((len, len)));
    for i in 0..per_group {
        let head = group * per_group + i;
        let of_head = s![rows.clone(), head * dim..(head + 1) * dim];
        let (q, dout) = (q.slice(of_head), dout.slice(of_head));
        product(heads.scale, q, k.t(), 0.0, p.view_mut());
        for (t, mut row) in p.rows_mut().into_iter().enumerate() {
            let first = heads.window.map_or(0, |w| (t + 1).saturating_sub(w));
            softmax_within(row.as_slice_mut().unwrap_or(&mut []), first..t + 1);
        }
        product(1.0, p.t(), dout, 1.0, dv.view_mut());
        product(1.0, dout, v.t(), 0.0, ds.view_mut());
        // Through the softmax: ds = p (dp - sum(p dp)); scores that are not seen have p = 0.
        for (mut ds, p) in ds.rows_mut().into_iter().zip(p.rows()) {
            let dot: f32 = ds.iter().zip(p).map(|(d, p)| d * p).sum();
            ds.zip_mut_with(&p, |d, p| *d = p * (*d - dot));
        }
        let dq = dq.slice_mut(s![.., i * dim..(i + 1) * dim]);
        product(heads.scale, ds.view(), k, 0.0, dq);
        product(heads.scale, ds.t(), q, 1.0, dk.view_mut());
    }
    [dq, dk, dv]
}

/// Softmax over the scores in `seen`, zero elsewhere.
fn softmax_within(row: &mut [f32], seen: Range<usize>) {
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    let row = &mut row[seen];
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in row.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    row.iter_mut().for_each(|v| *v /= sum);
}
