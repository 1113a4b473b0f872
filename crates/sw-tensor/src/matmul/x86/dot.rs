//! AVX-512 and AVX2 for few rows: weights are used as they lie, with no packing in between. Those of a file that are read for
//! the first time are copied, some rows at a time: for one pass, the system needs less time for that than for mapping them.
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
/// Most rows of weights that share a block of activations, and whose lanes are kept; a multiple of every group's.
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
            let full = depth / (2 * T::LANES) * (2 * T::LANES);
            for (block, values) in row[..full].chunks(most).enumerate() {
                let out = &mut xs[(block * height + m) * pitch..];
                tiles.arrange(dtype, values, &mut out[..values.len() / T::TERMS]);
            }
        }
        let xs = &*xs;
        let parts = parts.into_par_iter().with_max_len(1);
        let size = tiles.group(height);
        parts.for_each(|(w, rows, mut y)| {
            let groups = y.axis_chunks_iter_mut(Axis(1), size);
            for (rows, y) in blocks(rows, size).zip(groups) {
                group(tiles, &x, xs, w, rows, y);
            }
        });
    });
}

/// The elements of some steps: with BF16 the even ones of each come first, as that is how they are widened.
struct Arrange<'a, const LANES: usize> {
    dtype: Dtype,
    values: &'a [f32],
    out: &'a mut [f32],
}

