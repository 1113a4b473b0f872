//! From blocks to numbers. The order of operations is that of the `gguf` Python package, and so is every bit.

use std::ops::Range;

use half::f16;

use super::Coding;
use crate::isa::{Isa, Work};

/// Part of a row of blocks as f32: columns `cols` of the row that `row` holds.
///
/// # Panics
/// If the columns are not inside the row, or `out` is not as long as they are many.
pub(crate) fn decode(coding: Coding, row: &[u8], cols: Range<usize>, out: &mut [f32]) {
    assert_eq!(cols.len(), out.len(), "buffer for columns {cols:?}");
    Isa::current().run(BlockRow {
        coding,
        row,
        cols,
        out,
    });
}

struct BlockRow<'a> {
    coding: Coding,
    row: &'a [u8],
    cols: Range<usize>,
    out: &'a mut [f32],
}

impl Work for BlockRow<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        match self.coding {
            Coding::F32 => self.numbers(f32::from_le_bytes),
            Coding::F16 => self.numbers(|b| f16::from_le_bytes(b).to_f32()),
            Coding::BF16 => {
                self.numbers(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            }
            Coding::Q4_0 => self.pieces::<Q4_0, 18, 32>(),
            Coding::Q4_1 => self.pieces::<Q4_1, 20, 32>(),
            Coding::Q5_0 => self.pieces::<Q5_0, 22, 32>(),
            Coding::Q5_1 => self.pieces::<Q5_1, 24, 32>(),
            Coding::Q8_0 => self.pieces::<Q8_0, 34, 32>(),
            Coding::Q2_K => self.pieces::<Q2K, 84, 128>(),
            Coding::Q3_K => self.pieces::<Q3K, 110, 128>(),
            Coding::Q4_K => self.pieces::<Q4K, 144, 128>(),
            Coding::Q5_K => self.pieces::<Q5K, 176, 128>(),
            Coding::Q6_K => self.pieces::<Q6K, 210, 128>(),
            Coding::IQ4_NL => self.pieces::<Iq4Nl, 18, 32>(),
            Coding::IQ4_XS => self.pieces::<Iq4Xs, 136, 128>(),
        }
    }
}

/// Blocks of `BYTES`, decoded in pieces of `PIECE` weights: one piece of 32, or two of 128.
///
/// A trait and not a closure: the compiler carries the instruction set of [`Isa::run`] into a function that is always
/// inlined, but not into one that is passed as a value.
trait Pieces<const BYTES: usize, const PIECE: usize> {
    /// Piece `part` of a block.
    fn decode(block: &[u8; BYTES], part: usize, out: &mut [f32; PIECE]);
}

impl BlockRow<'_> {
    #[inline(always)]
    fn numbers<const BYTES: usize>(self, number: impl Fn([u8; BYTES]) -> f32) {
        let row = &self.row.as_chunks::<BYTES>().0[self.cols];
        for (out, bytes) in self.out.iter_mut().zip(row) {
            *out = number(*bytes);
        }
    }

    /// Columns of a row of blocks.
    #[inline(always)]
    fn pieces<P: Pieces<BYTES, PIECE>, const BYTES: usize, const PIECE: usize>(self) {
        let blocks = self.row.as_chunks::<BYTES>().0;
        let per_block = self.coding.block_len() / PIECE;
        let (mut col, mut rest) = (self.cols.start, self.out);
        while !rest.is_empty() {
            let (piece, from) = (col / PIECE, col % PIECE);
            let (block, part) = (&blocks[piece / per_block], piece % per_block);
            let n = rest.len().min(PIECE - from);
            let (out, after) = rest.split_at_mut(n);
            if let Ok(out) = <&mut [f32; PIECE]>::try_from(&mut *out) {
                P::decode(block, part, out);
            } else {
                part_of_piece::<P, BYTES, PIECE>(block, part, from, out);
            }
            (col, rest) = (col + n, after);
        }
    }
}

/// Weights of a piece from number `from` on.
#[inline(never)]
fn part_of_piece<P: Pieces<BYTES, PIECE>, const BYTES: usize, const PIECE: usize>(
    block: &[u8; BYTES],
    part: usize,
    from: usize,
    out: &mut [f32],
) {
    let mut whole = [0.0; PIECE];
    P::decode(block, part, &mut whole);
    out.copy_from_slice(&whole[from..from + out.len()]);
}

/// The half-precision number at `at`.
#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `N` bytes from `at` on.
#[inline(always)]
fn bytes<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..]
        .first_chunk()
        .expect("blocks are as long as their layout")
}

struct Q4_0;

