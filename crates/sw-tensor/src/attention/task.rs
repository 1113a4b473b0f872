//! Some tokens of one sequence with one key head: online softmax over blocks of keys.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::{AttentionSeq, AttentionShape};
use crate::isa::{Isa, Work};
use crate::matmul::K_BLOCK;
use crate::matmul::kernel::{A_STRIDE, Accumulate, Kernel, Left, Lines, Out, Right, with_scratch};
use crate::rows::{row, row_mut};
use crate::sum::{LANES, tree};
use crate::vecmath::exp_neg;

/// Keys per block; blocks start at multiples of it.
const KEYS: usize = 64;

pub(super) struct Task<'a, 's> {
    pub(super) q: ArrayView2<'a, f32>,
    pub(super) k: ArrayView2<'a, f32>,
    pub(super) v: ArrayView2<'a, f32>,
    pub(super) seq: &'a AttentionSeq<'s>,
    /// Rows of the batch.
    pub(super) rows: Range<usize>,
    pub(super) kv_head: usize,
    /// These rows, the columns of this group: `[tokens, group * head_dim]`.
    pub(super) out: ArrayViewMut2<'a, f32>,
}

/// The running softmax of one row: its maximum and its sum.
type Running = [f32; 2];

impl Task<'_, '_> {
    pub(super) fn run<K: Kernel>(mut self, kernel: K, isa: Isa, shape: &AttentionShape) {
        let head_dim = shape.head_dim;
        let group = shape.heads / shape.kv_heads;
        let height = self.rows.len() * group; // row = token * group + head of the group
        let depth_blocks = head_dim.div_ceil(K_BLOCK);
        let width = head_dim.next_multiple_of(K::NR);
        let start: usize = self.seq.prefix.iter().map(|span| span.k.nrows()).sum();
        let first = start + self.rows.start - self.seq.rows.start; // position of the first token
        let last = first + self.rows.len() - 1;
        let from = shape
            .window
            .map_or(0, |window| (first + 1).saturating_sub(window));

        let sizes = [
            depth_blocks * height * A_STRIDE, // queries [depth block][row, A_STRIDE]
            KEYS * head_dim,                  // keys as they come [key, head_dim]
            KEYS * head_dim,                  // keys [panel][head_dim, NR]
            KEYS * width,                     // values [key, width]
            height * A_STRIDE,                // scores, then weights [row, A_STRIDE]
            height * width,                   // sums of values [row, width]
            height * 2,                       // running maximum and sum [row]
        ];
        with_scratch(
            sizes,
            |[queries, rows, keys, values, scores, sums, running]| {
                self.gather_queries(head_dim, group, queries);
                sums.fill(0.0);
                let running = running.as_chunks_mut::<2>().0;
                running.fill([f32::NEG_INFINITY, 0.0]);
                for block in from / KEYS..=last / KEYS {
                    let key_start = block * KEYS;
                    let seen = KEYS.min(last + 1 - key_start); // by any of the rows
                    // The rows that see any of these keys; the block leaves all others alone.
                    let sees = |row: usize| {
                        !visible(first + row / group, key_start, shape.window).is_empty()
                    };
                    let active = rows_that(height, sees);
                    let panels = seen.div_ceil(K::NR);
                    let keys = &mut keys[..panels * K::NR * head_dim];
                    let rows = &mut rows[..keys.len()];
                    let lying = self.lying(
                        KEYS_OF,
                        key_start..key_start + panels * K::NR,
                        start,
                        head_dim,
                    );
                    let (rows, pitch) = lying.unwrap_or_else(|| {
                        self.gather_block(KEYS_OF, key_start, start, head_dim, head_dim, rows);
                        (rows, head_dim)
                    });
                    let panels = rows.chunks(K::NR * pitch);
                    for (rows, keys) in panels.zip(keys.chunks_exact_mut(K::NR * head_dim)) {
                        kernel.pack_f32(rows, pitch, head_dim, keys);
                    }
                    // Few rows use a value so rarely that it is not worth moving.
                    let lying = (width == head_dim && height <= 2 * K::MR).then(|| {
                        self.lying(VALUES_OF, key_start..key_start + seen, start, head_dim)
                    });
                    let (values, pitch) = lying.flatten().unwrap_or_else(|| {
                        let values = &mut values[..seen * width];
                        self.gather_block(VALUES_OF, key_start, start, head_dim, width, values);
                        (values, width)
                    });
                    let places = active.clone();
                    score_block(kernel, queries, height, places, head_dim, keys, scores);
                    isa.run(Weigh {
                        isa,
                        scores: &mut scores[active.start * A_STRIDE..],
                        sums: &mut sums[active.start * width..],
                        running: &mut running[active.clone()],
                        position: |row| first + (active.start + row) / group,
                        key_start,
                        width,
                        shape,
                    });
                    let values = Right {
                        data: values,
                        stride: pitch,
                    };
                    add_values(kernel, scores, active, values, seen, width, sums);
                }
                let heads = sums.chunks_exact(width).zip(running.iter());
                let mut heads = heads.map(|(sums, state)| (&sums[..head_dim], 1.0 / state[1]));
                for mut out in self.out.rows_mut() {
                    row_mut(&mut out, |out| {
                        for (out, (sums, scale)) in out.chunks_exact_mut(head_dim).zip(&mut heads) {
                            // Adding zero turns a negative zero, whose sign depends on masked keys, into a positive one.
                            out.iter_mut()
                                .zip(sums)
                                .for_each(|(out, sum)| *out = sum * scale + 0.0);
                        }
                    });
                }
            },
        );
    }

