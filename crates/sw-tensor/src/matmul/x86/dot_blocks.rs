//! AVX-512 for few rows and weights in Q4_K or Q6_K, which become f32 in registers, between the multiply-adds. What a weight
//! is, bit for bit, says `gguf::decode`; in which order products are added, `dot`.

use std::arch::x86_64::*;

use super::dot_tiles::{BLOCK, GROUP, add_products, pitch};
use super::vector::Vector;
use crate::Coding;
use crate::isa::Avx512;

/// Weights of a block.
const LEN: usize = 256;
/// The parts of a block that are made ready together: 64 weights each.
const PARTS: usize = LEN / 64;
/// Most rows of weights of a tile.
const WIDEST: usize = 8;
/// Most rows of activations of a tile.
const TALLEST: usize = 12;
const LANES: usize = <__m512 as Vector>::LANES;
const PITCH: usize = pitch(BLOCK, 1);

/// Some columns of K: `lanes[row of x][row of weights][LANES] += ...`, if there are tiles for weights so coded; the first ones
/// store them. All rows of weights are as many whole blocks; `xs` has `height` rows of so many floats, PITCH apart.
///
/// # Panics
/// If that is not so.
pub(super) fn block<'a>(
    proof: Avx512,
    coding: Coding,
    xs: &[f32],
    height: usize,
    weights: impl ExactSizeIterator<Item = &'a [u8]>,
    lanes: &mut [f32],
    is_first: bool,
) -> bool {
    match coding {
        Coding::Q4_K => block_of::<Q4K>(proof, xs, height, weights, lanes, is_first),
        Coding::Q6_K => block_of::<Q6K>(proof, xs, height, weights, lanes, is_first),
        _ => return false,
    }
    true
}

/// [`block`] for one type of weights.
fn block_of<'a, C: Coded>(
    _proof: Avx512,
    xs: &[f32],
    height: usize,
    weights: impl ExactSizeIterator<Item = &'a [u8]>,
    lanes: &mut [f32],
    is_first: bool,
) {
    let n = weights.len();
    let mut rows = [std::ptr::null(); GROUP + WIDEST];
    let mut bytes = None;
    for (row, weights) in rows[..n].iter_mut().zip(weights) {
        assert!(*bytes.get_or_insert(weights.len()) == weights.len());
        *row = weights.as_ptr();
    }
    let blocks = bytes.map_or(0, |bytes| bytes / C::BYTES);
    assert!(blocks > 0 && blocks * LEN <= BLOCK);
    assert!(xs.len() >= height * PITCH && lanes.len() >= n * height * LANES);
    // After the last row comes what is read next of the first ones.
    for i in n..n + WIDEST {
        rows[i] = rows[i % n].wrapping_add(blocks * C::BYTES);
    }
    let parts = height.div_ceil(TALLEST);
    for part in 0..parts {
        let ms = part * height / parts..(part + 1) * height / parts;
        let (wide, many, one) = tiles::<C>(ms.len());
        let mut r = 0;
        while r < n {
            let (take, run) = if n - r >= wide {
                (wide, many)
            } else {
                (1, one)
            };
            let tile = Tile {
                blocks,
                xs: xs[ms.start * PITCH..].as_ptr(),
                rows: &rows[r..],
                next: &rows[r + take..],
                lanes: lanes[(ms.start * n + r) * LANES..].as_mut_ptr(),
                n,
                is_first,
            };
            // SAFETY: `_proof` proves the features; the first `take <= n - r` of `rows` have `blocks > 0` blocks each, and `next` has
            // WIDEST pointers at least, as `r + take <= n`; `ms.len()` rows of `xs`, PITCH apart and at least `blocks * LEN`
            // long, and the lanes of so many rows of activations, `n * LANES` apart, `take` each, lie inside theirs, by the
            // assertions above; `lanes` is borrowed mutably, so it overlaps neither.
            unsafe { run(&tile) };
            r += take;
        }
    }
}

/// The operands of a tile of M rows of activations and R rows of weights.
struct Tile<'a> {
    /// Blocks of a row, one at least.
    blocks: usize,
    /// M rows of `blocks * LEN` floats, PITCH apart.
    xs: *const f32,
    /// R rows of `blocks` blocks, and more.
    rows: &'a [*const u8],
    /// The rows that are read after them; only ever prefetched.
    next: &'a [*const u8],
    /// M times R times LANES sums; those of one row of activations are `n * LANES` after those of the one before.
    lanes: *mut f32,
    n: usize,
    /// Whether sums begin here; what `lanes` holds is not read then.
    is_first: bool,
}