impl<const LANES: usize> Work for Arrange<'_, LANES> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        if self.dtype != Dtype::BF16 {
            return self.out.copy_from_slice(self.values);
        }
        let outs = self.out.chunks_exact_mut(2 * LANES);
        for (values, out) in self.values.chunks_exact(2 * LANES).zip(outs) {
            let (even, odd) = out.split_at_mut(LANES);
            for ((pair, even), odd) in values.as_chunks::<2>().0.iter().zip(even).zip(odd) {
                [*even, *odd] = *pair;
            }
        }
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
    let ((height, depth), n) = (x.dim(), rows.len());
    let full = depth / (2 * T::LANES) * (2 * T::LANES);
    // Rows that follow one another, and are passed over more than once.
    let can_copy = height > 1 && w.strides()[0] == depth && !w.is_blocks();
    let bytes = n * depth * w.dtype().size();
    let copy = if can_copy { bytes.div_ceil(4) } else { 0 };
    let sizes = [n * height * T::LANES, n * height, depth, copy];
    with_scratch(sizes, |[lanes, sums, row_of_w, copy]| {
        if full == 0 {
            lanes.fill(0.0);
        }
        let copy: &mut [u8] = bytemuck::cast_slice_mut(copy);
        let is_copied = can_copy && w.copy_first(rows.clone(), copy);
        if !is_copied && height > 1 {
            w.touch(rows.clone()); // Tiles ask for what comes next, which must be mapped.
        }
        let of_block = xs.chunks_exact(height * tiles.pitch(height));
        let mut group = Group {
            height,
            rows: rows.clone(),
            copy: is_copied.then_some(&*copy),
            lanes,
        };
        for (ks, xs) in blocks(0..full, tiles.block(height)).zip(of_block) {
            block(tiles, xs, w, ks, &mut group);
        }
        let done = match tiles.isa() {
            Isa::Avx512(proof) => avx512::add_lanes(proof, lanes, sums),
            _ => 0,
        };
        tiles.add_lanes(&lanes[done * T::LANES..], &mut sums[done..]);
        for (mut y, sums) in y.rows_mut().into_iter().zip(sums.chunks_exact(n)) {
            let y = y.as_slice_mut().expect("adjacent columns");
            y.copy_from_slice(sums);
        }
        if full == depth && w.overlay_len() == 0 {
            return;
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

/// Some rows of weights, and what becomes of them and so many rows of activations.
struct Group<'a> {
    height: usize,
    rows: Range<usize>,
    /// These rows as stored, where they were copied into a cache.
    copy: Option<&'a [u8]>,
    /// `[height][rows][LANES]`.
    lanes: &'a mut [f32],
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

/// One block of K: `lanes[row of x][row of w][LANES] += ...`; the first one stores them.
fn block<T: Tiles>(tiles: T, xs: &[f32], w: &Mat, ks: Range<usize>, group: &mut Group<'_>) {
    let (height, rows) = (group.height, group.rows.clone());
    assert!(
        rows.end <= w.rows()
            && ks.end <= w.cols()
            && ks.len().is_multiple_of(2 * T::LANES)
            && ks.len() <= tiles.block(height)
    );
    let is_first = ks.start == 0;
    if w.is_blocks() {
        if let (Isa::Avx512(proof), 1) = (tiles.isa(), T::TERMS)
            && let Some(blocks) = w.whole_blocks(ks.clone())
        {
            let rows = rows.clone().map(|row| blocks.row(row));
            let lanes = &mut *group.lanes;
            if dot_blocks::block(proof, blocks.coding(), xs, height, rows, lanes, is_first) {
                return;
            }
        }
        let pitch = ks.len() + PAD;
        return with_scratch([rows.len() * pitch], |[wide]| {
            for (row, wide) in rows.zip(wide.chunks_exact_mut(pitch)) {
                w.widen(row..row + 1, ks.clone(), &mut wide[..ks.len()]);
            }
            let base = bytemuck::cast_slice(wide);
            let weights = Weights {
                dtype: Dtype::F32,
                base,
                pitch,
                ks,
                next: base.as_ptr(),
            };
            block_of_rows(tiles, xs, weights, group);
        });
    }
    let (size, pitch) = (w.dtype().size(), w.strides()[0]);
    let (base, next) = match group.copy {
        Some(copy) => (&copy[ks.start * size..], std::ptr::null()),
        None => {
            let base = &w.base()[(rows.start * pitch + ks.start) * size..];
            let next = match ks.end + 2 * T::LANES <= w.cols() {
                true => base[ks.len() * size..].as_ptr(),
                false => w.base().as_ptr().wrapping_add(rows.end * pitch * size),
            };
            (base, next)
        }
    };
    let weights = Weights {
        dtype: w.dtype(),
        base,
        pitch,
        ks,
        next,
    };
    block_of_rows(tiles, xs, weights, group);
}

/// Columns `ks` of a group's rows of weights, which are `pitch` elements apart in `base`.
struct Weights<'a> {
    dtype: Dtype,
    base: &'a [u8],
    pitch: usize,
    ks: Range<usize>,
    /// What is read after them, laid out in the same way: the next columns, or the next rows; null where that is in a cache. It
    /// may be anything, and is only ever prefetched.
    next: *const u8,
}

/// [`block`] of weights that lie as they are multiplied.
fn block_of_rows<T: Tiles>(tiles: T, xs: &[f32], w: Weights<'_>, group: &mut Group<'_>) {
    let (size, depth, height, n) = (w.dtype.size(), w.ks.len(), group.height, group.rows.len());
    assert!(depth.is_multiple_of(2 * T::LANES) && depth <= tiles.block(height));
    assert!(n > 0 && w.base.len() >= ((n - 1) * w.pitch + depth) * size);
    let pitch_of_xs = tiles.pitch(height);
    assert!(xs.len() >= height * pitch_of_xs && group.lanes.len() >= n * height * T::LANES);
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
                w: w.base[r * w.pitch * size..].as_ptr(),
                pitch: w.pitch * size,
                next: match w.next.is_null() {
                    true => w.next,
                    false => w.next.wrapping_add(r * w.pitch * size),
                },
                part: [part, parts],
                lanes: group.lanes[(ms.start * n + r) * T::LANES..].as_mut_ptr(),
                n,
                is_first: w.ks.start == 0,
            };
            // SAFETY: `take <= n - r` rows of `w`, `steps` steps each, lie inside `base`; `ms.len()` rows of `xs`, as far
            // apart as a tile of so many takes them, and the lanes of so many rows of activations, `n * LANES` apart, `take`
            // each, inside theirs, by the assertions above; `lanes` is borrowed mutably, so it overlaps neither.
            unsafe { tiles.tile(w.dtype, ms.len(), take, tile) };
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
    pitch: usize,
    /// What is read after `w`, laid out in the same way; it may be anything. This tile asks for its part of it, of so many, unless
    /// it is null.
    next: *const u8,
    part: [usize; 2],
    /// M times R times LANES sums; those of one row of activations are `n * LANES` after those of the one before.
    lanes: *mut f32,
    n: usize,
    /// Whether sums begin here; what `lanes` holds is not read then.
    is_first: bool,
}

/// The tiles of an instruction set; a value is the proof that the CPU has it.
pub(crate) trait Tiles: Copy + Send + Sync {
    /// Lanes of a vector.
    const LANES: usize;
    /// Terms of K that a lane of a factor holds.
    const TERMS: usize;

    /// Elements of K per block, at most, with so many rows of activations in all.
    fn block(self, height: usize) -> usize;

    /// Rows of weights that share a block of activations, at most.
    fn group(self, height: usize) -> usize;

    /// Floats from one row of activations in a block to the next.
    fn pitch(self, height: usize) -> usize {
        pitch(self.block(height), Self::TERMS)
    }

    /// The activations of some steps as its tiles read them.
    fn arrange(self, dtype: Dtype, values: &[f32], out: &mut [f32]);

    /// The instruction set.
    fn isa(self) -> Isa;

    /// Most rows of activations of a tile.
    fn tallest(self) -> usize;

    /// Rows of weights of a tile with so many rows of activations.
    fn wide(self, m: usize) -> usize;

    /// The lanes of each sum, added up.
    fn add_lanes(self, lanes: &[f32], sums: &mut [f32]);

    /// `lanes[m][r] += x[m] * w[r]`, lane by lane, for `m` rows of activations and `rows` of weights: `wide(m)`, or one.
    ///
    /// # Safety
    /// The operands must be as [`Tile`] says, `lanes` disjoint from the others.
    unsafe fn tile(self, dtype: Dtype, m: usize, rows: usize, tile: Tile);
}

/// Floats from one row of activations to the next, in a block of so many elements.
pub(super) const fn pitch(block: usize, terms: usize) -> usize {
    block / terms + PAD
}

/// Tiles that keep all their sums in registers: of so many rows of activations by so many of weights.
macro_rules! tiles {
    (
        $proof:ident, $isa:expr, $vector:ty, $features:literal, tallest $tallest:literal,
        $(block $block:tt, group $group:tt: $($m:literal x $wide:literal),*);*
    ) => {
        impl Tiles for $proof {
            const LANES: usize = <$vector>::LANES;
            const TERMS: usize = <$vector>::TERMS;

            fn block(self, height: usize) -> usize {
                // All parts have the blocks of the tallest.
                match height.div_ceil(height.div_ceil($tallest)) {
                    $($($m => $block,)*)*
                    _ => unreachable!("no rows"),
                }
            }

            fn group(self, height: usize) -> usize {
                match height.div_ceil(height.div_ceil($tallest)) {
                    $($($m => $group,)*)*
                    _ => unreachable!("no rows"),
                }
            }

            fn arrange(self, dtype: Dtype, values: &[f32], out: &mut [f32]) {
                const LANES: usize = <$vector>::LANES;
                match Self::TERMS {
                    2 => self.isa().run(precision::Pairs { row: values, out }),
                    _ => self.isa().run(Arrange::<LANES> { dtype, values, out }),
                }
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

            unsafe fn tile(self, dtype: Dtype, m: usize, rows: usize, tile: Tile) {
                /// # Safety
                /// As for [`multiply`].
                #[target_feature(enable = $features)]
                unsafe fn run<const DTYPE: u8, const M: usize, const R: usize, const PITCH: usize>(
                    tile: Tile,
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
    block BLOCK, group GROUP: 1 x 4, 2 x 8, 3 x 6, 4 x 6, 5 x 4, 6 x 4
);
// Pairs of many rows would come too slowly: a block of them, 24 KiB at most, stays in the first-level cache.
tiles!(
    Avx512Bf16, |dots: Avx512Bf16| Isa::Avx512(dots.avx512()), Pairs,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16", tallest 12,
    block 16384, group GROUP: 1 x 4;
    block BLOCK, group GROUP: 2 x 8, 3 x 6, 4 x 6;
    block 1024, group GROUP: 5 x 4, 6 x 4, 7 x 3, 8 x 3, 9 x 2, 10 x 2, 11 x 2, 12 x 2
);
// They would come too slowly for the smaller tiles: a block of them, 12 KiB, stays in the first-level cache.
tiles!(
    Avx2, Isa::Avx2, __m256, "avx2,fma,f16c", tallest 6,
    block 512, group GROUP: 1 x 8, 2 x 4, 3 x 3, 4 x 2, 5 x 2, 6 x 2
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
    t: Tile,
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
        let lanes = |r: usize, m: usize| t.lanes.add((m * t.n + r) * V::LANES);
        let mut acc = [[V::zero(); M]; R];
        for (r, acc) in acc.iter_mut().enumerate().filter(|_| !t.is_first) {
            for (m, acc) in acc.iter_mut().enumerate() {
                *acc = V::read(lanes(r, m));
            }
        }
        for step in 0..t.steps {
            if M > 1 && !t.next.is_null() && step & ((1 << shift) - 1) == 0 {
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
                acc.write(lanes(r, m));
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