    fn gather_queries(&self, head_dim: usize, group: usize, out: &mut [f32]) {
        let height = self.rows.len() * group;
        let first = self.kv_head * group * head_dim;
        let columns = first..first + group * head_dim;
        let queries = self.q.slice(s![self.rows.clone(), columns]);
        for (token, queries) in queries.rows().into_iter().enumerate() {
            for (head, q) in row(queries).chunks_exact(head_dim).enumerate() {
                for (block, q) in q.chunks(K_BLOCK).enumerate() {
                    let at = (block * height + token * group + head) * A_STRIDE;
                    out[at..at + q.len()].copy_from_slice(q);
                }
            }
        }
    }

    /// The keys or the values, span by span, with the position of the first of each.
    fn spans(
        &self,
        of: Of,
        new_start: usize,
    ) -> impl Iterator<Item = (usize, ArrayView2<'_, f32>)> {
        let new = s![self.seq.rows.start..self.rows.end, ..];
        let new = (new_start, of(self.k, self.v).slice_move(new));
        let mut at = 0;
        let prefix = self.seq.prefix.iter().map(move |span| {
            let span = of(span.k, span.v);
            at += span.nrows();
            (at - span.nrows(), span)
        });
        prefix.chain([new])
    }

    /// This head's columns of the keys or values at these positions, where they lie, and how many floats apart; `None` where
    /// they do not in this way.
    fn lying(
        &self,
        of: Of,
        keys: Range<usize>,
        new_start: usize,
        head_dim: usize,
    ) -> Option<(&[f32], usize)> {
        let mut spans = self.spans(of, new_start);
        let (start, span) =
            spans.find(|(start, span)| *start <= keys.start && keys.end <= start + span.nrows())?;
        let pitch = span.ncols();
        let rows = span.to_slice()?;
        let of_head = &rows[(keys.start - start) * pitch..(keys.end - start) * pitch];
        Some((&of_head[self.kv_head * head_dim..], pitch))
    }

    /// This head's columns of the keys or values from position `key_start` on, `stride` floats apart, as many as `out` has
    /// room for; zero where there are none.
    fn gather_block(
        &self,
        of: Of,
        key_start: usize,
        new_start: usize,
        head_dim: usize,
        stride: usize,
        out: &mut [f32],
    ) {
        let columns = self.kv_head * head_dim..(self.kv_head + 1) * head_dim;
        let keys = out.len() / stride;
        let end = new_start + self.rows.end - self.seq.rows.start;
        if stride != head_dim || key_start + keys > end {
            out.fill(0.0);
        }
        for (start, span) in self.spans(of, new_start) {
            let end = start + span.nrows();
            let (from, to) = (key_start.max(start), (key_start + keys).min(end));
            if from >= to {
                continue;
            }
            let span = span.slice(s![from - start..to - start, columns.clone()]);
            let out = out[(from - key_start) * stride..].chunks_exact_mut(stride);
            for (from, to) in span.rows().into_iter().zip(out) {
                to[..head_dim].copy_from_slice(&row(from));
            }
        }
    }
}

