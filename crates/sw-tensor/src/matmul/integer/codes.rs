//! Products straight from packed codes: activations become 16-bit integers, a scale per row.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

#[cfg(target_arch = "x86_64")]
use super::kernel::{Halves, PairsAvx2};
use super::kernel::{Kernel, Pairs};
use super::share::{Share, Total, Whole};
use super::{Activations, Block, M_BLOCK, Operand, blocks, product, with_rows};
use crate::isa::Isa;
use crate::matmul::kernel::{soon, with_scratch};
#[cfg(target_arch = "x86_64")]
use crate::matmul::x86::amx::ByteTiles;

/// Terms per range: 512 * 32767 * 128 is just below 2^31.
const LONGEST: usize = 512;

/// A borrowed matrix of packed codes, `[rows, cols]`, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Codes<'a> {
    /// Rows (output features) and columns (input features).
    pub shape: [usize; 2],
    /// Bits of a code, 4 or 8.
    pub bits: u8,
    /// One dense stream, least significant bits first; with 4 bits, the first of two codes is a byte's lower half.
    pub codes: &'a [u8],
    /// Rows and columns of the blocks that share a scale; the last block of a row or column may be smaller.
    pub group: [usize; 2],
    /// One per block, blocks row by row.
    pub scales: &'a [f32],
    /// What code stands for zero.
    pub offsets: CodeOffsets<'a>,
    /// Places in the matrix (`row * cols + col`, increasing) with values that replace the codes'.
    pub outliers: &'a [(u64, f32)],
}

/// What a code stands for.
#[derive(Debug, Clone, Copy)]
pub enum CodeOffsets<'a> {
    /// `(code - 2^(bits - 1)) * scale`.
    Symmetric,
    /// `(code - zero) * scale`, a zero per block.
    Zeros(&'a [u8]),
    /// `code * scale + offset`, an offset per block.
    Floats(&'a [f32]),
}

impl Codes<'_> {
    /// The code that an integer of zero stands for: the middle, so that integers are small.
    fn middle(&self) -> i32 {
        1 << (self.bits - 1)
    }

    fn code(&self, at: usize) -> i32 {
        match self.bits {
            4 => i32::from(self.codes[at / 2] >> (at % 2 * 4) & 15),
            _ => i32::from(self.codes[at]),
        }
    }

    /// The codes from `start` on, less the middle, in numbers of 8 or 16 bits.
    #[inline(always)]
    fn integers<T: From<i8>>(&self, start: usize, out: &mut [T]) {
        if self.bits == 8 {
            let codes = &self.codes[start..start + out.len()];
            for (out, code) in out.iter_mut().zip(codes) {
                *out = T::from((code ^ 0x80) as i8);
            }
        } else if start.is_multiple_of(2) {
            let (whole, rest) = out.as_chunks_mut::<2>();
            let codes = &self.codes[start / 2..(start + 2 * whole.len() + rest.len()).div_ceil(2)];
            for ([first, second], byte) in whole.iter_mut().zip(codes) {
                (*first, *second) = (
                    T::from((byte & 15) as i8 - 8),
                    T::from((byte >> 4) as i8 - 8),
                );
            }
            if let ([last], Some(byte)) = (rest, codes.last()) {
                *last = T::from((byte & 15) as i8 - 8);
            }
        } else {
            for (out, at) in out.iter_mut().zip(start..) {
                *out = T::from((self.code(at) - self.middle()) as i8);
            }
        }
    }

    fn block(&self, row: usize, col: usize) -> usize {
        row / self.group[0] * self.shape[1].div_ceil(self.group[1]) + col / self.group[1]
    }

    /// What the middle code stands for.
    fn base(&self, block: usize) -> f32 {
        let (middle, scale) = (f64::from(self.middle()), f64::from(self.scales[block]));
        match self.offsets {
            CodeOffsets::Symmetric => 0.0,
            CodeOffsets::Zeros(zeros) => ((middle - f64::from(zeros[block])) * scale) as f32,
            CodeOffsets::Floats(offsets) => (middle * scale + f64::from(offsets[block])) as f32,
        }
    }

    /// The outliers of a row, by column.
    fn outliers(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let cols = self.shape[1] as u64;
        let places = row as u64 * cols..(row as u64 + 1) * cols;
        let first = self.outliers.partition_point(|o| o.0 < places.start);
        let of_row = self.outliers[first..].iter();
        let of_row = of_row.take_while(move |o| o.0 < places.end);
        of_row.map(move |o| ((o.0 % cols) as usize, o.1))
    }

    /// A weight.
    fn value(&self, row: usize, col: usize) -> f32 {
        let at = (row * self.shape[1] + col) as u64;
        if let Ok(found) = self.outliers.binary_search_by_key(&at, |o| o.0) {
            return self.outliers[found].1;
        }
        let block = self.block(row, col);
        let code = self.code(at as usize) - self.middle();
        self.scales[block] * code as f32 + self.base(block)
    }

    fn check(&self) {
        let [rows, cols] = self.shape;
        assert!(matches!(self.bits, 4 | 8), "codes of {} bits", self.bits);
        let stream = (rows * cols).div_ceil(8 / usize::from(self.bits));
        assert_eq!(self.codes.len(), stream, "bytes of codes");
        assert!(
            self.group[0] > 0 && self.group[1] > 0,
            "blocks of {:?}",
            self.group
        );
        let blocks = rows.div_ceil(self.group[0]) * cols.div_ceil(self.group[1]);
        assert_eq!(self.scales.len(), blocks, "scales");
        match self.offsets {
            CodeOffsets::Symmetric => {}
            CodeOffsets::Zeros(zeros) => assert_eq!(zeros.len(), blocks, "zeros"),
            CodeOffsets::Floats(offsets) => assert_eq!(offsets.len(), blocks, "offsets"),
        }
        let inside = self
            .outliers
            .last()
            .is_none_or(|o| o.0 < (rows * cols) as u64);
        let increasing = self.outliers.is_sorted_by(|a, b| a.0 < b.0);
        assert!(inside && increasing, "outliers in order, inside the matrix");
    }
}

