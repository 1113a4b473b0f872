//! Causal attention over ragged sequences, with grouped key and value heads.

mod task;
#[cfg(test)]
mod tests;

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::isa::Isa;
use crate::matmul::kernel::Kernel;
use crate::matmul::portable_tile::PortableTile;
use task::Task;

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
    /// Key `j` is visible to query `i` only if `i - j < window`, which is 1 at least.
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

/// Rows (tokens times heads of a group) that one task aims at: they share one transposition of the keys.
const TASK_ROWS: usize = 256;

/// `out[i] = sum_j softmax_j(scale * q[i] . k[j]) v[j]` over the visible keys `j <= i` of the same sequence.
///
/// `q` and `out` are `[tokens, heads * head_dim]`, `k` and `v` `[tokens, kv_heads * head_dim]`. Rows of `out` that
/// belong to no sequence are left alone.
///
/// Keys are taken in blocks of 64 by absolute position, with a running maximum and sum per row; a block of which a row
/// sees nothing changes nothing of it. So, for finite input, a row's result depends neither on the batch nor on how its
/// keys are cut into prefix spans and new tokens, bit for bit.
///
/// # Panics
/// If shapes do not agree, `kv_heads` does not divide `heads`, the window is of no keys, or sequences overlap or lie outside of `q`.
pub fn attention(
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    seqs: &[AttentionSeq<'_>],
    shape: &AttentionShape,
    out: ArrayViewMut2<f32>,
) {
    attention_with(Isa::current(), q, k, v, seqs, shape, out);
}

/// [`attention`] with a given instruction set.
fn attention_with(
    isa: Isa,
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    seqs: &[AttentionSeq<'_>],
    shape: &AttentionShape,
    mut out: ArrayViewMut2<f32>,
) {
    check(&q, &k, &v, seqs, shape, &out);
    if out.is_empty() {
        return;
    }
    let tasks = tasks(q.view(), k.view(), v.view(), seqs, shape, out.view_mut());
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(proof) => run(proof.avx512(), isa, tasks, shape),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(kernel) => run(kernel, isa, tasks, shape),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(kernel) => run(kernel, isa, tasks, shape),
        Isa::Portable => run(PortableTile, isa, tasks, shape),
    }
}

fn run<K: Kernel>(kernel: K, isa: Isa, tasks: Vec<Task<'_, '_>>, shape: &AttentionShape) {
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| task.run(kernel, isa, shape));
}

fn check(
    q: &ArrayView2<f32>,
    k: &ArrayView2<f32>,
    v: &ArrayView2<f32>,
    seqs: &[AttentionSeq<'_>],
    shape: &AttentionShape,
    out: &ArrayViewMut2<f32>,
) {
    let &AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = shape;
    assert!(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "{heads} heads over {kv_heads} key heads"
    );
    assert!(head_dim > 0, "heads of no elements");
    assert!(shape.window != Some(0), "a window of no keys");
    assert_eq!(q.ncols(), heads * head_dim, "columns of q");
    assert_eq!(out.dim(), q.dim(), "shape of out");
    for (name, x) in [("k", k), ("v", v)] {
        assert_eq!(x.dim(), (q.nrows(), kv_heads * head_dim), "shape of {name}");
    }
    for span in seqs.iter().flat_map(|seq| &seq.prefix) {
        assert_eq!(span.k.dim(), span.v.dim(), "shapes of a span");
        assert_eq!(span.k.ncols(), kv_heads * head_dim, "columns of a span");
    }
}

/// Cuts the work into independent pieces: some tokens of one sequence, one key head, its group of query heads.
fn tasks<'a, 's>(
    q: ArrayView2<'a, f32>,
    k: ArrayView2<'a, f32>,
    v: ArrayView2<'a, f32>,
    seqs: &'a [AttentionSeq<'s>],
    shape: &AttentionShape,
    out: ArrayViewMut2<'a, f32>,
) -> Vec<Task<'a, 's>> {
    let group = shape.heads / shape.kv_heads;
    let tokens = (TASK_ROWS / group).max(1);
    let mut in_order: Vec<_> = seqs.iter().filter(|seq| !seq.rows.is_empty()).collect();
    in_order.sort_by_key(|seq| seq.rows.start);
    let (mut tasks, mut rest, mut row) = (Vec::new(), out, 0);
    for seq in in_order {
        assert!(
            row <= seq.rows.start && seq.rows.end <= q.nrows(),
            "sequences overlap, or end beyond the batch"
        );
        rest = rest.split_at(Axis(0), seq.rows.start - row).1;
        row = seq.rows.start;
        while row < seq.rows.end {
            let n = tokens.min(seq.rows.end - row);
            let (mut block, after) = rest.split_at(Axis(0), n);
            for kv_head in 0..shape.kv_heads {
                let (out, others) = block.split_at(Axis(1), group * shape.head_dim);
                tasks.push(Task {
                    q,
                    k,
                    v,
                    seq,
                    rows: row..row + n,
                    kv_head,
                    out,
                });
                block = others;
            }
            rest = after;
            row += n;
        }
    }
    tasks
}
