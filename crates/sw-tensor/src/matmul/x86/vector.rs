//! Vectors of f32, for kernels that are written once for AVX-512 and AVX2.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::isa;

/// What a tile asks the memory system for while it multiplies.
#[derive(Clone, Copy)]
pub(super) enum Asks {
    /// Nothing: so little is done with a line that enough of the lines after it are read at the same time.
    Nothing,
    /// What is a little further on in the rows that it multiplies, for the first-level cache.
    Near,
    /// The rows that come after them, for the second-level cache.
    Next,
}

/// # Safety
/// Every function is called only where the CPU has the type's features, which the caller must have enabled.
pub(super) trait Vector: Copy {
    const LANES: usize;
    /// Terms that a lane of a factor holds.
    const TERMS: usize = 1;

    /// What one row of activations asks for: it passes over the weights once, at the rate of the memory. The fastest of the
    /// three for whole decoding runs (a Zen 4 and a Zen 5; `benches/record`).
    fn one_row_asks() -> Asks {
        Asks::Next
    }

    unsafe fn zero() -> Self;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn read(at: *const f32) -> Self;
    unsafe fn write(self, at: *mut f32);
    unsafe fn plus(self, b: Self) -> Self;
    /// `self * b + c`.
    unsafe fn multiply_add(self, b: Self, c: Self) -> Self;
    /// The elements `2 * LANES` of a step (0: F32, 1: F16, 2: BF16), at any alignment: the first or the second of its halves,
    /// or (BF16) the even or the odd ones.
    unsafe fn weights<const DTYPE: u8, const HALF: usize>(at: *const u8) -> Self;
}

impl Vector for __m512 {
    const LANES: usize = 16;

    fn one_row_asks() -> Asks {
        // Asking near is a third slower than asking for the next rows on a Zen 4, and an eighth faster on a Zen 5.
        match isa::is_zen5() {
            true => Asks::Near,
            false => Asks::Next,
        }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn read(at: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn write(self, at: *mut f32) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(at, self) }
    }

    #[inline(always)]
    unsafe fn plus(self, b: Self) -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm512_add_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }

    #[inline(always)]
    unsafe fn weights<const DTYPE: u8, const HALF: usize>(at: *const u8) -> Self {
        // SAFETY: the caller's; 128 bytes of F32, 64 of the others.
        unsafe {
            match (DTYPE, HALF) {
                (0, _) => _mm512_loadu_ps(at.add(64 * HALF).cast()),
                (1, _) => _mm512_cvtph_ps(_mm256_loadu_si256(at.add(32 * HALF).cast())),
                // Every other one, into the upper halves: with the even ones, what lies before the first is not touched.
                (_, half) => {
                    let at = at.wrapping_add(2 * half).wrapping_sub(2);
                    let upper = _mm512_maskz_loadu_epi16(0xaaaa_aaaa, at.cast());
                    _mm512_castsi512_ps(upper)
                }
            }
        }
    }
}

/// 16 pairs of BF16, or 16 sums in f32: `multiply_add` adds both products of each pair to the pair's sum.
#[derive(Clone, Copy)]
pub(super) struct Pairs(__m512);

impl Vector for Pairs {
    const LANES: usize = 16;
    const TERMS: usize = 2;

    fn one_row_asks() -> Asks {
        Asks::Nothing
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the features.
        unsafe { Pairs(_mm512_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has the features.
        unsafe { Pairs(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn read(at: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Pairs(_mm512_loadu_ps(at)) }
    }

    #[inline(always)]
    unsafe fn write(self, at: *mut f32) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, b: Self) -> Self {
        // SAFETY: the caller has the features.
        unsafe { Pairs(_mm512_add_ps(self.0, b.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the caller has the features; the types are 512 bits of anything.
        unsafe {
            let pairs = std::mem::transmute::<__m512, __m512bh>;
            Pairs(_mm512_dpbf16_ps(c.0, pairs(self.0), pairs(b.0)))
        }
    }

    #[inline(always)]
    unsafe fn weights<const DTYPE: u8, const HALF: usize>(at: *const u8) -> Self {
        // SAFETY: the caller's; all 64 bytes of a step at once.
        unsafe { Pairs(_mm512_loadu_ps(at.cast())) }
    }
}

impl Vector for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn read(at: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn write(self, at: *mut f32) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_ps(at, self) }
    }

    #[inline(always)]
    unsafe fn plus(self, b: Self) -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm256_add_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }

    #[inline(always)]
    unsafe fn weights<const DTYPE: u8, const HALF: usize>(at: *const u8) -> Self {
        // SAFETY: the caller's; 64 bytes of F32, 32 of the others.
        unsafe {
            match (DTYPE, HALF) {
                (0, _) => _mm256_loadu_ps(at.add(32 * HALF).cast()),
                (1, _) => _mm256_cvtph_ps(_mm_loadu_si128(at.add(16 * HALF).cast())),
                (_, 0) => {
                    let pairs = _mm256_loadu_si256(at.cast());
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))
                }
                _ => {
                    // Read again, which the compiler would not: a tile leaves no register to keep them in.
                    odd(at)
                }
            }
        }
    }
}

/// The odd ones of 16 elements of BF16, read from memory by the instruction that masks them.
///
/// # Safety
/// `at` readable for 32 bytes, at any alignment.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn odd(at: *const u8) -> __m256 {
    let mut odd = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    // SAFETY: AVX2 is at hand; nothing but `odd` changes.
    unsafe {
        asm!(
            "vpand {odd}, {odd}, [{at}]",
            odd = inout(ymm_reg) odd,
            at = in(reg) at,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    _mm256_castsi256_ps(odd)
}
