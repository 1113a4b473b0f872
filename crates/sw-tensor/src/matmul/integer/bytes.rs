//! Products of 8-bit integers, exact: W8A8 as arithmetic.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::kernel::{IntegerKernel, Pairs};
#[cfg(target_arch = "x86_64")]
use super::kernel::{PairsAvx2, Quads, Tiles};
use super::{Activations, M_BLOCK, Operand, blocks, product, with_rows};
use crate::isa::{Isa, Work};
use crate::matmul::kernel::soon;
#[cfg(target_arch = "x86_64")]
use crate::matmul::x86::amx::ByteTiles;

/// Terms of a sum at most: 255 * 128 times as many still fit 32 bits.
const MOST_TERMS: usize = i32::MAX as usize / (255 * 128);

/// `y[t, r] = sum_k x[t, k] * w[r, k]`, exactly: `[tokens, in] x [out, in]^T -> [tokens, out]`.
///
/// # Panics
/// If the shapes do not agree, or there are more than 65793 terms, whose sum might not fit 32 bits.
pub fn matmul_t_i8(x: ArrayView2<i8>, w: ArrayView2<i8>, y: ArrayViewMut2<i32>) {
    matmul_t_i8_with(Isa::current(), x, w, y);
}

/// [`matmul_t_i8`] with a given instruction set.
pub(super) fn matmul_t_i8_with(
    isa: Isa,
    x: ArrayView2<i8>,
    w: ArrayView2<i8>,
    mut y: ArrayViewMut2<i32>,
) {
    assert_eq!(x.ncols(), w.ncols(), "columns of x and w");
    assert_eq!(
        y.dim(),
        (x.nrows(), w.nrows()),
        "y of another shape than x * w^T"
    );
    assert!(
        x.ncols() <= MOST_TERMS,
        "{} terms, at most {MOST_TERMS}",
        x.ncols()
    );
    if x.ncols() == 0 {
        return y.fill(0);
    }
    let (x, w) = (x.as_standard_layout(), w.as_standard_layout());
    for (x, y) in x
        .axis_chunks_iter(Axis(0), M_BLOCK)
        .zip(y.axis_chunks_iter_mut(Axis(0), M_BLOCK))
    {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(proof) if let Some(tiles) = ByteTiles::new(proof) => {
                multiply(isa, Tiles(tiles), Form::Signed, x, w.view(), y);
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(_) | Isa::Avx512(_) if let Some(vnni) = isa.vnni() => {
                multiply(isa, Quads(vnni), Form::Shifted, x, w.view(), y);
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(proof) => multiply(isa, PairsAvx2(proof), Form::Wide, x, w.view(), y),
            _ => multiply(isa, Pairs(isa), Form::Wide, x, w.view(), y),
        }
    }
}

/// How bytes lie in units.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// Four to a unit.
    #[cfg(target_arch = "x86_64")]
    Signed,
    /// Four to a unit, weights 128 too large so that they need no sign; the sums are put right at the end.
    #[cfg(target_arch = "x86_64")]
    Shifted,
    /// Two to a unit.
    Wide,
}

impl Form {
    /// Bytes to units; `flip` changes the bits of each, in the forms of four.
    #[inline(always)]
    fn pack(self, values: &[i8], flip: u8, out: &mut [i32]) {
        if self == Form::Wide {
            let out: &mut [i16] = bytemuck::cast_slice_mut(out);
            for (out, value) in out.iter_mut().zip(values) {
                *out = i16::from(*value);
            }
            return;
        }
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        for (out, value) in out.iter_mut().zip(values) {
            *out = *value as u8 ^ flip;
        }
    }
}

fn multiply<K: IntegerKernel<i32>>(
    isa: Isa,
    kernel: K,
    form: Form,
    x: ArrayView2<i8>,
    w: ArrayView2<i8>,
    y: ArrayViewMut2<i32>,
) {
    let blocks = blocks::<i32, K>(x.ncols(), usize::MAX, K::UNITS * K::TERMS);
    #[cfg(target_arch = "x86_64")]
    let flip = if form == Form::Shifted { 0x80 } else { 0 };
    #[cfg(not(target_arch = "x86_64"))]
    let flip = 0;
    let too_much = if flip == 0 {
        Vec::new()
    } else {
        let rows = x.axis_iter(Axis(0)).into_par_iter();
        rows.map(|row| isa.run(TooMuch(row.to_slice().expect("adjacent"))))
            .collect()
    };
    let of_x = Bytes {
        bytes: x,
        form,
        flip: 0,
        too_much: &[],
    };
    let of_w = Bytes {
        bytes: w,
        form,
        flip,
        too_much: &too_much,
    };
    with_rows::<i32, K, ()>(isa, x.nrows(), &blocks, &of_x, |rows| {
        product(isa, kernel, rows, &of_w, y);
    });
}

/// What weights that are 128 too large add to the sums of a row of activations.
struct TooMuch<'a>(&'a [i8]);

impl Work for TooMuch<'_> {
    type Output = i32;

    #[inline(always)]
    fn work(self) -> i32 {
        self.0.iter().map(|x| i32::from(*x)).sum::<i32>() * 128
    }
}

struct Bytes<'a> {
    bytes: ArrayView2<'a, i8>,
    form: Form,
    flip: u8,
    /// What is taken from the sums of each row of activations; empty where nothing is too large.
    too_much: &'a [i32],
}

impl Bytes<'_> {
    #[inline(always)]
    fn columns(&self, row: usize, ks: Range<usize>) -> &[i8] {
        let all = self.bytes.as_slice().expect("adjacent");
        &all[row * self.bytes.ncols()..][ks]
    }
}

impl Activations for Bytes<'_> {
    #[inline(always)]
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]) {
        self.form.pack(self.columns(row, ks), self.flip, out);
    }
}

impl Operand<i32> for Bytes<'_> {
    #[inline(always)]
    fn ask(&self, row: usize, ks: &Range<usize>) {
        let at = row * self.bytes.ncols() + ks.start;
        soon(self.bytes.as_ptr().wrapping_add(at).cast(), ks.len());
    }

    #[inline(always)]
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]) {
        self.form.pack(self.columns(row, ks), self.flip, out);
    }

    #[inline(always)]
    fn factor(&self, _: usize, _: &Range<usize>) -> f32 {
        1.0
    }

    #[inline(always)]
    fn finish(&self, _: usize, sums: &mut [i32]) {
        for (sum, too_much) in sums.iter_mut().zip(self.too_much) {
            *sum = sum.wrapping_sub(*too_much);
        }
    }
}
