//! AVX-512 and AVX2 for few rows: weights are used as they lie, with no packing in between.
//!
//! A sum is as many chains over K as a vector has lanes, added at the end; K runs in blocks so that the activations stay in
//! a cache, with the lanes of all sums kept between blocks.

use std::arch::x86_64::*;
use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::vector::{Pairs, Vector};
use super::{avx512, dot_blocks};
use crate::isa::{Avx2, Avx512, Avx512Bf16, Isa, Work};
use crate::matmul::Output;
use crate::matmul::kernel::{LINE, with_scratch};
use crate::matmul::precision;
use crate::matmul::split::{self, blocks};
use crate::{Dtype, Mat};

/// Most rows of activations.
pub(crate) const MOST_ROWS: usize = 16;
/// Rows of weights that share a block of activations, and whose lanes are kept; a multiple of every tile's, so that none goes
/// alone.
pub(super) const GROUP: usize = 24;
/// Rows of weights per task, at most.
const TASK: usize = 2 * GROUP;
/// Elements of K per block where activations may come from the second-level cache: whole rows, mostly.
pub(super) const BLOCK: usize = 4096;
/// Floats that each row of activations is longer than a block, so that rows do not compete for one cache set.
const PAD: usize = LINE / size_of::<f32>();

/// `y = x * w^T` for at most [`MOST_ROWS`] rows and matrices, one at least, of one dtype with adjacent columns; `x` has adjacent
/// columns too. Tiles of pairs take weights of BF16, and edits and activations that are BF16.
///
/// # Panics
/// If that is not so.
pub(crate) fn matmul_t<T: Tiles>(tiles: T, x: ArrayView2<f32>, products: &mut [Output<'_>]) {
    let (height, depth) = x.dim();
    let dtype = products[0].0.dtype();
    let fits = |w: &Mat| {
        let is_of_kind = w.dtype() == dtype && (T::TERMS == 1 || dtype == Dtype::BF16);
        is_of_kind && w.strides()[1] == 1 && w.cols() == depth
    };
    assert!(height <= MOST_ROWS && products.iter().all(|(w, _)| fits(w)));
    let parts: Vec<_> = split::parts(products, 0..height, GROUP, TASK).collect();
    // Activations as the blocks want them: [block][row][pitch], in the order in which `Vector::weights` yields the weights.
    let (most, pitch) = (tiles.block(height), tiles.pitch(height));
    with_scratch([depth.div_ceil(most) * height * pitch], |[xs]| {
        for (m, row) in x.rows().into_iter().enumerate() {
            let row = row.to_slice().expect("adjacent columns");
            for (step, values) in row.chunks_exact(2 * T::LANES).enumerate() {
                let k = step * values.len();
                let (block, at) = (k / most, k % most / T::TERMS);
                let out = &mut xs[(block * height + m) * pitch + at..];
                T::arrange(dtype, values, &mut out[..values.len() / T::TERMS]);
            }
        }
        let xs = &*xs;
        let parts = parts.into_par_iter().with_max_len(1);
        parts.for_each(|(w, rows, mut y)| {
            if height > 1 {
                w.touch(rows.clone()); // Tiles ask for what comes next, which must be mapped.
            }
            let groups = y.axis_chunks_iter_mut(Axis(1), GROUP);
            for (rows, y) in blocks(rows, GROUP).zip(groups) {
                group(tiles, &x, xs, w, rows, y);
            }
        });
    });
}

/// The elements of a step: with BF16 the even ones come first, as that is how they are widened.
fn arrange(dtype: Dtype, values: &[f32], out: &mut [f32]) {
    match dtype {
        Dtype::BF16 => {
            let (even, odd) = out.split_at_mut(values.len() / 2);
            for ((pair, even), odd) in values.as_chunks::<2>().0.iter().zip(even).zip(odd) {
                [*even, *odd] = *pair;
            }
        }
        Dtype::F32 | Dtype::F16 => out.copy_from_slice(values),
    }
}

/// Some rows of `w` times all rows of `x`.
fn group<T: Tiles>(
    tiles: T,
    x: &ArrayView2<f32>,
    xs: &[f32],
    w: &Mat,
    rows: Range<usize>,
    mut y: ArrayViewMut2<f32>,
) {
    let (height, depth) = x.dim();
    let full = depth / (2 * T::LANES) * (2 * T::LANES);
    let sizes = [GROUP * height * T::LANES, GROUP * height, depth];
    with_scratch(sizes, |[lanes, sums, row_of_w]| {
        lanes.fill(0.0);
        let (most, pitch) = (tiles.block(height), tiles.pitch(height));
        let of_block = xs.chunks_exact(height * pitch);
        for (ks, xs) in blocks(0..full, most).zip(of_block) {
            block(tiles, xs, height, w, rows.clone(), ks, lanes);
        }
        let done = match tiles.isa() {
            Isa::Avx512(proof) => avx512::add_lanes(proof, lanes, sums),
            _ => 0,
        };
        tiles.add_lanes(&lanes[done * T::LANES..], &mut sums[done..]);
        for (m, mut y) in y.rows_mut().into_iter().enumerate() {
            for (y, sums) in y.iter_mut().zip(sums.chunks_exact(height)) {
                *y = sums[m];
            }
        }
        let x_tails = x.slice(s![.., full..]);
        for (r, row) in rows.enumerate() {
            if w.edits(row..row + 1, 0..depth).next().is_some() {
                // An edited row is widened with its edits and takes the long way, so that a zero is a zero.
                w.row_into(row, row_of_w);
                for m in 0..height {
                    y[[m, r]] = chain(tiles.isa(), 0.0, x.row(m), row_of_w);
                }
            } else if full < depth {
                let tail = &mut row_of_w[..depth - full];
                w.widen(row..row + 1, full..depth, tail);
                for m in 0..height {
                    y[[m, r]] = chain(tiles.isa(), y[[m, r]], x_tails.row(m), tail);
                }
            }
        }
    });
}

/// Adds the lanes of every sum.
struct Trees<'a, const LANES: usize> {
    lanes: &'a [f32],
    sums: &'a mut [f32],
}

