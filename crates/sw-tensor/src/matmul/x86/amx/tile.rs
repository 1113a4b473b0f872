//! The instructions. Rust has no stable intrinsics for them, so they are written as assembly.

use std::arch::asm;
use std::marker::PhantomData;

use super::{BLOCK, PANEL, SIDE, STEP, TILE, WIDE, X_BLOCK, pieces};
use crate::Dtype;
use crate::isa::Amx;

/// The tile unit of this thread, configured: eight tiles of 16 rows of 64 bytes.
pub(super) struct Unit {
    /// Its configuration belongs to a thread.
    of_thread: PhantomData<*const ()>,
}

/// What is to be multiplied.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Type of the weights, which decides into how many pieces they are cut.
    pub(super) dtype: Dtype,
    /// Steps of 32 terms.
    pub(super) steps: usize,
}

/// Configures the tile unit for `f` and releases it afterwards, also when `f` panics.
pub(super) fn configured<R>(_proof: Amx, f: impl FnOnce(&Unit) -> R) -> R {
    #[repr(C, align(64))]
    struct Configuration([u8; 64]);
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: made only where `_proof` says that the instruction exists; it changes tiles only.
            unsafe { asm!("tilerelease", options(nostack, nomem)) }
        }
    }
    let mut bytes = [0; 64];
    bytes[0] = 1; // palette
    for tile in 0..8 {
        bytes[16 + 2 * tile] = 64; // bytes per row
        bytes[48 + tile] = 16; // rows
    }
    let configuration = Configuration(bytes);
    // SAFETY: `_proof` says that CPU and system have the tile unit; 64 readable bytes that hold palette 1 with tiles of its
    // size.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
    let _release = Release;
    f(&Unit {
        of_thread: PhantomData,
    })
}

/// Tile product: tile `$sum` += tile `$w` * tile `$x`.
macro_rules! dp {
    ($sum:literal, $w:literal, $x:literal) => {
        concat!("tdpbf16ps tmm", $sum, ", tmm", $w, ", tmm", $x)
    };
}

/// Loads tile `$tile` from `$at` plus `$offset`.
macro_rules! load {
    ($tile:literal, $at:literal, $offset:literal) => {
        concat!(
            "tileloadd tmm",
            $tile,
            ", [{",
            $at,
            "} + {row} + ",
            $offset,
            "]"
        )
    };
}