/// `y = x * w^T` for a matrix of codes: `[tokens, in] x [out, in]^T -> [tokens, out]`.
///
/// Activations are rounded to 16-bit integers with a scale per row, at most 16 spikes of a row held out in f32, so the
/// result is off by about 3e-5 (relative, root mean square, Gaussian rows). Every instruction set gives the same, bit
/// for bit, whatever other rows there are.
///
/// # Panics
/// If the shapes do not agree, or a part of `w` has not the length that its shape says.
pub fn matmul_t_codes(x: ArrayView2<f32>, w: &Codes<'_>, y: ArrayViewMut2<f32>) {
    matmul_t_codes_with(Isa::current(), x, w, y);
}

/// [`matmul_t_codes`] with a given instruction set.
pub(super) fn matmul_t_codes_with(
    isa: Isa,
    x: ArrayView2<f32>,
    w: &Codes<'_>,
    mut y: ArrayViewMut2<f32>,
) {
    w.check();
    assert_eq!(x.ncols(), w.shape[1], "columns of x and w");
    assert_eq!(
        y.dim(),
        (x.nrows(), w.shape[0]),
        "y of another shape than x * w^T"
    );
    if x.ncols() == 0 {
        return y.fill(0.0);
    }
    let blocks = x.axis_chunks_iter(Axis(0), M_BLOCK);
    for (x, y) in blocks.zip(y.axis_chunks_iter_mut(Axis(0), M_BLOCK)) {
        multiply(isa, x, w, y);
    }
}

/// One block of rows.
fn multiply(isa: Isa, x: ArrayView2<f32>, w: &Codes<'_>, mut y: ArrayViewMut2<f32>) {
    let height = x.nrows();
    let x = x.as_standard_layout();
    let row = |t: usize| x.row(t).to_slice().expect("adjacent columns");
    let shares: Vec<Share> = (0..height)
        .into_par_iter()
        .map(|t| isa.run(Whole(row(t))))
        .collect();
    let x = x.view();
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(proof) if let Some(tiles) = ByteTiles::new(proof) => {
            multiply_integers(isa, Halves(tiles), x, w, &shares, y.view_mut());
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(proof) => {
            multiply_integers(isa, PairsAvx2(proof), x, w, &shares, y.view_mut());
        }
        _ => multiply_integers(isa, Pairs(isa), x, w, &shares, y.view_mut()),
    }
    add_apart(&x, w, &shares, y);
}

/// What is neither a spike nor an outlier.
fn multiply_integers<K: Kernel<f32>>(
    isa: Isa,
    kernel: K,
    x: ArrayView2<f32>,
    w: &Codes<'_>,
    shares: &[Share],
    y: ArrayViewMut2<f32>,
) {
    let height = x.nrows();
    let row = |t: usize| x.row(t).to_slice().expect("adjacent columns");
    let blocks = blocks::<f32, K>(x.ncols(), w.group[1], LONGEST);
    let parts: Vec<Range<usize>> = blocks.iter().flat_map(Block::parts).collect();
    // Two planes are of bytes, one is of 16-bit numbers.
    let bytes = K::PLANES == 2;
    with_scratch([parts.len() * height], |[totals]| {
        if !matches!(w.offsets, CodeOffsets::Symmetric) {
            // What each part's integers add up to, `[part][row]`.
            let of_parts = totals.par_chunks_exact_mut(height).zip(&parts);
            of_parts.for_each(|(totals, ks)| {
                for (t, total) in totals.iter_mut().enumerate() {
                    *total = isa.run(Total(&shares[t], &row(t)[ks.clone()], ks.start));
                }
            });
        }
        let scales: Vec<f32> = shares.iter().map(|share| share.scale).collect();
        let of_w = Weights {
            w,
            bytes,
            scales: &scales,
            totals,
            starts: parts.iter().map(|ks| ks.start).collect(),
        };
        let of_x = Integers { x, shares, bytes };
        with_rows::<f32, K, ()>(isa, height, &blocks, &of_x, |rows| {
            product(isa, kernel, rows, &of_w, y);
        });
    });
}

