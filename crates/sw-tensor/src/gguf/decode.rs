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
    Isa::current().run(Part {
        coding,
        row,
        cols,
        out,
    });
}

struct Part<'a> {
    coding: Coding,
    row: &'a [u8],
    cols: Range<usize>,
    out: &'a mut [f32],
}

impl Work for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        match self.coding {
            Coding::F32 => self.numbers(f32::from_le_bytes),
            Coding::F16 => self.numbers(|b| f16::from_le_bytes(b).to_f32()),
            Coding::BF16 => {
                self.numbers(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            }
            Coding::Q4_0 => self.pieces::<18, 32>(1, q4_0),
            Coding::Q4_1 => self.pieces::<20, 32>(1, q4_1),
            Coding::Q5_0 => self.pieces::<22, 32>(1, q5_0),
            Coding::Q5_1 => self.pieces::<24, 32>(1, q5_1),
            Coding::Q8_0 => self.pieces::<34, 32>(1, q8_0),
            Coding::Q2_K => self.pieces::<84, 128>(2, q2_k),
            Coding::Q3_K => self.pieces::<110, 128>(2, q3_k),
            Coding::Q4_K => self.pieces::<144, 128>(2, q4_k),
            Coding::Q5_K => self.pieces::<176, 128>(2, q5_k),
            Coding::Q6_K => self.pieces::<210, 128>(2, q6_k),
            Coding::IQ4_NL => self.pieces::<18, 32>(1, iq4_nl),
            Coding::IQ4_XS => self.pieces::<136, 128>(2, iq4_xs),
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn numbers<const BYTES: usize>(self, number: impl Fn([u8; BYTES]) -> f32) {
        let row = &self.row.as_chunks::<BYTES>().0[self.cols];
        for (out, bytes) in self.out.iter_mut().zip(row) {
            *out = number(*bytes);
        }
    }

    /// Columns of blocks of `BYTES`, each of which is decoded in `per_block` pieces of `PIECE` weights.
    #[inline(always)]
    fn pieces<const BYTES: usize, const PIECE: usize>(
        self,
        per_block: usize,
        decode: impl Fn(&[u8; BYTES], usize, &mut [f32; PIECE]),
    ) {
        let blocks = self.row.as_chunks::<BYTES>().0;
        let (mut col, mut rest) = (self.cols.start, self.out);
        while !rest.is_empty() {
            let (piece, from) = (col / PIECE, col % PIECE);
            let (block, part) = (&blocks[piece / per_block], piece % per_block);
            let n = rest.len().min(PIECE - from);
            let (out, after) = rest.split_at_mut(n);
            if let Ok(out) = <&mut [f32; PIECE]>::try_from(&mut *out) {
                decode(block, part, out);
            } else {
                let mut whole = [0.0; PIECE];
                decode(block, part, &mut whole);
                out.copy_from_slice(&whole[from..from + n]);
            }
            (col, rest) = (col + n, after);
        }
    }
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

#[inline(always)]
fn q4_0(block: &[u8; 18], _: usize, out: &mut [f32; 32]) {
    let (d, qs) = (half(block, 0), bytes::<16>(block, 2));
    for i in 0..16 {
        out[i] = d * f32::from((qs[i] & 15) as i8 - 8);
        out[i + 16] = d * f32::from((qs[i] >> 4) as i8 - 8);
    }
}

#[inline(always)]
fn q4_1(block: &[u8; 20], _: usize, out: &mut [f32; 32]) {
    let (d, min, qs) = (half(block, 0), half(block, 2), bytes::<16>(block, 4));
    for i in 0..16 {
        out[i] = d * f32::from(qs[i] & 15) + min;
        out[i + 16] = d * f32::from(qs[i] >> 4) + min;
    }
}

/// The fifth bits of 32 codes, of each its number's bit, where they belong.
#[inline(always)]
fn fifth_bits(block: &[u8], at: usize) -> [u8; 32] {
    let bits = u32::from_le_bytes(*bytes::<4>(block, at));
    std::array::from_fn(|i| ((bits >> i & 1) << 4) as u8)
}

#[inline(always)]
fn q5_0(block: &[u8; 22], _: usize, out: &mut [f32; 32]) {
    let (d, high, qs) = (half(block, 0), fifth_bits(block, 2), bytes::<16>(block, 6));
    for i in 0..16 {
        out[i] = d * f32::from((qs[i] & 15 | high[i]) as i8 - 16);
        out[i + 16] = d * f32::from((qs[i] >> 4 | high[i + 16]) as i8 - 16);
    }
}

#[inline(always)]
fn q5_1(block: &[u8; 24], _: usize, out: &mut [f32; 32]) {
    let (d, min, qs) = (half(block, 0), half(block, 2), bytes::<16>(block, 8));
    let high = fifth_bits(block, 4);
    for i in 0..16 {
        out[i] = d * f32::from(qs[i] & 15 | high[i]) + min;
        out[i + 16] = d * f32::from(qs[i] >> 4 | high[i + 16]) + min;
    }
}

#[inline(always)]
fn q8_0(block: &[u8; 34], _: usize, out: &mut [f32; 32]) {
    let (d, qs) = (half(block, 0), bytes::<32>(block, 2));
    for i in 0..32 {
        out[i] = f32::from(qs[i] as i8) * d;
    }
}

/// `[scales 16][codes 64][d][dmin]`; a scale is 4 bits, and above it 4 bits of minimum.
#[inline(always)]
fn q2_k(block: &[u8; 84], part: usize, out: &mut [f32; 128]) {
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

/// `[high bits 32][codes 64][scales 12][d]`; a code whose high bit is not set is 4 less.
#[inline(always)]
fn q3_k(block: &[u8; 110], part: usize, out: &mut [f32; 128]) {
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
#[inline(always)]
fn q4_k(block: &[u8; 144], part: usize, out: &mut [f32; 128]) {
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

/// `[d][dmin][scales 12][high bits 32][codes 128]`.
#[inline(always)]
fn q5_k(block: &[u8; 176], part: usize, out: &mut [f32; 128]) {
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

/// `[codes 128][high bits 64][scales 16][d]`.
#[inline(always)]
fn q6_k(block: &[u8; 210], part: usize, out: &mut [f32; 128]) {
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

/// The levels of the IQ4 types.
const LEVELS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

#[inline(always)]
fn iq4_nl(block: &[u8; 18], _: usize, out: &mut [f32; 32]) {
    let (d, qs) = (half(block, 0), bytes::<16>(block, 2));
    for i in 0..16 {
        out[i] = d * LEVELS[usize::from(qs[i] & 15)];
        out[i + 16] = d * LEVELS[usize::from(qs[i] >> 4)];
    }
}

/// `[d][high bits of scales 2][low bits of scales 4][codes 128]`.
#[inline(always)]
fn iq4_xs(block: &[u8; 136], part: usize, out: &mut [f32; 128]) {
    let (d, high) = (half(block, 0), u16::from_le_bytes(*bytes(block, 2)));
    let (low, qs) = (bytes::<4>(block, 4), bytes::<64>(block, 8 + 64 * part));
    for k in 0..4 {
        let b = 4 * part + k;
        let scale = low[b / 2] >> (4 * (b % 2)) & 15 | ((high >> (2 * b) & 3) << 4) as u8;
        let dl = d * f32::from(scale as i8 - 32);
        for i in 0..16 {
            let code = qs[16 * k + i];
            out[32 * k + i] = dl * LEVELS[usize::from(code & 15)];
            out[32 * k + i + 16] = dl * LEVELS[usize::from(code >> 4)];
        }
    }
}
