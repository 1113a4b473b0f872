//! The tiles of `dot`: some rows of activations by some rows of weights, along a block of K, with all sums in registers.

use std::arch::x86_64::*;

use super::vector::{Asks, Pairs, Vector};
use crate::Dtype;
use crate::isa::{Avx2, Avx512, Avx512Bf16, Isa, Work};
use crate::matmul::kernel::LINE;
use crate::matmul::precision;

/// Rows of weights that share a block of activations, and whose lanes are kept; a multiple of every tile's, so that none goes
/// alone.
pub(super) const GROUP: usize = 24;
/// Elements of K per block where activations may come from the second-level cache: whole rows, mostly.
pub(super) const BLOCK: usize = 4096;
/// Floats that each row of activations is longer than a block, so that rows do not compete for one cache set.
pub(super) const PAD: usize = LINE / size_of::<f32>();

/// Bytes of a row of weights from what is multiplied to what [`Asks::Near`] asks for.
const NEAR: usize = 1024;

/// The operands of M rows of activations and R rows of weights: of a tile, or of several that take these rows one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// Steps of K, two elements of each lane.
    pub(super) steps: usize,
    /// M rows of so many steps of floats, as far apart as [`Tiles::pitch`] says.
    pub(super) xs: *const f32,
    /// R rows of so many steps of elements, `pitch` bytes apart.
    pub(super) w: *const u8,
    pub(super) pitch: usize,
    /// What is read after `w`, laid out in the same way; it may be anything, and null where nothing is to be asked for.
    pub(super) next: *const u8,
    /// Which part of all rows of activations these are, and of how many; each asks for its share of `next`.
    pub(super) part: [usize; 2],
    /// M times R times LANES sums; those of one row of activations are `n * LANES` after those of the one before.
    pub(super) lanes: *mut f32,
    pub(super) n: usize,
    /// Whether sums begin here; what `lanes` holds is not read then.
    pub(super) is_first: bool,
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

    /// The activations of some steps as its tiles read them.
    fn arrange(self, dtype: Dtype, values: &[f32], out: &mut [f32]);

    /// The instruction set.
    fn isa(self) -> Isa;

    /// Most rows of activations of a tile.
    fn tallest(self) -> usize;

    /// The lanes of each sum, added up.
    fn add_lanes(self, lanes: &[f32], sums: &mut [f32]);

    /// `lanes[m][r] += x[m] * w[r]`, lane by lane, for `m` rows of activations, as many as the tallest tile has or fewer, and
    /// `rows` of weights, tile by tile.
    ///
    /// # Safety
    /// The operands must be as [`Operands`] says, where M is `m` and R is `rows`, and `lanes` disjoint from the others.
    unsafe fn multiply(self, dtype: Dtype, m: usize, rows: usize, operands: Operands);
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
                match height.div_ceil(height.div_ceil($tallest)) {
                    $($($m => $block,)*)*
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

            unsafe fn multiply(self, dtype: Dtype, m: usize, rows: usize, operands: Operands) {
                /// All rows of weights in one function: calling one for each tile would take longer.
                ///
                /// # Safety
                /// As for [`Tiles::multiply`], and the CPU has the features.
                #[target_feature(enable = $features)]
                unsafe fn run<const DTYPE: u8, const M: usize, const R: usize, const PITCH: usize>(
                    mut tile: Operands,
                    mut rows: usize,
                ) {
                    while rows > 0 {
                        // SAFETY: this function has the features; the operands are what is left of the caller's.
                        unsafe {
                            if rows >= R {
                                multiply::<$vector, DTYPE, M, R, PITCH>(tile);
                            } else {
                                multiply::<$vector, DTYPE, M, 1, PITCH>(tile);
                            }
                        }
                        let taken = if rows >= R { R } else { 1 };
                        rows -= taken;
                        tile.w = tile.w.wrapping_add(taken * tile.pitch);
                        tile.lanes = tile.lanes.wrapping_add(taken * <$vector>::LANES);
                        if !tile.next.is_null() {
                            tile.next = tile.next.wrapping_add(taken * tile.pitch);
                        }
                    }
                }
                let run = match (m, dtype) {
                    $($(
                        ($m, Dtype::F32) => run::<0, $m, $wide, { pitch($block, <$vector>::TERMS) }>,
                        ($m, Dtype::F16) => run::<1, $m, $wide, { pitch($block, <$vector>::TERMS) }>,
                        ($m, Dtype::BF16) => run::<2, $m, $wide, { pitch($block, <$vector>::TERMS) }>,
                    )*)*
                    _ => unreachable!("higher than the tallest tile"),
                };
                // SAFETY: `self` proves the features; the operands are the caller's.
                unsafe { run(operands, rows) }
            }
        }
    };
}

// Activations come from the second-level cache at the rate at which they are used; whole rows of weights pass in one sweep.
tiles!(
    Avx512, Isa::Avx512, __m512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", tallest 6,
    block BLOCK: 1 x 4, 2 x 8, 3 x 6, 4 x 6, 5 x 4, 6 x 4
);
// Pairs of many rows would come too slowly: a block of them, 24 KiB at most, stays in the first-level cache. With one row of
// activations, weights are read in the order in which they lie, which a processor foresees best.
tiles!(
    Avx512Bf16, |dots: Avx512Bf16| Isa::Avx512(dots.avx512()), Pairs,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16", tallest 12,
    block 16384: 1 x 1;
    block BLOCK: 2 x 8, 3 x 6, 4 x 6;
    block 1024: 5 x 4, 6 x 4, 7 x 3, 8 x 3, 9 x 2, 10 x 2, 11 x 2, 12 x 2
);
// They would come too slowly for the smaller tiles: a block of them, 12 KiB, stays in the first-level cache.
tiles!(
    Avx2, Isa::Avx2, __m256, "avx2,fma,f16c", tallest 6,
    block 512: 1 x 8, 2 x 4, 3 x 3, 4 x 2, 5 x 2, 6 x 2
);

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

/// A tile of [`Tiles::multiply`], of M rows of activations and R of weights.
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
    t: Operands,
) {
    let bytes = if DTYPE == 0 { 8 } else { 4 } * V::LANES;
    let asks = if M == 1 {
        V::one_row_asks()
    } else {
        Asks::Next
    };
    // What comes next is asked for evenly, by all parts, whole lines at a time.
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
            let w = t.w.add(step * bytes);
            match asks {
                Asks::Next if !t.next.is_null() && step & ((1 << shift) - 1) == 0 => {
                    for line in (0..chunk).step_by(LINE) {
                        let at = (first + (step >> shift)) * chunk + line;
                        for r in 0..R {
                            let at = t.next.wrapping_add(r * t.pitch + at);
                            _mm_prefetch::<_MM_HINT_T1>(at.cast());
                        }
                    }
                }
                Asks::Near => {
                    for at in (NEAR..NEAR + bytes).step_by(LINE) {
                        for r in 0..R {
                            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(r * t.pitch + at).cast());
                        }
                    }
                }
                Asks::Next | Asks::Nothing => {}
            }
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