/// A loop over the steps of `$w_step` bytes of weights; sums in tiles 0 to 3 go to `product`.
macro_rules! multiply {
    ($name:ident, $w_step:literal, $($line:expr),*) => {
        /// # Safety
        /// A configured tile unit; `steps > 0`; `w0` and `w1` readable for as many steps of weights, `x0` and `x1` for as
        /// many of activations; `product` writable for four tiles.
        unsafe fn $name(steps: usize, w: [*const f32; 2], x: [*const f32; 2], product: *mut f32) {
            // SAFETY: reads and writes what the caller vouches for, and changes the named registers only.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    $($line,)*
                    concat!("add {w0}, ", $w_step),
                    concat!("add {w1}, ", $w_step),
                    "add {x0}, 3072",
                    "add {x1}, 3072",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{product} + {row}], tmm0",
                    "tilestored [{product} + {row} + 1024], tmm1",
                    "tilestored [{product} + {row} + 2048], tmm2",
                    "tilestored [{product} + {row} + 3072], tmm3",
                    w0 = inout(reg) w[0] => _,
                    w1 = inout(reg) w[1] => _,
                    x0 = inout(reg) x[0] => _,
                    x1 = inout(reg) x[1] => _,
                    steps = inout(reg) steps => _,
                    product = in(reg) product,
                    row = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

// Two tiles of rows times two tiles of weights. Every sum takes the pieces of a step in the same order.
multiply!(
    tall_bf16,
    "1024",
    load!("4", "w0", "0"),
    load!("6", "x0", "0"),
    dp!("0", "4", "6"),
    load!("5", "w1", "0"),
    dp!("2", "5", "6"),
    load!("7", "x1", "0"),
    dp!("1", "4", "7"),
    dp!("3", "5", "7"),
    load!("6", "x0", "1024"),
    dp!("0", "4", "6"),
    dp!("2", "5", "6"),
    load!("7", "x1", "1024"),
    dp!("1", "4", "7"),
    dp!("3", "5", "7"),
    load!("6", "x0", "2048"),
    dp!("0", "4", "6"),
    dp!("2", "5", "6"),
    load!("7", "x1", "2048"),
    dp!("1", "4", "7"),
    dp!("3", "5", "7")
);
multiply!(
    tall_f16,
    "2048",
    load!("4", "w0", "0"),
    load!("6", "x0", "0"),
    dp!("0", "4", "6"),
    load!("5", "w1", "0"),
    dp!("2", "5", "6"),
    load!("7", "x1", "0"),
    dp!("1", "4", "7"),
    dp!("3", "5", "7"),
    load!("6", "x0", "1024"),
    dp!("0", "4", "6"),
    dp!("2", "5", "6"),
    load!("7", "x1", "1024"),
    dp!("1", "4", "7"),
    dp!("3", "5", "7"),
    load!("6", "x0", "2048"),
    dp!("0", "4", "6"),
    dp!("2", "5", "6"),
    load!("7", "x1", "2048"),
    dp!("1", "4", "7"),
    dp!("3", "5", "7"),
    load!("4", "w0", "1024"),
    load!("6", "x0", "0"),
    dp!("0", "4", "6"),
    load!("5", "w1", "1024"),
    dp!("2", "5", "6"),
    load!("7", "x1", "0"),
    dp!("1", "4", "7"),
    dp!("3", "5", "7"),
    load!("6", "x0", "1024"),
    dp!("0", "4", "6"),
    dp!("2", "5", "6"),
    load!("7", "x1", "1024"),
    dp!("1", "4", "7"),
    dp!("3", "5", "7")
);
// One tile of rows: sums 1 and 3 stay zero.
multiply!(
    low_bf16,
    "1024",
    load!("4", "w0", "0"),
    load!("6", "x0", "0"),
    dp!("0", "4", "6"),
    load!("5", "w1", "0"),
    dp!("2", "5", "6"),
    load!("7", "x0", "1024"),
    dp!("0", "4", "7"),
    dp!("2", "5", "7"),
    load!("6", "x0", "2048"),
    dp!("0", "4", "6"),
    dp!("2", "5", "6")
);
multiply!(
    low_f16,
    "2048",
    load!("4", "w0", "0"),
    load!("6", "x0", "0"),
    dp!("0", "4", "6"),
    load!("5", "w1", "0"),
    dp!("2", "5", "6"),
    load!("7", "x0", "1024"),
    dp!("0", "4", "7"),
    dp!("2", "5", "7"),
    load!("6", "x0", "2048"),
    dp!("0", "4", "6"),
    dp!("2", "5", "6"),
    load!("4", "w0", "1024"),
    load!("6", "x0", "0"),
    dp!("0", "4", "6"),
    load!("5", "w1", "1024"),
    dp!("2", "5", "6"),
    load!("7", "x0", "1024"),
    dp!("0", "4", "7"),
    dp!("2", "5", "7")
);

impl Unit {
    /// A panel of weights `[tile of 2][step][piece][TILE]` times one or two tiles of rows `[tile][X_BLOCK]`, to
    /// `product[tile of weights][tile of rows][TILE]`, room for two tiles of rows.
    ///
    /// # Panics
    /// If an operand is too short.
    pub(super) fn multiply(&self, shape: Shape, w: &[f32], xs: &[f32], product: &mut [f32]) {
        let pieces = pieces(shape.dtype);
        let w_block = BLOCK / STEP * pieces * TILE;
        assert!((1..=BLOCK / STEP).contains(&shape.steps));
        assert!(w.len() >= WIDE * w_block && product.len() >= 2 * WIDE * TILE);
        assert!(xs.len() >= X_BLOCK);
        let tall = xs.len() >= 2 * X_BLOCK;
        let multiply = match (pieces, tall) {
            (1, true) => tall_bf16,
            (1, false) => low_bf16,
            (_, true) => tall_f16,
            (_, false) => low_f16,
        };
        let second = if tall { &xs[X_BLOCK..] } else { xs };
        let w = [w.as_ptr(), w[w_block..].as_ptr()];
        let x = [xs.as_ptr(), second.as_ptr()];
        // SAFETY: a `Unit` exists only while the tile unit of this thread is configured, and stays on it; operands have
        // room for a whole block of K, of which `steps` are a part, by the assertions above.
        unsafe { multiply(shape.steps, w, x, product.as_mut_ptr()) }
    }
}

/// `product[row][tile][lane] = sum_unit w[row][unit] . xs[tile][unit][lane]` for 32 rows of weights and one or two tiles of
/// activations, four bytes to a unit.
///
/// # Panics
/// If `units` is no positive multiple of 16, or an operand has another size.
pub(in crate::matmul) fn multiply_i8(
    proof: Amx,
    tiles: usize,
    units: usize,
    w: &[i32],
    xs: &[i32],
    product: &mut [i32],
) {
    assert!(proof.multiplies_bytes(), "tiles of bytes");
    assert!(units > 0 && units.is_multiple_of(16) && (1..=2).contains(&tiles));
    assert!(w.len() == PANEL * units && xs.len() == tiles * units * SIDE);
    assert_eq!(product.len(), PANEL * tiles * SIDE);
    let x = [xs, &xs[(tiles - 1) * units * SIDE..]].map(<[i32]>::as_ptr);
    let w = [w, &w[SIDE * units..]].map(<[i32]>::as_ptr);
    let mut sums = [0i32; 4 * TILE];
    configured(proof, |_| {
        // SAFETY: the tile unit is configured; 16 rows of `units` from either place of `w`, `units` rows of 64 bytes from
        // either place of `x`, by the assertions above.
        unsafe { bytes(units / 16, units * 4, w, x, sums.as_mut_ptr()) }
    });
    for (i, sums) in sums.chunks_exact(TILE).enumerate() {
        let (first, tile) = (i / 2 * SIDE, i % 2);
        if tile >= tiles {
            continue;
        }
        for (row, sums) in sums.chunks_exact(SIDE).enumerate() {
            product[((first + row) * tiles + tile) * SIDE..][..SIDE].copy_from_slice(sums);
        }
    }
}

/// # Safety
/// A configured tile unit with tiles of bytes; `steps > 0`; `w` readable for 16 rows, `pitch` bytes apart, of `steps` times
/// 64 bytes; `x` for `steps` tiles; `product` writable for four tiles.
unsafe fn bytes(
    steps: usize,
    pitch: usize,
    w: [*const i32; 2],
    x: [*const i32; 2],
    product: *mut i32,
) {
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
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm3, tmm5, tmm7",
            "add {w0}, 64",
            "add {w1}, 64",
            "add {x0}, 1024",
            "add {x1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{product} + {row}], tmm0",
            "tilestored [{product} + {row} + 1024], tmm1",
            "tilestored [{product} + {row} + 2048], tmm2",
            "tilestored [{product} + {row} + 3072], tmm3",
            w0 = inout(reg) w[0] => _,
            w1 = inout(reg) w[1] => _,
            x0 = inout(reg) x[0] => _,
            x1 = inout(reg) x[1] => _,
            steps = inout(reg) steps => _,
            product = in(reg) product,
            pitch = in(reg) pitch,
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
