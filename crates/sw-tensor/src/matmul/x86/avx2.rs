//! AVX2 with FMA and F16C: 6 x 16 tiles, 12 accumulators of the 16 registers.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::isa::Avx2;
use crate::matmul::K_BLOCK;
use crate::matmul::kernel::{A_STRIDE, Into, Kernel, LINE, Left, Lines, Out, Right, check_tile};
use crate::matmul::pack::{apply_edits, pack_scalar, zero_missing};
use crate::{Dtype, Mat};

const MR: usize = 6;
const NR: usize = 16;
/// Terms per turn of the loop, each turn of which asks for lines.
const UNROLLED: usize = K_BLOCK / Lines::COUNT;

impl Kernel for Avx2 {
    const MR: usize = MR;
    const NR: usize = NR;

    #[inline]
    fn tile(self, a: Left<'_>, b: Right<'_>, mut c: Out<'_>, into: Into) {
        check_tile::<Self>(a, b);
        let c = c.place(a.rows, NR);
        macro_rules! heights {
            ($($m:literal)*) => {
                match (a.rows, b.stride) {
                    // SAFETY: `self` proves the features; `check_tile` and `place` have checked that all three
                    // operands are large enough for this height and depth, and `c` is lent mutably.
                    $(($m, NR) => unsafe { tile::<$m, true>(a, b, c, into) },)*
                    // SAFETY: as above. (A distance of rows that is known saves instructions.)
                    $(($m, _) => unsafe { tile::<$m, false>(a, b, c, into) },)*
                    _ => unreachable!("checked above"),
                }
            };
        }
        heights!(1 2 3 4 5 6)
    }

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

/// # Safety
/// AVX2 and FMA; `a` of M rows, `b` of as many as its depth, NR apart if DENSE, both long enough ([`check_tile`]); `c`, a place and
/// the floats from row to row, readable and writable for M rows of NR, and disjoint from both.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const M: usize, const DENSE: bool>(
    left: Left<'_>,
    right: Right<'_>,
    (c, c_stride): (*mut f32, isize),
    into: Into,
) {
    let mut acc = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: every address below is inside the three operands, as the caller guarantees, or only prefetched.
    unsafe {
        for (i, acc) in acc.iter_mut().enumerate() {
            let c = c.offset(i as isize * c_stride);
            match into {
                Into::Chain => *acc = [_mm256_loadu_ps(c), _mm256_loadu_ps(c.add(8))],
                Into::Add | Into::Store => _mm_prefetch::<_MM_HINT_T0>(c.cast()),
            }
        }
        let (mut a, mut b) = (left.data.as_ptr(), right.data.as_ptr());
        let b_stride = if DENSE { NR } else { right.stride };
        let step = |acc: &mut [[__m256; 2]; M], a: *const f32, b: *const f32| {
            let b0 = _mm256_loadu_ps(b);
            let b1 = _mm256_loadu_ps(b.add(8));
            for (i, acc) in acc.iter_mut().enumerate() {
                let a = _mm256_set1_ps(*a.add(i * A_STRIDE));
                acc[0] = _mm256_fmadd_ps(a, b0, acc[0]);
                acc[1] = _mm256_fmadd_ps(a, b1, acc[1]);
            }
        };
        // The first-level cache is small: the rows that most likely come next are called into it.
        let next = a.wrapping_add(M * A_STRIDE);
        let per_turn = (M * A_STRIDE * size_of::<f32>()).div_ceil(Lines::COUNT * LINE);
        let mut line = left.ahead.at;
        for turn in 0..left.depth / UNROLLED {
            _mm_prefetch::<_MM_HINT_T1>(line.cast());
            line = line.wrapping_add(left.ahead.pitch);
            for i in 0..per_turn {
                let at = next.cast::<i8>().wrapping_add((turn * per_turn + i) * LINE);
                _mm_prefetch::<_MM_HINT_T0>(at);
            }
            for i in 0..UNROLLED {
                step(&mut acc, a.add(i), b.wrapping_add(i * b_stride));
            }
            a = a.add(UNROLLED);
            b = b.wrapping_add(UNROLLED * b_stride);
        }
        for _ in 0..left.depth % UNROLLED {
            step(&mut acc, a, b);
            a = a.add(1);
            b = b.wrapping_add(b_stride);
        }
        for (i, acc) in acc.iter().enumerate() {
            let c = c.offset(i as isize * c_stride);
            let [mut lo, mut hi] = *acc;
            if into == Into::Add {
                lo = _mm256_add_ps(_mm256_loadu_ps(c), lo);
                hi = _mm256_add_ps(_mm256_loadu_ps(c.add(8)), hi);
            }
            _mm256_storeu_ps(c, lo);
            _mm256_storeu_ps(c.add(8), hi);
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