/// [`multiply`] for a number of rows of activations.
///
/// # Safety
/// As for [`multiply`].
type Multiply = unsafe fn(&Tile<'_>);

/// How many rows of weights `m` rows of activations go with, so that all sums fit the registers, with room to make weights; [`multiply`]
/// for so many rows, and for one. Higher tiles than of other weights, as every tile makes its weights anew.
fn tiles<C: Coded>(m: usize) -> (usize, Multiply, Multiply) {
    fn of<C: Coded, const M: usize, const R: usize>() -> (usize, Multiply, Multiply) {
        const { assert!(R <= WIDEST) };
        (R, multiply::<C, M, R>, multiply::<C, M, 1>)
    }
    match m {
        1 => of::<C, 1, 8>(),
        2 => of::<C, 2, 8>(),
        3 => of::<C, 3, 6>(),
        4 => of::<C, 4, 6>(),
        5 => of::<C, 5, 4>(),
        6 => of::<C, 6, 3>(),
        7 => of::<C, 7, 3>(),
        8 => of::<C, 8, 3>(),
        9 => of::<C, 9, 2>(),
        10 => of::<C, 10, 2>(),
        11 => of::<C, 11, 2>(),
        12 => of::<C, 12, 2>(),
        _ => unreachable!("higher than the tallest tile"),
    }
}

/// `lanes[m][r] += x[m] * w[r]`, lane by lane.
///
/// # Safety
/// The CPU has the features; the operands are as [`Tile`] says, `lanes` disjoint from the others.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn multiply<C: Coded, const M: usize, const R: usize>(t: &Tile<'_>) {
    // SAFETY: every address below is inside the operands, as the caller guarantees, or only prefetched.
    unsafe {
        let lanes = |r: usize, m: usize| t.lanes.add((m * t.n + r) * LANES);
        let mut acc = [[__m512::zero(); M]; R];
        for (r, acc) in acc.iter_mut().enumerate().filter(|_| !t.is_first) {
            for (m, acc) in acc.iter_mut().enumerate() {
                *acc = __m512::read(lanes(r, m));
            }
        }
        let rows: [_; R] = std::array::from_fn(|r| *t.rows.get_unchecked(r));
        let next: [_; R] = std::array::from_fn(|r| *t.next.get_unchecked(r));
        // What weights are made of is computed 64 weights ahead, so that the multiply-adds in between hide how long that takes.
        let mut headers = [[Line([0.0; 16]); R]; 2];
        let mut ready = [[C::NONE; R]; 2];
        for r in 0..R {
            C::header(&mut headers[0][r], rows[r]);
            C::prepare(&mut ready[0][r], &headers[0][r], rows[r], 0);
        }
        for block in 0..t.blocks {
            let at = block * C::BYTES;
            let ahead = t.blocks.min(block + 2).saturating_sub(1) * C::BYTES;
            macro_rules! part {
                ($part:literal) => {
                    let is_last = $part + 1 == PARTS;
                    for r in 0..R {
                        match $part {
                            0 => {
                                for line in (0..C::BYTES).step_by(64) {
                                    let line = next[r].wrapping_add(at + line);
                                    _mm_prefetch::<_MM_HINT_T1>(line.cast());
                                }
                            }
                            2 => C::header(&mut headers[(block + 1) % 2][r], rows[r].add(ahead)),
                            _ => {}
                        }
                        let header = &headers[(block + usize::from(is_last)) % 2][r];
                        let from = rows[r].add(if is_last { ahead } else { at });
                        let ready = &mut ready[($part + 1) % 2][r];
                        C::prepare(ready, header, from, ($part + 1) % PARTS);
                    }
                    step!($part, 0);
                    step!($part, 1);
                    step!($part, 2);
                    step!($part, 3);
                };
            }
            macro_rules! step {
                ($part:literal, $quarter:literal) => {
                    let row = std::array::from_fn(|r| {
                        let header = &headers[block % 2][r];
                        C::weights::<$quarter>(&ready[$part % 2][r], header, rows[r].add(at), $part)
                    });
                    let xs = t.xs.add(block * LEN + 64 * $part + 16 * $quarter);
                    add_products::<__m512, M, R, PITCH>(&mut acc, row, xs);
                };
            }
            part!(0);
            part!(1);
            part!(2);
            part!(3);
        }
        for (r, acc) in acc.iter().enumerate() {
            for (m, acc) in acc.iter().enumerate() {
                acc.write(lanes(r, m));
            }
        }
    }
}

/// How weights of a type are made in registers.
///
/// # Safety
/// Every function is called only where the CPU has the features of AVX-512, which the caller must have enabled, and where a
/// block can be read.
trait Coded {
    /// Bytes of a block.
    const BYTES: usize;
    /// What is computed once for 64 weights.
    type Ready: Copy;
    const NONE: Self::Ready;

    /// The factors of a block.
    unsafe fn header(header: &mut Line, block: *const u8);

    /// For the weights from `64 * part` on.
    unsafe fn prepare(ready: &mut Self::Ready, header: &Line, block: *const u8, part: usize);

