//! AVX-512: 6 x 64 tiles, 24 accumulators of the 32 registers. Taller tiles of fewer columns (8 x 48, 12 x 32, 14 x 32) need
//! more loads per multiply-add; in a loop of tiles in C on a Zen 4 they are as fast as these or up to 1 % slower.

use std::arch::x86_64::*;
use std::ops::Range;

use super::tile::tiles;
use crate::isa::Avx512;
use crate::matmul::kernel::{
    A_STRIDE, Accumulate, Kernel, Left, Lines, Out, Right, check_operands,
};
use crate::matmul::pack::Groups;
use crate::matmul::split::even_blocks;
use crate::{Dtype, Mat};

const MR: usize = 6;
/// Vectors per row of a tile.
const NV: usize = 4;
const NR: usize = 16 * NV;

impl Kernel for Avx512 {
    const MR: usize = MR;
    const NR: usize = NR;

    tiles!(__m512, NV, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", 1 2 3 4 5 6);

    fn pack(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
        self.pack_groups(w, rows, ks, out);
    }

    fn pack_f32(self, src: &[f32], pitch: usize, depth: usize, out: &mut [f32]) {
        self.pack_f32_groups(src, pitch, depth, out);
    }
}

impl Groups for Avx512 {
    const ROWS: usize = 16;

    fn step(dtype: Dtype) -> usize {
        match dtype {
            Dtype::F32 => 16,
            Dtype::F16 | Dtype::BF16 => 32,
        }
    }

    #[inline]
    fn group(self, dtype: Dtype, base: &[u8], pitch: usize, ks: usize, out: &mut [f32]) {
        assert!(ks > 0 && ks.is_multiple_of(Self::step(dtype)));
        assert!(base.len() >= ((Self::ROWS - 1) * pitch + ks) * dtype.size());
        assert!(out.len() >= (ks - 1) * NR + Self::ROWS);
        let (base, out) = (base.as_ptr(), out.as_mut_ptr());
        // SAFETY: `self` proves the features; 16 rows of `ks` elements, `pitch` apart, lie inside `base`, and `ks` rows of 16
        // floats, NR apart, inside `out`, by the assertions above.
        unsafe {
            match dtype {
                Dtype::F32 => pack_f32(base, pitch, ks, out),
                Dtype::F16 => pack_f16(base, pitch, ks, out),
                Dtype::BF16 => pack_bf16(base, pitch, ks, out),
            }
        }
    }
}

/// Asks for a line in the second-level cache.
#[inline]
pub(in crate::matmul) fn prefetch_l2(at: *const u8) {
    // SAFETY: a prefetch is a hint that neither reads architecturally nor faults, for any address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// 16 rows of 16 units of 32 bits, transposed.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    let (mut s, mut out) = ([zero; 16], [zero; 16]);
    for i in (0..16).step_by(4) {
        let (a, b) = (
            _mm512_unpacklo_epi32(r[i], r[i + 1]),
            _mm512_unpackhi_epi32(r[i], r[i + 1]),
        );
        let (c, d) = (
            _mm512_unpacklo_epi32(r[i + 2], r[i + 3]),
            _mm512_unpackhi_epi32(r[i + 2], r[i + 3]),
        );
        s[i] = _mm512_unpacklo_epi64(a, c);
        s[i + 1] = _mm512_unpackhi_epi64(a, c);
        s[i + 2] = _mm512_unpacklo_epi64(b, d);
        s[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // Now lane L of s[4 g + j] holds column 4 L + j of rows 4 g .. 4 g + 4.
    for j in 0..4 {
        let (a, b) = (
            _mm512_shuffle_i32x4::<0x88>(s[j], s[4 + j]),
            _mm512_shuffle_i32x4::<0xdd>(s[j], s[4 + j]),
        );
        let (c, d) = (
            _mm512_shuffle_i32x4::<0x88>(s[8 + j], s[12 + j]),
            _mm512_shuffle_i32x4::<0xdd>(s[8 + j], s[12 + j]),
        );
        out[j] = _mm512_shuffle_i32x4::<0x88>(a, c);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(a, c);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(b, d);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(b, d);
    }
    out
}

/// The transpose of 16 rows of 16 numbers, `pitch` apart.
///
/// # Panics
/// If there are fewer than 16 rows.
#[inline(always)]
pub(in crate::matmul) fn transpose_square(
    _proof: Avx512,
    square: &[u32],
    pitch: usize,
) -> [[u32; 16]; 16] {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn turn(square: *const u32, pitch: usize, turned: &mut [[u32; 16]; 16]) {
        // SAFETY: the caller vouches for the rows.
        let rows = unsafe { load(square.cast(), pitch * size_of::<u32>()) };
        for (row, turned) in turned.iter_mut().zip(transpose(rows)) {
            // SAFETY: 64 bytes.
            unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), turned) }
        }
    }
    assert!(square.len() >= 15 * pitch + 16);
    let mut turned = [[0; 16]; 16];
    // SAFETY: `_proof` is the proof of AVX-512; the rows are there.
    unsafe { turn(square.as_ptr(), pitch, &mut turned) }
    turned
}

