//! Tiles of 8-bit integers with exact 32-bit sums.

use std::arch::asm;

use super::tile::Unit;
use super::{PANEL, SIDE};
use crate::isa::Amx;

/// Units of 32 bits that one tile product takes of K.
const STEP: usize = 16;

/// Proof that tiles multiply bytes.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct ByteTiles(Amx);

impl ByteTiles {
    pub(in crate::matmul) fn new(proof: Amx) -> Option<ByteTiles> {
        proof.multiplies_bytes().then_some(ByteTiles(proof))
    }

    /// The tile unit of this thread.
    pub(in crate::matmul) fn unit(self) -> Unit {
        Unit::new(self.0)
    }

    /// `product[row][tile][lane] = sum_unit w[row][unit] . xs[tile][unit][lane]` for 32 rows of `w` and two tiles
    /// `[units][16]` of activations, four bytes with signs to a unit.
    ///
    /// # Panics
    /// If `units` is no positive multiple of 16, `w` not 32 rows, or `xs` shorter than tiles.
    #[inline]
    pub(in crate::matmul) fn signed(
        self,
        _: &Unit,
        units: usize,
        w: &[i32],
        xs: [&[i32]; 2],
        product: &mut [[i32; SIDE]; 2 * PANEL],
    ) {
        let (w, x) = operands(units, w, xs);
        let mut sums: Sums = [[[[0; SIDE]; SIDE]; 2]; 2];
        // SAFETY: the tile unit is configured while there is a `Unit`; `operands` has checked the lengths.
        unsafe { signed(units, w, x, (&raw mut sums).cast()) }
        for (product, [first, second]) in product
            .as_chunks_mut::<{ 2 * SIDE }>()
            .0
            .iter_mut()
            .zip(&sums)
        {
            for (product, tiles) in product
                .as_chunks_mut()
                .0
                .iter_mut()
                .zip(first.iter().zip(second))
            {
                *product = [*tiles.0, *tiles.1];
            }
        }
    }

    /// The same for one tile of activations of 16 bits, whose upper bytes have signs and whose lower ones have none. Sums
    /// must fit 32 bits.
    ///
    /// # Panics
    /// As [`ByteTiles::signed`].
    #[inline]
    pub(in crate::matmul) fn halves(
        self,
        _: &Unit,
        units: usize,
        w: &[i32],
        halves: [&[i32]; 2],
        product: &mut [[i32; SIDE]; 2 * PANEL],
    ) {
        let (w, x) = operands(units, w, halves);
        let mut sums: Sums = [[[[0; SIDE]; SIDE]; 2]; 2];
        // SAFETY: as above.
        unsafe { first_signed(units, w, x, (&raw mut sums).cast()) }
        // SAFETY: the proof of AMX includes AVX-512.
        unsafe { join(&sums, product) }
    }
}

/// 256 times the sums of upper bytes plus those of lower ones.
#[target_feature(enable = "avx512f")]
fn join(sums: &Sums, product: &mut [[i32; SIDE]; 2 * PANEL]) {
    for (product, [upper, lower]) in product.as_chunks_mut::<SIDE>().0.iter_mut().zip(sums) {
        let halves = upper.as_flattened().iter().zip(lower.as_flattened());
        for (product, (upper, lower)) in product.as_flattened_mut().iter_mut().zip(halves) {
            *product = upper.wrapping_shl(8).wrapping_add(*lower);
        }
    }
}

/// Tiles of sums, `[tile of weights][tile of activations]`.
type Sums = [[[[i32; SIDE]; SIDE]; 2]; 2];

/// Pointers to the tiles of operands that are long enough.
fn operands(units: usize, w: &[i32], xs: [&[i32]; 2]) -> ([*const i32; 2], [*const i32; 2]) {
    assert!(units > 0 && units.is_multiple_of(STEP) && w.len() == PANEL * units);
    assert!(xs.iter().all(|xs| xs.len() >= units * SIDE));
    (
        [w, &w[SIDE * units..]].map(<[i32]>::as_ptr),
        xs.map(<[i32]>::as_ptr),
    )
}

/// Two tiles of weights times two of activations; `$dp` is the product with the second one of these.
macro_rules! quad {
    ($name:ident, $dp:literal) => {
        /// # Safety
        /// A configured tile unit with tiles of bytes; `units` a positive multiple of 16; `w` readable for 16 rows of
        /// `units`, `x` for `units` rows of 16; `sums` writable for four tiles.
        unsafe fn $name(units: usize, w: [*const i32; 2], x: [*const i32; 2], sums: *mut i32) {
            // SAFETY: reads and writes what the caller vouches for, and changes the named registers only.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{w0} + {pitch}]",
                    "tileloadd tmm6, [{x0} + {row}]",
                    "tdpbssd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{w1} + {pitch}]",
                    "tdpbssd tmm2, tmm5, tmm6",
                    "tileloadd tmm7, [{x1} + {row}]",
                    concat!($dp, " tmm1, tmm4, tmm7"),
                    concat!($dp, " tmm3, tmm5, tmm7"),
                    "add {w0}, 64",
                    "add {w1}, 64",
                    "add {x0}, 1024",
                    "add {x1}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {row}], tmm0",
                    "tilestored [{sums} + {row} + 1024], tmm1",
                    "tilestored [{sums} + {row} + 2048], tmm2",
                    "tilestored [{sums} + {row} + 3072], tmm3",
                    w0 = inout(reg) w[0] => _,
                    w1 = inout(reg) w[1] => _,
                    x0 = inout(reg) x[0] => _,
                    x1 = inout(reg) x[1] => _,
                    steps = inout(reg) units / STEP => _,
                    sums = in(reg) sums,
                    pitch = in(reg) units * 4,
                    row = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

quad!(signed, "tdpbssd");
quad!(first_signed, "tdpbsud");