/// Picks one of the two arrays that a span has: its keys or its values.
type Of = for<'b> fn(ArrayView2<'b, f32>, ArrayView2<'b, f32>) -> ArrayView2<'b, f32>;
const KEYS_OF: Of = |keys, _| keys;
const VALUES_OF: Of = |_, values| values;

/// The rows of which this is true, which lie beside each other.
fn rows_that(height: usize, is_one: impl Fn(usize) -> bool) -> Range<usize> {
    let start = (0..height).find(|&row| is_one(row)).unwrap_or(height);
    let end = (start..height).rfind(|&row| is_one(row));
    start..end.map_or(start, |last| last + 1)
}

/// `scores[row, key] = q[row] . k[key]` of some rows for a block of keys.
fn score_block<K: Kernel>(
    kernel: K,
    queries: &[f32],
    height: usize,
    active: Range<usize>,
    head_dim: usize,
    keys: &[f32],
    scores: &mut [f32],
) {
    let mut scores = Out::of_slice(scores, A_STRIDE, A_STRIDE);
    for (panel, keys) in keys.chunks_exact(K::NR * head_dim).enumerate() {
        for (block, d) in (0..head_dim).step_by(K_BLOCK).enumerate() {
            let b = Right {
                data: &keys[d * K::NR..],
                stride: K::NR,
            };
            let into = if d == 0 {
                Accumulate::Store
            } else {
                Accumulate::Chain
            };
            let data = &queries[(block * height + active.start) * A_STRIDE..];
            let a = Left {
                data,
                rows: active.len(),
                depth: K_BLOCK.min(head_dim - d),
            };
            let c = scores.part(active.clone(), panel * K::NR..(panel + 1) * K::NR);
            kernel.multiply(a, b, c, into, || Lines::at_hand(data));
        }
    }
}

/// `sums[row] += sum_key weights[row, key] * values[key]` of some rows over the first `keys`, key after key.
fn add_values<K: Kernel>(
    kernel: K,
    weights: &[f32],
    active: Range<usize>,
    values: Right<'_>,
    keys: usize,
    width: usize,
    sums: &mut [f32],
) {
    let mut sums = Out::of_slice(sums, width, width);
    for column in (0..width).step_by(K::NR) {
        let b = Right {
            data: &values.data[column..],
            ..values
        };
        let data = &weights[active.start * A_STRIDE..];
        let a = Left {
            data,
            rows: active.len(),
            depth: keys,
        };
        let c = sums.part(active.clone(), column..column + K::NR);
        kernel.multiply(a, b, c, Accumulate::Chain, || Lines::at_hand(data));
    }
}

/// The keys of the block at `key_start` that the query at `position` sees, counted from `key_start`.
fn visible(position: usize, key_start: usize, window: Option<usize>) -> Range<usize> {
    let from = window.map_or(0, |window| (position + 1).saturating_sub(window));
    let end = (position + 1).saturating_sub(key_start).min(KEYS);
    from.saturating_sub(key_start).min(end)..end
}

/// Turns the scores of a block into weights, and brings the sums so far to the new maxima. Every row sees some of the keys.
struct Weigh<'a, P> {
    isa: Isa,
    scores: &'a mut [f32],
    sums: &'a mut [f32],
    running: &'a mut [Running],
    /// Position of a row's token.
    position: P,
    key_start: usize,
    width: usize,
    shape: &'a AttentionShape,
}

/// Rows that are weighed together, step by step, so that no row waits for another's long chains.
const TOGETHER: usize = 8;

impl<P: Fn(usize) -> usize> Work for Weigh<'_, P> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let of_group = self
            .running
            .chunks_mut(TOGETHER)
            .zip(self.sums.chunks_mut(TOGETHER * self.width))
            .zip(self.scores.chunks_mut(TOGETHER * A_STRIDE));
        for (group, ((running, sums), scores)) in of_group.enumerate() {
            let [mut maxima, mut below] = [[0.0f32; TOGETHER]; 2];
            for (i, (state, scores)) in running.iter().zip(rows_of(scores)).enumerate() {
                let position = (self.position)(group * TOGETHER + i);
                let visible = visible(position, self.key_start, self.shape.window);
                scale(scores, visible, self.shape);
                maxima[i] = f32::max(state[0], largest(self.isa, scores));
                below[i] = state[0] - maxima[i];
            }
            for (new_max, scores) in maxima.iter().zip(rows_of(scores)) {
                for score in scores.iter_mut() {
                    *score = exp_neg(*score - new_max);
                }
            }
            // What brings earlier sums to the new maxima.
            for below in &mut below {
                *below = exp_neg(*below);
            }
            let states = running.iter_mut().zip(maxima).zip(below);
            let rows = states.zip(sums.chunks_exact_mut(self.width));
            for ((((state, new_max), factor), sums), scores) in rows.zip(rows_of(scores)) {
                *state = [new_max, state[1] * factor + total(self.isa, scores)];
                if factor != 1.0 {
                    sums.iter_mut().for_each(|sum| *sum *= factor);
                }
            }
        }
    }
}

