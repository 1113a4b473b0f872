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

    /// `sums[row][tile][lane] += sum_unit w[row][unit] . xs[tile][unit][lane]` for 32 rows of `w` and two tiles
    /// `[units][16]` of activations, four bytes with signs to a unit; rows of `w` and of `sums` are as
    /// far apart as is said beside them.
    ///
    /// # Panics
    /// If `units` is no positive multiple of 16, or an operand too short.
    #[inline]
    pub(in crate::matmul) fn signed(
        self,
        _: &Unit,
        units: usize,
        w: (&[i32], usize),
        xs: [&[i32]; 2],
        (sums, pitch): (&mut [i32], usize),
    ) {
        let (tiles, x) = operands(units, w, xs);
        assert!(sums.len() >= (PANEL - 1) * pitch + 2 * SIDE);
        let places = [0, SIDE * pitch].map(|at| sums.as_mut_ptr().wrapping_add(at));
        // SAFETY: the tile unit is configured while there is a `Unit`; the lengths are checked.
        unsafe { add_signed(units, tiles, w.1, x, places, pitch * size_of::<i32>()) }
    }

    /// Multiplies one tile of activations of 16 bits, whose upper bytes have signs and whose lower ones have none: `sums[row]
    /// [lane] += factors[row] * product`, not fused. Products must fit 32 bits.
    ///
    /// # Panics
    /// As [`ByteTiles::signed`].
    #[inline]
    pub(in crate::matmul) fn halves(
        self,
        _: &Unit,
        units: usize,
        w: (&[i32], usize),
        halves: [&[i32]; 2],
        factors: &[f32],
        (sums, pitch): (&mut [f32], usize),
    ) {
        let (tiles, x) = operands(units, w, halves);
        let mut products: Products = [[[[0; SIDE]; SIDE]; 2]; 2];
        let places = [0, 1].map(|i| (&raw mut products[i]).cast());
        // SAFETY: as above.
        unsafe { store_halves(units, tiles, w.1, x, places, 0) }
        // SAFETY: the proof of AMX includes AVX-512.
        unsafe { join(&products, factors, sums, pitch) }
    }
}

/// Adds 256 times the products of upper bytes plus those of lower ones.
#[target_feature(enable = "avx512f")]
fn join(products: &Products, factors: &[f32], sums: &mut [f32], pitch: usize) {
    let mut rows = factors.iter().zip(sums.chunks_mut(pitch));
    for [upper, lower] in products {
        for ((upper, lower), (factor, sums)) in upper.iter().zip(lower).zip(&mut rows) {
            let halves = upper.iter().zip(lower);
            for (sum, (upper, lower)) in sums[..SIDE].iter_mut().zip(halves) {
                let product = upper.wrapping_shl(8).wrapping_add(*lower);
                *sum += factor * product as f32;
            }
        }
    }
}

/// Tiles of products, `[tile of weights][half]`.
type Products = [[[[i32; SIDE]; SIDE]; 2]; 2];

/// Pointers to the tiles of operands that are long enough.
fn operands(
    units: usize,
    (w, pitch): (&[i32], usize),
    xs: [&[i32]; 2],
) -> ([*const i32; 2], [*const i32; 2]) {
    assert!(units > 0 && units.is_multiple_of(STEP) && w.len() >= (PANEL - 1) * pitch + units);
    assert!(xs.iter().all(|xs| xs.len() >= units * SIDE));
    (
        [w, &w[SIDE * pitch..]].map(<[i32]>::as_ptr),
        xs.map(<[i32]>::as_ptr),
    )
}

/// Two tiles of weights times two of activations; `$dp` is the product with the second one of these. `$start` makes the first
/// sums and `$end` stores the last ones, which is where the kinds differ.
macro_rules! quad {
    ($name:ident, $dp:literal, [$($start:literal),*], [$($end:literal),*]) => {
        /// # Safety
        /// A configured tile unit with tiles of bytes; `units` a positive multiple of 16; `w` readable for 16 rows of
        /// `units`, `w_pitch` apart, `x` for `units` rows of 16; `sums` as the kind wants them, per tile of weights.
        #[inline]
        unsafe fn $name(
            units: usize,
            w: [*const i32; 2],
            w_pitch: usize,
            x: [*const i32; 2],
            sums: [*mut i32; 2],
            sums_pitch: usize,
        ) {
            // SAFETY: reads and writes what the caller vouches for, and changes the named registers only.
            unsafe {
                asm!(
                    $($start,)*
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
                    $($end,)*
                    w0 = inout(reg) w[0] => _,
                    w1 = inout(reg) w[1] => _,
                    x0 = inout(reg) x[0] => _,
                    x1 = inout(reg) x[1] => _,
                    steps = inout(reg) units / STEP => _,
                    s0 = in(reg) sums[0],
                    s1 = in(reg) sums[1],
                    sums_pitch = in(reg) sums_pitch,
                    pitch = in(reg) w_pitch * size_of::<i32>(),
                    row = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

// Adds to sums: 16 rows, `sums_pitch` bytes apart, of two tiles' lanes.
quad!(
    add_signed,
    "tdpbssd",
    [
        "tileloadd tmm0, [{s0} + {sums_pitch}]",
        "tileloadd tmm1, [{s0} + {sums_pitch} + 64]",
        "tileloadd tmm2, [{s1} + {sums_pitch}]",
        "tileloadd tmm3, [{s1} + {sums_pitch} + 64]"
    ],
    [
        "tilestored [{s0} + {sums_pitch}], tmm0",
        "tilestored [{s0} + {sums_pitch} + 64], tmm1",
        "tilestored [{s1} + {sums_pitch}], tmm2",
        "tilestored [{s1} + {sums_pitch} + 64], tmm3"
    ]
);
// Stores products: two tiles, one after the other.
quad!(
    store_halves,
    "tdpbsud",
    [
        "/* {sums_pitch} */",
        "tilezero tmm0",
        "tilezero tmm1",
        "tilezero tmm2",
        "tilezero tmm3"
    ],
    [
        "tilestored [{s0} + {row}], tmm0",
        "tilestored [{s0} + {row} + 1024], tmm1",
        "tilestored [{s1} + {row}], tmm2",
        "tilestored [{s1} + {row} + 1024], tmm3"
    ]
);