impl Pieces<18, 32> for Q4_0 {
    #[inline(always)]
    fn decode(block: &[u8; 18], _: usize, out: &mut [f32; 32]) {
        let (d, qs) = (half(block, 0), bytes::<16>(block, 2));
        for i in 0..16 {
            out[i] = d * f32::from((qs[i] & 15) as i8 - 8);
            out[i + 16] = d * f32::from((qs[i] >> 4) as i8 - 8);
        }
    }
}

struct Q4_1;

impl Pieces<20, 32> for Q4_1 {
    #[inline(always)]
    fn decode(block: &[u8; 20], _: usize, out: &mut [f32; 32]) {
        let (d, min, qs) = (half(block, 0), half(block, 2), bytes::<16>(block, 4));
        for i in 0..16 {
            out[i] = d * f32::from(qs[i] & 15) + min;
            out[i + 16] = d * f32::from(qs[i] >> 4) + min;
        }
    }
}

/// The fifth bits of 32 codes, of each its number's bit, where they belong.
#[inline(always)]
fn fifth_bits(block: &[u8], at: usize) -> [u8; 32] {
    let bits = u32::from_le_bytes(*bytes::<4>(block, at));
    std::array::from_fn(|i| ((bits >> i & 1) << 4) as u8)
}

struct Q5_0;

impl Pieces<22, 32> for Q5_0 {
    #[inline(always)]
    fn decode(block: &[u8; 22], _: usize, out: &mut [f32; 32]) {
        let (d, high, qs) = (half(block, 0), fifth_bits(block, 2), bytes::<16>(block, 6));
        for i in 0..16 {
            out[i] = d * f32::from((qs[i] & 15 | high[i]) as i8 - 16);
            out[i + 16] = d * f32::from((qs[i] >> 4 | high[i + 16]) as i8 - 16);
        }
    }
}

struct Q5_1;

impl Pieces<24, 32> for Q5_1 {
    #[inline(always)]
    fn decode(block: &[u8; 24], _: usize, out: &mut [f32; 32]) {
        let (d, min, qs) = (half(block, 0), half(block, 2), bytes::<16>(block, 8));
        let high = fifth_bits(block, 4);
        for i in 0..16 {
            out[i] = d * f32::from(qs[i] & 15 | high[i]) + min;
            out[i + 16] = d * f32::from(qs[i] >> 4 | high[i + 16]) + min;
        }
    }
}

struct Q8_0;

impl Pieces<34, 32> for Q8_0 {
    #[inline(always)]
    fn decode(block: &[u8; 34], _: usize, out: &mut [f32; 32]) {
        let (d, qs) = (half(block, 0), bytes::<32>(block, 2));
        for i in 0..32 {
            out[i] = f32::from(qs[i] as i8) * d;
        }
    }
}

/// `[scales 16][codes 64][d][dmin]`; a scale is 4 bits, and above it 4 bits of minimum.
struct Q2K;

impl Pieces<84, 128> for Q2K {
    #[inline(always)]
    fn decode(block: &[u8; 84], part: usize, out: &mut [f32; 128]) {
        let (d, dmin) = (half(block, 80), half(block, 82));
        let (scales, qs) = (
            bytes::<8>(block, 8 * part),
            bytes::<32>(block, 16 + 32 * part),
        );
        for shift in 0..4 {
            for i in 0..32 {
                let scale = scales[2 * shift + i / 16];
                let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
                out[32 * shift + i] = dl * f32::from(qs[i] >> (2 * shift) & 3) - ml;
            }
        }
    }
}

/// `[high bits 32][codes 64][scales 12][d]`; a code whose high bit is not set is 4 less.
struct Q3K;

impl Pieces<110, 128> for Q3K {
    #[inline(always)]
    fn decode(block: &[u8; 110], part: usize, out: &mut [f32; 128]) {
        let (d, scales) = (half(block, 108), bytes::<12>(block, 96));
        let (high, qs) = (bytes::<32>(block, 0), bytes::<32>(block, 32 + 32 * part));
        for shift in 0..4 {
            for i in 0..32 {
                let k = 8 * part + 2 * shift + i / 16;
                let low = scales[k % 8] >> (4 * (k / 8)) & 15;
                let scale = low | (scales[8 + k % 4] >> (2 * (k / 4)) & 3) << 4;
                let dl = d * f32::from(scale as i8 - 32);
                let less = (high[i] >> (4 * part + shift) & 1 ^ 1) << 2;
                let code = (qs[i] >> (2 * shift) & 3) as i8 - less as i8;
                out[32 * shift + i] = dl * f32::from(code);
            }
        }
    }
}