impl<const LANES: usize> Work for Trees<'_, LANES> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        for (sum, lanes) in self.sums.iter_mut().zip(self.lanes.as_chunks().0) {
            *sum = crate::sum::tree::<f32, LANES>(*lanes, |a, b| a + b);
        }
    }
}

/// `sum` plus the products of `x` and `w`, one after the other.
fn chain(isa: Isa, sum: f32, x: ArrayView1<f32>, w: &[f32]) -> f32 {
    isa.run(|| x.iter().zip(w).fold(sum, |sum, (x, w)| x.mul_add(*w, sum)))
}

/// One block of K: `lanes[row of w][row of x][LANES] += ...`.
fn block<T: Tiles>(
    tiles: T,
    xs: &[f32],
    height: usize,
    w: &Mat,
    rows: Range<usize>,
    ks: Range<usize>,
    lanes: &mut [f32],
) {
    let n = rows.len();
    assert!(
        rows.end <= w.rows()
            && ks.end <= w.cols()
            && ks.len().is_multiple_of(2 * T::LANES)
            && ks.len() <= tiles.block(height)
    );
    if w.is_blocks() {
        if let (Isa::Avx512(proof), 1) = (tiles.isa(), T::TERMS)
            && let Some(blocks) = w.whole_blocks(ks.clone())
        {
            let rows = rows.clone().map(|row| blocks.row(row));
            if dot_blocks::block(proof, blocks.coding(), xs, height, rows, lanes) {
                return;
            }
        }
        let pitch = ks.len() + PAD;
        return with_scratch([n * pitch], |[wide]| {
            for (row, wide) in rows.zip(wide.chunks_exact_mut(pitch)) {
                w.widen(row..row + 1, ks.clone(), &mut wide[..ks.len()]);
            }
            let base = bytemuck::cast_slice(wide);
            let weights = Rows {
                dtype: Dtype::F32,
                base,
                pitch,
                n,
                next: base.as_ptr(),
            };
            block_of_rows(tiles, xs, height, weights, ks.len(), lanes);
        });
    }
    let (size, pitch) = (w.dtype().size(), w.strides()[0]);
    let base = &w.base()[(rows.start * pitch + ks.start) * size..];
    // What comes after this block: the next block of K, or the next rows. Only ever prefetched.
    let next = match ks.end + 2 * T::LANES <= w.cols() {
        true => base[ks.len() * size..].as_ptr(),
        false => w.base().as_ptr().wrapping_add(rows.end * pitch * size),
    };
    let weights = Rows {
        dtype: w.dtype(),
        base,
        pitch,
        n,
        next,
    };
    block_of_rows(tiles, xs, height, weights, ks.len(), lanes);
}

