//! Kernels in vector registers of x86.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{
    Ahead, IntegerKernel, LANES, Operands, PITCH, Pairs, PairsAvx2, Quads, ROWS, ROWS_AVX2, Sum,
    UNITS_OF_STEP,
};
use crate::isa::{Avx2, Avx512, Vnni};

/// Where the operands of a kernel are, of lengths that are checked.
#[derive(Clone, Copy)]
struct Places {
    units: usize,
    w: *const i32,
    xs: *const i32,
    /// From one tile of activations to the next.
    xs_pitch: usize,
    factors: *const f32,
    /// The sums: floats where they are scaled, integers otherwise.
    sums: *mut i32,
    /// From one row of sums to the next.
    sums_pitch: usize,
}

impl Places {
    /// For a kernel.
    ///
    /// # Panics
    /// If an operand is too short for it.
    #[inline(always)]
    fn new<S: Sum, K: IntegerKernel<S>>(o: Operands<'_, S>) -> Places {
        o.check::<K>();
        assert!(size_of::<S>() == size_of::<i32>());
        let Operands {
            units,
            w,
            xs,
            factors,
            sums,
            ..
        } = o;
        Places {
            units,
            w: w.as_ptr(),
            xs: xs.units.as_ptr(),
            xs_pitch: xs.pitch,
            factors: factors.as_ptr(),
            sums: sums.sums.as_mut_ptr().cast(),
            sums_pitch: sums.pitch,
        }
    }
}

macro_rules! by_tiles {
    ($kernel:ident of $of:ident, $sum:ident, $operands:expr) => {{
        let (tiles, ahead) = ($operands.xs.tiles, $operands.ahead);
        let places = Places::new::<$sum, $of>($operands);
        // SAFETY: a proof of the instructions is at hand; `Places::new` has checked the lengths.
        unsafe {
            match (tiles, $sum::SCALED) {
                (1, false) => $kernel::<1, false>(places, ahead),
                (2, false) => $kernel::<2, false>(places, ahead),
                (_, false) => $kernel::<3, false>(places, ahead),
                (1, true) => $kernel::<1, true>(places, ahead),
                (2, true) => $kernel::<2, true>(places, ahead),
                (_, true) => $kernel::<3, true>(places, ahead),
            }
        }
    }};
}

pub(super) fn pairs<S: Sum>(proof: Avx512, o: Operands<'_, S>) {
    match Vnni::new(proof) {
        Some(_) => by_tiles!(pairs_vnni of Pairs, S, o),
        None => by_tiles!(pairs_madd of Pairs, S, o),
    }
}

pub(super) fn quads<S: Sum>(_proof: Vnni, o: Operands<'_, S>) {
    by_tiles!(quads_vnni of Quads, S, o);
}

/// A loop over units: `$step(sum, activations, weight)`.
macro_rules! kernel {
    ($name:ident, $features:literal, $step:expr) => {
        /// # Safety
        /// The instructions; `w` readable for ROWS rows of `units`, `xs` for N tiles of them, `factors` for ROWS; `sums`
        /// writable for ROWS rows of N tiles of lanes.
        #[target_feature(enable = $features)]
        unsafe fn $name<const N: usize, const SCALED: bool>(operands: Places, ahead: Ahead) {
            let Places { units, w, xs, .. } = operands;
            let place = |row: usize, tile: usize| {
                let at = row * operands.sums_pitch + tile * LANES;
                operands.sums.wrapping_add(at)
            };
            let mut products = [[_mm512_setzero_si512(); N]; ROWS];
            let mut at = ahead.at;
            let share = ROWS.div_ceil(units / UNITS_OF_STEP);
            let mut rows = 0..ROWS;
            for step in (0..units).step_by(UNITS_OF_STEP) {
                for row in rows.by_ref().take(share) {
                    for tile in 0..N {
                        _mm_prefetch::<_MM_HINT_T0>(place(row, tile).cast());
                    }
                }
                for _ in 0..ahead.lines {
                    _mm_prefetch::<_MM_HINT_T1>(at.cast());
                    at = at.wrapping_add(64);
                }
                for unit in (step..step + UNITS_OF_STEP).step_by(2) {
                    for unit in [unit, unit + 1] {
                        let mut x = [_mm512_setzero_si512(); N];
                        for (tile, x) in x.iter_mut().enumerate() {
                            let at = tile * operands.xs_pitch + unit * LANES;
                            // SAFETY: inside the operands.
                            *x = unsafe { _mm512_loadu_si512(xs.add(at).cast()) };
                        }
                        for (row, products) in products.iter_mut().enumerate() {
                            // SAFETY: inside the operands.
                            let w = _mm512_set1_epi32(unsafe { *w.add(row * PITCH + unit) });
                            for (product, x) in products.iter_mut().zip(x) {
                                *product = $step(*product, x, w);
                            }
                        }
                    }
                }
            }
            for (row, products) in products.iter().enumerate() {
                // SAFETY: ROWS of them.
                let factor = _mm512_set1_ps(unsafe { *operands.factors.add(row) });
                for (tile, product) in products.iter().enumerate() {
                    let place = place(row, tile);
                    // SAFETY: inside the sums.
                    unsafe {
                        if SCALED {
                            let scaled = _mm512_mul_ps(factor, _mm512_cvtepi32_ps(*product));
                            let sum = _mm512_loadu_ps(place.cast());
                            _mm512_storeu_ps(place.cast(), _mm512_add_ps(sum, scaled));
                        } else {
                            let sum = _mm512_loadu_si512(place.cast());
                            let sum = _mm512_add_epi32(sum, *product);
                            _mm512_storeu_si512(place.cast(), sum);
                        }
                    }
                }
            }
        }
    };
}
/// `sum` and two products per lane. LLVM makes two instructions of the intrinsic `_mm512_dpwssd_epi32`, a product and an
/// addition, which has a shorter latency and half the throughput.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_pairs(mut sum: __m512i, x: __m512i, w: __m512i) -> __m512i {
    // SAFETY: AVX-512 VNNI is at hand; nothing but `sum` changes.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {x}, {w}",
            sum = inout(zmm_reg) sum,
            x = in(zmm_reg) x,
            w = in(zmm_reg) w,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
