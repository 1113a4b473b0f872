//! AVX2 with FMA and F16C: 6 x 16 tiles, 12 accumulators of the 16 registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::tile::tile;
use crate::isa::Avx2;
use crate::matmul::kernel::{Into, Kernel, Left, Out, Right, check_tile};
use crate::matmul::pack::{apply_edits, pack_scalar, zero_missing};
use crate::{Dtype, Mat};

const MR: usize = 6;
/// Vectors per row of a tile.
const NV: usize = 2;
const NR: usize = 8 * NV;

impl Kernel for Avx2 {
    const MR: usize = MR;
    const NR: usize = NR;

    tile!(__m256, NV, "avx2,fma,f16c", 1 2 3 4 5 6);

    fn pack(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
        let out = &mut out[..ks.len() * NR];
        assert!(rows.len() <= NR && rows.end <= w.rows() && ks.end <= w.cols());
        let simple = w.strides()[1] == 1;
        // Full groups of 8 rows by 8 of k with vectors, the remainder without.
        let full_rows = if simple { rows.len() / 8 * 8 } else { 0 };
        let full_ks = ks.len() / 8 * 8;
        let split = (rows.start + full_rows, ks.start + full_ks);
        for group in (0..full_rows).step_by(8) {
            let pitch = w.strides()[0];
            let size = w.dtype().size();
            let base = &w.base()[((rows.start + group) * pitch + ks.start) * size..];
            if full_ks > 0 {
                assert!(base.len() >= (7 * pitch + full_ks) * size);
                let dst = &mut out[group..];
                assert!(dst.len() >= (full_ks - 1) * NR + 8);
                // SAFETY: `self` proves the features; 8 rows of `full_ks` elements, `pitch` apart, lie inside `base`,
                // and `full_ks` rows of 8 floats, NR apart, inside `dst`, by the assertions above.
                unsafe { pack(w.dtype(), base.as_ptr(), pitch, full_ks, dst.as_mut_ptr()) }
            }
        }
        pack_scalar(
            w,
            NR,
            rows.start,
            rows.start..split.0,
            split.1..ks.end,
            &mut out[full_ks * NR..],
        );
        pack_scalar(w, NR, rows.start, split.0..rows.end, ks.clone(), out);
        zero_missing(NR, rows.len(), out);
        apply_edits(w, NR, rows, ks, out);
    }

    fn pack_f32(self, src: &[f32], depth: usize, out: &mut [f32]) {
        let (src, out) = (&src[..NR * depth], &mut out[..NR * depth]);
        let full = depth / 8 * 8;
        for group in (0..NR).step_by(8) {
            let (src, out) = (&src[group * depth..], &mut out[group..]);
            if full > 0 {
                // SAFETY: `self` proves the features; 8 rows of `full <= depth` floats, `depth` apart, lie inside
                // `src`, and `full` rows of 8 floats, NR apart, inside `out`.
                unsafe {
                    pack(
                        Dtype::F32,
                        src.as_ptr().cast(),
                        depth,
                        full,
                        out.as_mut_ptr(),
                    )
                }
            }
            for (row, src) in src.chunks_exact(depth.max(1)).take(8).enumerate() {
                for (k, value) in src.iter().enumerate().skip(full) {
                    out[k * NR + row] = *value;
                }
            }
        }
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
