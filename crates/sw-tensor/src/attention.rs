//! Causal attention over ragged sequences, with grouped key and value heads.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::rows::{for_rows, row, row_mut};
use crate::softmax::softmax;

/// Sizes and variants of one attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Query head `h` uses key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Key `j` is visible to query `i` only if `i - j < window`.
    pub window: Option<usize>,
    /// Scores become `softcap * tanh(score / softcap)`.
    pub softcap: Option<f32>,
}

/// Keys and values of consecutive positions, `[n, kv_heads * head_dim]` each, keys already rotated.
#[derive(Debug, Clone, Copy)]
pub struct KeySpan<'a> {
    /// Keys.
    pub k: ArrayView2<'a, f32>,
    /// Values.
    pub v: ArrayView2<'a, f32>,
}

/// One sequence of a batch.
#[derive(Debug, Clone)]
pub struct AttentionSeq<'a> {
    /// The new tokens: rows of `q`, `k`, `v` and `out`.
    pub rows: Range<usize>,
    /// What comes before them, in order; positions count from 0 at the first span.
    pub prefix: Vec<KeySpan<'a>>,
}

/// `out[i] = sum_j softmax_j(scale * q[i] . k[j]) v[j]` over the visible keys `j <= i` of the same sequence.
///
/// `q` and `out` are `[tokens, heads * head_dim]`, `k` and `v` `[tokens, kv_heads * head_dim]`. Rows of `out` that
/// belong to no sequence are left alone. A row's result depends neither on the batch nor on how its keys are cut into
/// prefix spans and new tokens.
///
/// # Panics
/// If shapes do not agree, `kv_heads` does not divide `heads`, or sequences overlap.
pub fn attention(
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    seqs: &[AttentionSeq<'_>],
    shape: &AttentionShape,
    out: ArrayViewMut2<f32>,
) {
    let &AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = shape;
    let group = heads / kv_heads;
    let mut owner = vec![None; q.nrows()];
    for (s, seq) in seqs.iter().enumerate() {
        for row in seq.rows.clone() {
            owner[row] = Some(s);
        }
    }
    for_rows(out, |t, mut out| {
        let Some(s) = owner[t] else { return };
        let seq = &seqs[s];
        let own = KeySpan {
            k: k.slice(ndarray::s![seq.rows.start..=t, ..]),
            v: v.slice(ndarray::s![seq.rows.start..=t, ..]),
        };
        let spans: Vec<_> = seq
            .prefix
            .iter()
            .map(|p| KeySpan {
                k: p.k.view(),
                v: p.v.view(),
            })
            .chain([own])
            .collect();
        let len: usize = spans.iter().map(|span| span.k.nrows()).sum();
        let first = shape.window.map_or(0, |window| len.saturating_sub(window));
        let q = row(q.row(t));
        row_mut(&mut out, |out| {
            out.fill(0.0);
            for h in 0..heads {
                let q = &q[h * head_dim..][..head_dim];
                let columns = (h / group) * head_dim..(h / group + 1) * head_dim;
                let mut scores = Vec::with_capacity(len);
                let keys = || spans.iter().flat_map(|span| span.k.rows());
                let values = || spans.iter().flat_map(|span| span.v.rows());
                for key in keys().skip(first) {
                    let key = row(key);
                    let score: f32 = q
                        .iter()
                        .zip(&key[columns.clone()])
                        .map(|(q, k)| q * k)
                        .sum();
                    let score = score * shape.scale;
                    scores.push(
                        shape
                            .softcap
                            .map_or(score, |cap| cap * (score / cap).tanh()),
                    );
                }
                softmax(&mut scores);
                let out = &mut out[h * head_dim..][..head_dim];
                for (value, p) in values().skip(first).zip(&scores) {
                    let value = row(value);
                    for (out, v) in out.iter_mut().zip(&value[columns.clone()]) {
                        *out += p * v;
                    }
                }
            }
        });
    });
}