/// Adds the 16 lanes of each sum in the order of [`tree`](crate::sum::tree), as many sums at a time as a vector has lanes; returns how many sums
/// are done, which are all but the last few.
pub(super) fn add_lanes(_proof: Avx512, lanes: &[f32], sums: &mut [f32]) -> usize {
    #[target_feature(enable = "avx512f")]
    fn add(lanes: &[f32; 256], sums: &mut [f32; 16]) {
        // SAFETY: `lanes` has 16 rows of 64 bytes, and `sums` 64 bytes.
        unsafe {
            let of_lane = transpose(load(lanes.as_ptr().cast(), 64));
            // As in `tree`, whose closures would be calls here.
            let mut parts = [_mm512_setzero_ps(); 16];
            for (part, lane) in parts.iter_mut().zip(of_lane) {
                *part = _mm512_castsi512_ps(lane);
            }
            for width in [8, 4, 2, 1] {
                for i in 0..width {
                    parts[i] = _mm512_add_ps(parts[i], parts[i + width]);
                }
            }
            _mm512_storeu_ps(sums.as_mut_ptr(), parts[0]);
        }
    }
    let of_16 = sums.as_chunks_mut().0;
    for (sums, lanes) in of_16.iter_mut().zip(lanes.as_chunks().0) {
        // SAFETY: `_proof` is the proof of AVX-512.
        unsafe { add(lanes, sums) }
    }
    16 * of_16.len().min(lanes.len() / 256)
}

/// # Safety
/// `src` readable for 16 rows, `pitch` bytes apart, of 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load(src: *const u8, pitch: usize) -> [__m512i; 16] {
    let mut rows = [_mm512_setzero_si512(); 16];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: inside the block that the caller guarantees; the load needs no alignment.
        *row = unsafe { _mm512_loadu_si512(src.add(i * pitch).cast()) };
    }
    rows
}

/// # Safety
/// AVX-512; `src` readable for 16 rows of `ks` elements, `pitch` elements apart; `dst` writable for `ks` rows of 16
/// floats, NR apart; `ks` a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn pack_f32(src: *const u8, pitch: usize, ks: usize, dst: *mut f32) {
    for k in (0..ks).step_by(16) {
        // SAFETY: the block [16 rows, 16 elements] is inside `src`, its transpose inside `dst`.
        unsafe {
            let columns = transpose(load(src.add(k * 4), pitch * 4));
            for (i, column) in columns.into_iter().enumerate() {
                _mm512_storeu_si512(dst.add((k + i) * NR).cast(), column);
            }
        }
    }
}

/// # Safety
/// As [`pack_f32`], `ks` a multiple of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn pack_bf16(src: *const u8, pitch: usize, ks: usize, dst: *mut f32) {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    for k in (0..ks).step_by(32) {
        // SAFETY: the block [16 rows, 32 elements] is inside `src`, its transpose inside `dst`.
        unsafe {
            // Pairs (k, k + 1) travel as one unit; a BF16 is the upper half of its f32.
            let pairs = transpose(load(src.add(k * 2), pitch * 2));
            for (i, pair) in pairs.into_iter().enumerate() {
                let dst = dst.add((k + 2 * i) * NR);
                _mm512_storeu_si512(dst.cast(), _mm512_slli_epi32::<16>(pair));
                _mm512_storeu_si512(dst.add(NR).cast(), _mm512_and_si512(pair, upper));
            }
        }
    }
}

/// # Safety
/// As [`pack_f32`], `ks` a multiple of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn pack_f16(src: *const u8, pitch: usize, ks: usize, dst: *mut f32) {
    // Even halves first, then odd ones.
    let order = _mm512_set_epi16(
        31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24, 22, 20, 18, 16,
        14, 12, 10, 8, 6, 4, 2, 0,
    );
    for k in (0..ks).step_by(32) {
        // SAFETY: the block [16 rows, 32 elements] is inside `src`, its transpose inside `dst`.
        unsafe {
            let pairs = transpose(load(src.add(k * 2), pitch * 2));
            for (i, pair) in pairs.into_iter().enumerate() {
                let dst = dst.add((k + 2 * i) * NR);
                let halves = _mm512_permutexvar_epi16(order, pair);
                _mm512_storeu_ps(dst, _mm512_cvtph_ps(_mm512_castsi512_si256(halves)));
                _mm512_storeu_ps(
                    dst.add(NR),
                    _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)),
                );
            }
        }
    }
}