    /// Weights `64 * part + 16 * QUARTER` and the next 15.
    unsafe fn weights<const QUARTER: usize>(
        ready: &Self::Ready,
        header: &Line,
        block: *const u8,
        part: usize,
    ) -> __m512;
}

/// A vector in memory.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([f32; 16]);

/// A weight is `dl * code - ml`, where `dl` and `ml` belong to 32 weights and a code has 4 bits. So there are 16 values for
/// every 32 weights, which one vector holds, and a code is where in it the weight lies.
struct Q4K;

impl Coded for Q4K {
    const BYTES: usize = 144;
    /// The values.
    type Ready = [Line; 2];
    const NONE: Self::Ready = [Line([0.0; 16]); 2];

    /// `dl` of eight times 32 weights, then `ml`.
    #[inline(always)]
    unsafe fn header(header: &mut Line, block: *const u8) {
        // SAFETY: the caller's.
        unsafe {
            let [a, b, c]: [u32; 3] = block.add(4).cast::<[u32; 3]>().read_unaligned();
            // Scales and minima have 6 bits each: four of them as the lower 6 bits of a byte, four as 4 bits and 2.
            let bytes = [
                a & 0x3f3f_3f3f,
                c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030,
                b & 0x3f3f_3f3f,
                c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030,
            ];
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let numbers = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
            // `d` eight times, then `dmin`.
            let halves = _mm_cvtph_ps(_mm_loadu_si32(block.cast()));
            let d = _mm512_broadcastss_ps(halves);
            let dmin = _mm512_broadcastss_ps(_mm_movehdup_ps(halves));
            _mm512_mul_ps(_mm512_mask_blend_ps(0xff00, d, dmin), numbers)
                .write(header.0.as_mut_ptr());
        }
    }

    #[inline(always)]
    unsafe fn prepare(ready: &mut Self::Ready, header: &Line, _: *const u8, part: usize) {
        const CODE: Line = Line([
            0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.,
        ]);
        // SAFETY: the caller's.
        unsafe {
            let code = __m512::read(CODE.0.as_ptr());
            for (k, values) in ready.iter_mut().enumerate() {
                let k = 2 * part + k;
                let scaled = _mm512_mul_ps(__m512::splat(header.0[k]), code);
                _mm512_sub_ps(scaled, __m512::splat(header.0[8 + k])).write(values.0.as_mut_ptr());
            }
        }
    }

    /// 32 bytes of codes are 32 weights in their lower halves, and the next 32 in their upper ones.
    #[inline(always)]
    unsafe fn weights<const QUARTER: usize>(
        ready: &Self::Ready,
        _: &Line,
        block: *const u8,
        part: usize,
    ) -> __m512 {
        // SAFETY: the caller's.
        unsafe {
            let codes = block.add(16 + 32 * part + 16 * (QUARTER % 2));
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.cast()));
            // Only the lower 4 bits of an index count.
            let codes = match QUARTER {
                0 | 1 => codes,
                _ => _mm512_srli_epi32::<4>(codes),
            };
            _mm512_permutexvar_ps(codes, __m512::read(ready[QUARTER / 2].0.as_ptr()))
        }
    }
}

/// A weight is `dl * code`, where `dl` belongs to 16 weights and a code has 4 bits in one place and 2 in another.
struct Q6K;

impl Coded for Q6K {
    const BYTES: usize = 210;
    /// The codes as bytes.
    type Ready = [i8; 64];
    const NONE: [i8; 64] = [0; 64];