/// The largest score of a row.
#[inline(always)]
fn largest(isa: Isa, scores: &[f32; KEYS]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(proof) = isa.avx512() {
        return x86::largest(proof, scores);
    }
    let _ = isa;
    combined(scores, |a, b| if a > b { a } else { b })
}

/// The sum of a row's weights.
#[inline(always)]
fn total(isa: Isa, scores: &[f32; KEYS]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(proof) = isa.avx512() {
        return x86::total(proof, scores);
    }
    let _ = isa;
    combined(scores, |a, b| a + b)
}

/// The scores of a row put together: first every 16th, one after the other, then pairwise.
#[inline(always)]
fn combined(scores: &[f32; KEYS], f: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let scores = scores.as_chunks::<LANES>().0;
    let lanes: [f32; LANES] = std::array::from_fn(|i| {
        let of_lane = scores.iter().map(|chunk| chunk[i]);
        of_lane.reduce(f).unwrap_or_default()
    });
    tree(lanes, f)
}

/// [`combined`] with one vector of AVX-512 for the lanes: compilers take several rows together instead, with gathers.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{KEYS, LANES};
    use crate::isa::Avx512;

    macro_rules! combined {
        ($name:ident, $f512:ident, $f256:ident, $f128:ident) => {
            #[inline(always)]
            pub(super) fn $name(_proof: Avx512, scores: &[f32; KEYS]) -> f32 {
                #[inline]
                #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
                fn combined(scores: &[f32; KEYS]) -> f32 {
                    // SAFETY: a chunk has the 64 bytes that are read.
                    let lanes = |at: usize| unsafe {
                        _mm512_loadu_ps(scores.as_chunks::<LANES>().0[at].as_ptr())
                    };
                    let mut all = lanes(0);
                    for at in 1..KEYS / LANES {
                        all = $f512(all, lanes(at));
                    }
                    let lanes = all;
                    let half = $f256(
                        _mm512_castps512_ps256(lanes),
                        _mm512_extractf32x8_ps::<1>(lanes),
                    );
                    let quarter = $f128(
                        _mm256_castps256_ps128(half),
                        _mm256_extractf128_ps::<1>(half),
                    );
                    let two = $f128(quarter, _mm_movehl_ps(quarter, quarter));
                    _mm_cvtss_f32($f128(two, _mm_movehdup_ps(two)))
                }
                // SAFETY: `_proof` is the proof of AVX-512.
                unsafe { combined(scores) }
            }
        };
    }

    // These instructions take the first operand where it is greater, else the second, as `largest` does.
    combined!(largest, _mm512_max_ps, _mm256_max_ps, _mm_max_ps);
    combined!(total, _mm512_add_ps, _mm256_add_ps, _mm_add_ps);
}

/// The scores of each row.
#[inline(always)]
fn rows_of(scores: &mut [f32]) -> impl Iterator<Item = &mut [f32; KEYS]> {
    let rows = scores.chunks_mut(A_STRIDE);
    rows.map(|row| row.first_chunk_mut().expect("a block of scores"))
}

/// A row's scores as the softmax takes them: scaled, capped, and negative infinity where a key is not visible.
#[inline(always)]
fn scale(scores: &mut [f32; KEYS], visible: Range<usize>, shape: &AttentionShape) {
    for score in scores.iter_mut() {
        *score *= shape.scale;
    }
    if let Some(cap) = shape.softcap {
        for score in scores[visible.clone()].iter_mut() {
            *score = cap * (*score / cap).tanh();
        }
    }
    if visible.len() < KEYS {
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
    }
}
