//! How exactly the factors of a product are taken, and rounding to BF16.

use std::ops::Range;

use ndarray::{Array2, ArrayView2};

use super::Order;
use super::kernel::{Accumulate, Kernel, Left, Lines, Out, Right};
use crate::isa::{Isa, Work};
use crate::rows::{for_rows, row_mut};
use crate::{Dtype, Mat};

/// How exactly the factors of a product are taken. Sums are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Both factors are multiplied as f32, without rounding.
    #[default]
    Float32,
    /// Rounded to the nearest BF16, ties to even: activations, and weights (edited ones, too) that are not BF16 already.
    /// A product of two such factors is exact in f32.
    Bfloat16,
}

impl Precision {
    /// Its usual name: `float32` or `bfloat16`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Float32 => "float32",
            Precision::Bfloat16 => "bfloat16",
        }
    }
}

/// How a product is computed: in which order its terms are added, and how exactly its factors are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    /// The order of the sums.
    pub order: Order,
    /// The precision of the factors.
    pub precision: Precision,
}

impl From<Order> for Arithmetic {
    fn from(order: Order) -> Self {
        Self {
            order,
            precision: Precision::default(),
        }
    }
}

/// The nearest BF16, ties to even, as an f32. A NaN stays one.
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    let bits = x.to_bits();
    let is_odd = (bits >> 16) & 1;
    let nearest = bits.wrapping_add(0x7fff + is_odd);
    let rounded = if x.is_nan() {
        bits | 0x0040_0000
    } else {
        nearest
    };
    f32::from_bits(rounded & 0xffff_0000)
}

/// Two BF16, given as f32, in one unit of 32 bits: the first in its lower half.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits((first.to_bits() >> 16) | (second.to_bits() & 0xffff_0000))
}

/// Rounds numbers in place.
pub(super) struct RoundAll<'a>(pub(super) &'a mut [f32]);

impl Work for RoundAll<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        self.0.iter_mut().for_each(|x| *x = round(*x));
    }
}

/// Rounds a row, and puts neighbours together in pairs, as many as there is room for; the last of an odd number with a zero.
#[cfg(target_endian = "little")]
pub(super) struct Pairs<'a> {
    pub(super) row: &'a [f32],
    pub(super) out: &'a mut [f32],
}

#[cfg(target_endian = "little")]
impl Work for Pairs<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        if let (Some(unit), [last]) = (self.out.last_mut(), self.row.as_chunks::<2>().1) {
            *unit = pair(round(*last), 0.0);
        }
        // Halves of units lie in the order of the row (`pair`), which vectors take without shuffling.
        let halves: &mut [u16] = bytemuck::cast_slice_mut(self.out);
        for (half, x) in halves.iter_mut().zip(self.row) {
            *half = (round(*x).to_bits() >> 16) as u16;
        }
    }
}

/// `x`, rounded.
pub(super) fn rounded(x: ArrayView2<f32>) -> Array2<f32> {
    let mut rounded = x.as_standard_layout().into_owned();
    for_rows(
        rounded.view_mut(),
        #[inline(always)]
        |_, mut row| row_mut(&mut row, |row| RoundAll(row).work()),
    );
    rounded
}

/// Whether a matrix lies as BF16, and its edits are BF16, too.
pub(super) fn is_bf16(w: &Mat) -> bool {
    let is_rounded = |(.., value): (usize, usize, f32)| round(value).to_bits() == value.to_bits();
    w.dtype() == Dtype::BF16 && !w.is_blocks() && w.edits(0..w.rows(), 0..w.cols()).all(is_rounded)
}

/// A kernel of f32 on factors that are rounded when they are copied: what [`Precision::Bfloat16`] means, on any processor.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
pub(super) struct Rounded<K> {
    pub(super) kernel: K,
    pub(super) isa: Isa,
}

impl<K: Kernel> Kernel for Rounded<K> {
    const MR: usize = K::MR;
    const NR: usize = K::NR;

    #[inline]
    fn multiply(
        self,
        a: Left<'_>,
        b: Right<'_>,
        c: Out<'_>,
        into: Accumulate<'_>,
        ahead: impl FnMut() -> Lines,
    ) {
        self.kernel.multiply(a, b, c, into, ahead);
    }

    fn pack(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
        let len = ks.len() * Self::NR;
        self.kernel.pack(w, rows, ks, out);
        self.isa.run(RoundAll(&mut out[..len]));
    }

    fn lay(self, row: &[f32], out: &mut [f32]) {
        let out = &mut out[..row.len()];
        out.copy_from_slice(row);
        self.isa.run(RoundAll(out));
    }
}