/// Rows of weights: `n` of them, `pitch` elements apart in `base`, and what will be read after them.
struct Rows<'a> {
    dtype: Dtype,
    base: &'a [u8],
    pitch: usize,
    n: usize,
    next: *const u8,
}

/// `depth` columns of some rows: `lanes[row of w][row of x][LANES] += ...`.
fn block_of_rows<T: Tiles>(
    tiles: T,
    xs: &[f32],
    height: usize,
    weights: Rows<'_>,
    depth: usize,
    lanes: &mut [f32],
) {
    let Rows {
        dtype,
        base,
        pitch,
        n,
        next,
    } = weights;
    let size = dtype.size();
    assert!(depth.is_multiple_of(2 * T::LANES) && depth <= tiles.block(height));
    assert!(n > 0 && base.len() >= ((n - 1) * pitch + depth) * size);
    let pitch_of_xs = tiles.pitch(height);
    assert!(xs.len() >= height * pitch_of_xs && lanes.len() >= n * height * T::LANES);
    // As many tiles as it takes for the sums to fit the registers.
    let parts = height.div_ceil(tiles.tallest());
    for part in 0..parts {
        let ms = part * height / parts..(part + 1) * height / parts;
        assert!(tiles.pitch(ms.len()) == pitch_of_xs);
        let wide = tiles.wide(ms.len());
        let mut r = 0;
        while r < n {
            let take = if n - r >= wide { wide } else { 1 };
            let tile = Tile {
                steps: depth / (2 * T::LANES),
                xs: xs[ms.start * pitch_of_xs..].as_ptr(),
                w: base[r * pitch * size..].as_ptr(),
                next: next.wrapping_add(r * pitch * size),
                part: [part, parts],
                pitch: pitch * size,
                lanes: lanes[(r * height + ms.start) * T::LANES..].as_mut_ptr(),
                height,
            };
            // SAFETY: `take <= n - r` rows of `w`, `steps` steps each, lie inside `base`; `ms.len()` rows of `xs`, as far
            // apart as a tile of so many takes them, and the lanes of `take` rows of weights, `height * LANES` apart, inside
            // theirs, by the assertions above; `lanes` is borrowed mutably, so it overlaps neither.
            unsafe { tiles.tile(dtype, ms.len(), take, &tile) };
            r += take;
        }
    }
}

/// The operands of a tile of M rows of activations and R rows of weights.
pub(crate) struct Tile {
    /// Steps of K, two elements of each lane.
    steps: usize,
    /// M rows of so many steps of floats, as far apart as [`Tiles::pitch`] says.
    xs: *const f32,
    /// R rows of so many steps of elements, `pitch` bytes apart.
    w: *const u8,
    /// What is read after `w`, laid out in the same way; it may be anything. This tile asks for its part of it, of so many.
    next: *const u8,
    part: [usize; 2],
    pitch: usize,
    /// R times M times LANES sums; those of one row of weights are `height * LANES` after those of the one before.
    lanes: *mut f32,
    height: usize,
}

/// The tiles of an instruction set; a value is the proof that the CPU has it.
pub(crate) trait Tiles: Copy + Send + Sync {
    /// Lanes of a vector.
    const LANES: usize;
    /// Terms of K that a lane of a factor holds.
    const TERMS: usize;

    /// Elements of K per block, at most, with so many rows of activations in all.
    fn block(self, height: usize) -> usize;

    /// Floats from one row of activations in a block to the next.
    fn pitch(self, height: usize) -> usize {
        pitch(self.block(height), Self::TERMS)
    }

