//! Products of 8-bit integers, exact: W8A8 as arithmetic.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};

use super::kernel::{Kernel, Pairs};
#[cfg(target_arch = "x86_64")]
use super::kernel::{Quads, Tiles};
use super::{Activations, LANES, M_BLOCK, Operand, Rows, pack_rows, pairs, product, ranges};
use crate::isa::Isa;
use crate::matmul::kernel::{soon, with_scratch};
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
    /// Four to a unit, activations 128 too large so that they need no sign; the sums are put right at the end.
    #[cfg(target_arch = "x86_64")]
    Shifted,
    /// Two to a unit.
    Wide,
}

impl Form {
    fn per_unit(self) -> usize {
        if self == Form::Wide { 2 } else { 4 }
    }

    /// Bytes to units; `flip` changes the bits of each, in the forms of four.
    #[inline(always)]
    fn pack(self, values: &[i8], flip: u8, out: &mut [i32]) {
        if self == Form::Wide {
            return pairs(values, out, |v| i32::from(*v));
        }
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        for (out, value) in out.iter_mut().zip(values) {
            *out = *value as u8 ^ flip;
        }
    }
}

fn multiply<K: Kernel>(
    isa: Isa,
    kernel: K,
    form: Form,
    x: ArrayView2<i8>,
    w: ArrayView2<i8>,
    y: ArrayViewMut2<i32>,
) {
    let height = x.nrows();
    let per_unit = form.per_unit();
    let ranges = ranges(x.ncols(), usize::MAX, K::UNITS * per_unit, per_unit);
    let units: usize = ranges.iter().map(|(_, units)| units).sum();
    #[cfg(target_arch = "x86_64")]
    let flip = if form == Form::Shifted { 0x80 } else { 0 };
    #[cfg(not(target_arch = "x86_64"))]
    let flip = 0;
    with_scratch([units * height.next_multiple_of(LANES)], |[packed]| {
        let packed: &mut [i32] = bytemuck::cast_slice_mut(packed);
        pack_rows(isa, height, &ranges, 1, packed, &Bytes { w: x, form, flip });
        let rows = Rows {
            units: packed,
            height,
            ranges: &ranges,
            planes: 1,
        };
        product(isa, kernel, &rows, &Bytes { w, form, flip }, y);
    });
}

struct Bytes<'a> {
    w: ArrayView2<'a, i8>,
    form: Form,
    flip: u8,
}

impl Activations for Bytes<'_> {
    #[inline(always)]
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]) {
        let row = self.w.slice(s![row, ks]).to_slice().expect("adjacent");
        self.form.pack(row, self.flip, out);
    }
}

impl Operand<i32> for Bytes<'_> {
    #[inline(always)]
    fn ask(&self, row: usize, ks: &Range<usize>) {
        let at = self
            .w
            .as_ptr()
            .wrapping_add(row * self.w.ncols() + ks.start);
        soon(at.cast(), ks.len());
    }

    #[inline(always)]
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]) {
        let row = self.w.slice(s![row, ks]).to_slice().expect("adjacent");
        self.form.pack(row, 0, out);
    }

    fn factor(&self, _: usize, _: &Range<usize>) -> f32 {
        1.0
    }

    #[inline(always)]
    fn add(_: f32, product: [i32; LANES], sums: &mut [i32; LANES]) {
        // Shifted sums stay below 2^31; wrapping spares a check.
        let sum = |i: usize| sums[i].wrapping_add(product[i]);
        *sums = std::array::from_fn(sum);
    }

    #[inline(always)]
    fn finish(&self, row: usize, sums: &mut [i32]) {
        if self.flip == 0 {
            return;
        }
        let too_much = 128 * self.w.row(row).iter().map(|w| i32::from(*w)).sum::<i32>();
        for sum in sums {
            *sum -= too_much;
        }
    }
}
