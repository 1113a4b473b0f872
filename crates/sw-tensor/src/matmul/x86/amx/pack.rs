//! Cutting operands into BF16 pieces, and moving sums between tiles and `y`.

use std::arch::x86_64::*;
use std::ops::Range;

use ndarray::ArrayView2;

use super::{BLOCK, PANEL, QUAD, SIDE, STEP, TILE, X_BLOCK, X_PIECES, pieces};
use crate::isa::Amx;
use crate::matmul::kernel::{Out, soon};
use crate::matmul::x86::avx512::transpose;
use crate::{Dtype, Mat};

/// BF16 values in a tile.
const VALUES: usize = 2 * TILE;

/// So many rows of weights ahead are asked for: about as many lines as can be under way.
const AHEAD: usize = 4;

/// The nearest number of 8 significant bits, and what is left. Where rounding might overflow (and for infinity and NaN)
/// the bits are cut off instead, and nothing is left of what is not finite.
///
/// Three times, a finite number is used up: what is left has 16 bits after the first, 8 after the second.
fn split(value: f32) -> (u16, f32) {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = if magnitude < HUGE {
        bits + 0x7fff + (bits >> 16 & 1)
    } else {
        bits
    };
    let piece = (rounded >> 16) as u16;
    let rest = value - f32::from_bits(u32::from(piece) << 16);
    (piece, if value.is_finite() { rest } else { 0.0 })
}

/// 2^127, as bits.
const HUGE: u32 = 0x7f00_0000;

/// [`split`] of sixteen numbers; the pieces as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split_16(value: __m512) -> (__m512, __m512) {
    let bits = _mm512_castps_si512(value);
    let magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fff_ffff));
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let moderate = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(HUGE as i32));
    let rounded = _mm512_mask_add_epi32(bits, moderate, bits, half);
    let piece = _mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32));
    let piece = _mm512_castsi512_ps(piece);
    let infinity = _mm512_set1_epi32(f32::INFINITY.to_bits() as i32);
    let finite = _mm512_cmplt_epi32_mask(magnitude, infinity);
    (piece, _mm512_maskz_sub_ps(finite, value, piece))
}

/// The upper halves of sixteen, then sixteen more, numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn upper_halves(low: __m512, high: __m512) -> __m512i {
    let order = _mm512_set_epi16(
        63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19,
        17, 15, 13, 11, 9, 7, 5, 3, 1,
    );
    _mm512_permutex2var_epi16(_mm512_castps_si512(low), order, _mm512_castps_si512(high))
}

/// At most 16 rows of at most [`BLOCK`] activations to `[step][piece][pair of terms][row]`; what is missing is zero.
///
/// # Panics
/// If there are more, columns are not adjacent, or `out` is shorter than [`X_BLOCK`].
pub(super) fn activations(_proof: Amx, x: &ArrayView2<f32>, out: &mut [f32]) {
    assert!(x.nrows() <= SIDE && x.ncols() <= BLOCK);
    let mut rows: [&[f32]; SIDE] = [&[]; SIDE];
    for (row, x) in rows.iter_mut().zip(x.rows()) {
        *row = x.to_slice().expect("adjacent columns");
    }
    let steps = out[..X_BLOCK].chunks_exact_mut(X_PIECES * TILE);
    for (step, out) in steps.enumerate().take(x.ncols().div_ceil(STEP)) {
        let rows = rows.map(|row| row.get(step * STEP..).unwrap_or_default());
        // SAFETY: `_proof` includes AVX-512.
        unsafe { activations_of_step(rows, out) };
    }
}

/// The first 32 of each row; shorter rows are filled up with zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn activations_of_step(rows: [&[f32]; SIDE], out: &mut [f32]) {
    let mut values: [[__m512; 2]; SIDE] = std::array::from_fn(|i| {
        let halves = rows[i].split_at(rows[i].len().min(STEP / 2));
        [load_f32(halves.0), load_f32(halves.1)]
    });
    for out in out.chunks_exact_mut(TILE).take(X_PIECES) {
        let tile: [__m512i; SIDE] = std::array::from_fn(|i| {
            let (low, high) = (split_16(values[i][0]), split_16(values[i][1]));
            values[i] = [low.1, high.1];
            upper_halves(low.0, high.0)
        });
        for (row, out) in transpose(tile).into_iter().zip(out.as_chunks_mut().0) {
            store(row, out);
        }
    }
}

/// The first 16 numbers, or all and zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(from: &[f32]) -> __m512 {
    let mask = ((1u32 << from.len().min(16)) - 1) as u16;
    // SAFETY: reads as many numbers as there are.
    unsafe { _mm512_maskz_loadu_ps(mask, from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(value: __m512i, to: &mut [f32; 16]) {
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), value) }
}

