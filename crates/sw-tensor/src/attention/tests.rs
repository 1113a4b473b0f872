//! Attention against its f64 twin, and against itself in other batches and with other cuts.

use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;

use super::{AttentionSeq, AttentionShape, KeySpan, attention_with};
use crate::isa::Isa;
use crate::reference;
use crate::testing::{Random, assert_near, assert_same, gamma, with_threads};

fn run(
    isa: Isa,
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    seqs: &[AttentionSeq<'_>],
    shape: &AttentionShape,
) -> Array2<f32> {
    let mut out = Array2::zeros(q.dim());
    attention_with(isa, q, k, v, seqs, shape, out.view_mut());
    out
}

/// Scores are off by at most `e = scale * gamma_(d+2) * max |q| |k|` (plus what exp and the running maximum add), so
/// weights are off by a factor within `exp(+-2 e)`; the weighted mean of values then by that times the largest value.
fn bound(
    q: &Array2<f32>,
    k: &Array2<f32>,
    v: &Array2<f32>,
    longest: usize,
    shape: &AttentionShape,
) -> Array2<f64> {
    let largest = |x: &Array2<f32>| x.iter().fold(0.0f64, |max, &x| max.max(f64::from(x).abs()));
    let dot = shape.head_dim as f64 * largest(q) * largest(k) * f64::from(shape.scale).abs();
    // Subtracting the maximum rounds a difference of at most 2 dot; tanh and its division round a few times more.
    let score_error = (gamma(shape.head_dim + 2) + gamma(8)) * 2.0 * dot;
    let weight_error = (2.0 * score_error).exp_m1() + gamma(16 + longest / 64 * 4);
    let error = largest(v) * (2.0 * weight_error + gamma(longest + 4 * (longest / 64 + 2)));
    Array2::from_elem(q.dim(), error)
}

fn shapes() -> impl Strategy<Value = AttentionShape> {
    let heads = prop::sample::select(vec![(1, 1), (4, 2), (6, 1), (3, 3)]);
    let head_dim = prop::sample::select(vec![1usize, 8, 20, 64, 130]);
    let window = prop_oneof![Just(None), (1usize..150).prop_map(Some)];
    let softcap = prop_oneof![Just(None), Just(Some(5.0f32))];
    (heads, head_dim, window, softcap).prop_map(|((heads, kv_heads), head_dim, window, softcap)| {
        AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window,
            softcap,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn agrees_with_the_reference(seed: u64, shape in shapes(), lengths in prop::collection::vec(0usize..90, 1..4), prefix in 0usize..140) {
        let mut random = Random(seed);
        let tokens: usize = lengths.iter().sum();
        let mut array = |rows, heads| random.array(rows, heads * shape.head_dim).mapv(|x| x.clamp(-2.0, 2.0));
        let (q, k, v) = (array(tokens, shape.heads), array(tokens, shape.kv_heads), array(tokens, shape.kv_heads));
        let (pk, pv) = (array(prefix, shape.kv_heads), array(prefix, shape.kv_heads));
        let mut start = 0;
        let seqs: Vec<_> = lengths.iter().enumerate().map(|(i, len)| {
            start += len;
            let prefix = if i == 0 { vec![KeySpan { k: pk.view(), v: pv.view() }] } else { vec![] };
            AttentionSeq { rows: start - len..start, prefix }
        }).collect();
        let expected = reference::attention(q.view(), k.view(), v.view(), &seqs, &shape);
        let all = |new: &Array2<f32>, old: &Array2<f32>| ndarray::concatenate![ndarray::Axis(0), *new, *old];
        let bound = bound(&q, &all(&k, &pk), &all(&v, &pv), 90 + prefix, &shape);
        for isa in Isa::all() {
            assert_near(run(isa, q.view(), k.view(), v.view(), &seqs, &shape).view(), &expected, &bound, isa.name());
        }
    }

    #[test]
    fn a_row_depends_neither_on_the_batch_nor_on_the_cut(seed: u64, shape in shapes(), len in 1usize..200, cut in 0usize..200, second in 0usize..200) {
        let mut random = Random(seed);
        let (cut, second) = (cut % len, second % len);
        let mut array = |heads| random.array(len, heads * shape.head_dim);
        let (q, k, v) = (array(shape.heads), array(shape.kv_heads), array(shape.kv_heads));
        for isa in Isa::all() {
            let alone = [AttentionSeq { rows: 0..len, prefix: vec![] }];
            let whole = run(isa, q.view(), k.view(), v.view(), &alone, &shape);
            // The first part as a prefix of one or two spans, the rest new, behind a neighbour.
            let (a, b) = (second.min(cut), cut);
            let spans = vec![
                KeySpan { k: k.slice(s![..a, ..]), v: v.slice(s![..a, ..]) },
                KeySpan { k: k.slice(s![a..b, ..]), v: v.slice(s![a..b, ..]) },
            ];
            let rest = len - b;
            let stack = |x: &Array2<f32>| ndarray::concatenate![ndarray::Axis(0), x.slice(s![..a, ..]), x.slice(s![b.., ..])];
            let seqs = [AttentionSeq { rows: a..a + rest, prefix: spans }, AttentionSeq { rows: 0..a, prefix: vec![] }];
            for threads in [1, 2, 3, 7] {
                let (q, k, v) = (stack(&q), stack(&k), stack(&v));
                let cut = with_threads(threads, || run(isa, q.view(), k.view(), v.view(), &seqs, &shape));
                assert_same(cut.slice(s![a.., ..]), whole.slice(s![b.., ..]), isa.name());
                assert_same(cut.slice(s![..a, ..]), whole.slice(s![..a, ..]), isa.name());
            }
        }
    }
}

#[test]
fn rows_of_no_sequence_are_left_alone() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        scale: 1.0,
        window: None,
        softcap: None,
    };
    let x = Array2::from_elem((3, 2), 0.5f32);
    let seqs = [AttentionSeq {
        rows: 1..2,
        prefix: vec![],
    }];
    for isa in Isa::all() {
        let mut out = Array2::from_elem((3, 2), 7.0);
        attention_with(
            isa,
            x.view(),
            x.view(),
            x.view(),
            &seqs,
            &shape,
            out.view_mut(),
        );
        assert_eq!(out, ndarray::array![[7.0, 7.0], [0.5, 0.5], [7.0, 7.0]]);
    }
}

#[test]
#[should_panic(expected = "a window of no keys")]
fn a_window_has_keys() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        scale: 1.0,
        window: Some(0),
        softcap: None,
    };
    let x = Array2::zeros((1, 2));
    let seqs = [AttentionSeq {
        rows: 0..1,
        prefix: vec![],
    }];
    let mut out = Array2::zeros((1, 2));
    crate::attention(x.view(), x.view(), x.view(), &seqs, &shape, out.view_mut());
}

#[test]
#[should_panic(expected = "sequences overlap")]
fn sequences_must_not_overlap() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        scale: 1.0,
        window: None,
        softcap: None,
    };
    let x = Array2::zeros((3, 2));
    let seqs = [0..2, 1..3].map(|rows| AttentionSeq {
        rows,
        prefix: vec![],
    });
    run(Isa::Portable, x.view(), x.view(), x.view(), &seqs, &shape);
}