kernel!(
    pairs_vnni,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
    |sum, x, w| add_pairs(sum, x, w)
);
kernel!(
    quads_vnni,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
    |sum, x, w| { _mm512_dpbusd_epi32(sum, w, x) }
);
kernel!(
    pairs_madd,
    "avx512f,avx512bw,avx512vl,avx512dq",
    |sum, x, w| { _mm512_add_epi32(sum, _mm512_madd_epi16(x, w)) }
);

pub(super) fn pairs_avx2<S: Sum>(_proof: Avx2, o: Operands<'_, S>) {
    let tiles = o.xs.tiles;
    let mut operands = Places::new::<S, PairsAvx2>(o);
    for _ in 0..tiles {
        // SAFETY: `_proof` is the proof of AVX2; `Places::new` has checked the lengths.
        unsafe {
            if S::SCALED {
                tile_avx2::<true>(operands);
            } else {
                tile_avx2::<false>(operands);
            }
        }
        operands.xs = operands.xs.wrapping_add(operands.xs_pitch);
        operands.sums = operands.sums.wrapping_add(LANES);
    }
}

/// Each sum and two products per lane. The order is for processors that deal instructions out to their pipes in turn (Zen 3): in
/// strict alternation, all products would go to one of the two pipes that can multiply.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pairs_avx2(
    [mut s0, mut s1]: [__m256i; 2],
    [x0, x1]: [__m256i; 2],
    w: __m256i,
) -> [__m256i; 2] {
    // SAFETY: AVX2 is at hand; nothing but the sums changes.
    unsafe {
        asm!(
            "vpmaddwd {p0}, {x0}, {w}",
            "vpmaddwd {p1}, {x1}, {w}",
            "vpaddd {s0}, {s0}, {p0}",
            "vpaddd {s1}, {s1}, {p1}",
            s0 = inout(ymm_reg) s0,
            s1 = inout(ymm_reg) s1,
            p0 = out(ymm_reg) _,
            p1 = out(ymm_reg) _,
            x0 = in(ymm_reg) x0,
            x1 = in(ymm_reg) x1,
            w = in(ymm_reg) w,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [s0, s1]
}

/// # Safety
/// AVX2; `w` readable for ROWS_AVX2 rows of `units`, `xs` for a tile of them, `factors` for as many rows; `sums` writable for
/// as many rows of lanes.
#[target_feature(enable = "avx2")]
unsafe fn tile_avx2<const SCALED: bool>(operands: Places) {
    let Places { units, w, xs, .. } = operands;
    let mut products = [[_mm256_setzero_si256(); 2]; ROWS_AVX2];
    for step in (0..units).step_by(UNITS_OF_STEP) {
        // The rows that come next, from the second level of cache.
        for row in ROWS_AVX2..2 * ROWS_AVX2 {
            let next = w.wrapping_add(row * PITCH + step);
            _mm_prefetch::<_MM_HINT_T0>(next.cast());
        }
        for unit in (step..step + UNITS_OF_STEP).step_by(4) {
            for unit in [unit, unit + 1, unit + 2, unit + 3] {
                // SAFETY: inside the operands.
                let x: [__m256i; 2] = unsafe {
                    let at = xs.add(unit * LANES);
                    [
                        _mm256_loadu_si256(at.cast()),
                        _mm256_loadu_si256(at.add(8).cast()),
                    ]
                };
                for (row, products) in products.iter_mut().enumerate() {
                    // SAFETY: inside the operands.
                    let w = _mm256_set1_epi32(unsafe { *w.add(row * PITCH + unit) });
                    *products = add_pairs_avx2(*products, x, w);
                }
            }
        }
    }
    for (row, products) in products.iter().enumerate() {
        for (half, product) in products.iter().enumerate() {
            // SAFETY: inside the factors and the sums.
            unsafe {
                let place = operands.sums.add(row * operands.sums_pitch + half * 8);
                if SCALED {
                    let factor = _mm256_set1_ps(*operands.factors.add(row));
                    let scaled = _mm256_mul_ps(factor, _mm256_cvtepi32_ps(*product));
                    let sum = _mm256_loadu_ps(place.cast());
                    _mm256_storeu_ps(place.cast(), _mm256_add_ps(sum, scaled));
                } else {
                    let sum = _mm256_loadu_si256(place.cast());
                    let sum = _mm256_add_epi32(sum, *product);
                    _mm256_storeu_si256(place.cast(), sum);
                }
            }
        }
    }
}
