//! AVX2 with FMA and F16C: 6 x 16 tiles, 12 accumulators of the 16 registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::tile::tiles;
use crate::isa::Avx2;
use crate::matmul::kernel::{
    A_STRIDE, Accumulate, Kernel, Left, Lines, Out, Right, check_operands,
};
use crate::matmul::pack::Groups;
use crate::matmul::split::even_blocks;
use crate::{Dtype, Mat};

const MR: usize = 6;
/// Vectors per row of a tile.
const NV: usize = 2;
const NR: usize = 8 * NV;

impl Kernel for Avx2 {
    const MR: usize = MR;
    const NR: usize = NR;

    tiles!(__m256, NV, "avx2,fma,f16c", 1 2 3 4 5 6);

    fn pack(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
        self.pack_groups(w, rows, ks, out);
    }

    fn pack_f32(self, src: &[f32], pitch: usize, depth: usize, out: &mut [f32]) {
        self.pack_f32_groups(src, pitch, depth, out);
    }
}

impl Groups for Avx2 {
    const ROWS: usize = 8;

    fn step(_: Dtype) -> usize {
        8
    }

    #[inline]
    fn group(self, dtype: Dtype, base: &[u8], pitch: usize, ks: usize, out: &mut [f32]) {
        assert!(ks > 0 && ks.is_multiple_of(Self::step(dtype)));
        assert!(base.len() >= ((Self::ROWS - 1) * pitch + ks) * dtype.size());
        assert!(out.len() >= (ks - 1) * NR + Self::ROWS);
        let (base, out) = (base.as_ptr(), out.as_mut_ptr());
        // SAFETY: `self` proves the features; 8 rows of `ks` elements, `pitch` apart, lie inside `base`, and `ks` rows of 8
        // floats, NR apart, inside `out`, by the assertions above.
        unsafe { pack(dtype, base, pitch, ks, out) }
    }
}

/// Eight elements as f32.
///
/// # Safety
/// `src` readable for 8 elements of `dtype`, at any alignment.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load(dtype: Dtype, src: *const u8) -> __m256 {
    // SAFETY: 32 bytes of F32 or 16 of the others, as the caller guarantees.
    unsafe {
        match dtype {
            Dtype::F32 => _mm256_loadu_ps(src.cast()),
            Dtype::F16 => _mm256_cvtph_ps(_mm_loadu_si128(src.cast())),
            Dtype::BF16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(src.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
    }
}

/// # Safety
/// AVX2 and F16C; `src` readable for 8 rows of `ks` elements, `pitch` elements apart; `dst` writable for `ks` rows of 8
/// floats, NR apart; `ks` a multiple of 8.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack(dtype: Dtype, src: *const u8, pitch: usize, ks: usize, dst: *mut f32) {
    let size = dtype.size();
    for k in (0..ks).step_by(8) {
        let mut r = [_mm256_setzero_ps(); 8];
        for (i, row) in r.iter_mut().enumerate() {
            // SAFETY: inside the 8 rows of `ks` elements.
            *row = unsafe { load(dtype, src.add((i * pitch + k) * size)) };
        }
        let mut s = r;
        for i in (0..8).step_by(4) {
            let (a, b) = (
                _mm256_unpacklo_ps(r[i], r[i + 1]),
                _mm256_unpackhi_ps(r[i], r[i + 1]),
            );
            let (c, d) = (
                _mm256_unpacklo_ps(r[i + 2], r[i + 3]),
                _mm256_unpackhi_ps(r[i + 2], r[i + 3]),
            );
            s[i] = _mm256_shuffle_ps::<0x44>(a, c);
            s[i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
            s[i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
            s[i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
        }
        // Lane L of s[4 g + j] holds column 4 L + j of rows 4 g .. 4 g + 4.
        for j in 0..4 {
            // SAFETY: inside the `ks` rows of 8 floats.
            unsafe {
                _mm256_storeu_ps(
                    dst.add((k + j) * NR),
                    _mm256_permute2f128_ps::<0x20>(s[j], s[4 + j]),
                );
                _mm256_storeu_ps(
                    dst.add((k + 4 + j) * NR),
                    _mm256_permute2f128_ps::<0x31>(s[j], s[4 + j]),
                );
            }
        }
    }
}