    /// `dl` of sixteen times 16 weights.
    #[inline(always)]
    unsafe fn header(header: &mut Line, block: *const u8) {
        // SAFETY: the caller's.
        unsafe {
            let scales = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.add(192).cast()));
            let d = _mm_cvtph_ps(_mm_loadu_si16(block.add(208)));
            _mm512_mul_ps(_mm512_broadcastss_ps(d), _mm512_cvtepi32_ps(scales))
                .write(header.0.as_mut_ptr());
        }
    }

    /// Every 128 weights have their lower 4 bits in 64 bytes, two weights in each, and their upper 2 in 32 bytes, four in each.
    #[inline(always)]
    unsafe fn prepare(ready: &mut [i8; 64], _: &Line, block: *const u8, part: usize) {
        // SAFETY: the caller's.
        unsafe {
            let [four, two] = [15, 0x30].map(|byte| _mm512_set1_epi8(byte));
            let (half, is_upper) = (part / 2, part % 2);
            let low = _mm512_loadu_si512(block.add(64 * half).cast());
            let high = _mm256_loadu_si256(block.add(128 + 32 * half).cast());
            // The upper bits of the first 32 weights come from bits 0 or 4 of their bytes, those of the next from bits 2 or 6; shifts
            // are of 16 bits: what crosses into the other byte is masked out.
            let shift = |by: usize| _mm_cvtsi64_si128(by as i64);
            let low = _mm512_srl_epi16(low, shift(4 * is_upper));
            let first = _mm256_sll_epi16(high, shift(4 - 4 * is_upper));
            let second = match is_upper {
                0 => _mm256_slli_epi16::<2>(high),
                _ => _mm256_srli_epi16::<2>(high),
            };
            let high = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second);
            let code = _mm512_or_si512(_mm512_and_si512(low, four), _mm512_and_si512(high, two));
            let code = _mm512_sub_epi8(code, _mm512_set1_epi8(32));
            _mm512_storeu_si512(ready.as_mut_ptr().cast(), code);
        }
    }

    #[inline(always)]
    unsafe fn weights<const QUARTER: usize>(
        ready: &[i8; 64],
        header: &Line,
        _: *const u8,
        part: usize,
    ) -> __m512 {
        // SAFETY: the caller's; `ready` holds 4 groups of 16 bytes.
        unsafe {
            let codes = _mm_loadu_si128(ready.as_ptr().add(16 * QUARTER).cast());
            let codes = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
            _mm512_mul_ps(__m512::splat(header.0[4 * part + QUARTER]), codes)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use half::f16;
    use ndarray::{Array2, ArrayView2};

    use super::*;
    use crate::isa::Isa;
    use crate::mat::{Blocks, Owned};
    use crate::matmul::{Order, matmul_t_each_with};
    use crate::testing::Random;
    use crate::{Mat, RowOrder};

    /// Random blocks, in the order of `order`; some scales are infinite or no number.
    fn mat(
        random: &mut Random,
        coding: Coding,
        [rows, cols]: [usize; 2],
        order: Option<RowOrder>,
    ) -> Mat {
        let size = coding.block_bytes();
        let mut bytes: Vec<u8> = (0..rows * cols / LEN * size)
            .map(|_| random.next() as u8)
            .collect();
        for block in bytes.chunks_exact_mut(size) {
            let odd = [f16::INFINITY, f16::NAN, f16::NEG_ZERO];
            let number = |random: &mut Random| match random.next() % 1000 {
                i @ 0..3 => odd[i as usize],
                _ => f16::from_f32(random.signed() / 50.0),
            };
            let halves: &[usize] = if coding == Coding::Q4_K {
                &[0, 2]
            } else {
                &[208]
            };
            for &at in halves {
                block[at..at + 2].copy_from_slice(&number(random).to_le_bytes());
            }
        }
        let blocks = Blocks::new(coding, cols / LEN * size, order, false);
        Mat::from_blocks(Arc::new(Owned(bytes)), 0, blocks, rows, cols)
    }

    fn product(isa: Isa, x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
        let mut y = Array2::zeros((x.nrows(), w.rows()));
        matmul_t_each_with(isa, Order::Any, x, [(w, y.view_mut())]);
        y
    }

    /// Products are those of the weights as f32, bit for bit (a NaN is a NaN).
    fn check(random: &mut Random, w: &Mat, height: usize) {
        let x = random.array(height, w.cols());
        let wide = Mat::from_f32(w.rows(), w.cols(), w.to_f32_vec());
        let edit = (w.rows() / 2, w.cols() - 1, 0.0);
        let edited = [w, &wide].map(|w| w.edited(&[edit]).unwrap());
        for isa in Isa::all() {
            for [coded, wide] in [[w, &wide], [&edited[0], &edited[1]]] {
                let [coded, wide] = [coded, wide].map(|w| product(isa, x.view(), w));
                let is_same =
                    |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                assert!(coded.iter().any(|y| y.is_finite() && *y != 0.0));
                assert!(coded.iter().zip(&wide).all(is_same), "{w:?}, {height} rows");
            }
        }
    }

    #[test]
    fn products_of_few_rows_are_those_of_the_widened_weights() {
        let mut random = Random(4);
        for coding in [Coding::Q4_K, Coding::Q6_K] {
            for height in 1..=16 {
                for size in [[1, 256], [7, 512], [31, 768]] {
                    let w = mat(&mut random, coding, size, None);
                    check(&mut random, &w, height);
                }
            }
            // More than a block of K and than a task; rows in an order of their own; some rows.
            let order = RowOrder::new(2, 13, 2);
            let w = mat(&mut random, coding, [104, 4096 + 512], order);
            for height in [1, 12] {
                check(&mut random, &w, height);
                check(&mut random, &w.slice_rows(3..50), height);
            }
            // Some columns: whole blocks, and such as are not.
            for cols in [256..1024, 256..1000, 32..544, 5..600] {
                let some = w.transposed().slice_rows(cols).transposed();
                check(&mut random, &some.slice_rows(0..30), 12);
            }
        }
    }
}