/// Rows of activations with what makes them integers.
struct Integers<'a> {
    x: ArrayView2<'a, f32>,
    shares: &'a [Share],
    /// Whether they become bytes, or pairs.
    bytes: bool,
}

impl Activations for Integers<'_> {
    #[inline(always)]
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]) {
        let x = self.x.row(row);
        let x = x.to_slice().expect("adjacent columns");
        self.shares[row].pack(x, ks, self.bytes, out);
    }
}

/// Codes with what their sums are multiplied by.
struct Weights<'a> {
    w: &'a Codes<'a>,
    /// Whether four codes make a unit, or two.
    bytes: bool,
    /// Of each row of activations.
    scales: &'a [f32],
    /// Sums of the activations' integers, `[part][row]`.
    totals: &'a [f32],
    /// Where the parts start.
    starts: Vec<usize>,
}

impl Operand<f32> for Weights<'_> {
    #[inline(always)]
    fn ask(&self, row: usize, ks: &Range<usize>) {
        let per_byte = 8 / usize::from(self.w.bits);
        let at = (row * self.w.shape[1] + ks.start) / per_byte;
        soon(self.w.codes.as_ptr().wrapping_add(at), ks.len() / per_byte);
    }

    #[inline(always)]
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]) {
        let w = self.w;
        let start = row * w.shape[1] + ks.start;
        let outliers = w.outliers(row).map(|(col, _)| col);
        let outliers = outliers.filter(|col| ks.contains(col));
        let outliers = outliers.map(|col| col - ks.start);
        if self.bytes {
            let out: &mut [i8] = bytemuck::cast_slice_mut(out);
            w.integers(start, &mut out[..ks.len()]);
            outliers.for_each(|i| out[i] = 0);
        } else {
            let out: &mut [i16] = bytemuck::cast_slice_mut(out);
            w.integers(start, &mut out[..ks.len()]);
            outliers.for_each(|i| out[i] = 0);
        }
    }

    #[inline(always)]
    fn factor(&self, row: usize, ks: &Range<usize>) -> f32 {
        self.w.scales[self.w.block(row, ks.start)]
    }

    #[inline(always)]
    fn finish(&self, row: usize, sums: &mut [f32]) {
        if !matches!(self.w.offsets, CodeOffsets::Symmetric) {
            for (start, totals) in self.starts.iter().zip(self.totals.chunks_exact(sums.len())) {
                let base = self.w.base(self.w.block(row, *start));
                for (sum, total) in sums.iter_mut().zip(totals) {
                    *sum += base * total;
                }
            }
        }
        for (sum, scale) in sums.iter_mut().zip(self.scales) {
            *sum *= scale;
        }
    }
}

/// Adds what is not among the integers: spikes of activations, column by column, and outliers among the weights.
fn add_apart(x: &ArrayView2<f32>, w: &Codes<'_>, shares: &[Share], mut y: ArrayViewMut2<f32>) {
    let mut spikes: Vec<(usize, usize)> = Vec::new(); // column, row
    for (t, share) in shares.iter().enumerate() {
        spikes.extend(share.spikes.iter().map(|&k| (k, t)));
    }
    spikes.sort_unstable();
    if spikes.is_empty() && w.outliers.is_empty() {
        return;
    }
    let parts = y.axis_chunks_iter_mut(Axis(1), 64).into_par_iter();
    parts.enumerate().for_each(|(part, mut y)| {
        let rows = part * 64..part * 64 + y.ncols();
        for of_column in spikes.chunk_by(|a, b| a.0 == b.0) {
            let k = of_column[0].0;
            let column: Vec<f32> = rows.clone().map(|row| w.value(row, k)).collect();
            for &(_, t) in of_column {
                let mut y = y.row_mut(t);
                y.iter_mut()
                    .zip(&column)
                    .for_each(|(y, w)| *y += x[[t, k]] * w);
            }
        }
        for row in rows.clone() {
            for (k, value) in w.outliers(row) {
                // The integer there is zero, which stands for the base.
                let beyond = value - w.base(w.block(row, k));
                for (t, share) in shares.iter().enumerate() {
                    if share.spikes.binary_search(&k).is_err() {
                        y[[t, row - rows.start]] += x[[t, k]] * beyond;
                    }
                }
            }
        }
    });
}