    /// The activations of a step as its tiles read them.
    fn arrange(dtype: Dtype, values: &[f32], out: &mut [f32]) {
        match Self::TERMS {
            2 => {
                for (pair, out) in values.as_chunks::<2>().0.iter().zip(out) {
                    *out = precision::pair(pair[0], pair[1]); // they are BF16
                }
            }
            _ => arrange(dtype, values, out),
        }
    }

    /// The instruction set.
    fn isa(self) -> Isa;

    /// Most rows of activations of a tile.
    fn tallest(self) -> usize;

    /// Rows of weights of a tile with so many rows of activations.
    fn wide(self, m: usize) -> usize;

    /// The lanes of each sum, added up.
    fn add_lanes(self, lanes: &[f32], sums: &mut [f32]);

    /// `lanes[r][m] += x[m] * w[r]`, lane by lane, for `m` rows of activations and `rows` of weights: `wide(m)`, or one.
    ///
    /// # Safety
    /// The operands must be as [`Tile`] says, `lanes` disjoint from the others.
    unsafe fn tile(self, dtype: Dtype, m: usize, rows: usize, tile: &Tile);
}

/// Floats from one row of activations to the next, in a block of so many elements.
pub(super) const fn pitch(block: usize, terms: usize) -> usize {
    block / terms + PAD
}

/// Tiles that keep all their sums in registers: of so many rows of activations by so many of weights.
macro_rules! tiles {
    (
        $proof:ident, $isa:expr, $vector:ty, $features:literal, tallest $tallest:literal,
        $(block $block:tt: $($m:literal x $wide:literal),*);*
    ) => {
        impl Tiles for $proof {
            const LANES: usize = <$vector>::LANES;
            const TERMS: usize = <$vector>::TERMS;

            fn block(self, height: usize) -> usize {
                // All parts have the blocks of the tallest.
                let tallest = height.div_ceil(height.div_ceil($tallest).max(1));
                let blocks = [$(($block, &[$($m),*][..])),*];
                let found = blocks.iter().find(|(_, heights)| heights.contains(&tallest));
                found.map_or(blocks[0].0, |(block, _)| *block)
            }

            fn add_lanes(self, lanes: &[f32], sums: &mut [f32]) {
                self.isa().run(Trees::<{ <$vector>::LANES }> { lanes, sums });
            }

            fn isa(self) -> Isa {
                $isa(self)
            }

            fn tallest(self) -> usize {
                $tallest
            }

            fn wide(self, m: usize) -> usize {
                match m {
                    $($($m => $wide,)*)*
                    _ => unreachable!("higher than the tallest tile"),
                }
            }

            unsafe fn tile(self, dtype: Dtype, m: usize, rows: usize, tile: &Tile) {
                /// # Safety
                /// As for [`multiply`].
                #[target_feature(enable = $features)]
                unsafe fn run<const DTYPE: u8, const M: usize, const R: usize, const PITCH: usize>(
                    tile: &Tile,
                ) {
                    // SAFETY: this function has the features; the operands are the caller's.
                    unsafe { multiply::<$vector, DTYPE, M, R, PITCH>(tile) }
                }
                assert!(rows == 1 || rows == self.wide(m));
                let run = match (m, dtype, rows == 1) {
                    $($(
                        ($m, Dtype::F32, true) => run::<0, $m, 1, { pitch($block, <$vector>::TERMS) }>,
                        ($m, Dtype::F32, false) => run::<0, $m, $wide, { pitch($block, <$vector>::TERMS) }>,
                        ($m, Dtype::F16, true) => run::<1, $m, 1, { pitch($block, <$vector>::TERMS) }>,
                        ($m, Dtype::F16, false) => run::<1, $m, $wide, { pitch($block, <$vector>::TERMS) }>,
                        ($m, Dtype::BF16, true) => run::<2, $m, 1, { pitch($block, <$vector>::TERMS) }>,
                        ($m, Dtype::BF16, false) => run::<2, $m, $wide, { pitch($block, <$vector>::TERMS) }>,
                    )*)*
                    _ => unreachable!("higher than the tallest tile"),
                };
                // SAFETY: `self` proves the features; the operands are the caller's.
                unsafe { run(tile) }
            }
        }
    };
}

