//! AVX-512 for few rows: weights are used as they lie, sixteen of K to a vector, with no packing in between.
//!
//! A sum is 16 chains over K, lane by lane, added at the end; K runs in blocks so that the activations stay in L1, with
//! the lanes of all sums kept between blocks.

use std::arch::x86_64::*;
use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::isa::{Avx512, Isa};
use crate::matmul::kernel::with_scratch;
use crate::{Dtype, Mat};

/// Most rows of activations.
pub(crate) const MOST_ROWS: usize = 16;
/// Elements of K that a step takes: two vectors.
const STEP: usize = 32;
/// Elements of K per block: 12 rows of activations take 24 KiB.
const BLOCK: usize = 512;
/// Rows of weights that share a block of activations in L1, and whose lanes are kept.
const GROUP: usize = 16;
/// Rows of weights per task.
const TASK: usize = 8 * GROUP;

/// `y = x * w^T` for at most [`MOST_ROWS`] rows and weights with adjacent columns; `x` has adjacent columns too.
///
/// # Panics
/// If that is not so.
pub(crate) fn matmul_t(proof: Avx512, x: ArrayView2<f32>, w: &Mat, mut y: ArrayViewMut2<f32>) {
    let (height, depth) = x.dim();
    assert!(height <= MOST_ROWS && w.strides()[1] == 1 && w.cols() == depth);
    if y.is_empty() {
        return;
    }
    let steps = depth / STEP;
    // Activations as the blocks want them: [block][row][BLOCK], in the order in which `load` yields the weights.
    with_scratch([steps.div_ceil(BLOCK / STEP) * height * BLOCK], |[xs]| {
        for (m, row) in x.rows().into_iter().enumerate() {
            let row = row.to_slice().expect("adjacent columns");
            for (step, values) in row.as_chunks::<STEP>().0.iter().enumerate() {
                let (block, at) = (step * STEP / BLOCK, step * STEP % BLOCK);
                let out = &mut xs[(block * height + m) * BLOCK + at..][..STEP];
                for (i, value) in values.iter().enumerate() {
                    out[place(w.dtype(), i)] = *value;
                }
            }
        }
        let xs = &*xs;
        let parts = y
            .axis_chunks_iter_mut(Axis(1), TASK)
            .into_par_iter()
            .with_max_len(1);
        parts.enumerate().for_each(|(part, mut y)| {
            for start in (0..y.ncols()).step_by(GROUP) {
                let n = GROUP.min(y.ncols() - start);
                let rows = part * TASK + start..part * TASK + start + n;
                let columns = y.slice_mut(s![.., start..start + n]);
                group(proof, &x, xs, w, rows, columns);
            }
        });
    });
}

/// Where element `i` of a step lands: BF16 is widened into even elements, then odd ones; the others keep their order.
fn place(dtype: Dtype, i: usize) -> usize {
    match dtype {
        Dtype::BF16 => i / 2 + i % 2 * (STEP / 2),
        Dtype::F32 | Dtype::F16 => i,
    }
}

/// Some rows of `w` times all rows of `x`.
fn group(
    proof: Avx512,
    x: &ArrayView2<f32>,
    xs: &[f32],
    w: &Mat,
    rows: Range<usize>,
    mut y: ArrayViewMut2<f32>,
) {
    let (height, depth) = x.dim();
    let full = depth / STEP * STEP;
    with_scratch([GROUP * height * 16, depth], |[lanes, row_of_w]| {
        lanes.fill(0.0);
        for start in (0..full).step_by(BLOCK) {
            let xs = &xs[start / BLOCK * height * BLOCK..][..height * BLOCK];
            block(
                proof,
                xs,
                height,
                w,
                rows.clone(),
                start..full.min(start + BLOCK),
                lanes,
            );
        }
        for (r, row) in rows.enumerate() {
            if w.edits(row..row + 1, 0..depth).next().is_some() {
                // An edited row is widened with its edits and takes the long way, so that a zero is a zero.
                w.row_into(row, row_of_w);
                for m in 0..height {
                    y[[m, r]] = chain(proof, 0.0, x.row(m), row_of_w);
                }
                continue;
            }
            let tail = &mut row_of_w[..depth - full];
            w.widen(row..row + 1, full..depth, tail);
            for m in 0..height {
                let lanes = lanes[(r * height + m) * 16..]
                    .first_chunk::<16>()
                    .expect("16 lanes");
                let sum = crate::sum::tree(*lanes, |a, b| a + b);
                y[[m, r]] = chain(proof, sum, x.slice(s![m, full..]), tail);
            }
        }
    });
}

/// `sum` plus the products of `x` and `w`, one after the other.
fn chain(proof: Avx512, sum: f32, x: ArrayView1<f32>, w: &[f32]) -> f32 {
    Isa::Avx512(proof).run(|| x.iter().zip(w).fold(sum, |sum, (x, w)| x.mul_add(*w, sum)))
}