/// Scale and minimum `k` of 8, of 6 bits each, in 12 bytes.
#[inline(always)]
fn scale_and_min(scales: &[u8; 12], k: usize) -> [f32; 2] {
    let [scale, min] = match k {
        0..4 => [scales[k] & 63, scales[k + 4] & 63],
        _ => [
            scales[k + 4] & 15 | scales[k - 4] >> 2 & 0x30,
            scales[k + 4] >> 4 | scales[k] >> 2 & 0x30,
        ],
    };
    [f32::from(scale), f32::from(min)]
}

/// `[d][dmin][scales 12][codes 128]`.
struct Q4K;

impl Pieces<144, 128> for Q4K {
    #[inline(always)]
    fn decode(block: &[u8; 144], part: usize, out: &mut [f32; 128]) {
        let (d, dmin, scales) = (half(block, 0), half(block, 2), bytes::<12>(block, 4));
        let qs = bytes::<64>(block, 16 + 64 * part);
        for k in 0..4 {
            let [scale, min] = scale_and_min(scales, 4 * part + k);
            let (dl, ml) = (d * scale, dmin * min);
            for i in 0..32 {
                let code = qs[32 * (k / 2) + i] >> (4 * (k % 2)) & 15;
                out[32 * k + i] = dl * f32::from(code) - ml;
            }
        }
    }
}

/// `[d][dmin][scales 12][high bits 32][codes 128]`.
struct Q5K;

impl Pieces<176, 128> for Q5K {
    #[inline(always)]
    fn decode(block: &[u8; 176], part: usize, out: &mut [f32; 128]) {
        let (d, dmin, scales) = (half(block, 0), half(block, 2), bytes::<12>(block, 4));
        let (high, qs) = (bytes::<32>(block, 16), bytes::<64>(block, 48 + 64 * part));
        for k in 0..4 {
            let [scale, min] = scale_and_min(scales, 4 * part + k);
            let (dl, ml) = (d * scale, dmin * min);
            for i in 0..32 {
                let low = qs[32 * (k / 2) + i] >> (4 * (k % 2)) & 15;
                let code = low | (high[i] >> (4 * part + k) & 1) << 4;
                out[32 * k + i] = dl * f32::from(code) - ml;
            }
        }
    }
}

/// `[codes 128][high bits 64][scales 16][d]`.
struct Q6K;

impl Pieces<210, 128> for Q6K {
    #[inline(always)]
    fn decode(block: &[u8; 210], part: usize, out: &mut [f32; 128]) {
        let (d, scales) = (half(block, 208), bytes::<8>(block, 192 + 8 * part));
        let (qs, high) = (
            bytes::<64>(block, 64 * part),
            bytes::<32>(block, 128 + 32 * part),
        );
        for k in 0..4 {
            for i in 0..32 {
                let dl = d * f32::from(scales[2 * k + i / 16] as i8);
                let low = qs[32 * (k % 2) + i] >> (4 * (k / 2)) & 15;
                let code = (low | (high[i] >> (2 * k) & 3) << 4) as i8 - 32;
                out[32 * k + i] = dl * f32::from(code);
            }
        }
    }
}

/// The levels of the IQ4 types.
const LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// 32 codes of 4 bits as levels times `d`: low halves of the bytes first. The levels are looked up as bytes, since vectors
/// would gather floats one by one.
#[inline(always)]
fn levels(d: f32, qs: &[u8; 16], out: &mut [f32; 32]) {
    let mut levels = [0; 32];
    for i in 0..16 {
        levels[i] = LEVELS[usize::from(qs[i] & 15)];
        levels[i + 16] = LEVELS[usize::from(qs[i] >> 4)];
    }
    for i in 0..32 {
        out[i] = d * f32::from(levels[i]);
    }
}

struct Iq4Nl;

impl Pieces<18, 32> for Iq4Nl {
    #[inline(always)]
    fn decode(block: &[u8; 18], _: usize, out: &mut [f32; 32]) {
        levels(half(block, 0), bytes(block, 2), out);
    }
}

/// `[d][high bits of scales 2][low bits of scales 4][codes 128]`.
struct Iq4Xs;

impl Pieces<136, 128> for Iq4Xs {
    #[inline(always)]
    fn decode(block: &[u8; 136], part: usize, out: &mut [f32; 128]) {
        let (d, high) = (half(block, 0), u16::from_le_bytes(*bytes(block, 2)));
        let low = bytes::<4>(block, 4);
        for (k, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            let b = 4 * part + k;
            let scale = low[b / 2] >> (4 * (b % 2)) & 15 | ((high >> (2 * b) & 3) << 4) as u8;
            levels(
                d * f32::from(scale as i8 - 32),
                bytes(block, 8 + 16 * b),
                out,
            );
        }
    }
}