// Activations come from the second-level cache at the rate at which they are used; whole rows of weights pass in one sweep.
tiles!(
    Avx512, Isa::Avx512, __m512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", tallest 6,
    block BLOCK: 1 x 4, 2 x 8, 3 x 6, 4 x 6, 5 x 4, 6 x 4
);
// Pairs of many rows would come too slowly: a block of them, 24 KiB at most, stays in the first-level cache.
tiles!(
    Avx512Bf16, |dots: Avx512Bf16| Isa::Avx512(dots.avx512()), Pairs,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16", tallest 12,
    block BLOCK: 1 x 4, 2 x 8, 3 x 6, 4 x 6;
    block 1024: 5 x 4, 6 x 4, 7 x 3, 8 x 3, 9 x 2, 10 x 2, 11 x 2, 12 x 2
);
// They would come too slowly for the smaller tiles: a block of them, 12 KiB, stays in the first-level cache.
tiles!(
    Avx2, Isa::Avx2, __m256, "avx2,fma,f16c", tallest 6,
    block 512: 1 x 8, 2 x 4, 3 x 3, 4 x 2, 5 x 2, 6 x 2
);

/// [`Tiles::tile`] for M rows of activations and R of weights.
///
/// # Safety
/// As there, and the caller has the features of `V` enabled.
#[inline(always)]
unsafe fn multiply<
    V: Vector,
    const DTYPE: u8,
    const M: usize,
    const R: usize,
    const PITCH: usize,
>(
    t: &Tile,
) {
    let bytes = if DTYPE == 0 { 8 } else { 4 } * V::LANES;
    // What comes next is asked for evenly, by all parts, whole lines at a time. One row of activations passes the weights once
    // and in the order in which they lie, which the processor foresees by itself.
    let [part, parts] = t.part;
    let chunk = bytes.max(LINE);
    let shift = (chunk / bytes).ilog2() + parts.ilog2();
    let first = part * (t.steps * bytes / chunk) / parts;
    // SAFETY: every address below is inside the operands, as the caller guarantees, or only prefetched.
    unsafe {
        let mut acc = [[V::zero(); M]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (m, acc) in acc.iter_mut().enumerate() {
                *acc = V::read(t.lanes.add((r * t.height + m) * V::LANES));
            }
        }
        for step in 0..t.steps {
            if M > 1 && step & ((1 << shift) - 1) == 0 {
                for line in (0..chunk).step_by(LINE) {
                    let at = (first + (step >> shift)) * chunk + line;
                    for r in 0..R {
                        let at = t.next.wrapping_add(r * t.pitch + at);
                        _mm_prefetch::<_MM_HINT_T1>(at.cast());
                    }
                }
            }
            let w = t.w.add(step * bytes);
            let xs = t.xs.add(step * 2 * V::LANES / V::TERMS);
            let row = std::array::from_fn(|r| V::weights::<DTYPE, 0>(w.add(r * t.pitch)));
            add_products::<V, M, R, PITCH>(&mut acc, row, xs);
            if V::TERMS == 1 {
                let row = std::array::from_fn(|r| V::weights::<DTYPE, 1>(w.add(r * t.pitch)));
                add_products::<V, M, R, PITCH>(&mut acc, row, xs.add(V::LANES));
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (m, acc) in acc.iter().enumerate() {
                acc.write(t.lanes.add((r * t.height + m) * V::LANES));
            }
        }
    }
}

/// `acc[r][m] += row[r] * x[m]`.
///
/// # Safety
/// M vectors can be read from `xs` on, PITCH floats apart, and the caller has the features of `V` enabled.
#[inline(always)]
pub(super) unsafe fn add_products<V: Vector, const M: usize, const R: usize, const PITCH: usize>(
    acc: &mut [[V; M]; R],
    row: [V; R],
    xs: *const f32,
) {
    for m in 0..M {
        // SAFETY: the caller's.
        unsafe {
            let x = V::read(xs.add(m * PITCH));
            for (acc, row) in acc.iter_mut().zip(row) {
                acc[m] = x.multiply_add(row, acc[m]);
            }
        }
    }
}
