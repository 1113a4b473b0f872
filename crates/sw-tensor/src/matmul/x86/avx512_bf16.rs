//! AVX-512 BF16: the tiles of AVX-512 with pairs of BF16 in the place of single floats, twice the terms in the same loop.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::{load, transpose};
use super::tile::tiles;
use super::vector::Pairs;
use crate::isa::{Avx512, Avx512Bf16, Isa};
use crate::matmul::kernel::{
    A_STRIDE, Accumulate, Kernel, Left, Lines, Out, Right, check_operands, with_scratch,
};
use crate::matmul::pack::zero_missing;
use crate::matmul::precision::{self, pair, round};
use crate::matmul::split::even_blocks;
use crate::{Dtype, Mat};

const MR: usize = Avx512::MR;
/// Vectors per row of a tile.
const NV: usize = 4;
const NR: usize = 16 * NV;
/// Rows of weights that are transposed together, and columns.
const SQUARE: [usize; 2] = [16, 32];

impl Kernel for Avx512Bf16 {
    const MR: usize = MR;
    const NR: usize = NR;
    const TERMS: usize = 2;

    tiles!(Pairs, NV, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16", 1 2 3 4 5 6);

    fn pack(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
        let out = &mut out[..ks.len().div_ceil(2) * NR];
        let [pitch, step] = w.strides();
        let is_whole = rows.len().is_multiple_of(SQUARE[0]) && ks.len().is_multiple_of(SQUARE[1]);
        if w.dtype() != Dtype::BF16 || w.is_blocks() || step != 1 || !is_whole {
            return self.pack_others(w, rows, ks, out);
        }
        assert!(rows.len() <= NR && rows.end <= w.rows() && ks.end <= w.cols());
        for group in (0..rows.len()).step_by(SQUARE[0]) {
            let start = (rows.start + group) * pitch + ks.start;
            let base = &w.base()[start * Dtype::BF16.size()..];
            self.group(base, pitch, ks.len(), &mut out[group..]);
        }
        zero_missing(NR, rows.len(), out);
        for (row, k, value) in w.edits(rows.clone(), ks.clone()) {
            let unit = &mut out[(k - ks.start) / 2 * NR + row - rows.start];
            let upper = f32::from_bits(unit.to_bits() << 16);
            *unit = match (k - ks.start).is_multiple_of(2) {
                true => pair(round(value), *unit),
                false => pair(upper, round(value)),
            };
        }
    }

    fn lay(self, row: &[f32], out: &mut [f32]) {
        let out = &mut out[..row.len().div_ceil(2)];
        Isa::Avx512(self.avx512()).run(precision::Pairs { row, out });
    }
}

impl Avx512Bf16 {
    /// [`Kernel::pack`] of anything: widened first, then rounded.
    fn pack_others(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
        let depth = ks.len();
        with_scratch([depth * NR], |[wide]| {
            self.avx512().pack(w, rows, ks, wide);
            let lines = wide[..depth * NR].chunks(2 * NR);
            Isa::Avx512(self.avx512()).run(|| {
                for (out, lines) in out.chunks_exact_mut(NR).zip(lines) {
                    let (first, second) = lines.split_at(NR);
                    for (i, out) in out.iter_mut().enumerate() {
                        let second = second.get(i).copied().unwrap_or(0.0);
                        *out = pair(round(first[i]), round(second));
                    }
                }
            });
        });
    }

    /// 16 rows of `ks` elements, a positive multiple of 32, transposed pair by pair: rows lie `pitch` elements apart in `base`,
    /// and columns of pairs NR units apart in `out`.
    #[inline]
    fn group(self, base: &[u8], pitch: usize, ks: usize, out: &mut [f32]) {
        assert!(ks > 0 && ks.is_multiple_of(SQUARE[1]));
        assert!(base.len() >= ((SQUARE[0] - 1) * pitch + ks) * Dtype::BF16.size());
        assert!(out.len() >= (ks / 2 - 1) * NR + SQUARE[0]);
        // SAFETY: `self` proves the features; 16 rows of `ks` elements, `pitch` apart, lie inside `base`, and `ks / 2` rows of 16
        // units, NR apart, inside `out`, by the assertions above.
        unsafe { pack_pairs(base.as_ptr(), pitch, ks, out.as_mut_ptr()) }
    }
}

/// # Safety
/// AVX-512; `src` readable for 16 rows of `ks` elements, `pitch` elements apart; `dst` writable for `ks / 2` rows of 16 units, NR
/// apart; `ks` a multiple of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn pack_pairs(src: *const u8, pitch: usize, ks: usize, dst: *mut f32) {
    for k in (0..ks).step_by(32) {
        // SAFETY: the block [16 rows, 32 elements] is inside `src`, its transpose inside `dst`.
        unsafe {
            let pairs = transpose(load(src.add(k * 2), pitch * 2));
            for (i, pair) in pairs.into_iter().enumerate() {
                _mm512_storeu_si512(dst.add((k / 2 + i) * NR).cast(), pair);
            }
        }
    }
}