/// Rows `rows` and columns `ks` of `w`, overlay applied, to `[tile][step][piece][row][term]`; missing rows and terms are
/// zero, and so are edited weights that do not [`fits`].
///
/// # Panics
/// If the block is not inside `w`, larger than a panel by a block, not of 16 bits with adjacent columns, or `out` too short.
pub(super) fn weights(_proof: Amx, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
    assert!(rows.len() <= PANEL && rows.end <= w.rows());
    assert!(ks.len() <= BLOCK && ks.end <= w.cols() && w.strides()[1] == 1);
    let pieces = pieces(w.dtype());
    let out: &mut [u16] = bytemuck::cast_slice_mut(&mut out[..pieces * PANEL * BLOCK / 2]);
    // SAFETY: `_proof` includes AVX-512.
    unsafe { pack_weights(w, rows.clone(), ks.clone(), out) };
    let tile = BLOCK / STEP * pieces * VALUES; // from one tile of rows to the next
    for (row, k, value) in w.edits(rows.clone(), ks.clone()) {
        let (row, k) = (row - rows.start, k - ks.start);
        let at = row / SIDE * tile + k / STEP * pieces * VALUES + row % SIDE * STEP + k % STEP;
        let mut rest = if fits(w.dtype(), value) { value } else { 0.0 };
        for piece in 0..pieces {
            (out[at + piece * VALUES], rest) = split(rest);
        }
    }
}

/// [`weights`] without the overlay.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn pack_weights(w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [u16]) {
    let (dtype, pitch) = (w.dtype(), w.strides()[0]);
    let step = pieces(dtype) * VALUES;
    for row in 0..PANEL {
        let ahead = (rows.start + row + AHEAD) * pitch + ks.start;
        soon(w.base().as_ptr().wrapping_add(ahead * 2), ks.len() * 2);
        let out = &mut out[row / SIDE * (BLOCK / STEP) * step + row % SIDE * STEP..];
        let values = match rows.start + row {
            row if row < rows.end => &w.base()[(row * pitch + ks.start) * 2..][..ks.len() * 2],
            _ => &[],
        };
        let (whole, rest) = values.as_chunks::<{ 2 * STEP }>();
        for (values, out) in whole.iter().zip(out.chunks_mut(step)) {
            // SAFETY: 64 bytes.
            let stored = unsafe { _mm512_loadu_si512(values.as_ptr().cast()) };
            weights_of_step(dtype, stored, out);
        }
        for i in whole.len()..ks.len().div_ceil(STEP) {
            let rest = if i == whole.len() { rest } else { &[] };
            let mask = ((1u64 << (rest.len() / 2)) - 1) as u32;
            // SAFETY: reads as many values as there are.
            let stored = unsafe { _mm512_maskz_loadu_epi16(mask, rest.as_ptr().cast()) };
            weights_of_step(dtype, stored, &mut out[i * step..]);
        }
    }
}

/// The first 32 weights of a row, in pieces that are a tile apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn weights_of_step(dtype: Dtype, stored: __m512i, out: &mut [u16]) {
    let mut put = |at: usize, piece: __m512i| {
        let out: &mut [u16; STEP] = out[at..].first_chunk_mut().expect("a row of a tile");
        // SAFETY: 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), piece) }
    };
    if dtype != Dtype::F16 {
        return put(0, stored);
    }
    // No F16 is near overflow as an f32, so ties may simply go away from zero. Of what is not finite something stays so.
    let split = |value: __m512| {
        let rounded = _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x8000));
        let piece = _mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        let piece = _mm512_castsi512_ps(piece);
        (piece, _mm512_sub_ps(value, piece))
    };
    let low = split(_mm512_cvtph_ps(_mm512_castsi512_si256(stored)));
    let high = split(_mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(stored)));
    put(0, upper_halves(low.0, high.0));
    put(VALUES, upper_halves(low.1, high.1));
}

/// Whether the pieces of a weight of this type hold `value` exactly.
pub(super) fn fits(dtype: Dtype, value: f32) -> bool {
    let (_, mut rest) = split(value);
    for _ in 1..pieces(dtype) {
        (_, rest) = split(rest);
    }
    rest == 0.0 && !value.is_nan()
}

/// Adds the sums of a chain to what there is.
pub(super) fn gather(_proof: Amx, chain: &[f32; QUAD], sums: &mut [f32; QUAD]) {
    #[target_feature(enable = "avx512f")]
    fn gather(chain: &[f32; QUAD], sums: &mut [f32; QUAD]) {
        for (sum, chain) in sums.iter_mut().zip(chain) {
            *sum += chain;
        }
    }
    // SAFETY: `_proof` includes AVX-512.
    unsafe { gather(chain, sums) }
}

/// A tile of sums, turned, to the first rows and columns of `y`, as far as they fit.
///
/// # Panics
/// If `y` is larger than a tile.
pub(super) fn turn(_proof: Amx, sums: &[f32; TILE], y: &mut Out<'_>) {
    #[target_feature(enable = "avx512f")]
    fn turn(sums: &[f32; TILE], y: &mut Out<'_>) {
        let chunks = sums.as_chunks::<16>().0;
        // SAFETY: 64 bytes each.
        let rows: [__m512i; SIDE] =
            std::array::from_fn(|i| unsafe { _mm512_loadu_si512(chunks[i].as_ptr().cast()) });
        let (height, width) = (y.height(), y.width());
        for (i, row) in transpose(rows).into_iter().enumerate().take(height) {
            let out = y.row(i, width);
            match out.first_chunk_mut() {
                Some(out) => store(row, out),
                None => {
                    let mut whole = [0.0; 16];
                    store(row, &mut whole);
                    out.copy_from_slice(&whole[..width]);
                }
            }
        }
    }
    assert!(y.height() <= SIDE && y.width() <= SIDE);
    // SAFETY: `_proof` includes AVX-512.
    unsafe { turn(sums, y) }
}