/// One block of K: `lanes[row of w][row of x][16] += ...`.
fn block(
    _proof: Avx512,
    xs: &[f32],
    height: usize,
    w: &Mat,
    rows: Range<usize>,
    ks: Range<usize>,
    lanes: &mut [f32],
) {
    let (size, pitch) = (w.dtype().size(), w.strides()[0]);
    let base = &w.base()[(rows.start * pitch + ks.start) * size..];
    let n = rows.len();
    assert!(
        rows.end <= w.rows()
            && ks.end <= w.cols()
            && ks.len().is_multiple_of(STEP)
            && ks.len() <= BLOCK
    );
    assert!(n > 0 && base.len() >= ((n - 1) * pitch + ks.len()) * size);
    assert!(xs.len() >= height * BLOCK && lanes.len() >= n * height * 16);
    let steps = ks.len() / STEP;
    // What comes after row `r` of this block: the next row, or the next block of K from the first row on, or the next
    // rows. Only ever prefetched.
    let next = |r: usize| match r {
        r if r < n => base.as_ptr().wrapping_add(r * pitch * size),
        _ if ks.end + STEP <= w.cols() => base.as_ptr().wrapping_add(ks.len() * size),
        _ => w.base().as_ptr().wrapping_add(rows.end * pitch * size),
    };
    // Two tiles of half the height where one would not fit the registers.
    let halves = if height > 12 {
        [0..height / 2, height / 2..height]
    } else {
        [0..height, 0..0]
    };
    for ms in halves {
        if ms.is_empty() {
            continue;
        }
        let xs = xs[ms.start * BLOCK..].as_ptr();
        let mut r = 0;
        while r < n {
            macro_rules! tiles {
                ($dtype:literal: $($m:literal x $wide:literal)*) => {
                    match ms.len() {
                        // SAFETY: `_proof` is the proof of the features. `take <= n - r` rows of `w`, `steps` steps
                        // each, lie inside `base`; `$m` rows of `xs`, BLOCK apart, and the lanes of `take` rows of
                        // weights, `height` vectors apart, inside theirs, by the assertions above.
                        $($m => unsafe {
                            let w = base.as_ptr().add(r * pitch * size);
                            let next = next(r + if n - r >= $wide { $wide } else { 1 });
                            let lanes = lanes[(r * height + ms.start) * 16..].as_mut_ptr();
                            if n - r >= $wide {
                                tile::<$dtype, $m, $wide>(steps, xs, w, next, pitch * size, lanes, height);
                                r += $wide;
                            } else {
                                tile::<$dtype, $m, 1>(steps, xs, w, next, pitch * size, lanes, height);
                                r += 1;
                            }
                        },)*
                        _ => unreachable!("at most 12 rows"),
                    }
                };
            }
            match w.dtype() {
                Dtype::F32 => {
                    tiles!(0: 1 x 8 2 x 8 3 x 8 4 x 4 5 x 4 6 x 4 7 x 2 8 x 2 9 x 2 10 x 2 11 x 2 12 x 2)
                }
                Dtype::F16 => {
                    tiles!(1: 1 x 8 2 x 8 3 x 8 4 x 4 5 x 4 6 x 4 7 x 2 8 x 2 9 x 2 10 x 2 11 x 2 12 x 2)
                }
                Dtype::BF16 => {
                    tiles!(2: 1 x 8 2 x 8 3 x 8 4 x 4 5 x 4 6 x 4 7 x 2 8 x 2 9 x 2 10 x 2 11 x 2 12 x 2)
                }
            }
        }
    }
}

/// 32 weights as two vectors; BF16: even elements, then odd ones.
///
/// # Safety
/// AVX-512; `at` readable for 32 elements of the type (0: F32, 1: F16, 2: BF16), at any alignment.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn load<const DTYPE: u8>(at: *const u8) -> [__m512; 2] {
    // SAFETY: 128 bytes of F32, 64 of the others, as the caller guarantees.
    unsafe {
        match DTYPE {
            0 => [
                _mm512_loadu_ps(at.cast()),
                _mm512_loadu_ps(at.add(64).cast()),
            ],
            1 => {
                let halves = |at: *const u8| _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
                [halves(at), halves(at.add(32))]
            }
            _ => {
                let pairs = _mm512_loadu_si512(at.cast());
                let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                [
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
                    _mm512_castsi512_ps(odd),
                ]
            }
        }
    }
}

/// `lanes[r][m] += x[m] * w[r]`, lane by lane, for M rows of `x` and R rows of `w`.
///
/// # Safety
/// AVX-512; `xs` readable for M rows of `32 * steps` floats, BLOCK apart; `w` for R rows of `32 * steps` elements,
/// `pitch` bytes apart (`next`, of which as much will be read soon, may be anything); `lanes` writable for R rows of M
/// vectors, `height` vectors apart, and disjoint from both.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn tile<const DTYPE: u8, const M: usize, const R: usize>(
    steps: usize,
    xs: *const f32,
    w: *const u8,
    next: *const u8,
    pitch: usize,
    lanes: *mut f32,
    height: usize,
) {
    let bytes = if DTYPE == 0 { 4 * STEP } else { 2 * STEP };
    let mut acc = [[_mm512_setzero_ps(); M]; R];
    // SAFETY: every address below is inside the three operands, as the caller guarantees.
    unsafe {
        for (r, acc) in acc.iter_mut().enumerate() {
            for (m, acc) in acc.iter_mut().enumerate() {
                *acc = _mm512_loadu_ps(lanes.add((r * height + m) * 16));
            }
        }
        for step in 0..steps {
            let mut row = [[_mm512_setzero_ps(); 2]; R];
            for (r, row) in row.iter_mut().enumerate() {
                let at = r * pitch + step * bytes;
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(at).cast());
                *row = load::<DTYPE>(w.add(at));
            }
            for m in 0..M {
                let xs = xs.add(m * BLOCK + step * STEP);
                let x = [_mm512_loadu_ps(xs), _mm512_loadu_ps(xs.add(16))];
                for (acc, row) in acc.iter_mut().zip(&row) {
                    acc[m] = _mm512_fmadd_ps(x[0], row[0], acc[m]);
                    acc[m] = _mm512_fmadd_ps(x[1], row[1], acc[m]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (m, acc) in acc.iter().enumerate() {
                _mm512_storeu_ps(lanes.add((r * height + m) * 16), *acc);
            }
        }
    }
}
