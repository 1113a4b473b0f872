//! The instructions. Rust has no stable intrinsics for them, so they are written as assembly.

use std::arch::asm;
use std::marker::PhantomData;

use super::{BLOCK, PANEL, QUAD, SIDE, STEP, TILE, X_PIECES};
use crate::Mat;
use crate::isa::Amx;

/// The tile unit of this thread, configured while this lives: eight tiles of 16 rows of 64 bytes.
pub(in crate::matmul) struct Unit {
    /// Its configuration belongs to a thread.
    of_thread: PhantomData<*const ()>,
}

/// A panel of weights over a block of K: 32 rows of `steps` times 32 terms.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// How many pieces a weight has.
    pub(super) pieces: usize,
    pub(super) steps: usize,
    pub(super) weights: Weights<'a>,
}

/// Where the weights of a panel lie.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    /// Packed, `[tile of 2][step][piece][TILE]`, the second tile [`BLOCK`] terms after the first; perhaps not from the first
    /// step on.
    Packed(&'a [f32]),
    /// In the matrix, rows of one piece, that many bytes apart.
    InPlace(&'a [u8], usize),
}

/// Lines of memory that will be read soon: 32, `pitch` bytes apart, and after each step the next ones.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) at: *const u8,
    pub(super) pitch: usize,
}

impl Ahead {
    /// A panel of weights of two bytes, from that row and column on.
    pub(super) fn weights(w: &Mat, row: usize, k: usize) -> Ahead {
        let pitch = w.strides()[0] * 2;
        let at = w.base().as_ptr().wrapping_add(row * pitch + k * 2);
        Ahead { at, pitch }
    }

    /// What is at hand already.
    pub(super) fn at_hand(packed: &[f32]) -> Ahead {
        let at = packed.as_ptr().cast();
        Ahead { at, pitch: 64 }
    }
}

impl Unit {
    /// Configures it. One at a time: the first that goes releases it.
    pub(super) fn new(_proof: Amx) -> Unit {
        #[repr(C, align(64))]
        struct Configuration([u8; 64]);
        let mut bytes = [0; 64];
        bytes[0] = 1; // palette
        for tile in 0..8 {
            bytes[16 + 2 * tile] = 64; // bytes per row
            bytes[48 + tile] = 16; // rows
        }
        let configuration = Configuration(bytes);
        // SAFETY: `_proof` says that CPU and system have the tile unit; 64 readable bytes that hold palette 1 with tiles of
        // its size.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
        }
        Unit {
            of_thread: PhantomData,
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: a `Unit` exists only where the instruction does; it changes tiles only.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// Tile product: tile `$sum` += tile `$w` * tile `$x`.
macro_rules! dp {
    ($sum:literal, $w:literal, $x:literal) => {
        concat!("tdpbf16ps tmm", $sum, ", tmm", $w, ", tmm", $x)
    };
}

/// Loads tile `$tile`: of activations from `$at` plus `$offset`, of weights with their own distance of rows.
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
    ($tile:literal, $at:literal, $offset:literal, weights) => {
        concat!(
            "tileloadd tmm",
            $tile,
            ", [{",
            $at,
            "} + {pitch} + ",
            $offset,
            "]"
        )
    };
}

/// Asks for eight lines of those ahead.
macro_rules! ahead {
    () => {
        concat!(
            "prefetcht0 [{next}]\nprefetcht0 [{next} + {next_pitch}]\n",
            "lea {next}, [{next} + 2 * {next_pitch}]\n",
            "prefetcht0 [{next}]\nprefetcht0 [{next} + {next_pitch}]\n",
            "lea {next}, [{next} + 2 * {next_pitch}]\n",
            "prefetcht0 [{next}]\nprefetcht0 [{next} + {next_pitch}]\n",
            "lea {next}, [{next} + 2 * {next_pitch}]\n",
            "prefetcht0 [{next}]\nprefetcht0 [{next} + {next_pitch}]\n",
            "lea {next}, [{next} + 2 * {next_pitch}]",
        )
    };
}

/// Pointers and distances of a multiplication, as the assembly wants them.
#[derive(Clone, Copy)]
struct Operands {
    steps: usize,
    /// Two tiles of weights; bytes from row to row and from step to step.
    w: [*const u8; 2],
    pitch: usize,
    step: usize,
    /// One or two tiles of activations.
    x: [*const f32; 2],
    sums: *mut f32,
    /// 1 if the sums start from zero, 0 if they go on.
    start: usize,
}

/// Two tiles of weights times two of activations, step by step; sums in tiles 0 to 3.
macro_rules! tall {
    ($name:ident, $($line:expr),*) => {
        /// # Safety
        /// A configured tile unit; `steps > 0`; weights and activations readable for as many steps; `sums` readable and
        /// writable for four tiles.
        unsafe fn $name(o: Operands) {
            // SAFETY: reads and writes what the caller vouches for, and changes the named registers only.
            unsafe {
                asm!(
                    "test {start}, {start}",
                    "jnz 3f",
                    "tileloadd tmm0, [{sums} + {row}]",
                    "tileloadd tmm1, [{sums} + {row} + 1024]",
                    "tileloadd tmm2, [{sums} + {row} + 2048]",
                    "tileloadd tmm3, [{sums} + {row} + 3072]",
                    "jmp 2f",
                    "3:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    $($line,)*
                    "add {w0}, {step}",
                    "add {w1}, {step}",
                    "add {x0}, 3072",
                    "add {x1}, 3072",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {row}], tmm0",
                    "tilestored [{sums} + {row} + 1024], tmm1",
                    "tilestored [{sums} + {row} + 2048], tmm2",
                    "tilestored [{sums} + {row} + 3072], tmm3",
                    w0 = inout(reg) o.w[0] => _,
                    w1 = inout(reg) o.w[1] => _,
                    x0 = inout(reg) o.x[0] => _,
                    x1 = inout(reg) o.x[1] => _,
                    steps = inout(reg) o.steps => _,
                    start = in(reg) o.start,
                    pitch = in(reg) o.pitch,
                    step = in(reg) o.step,
                    sums = in(reg) o.sums,
                    row = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

/// Two tiles of weights times one of activations, asking for the lines ahead on the way: this is bound by memory. Sums are
/// in tiles 0 and 2, where [`tall`] has them.
macro_rules! low {
    ($name:ident, $($line:expr),*) => {
        /// # Safety
        /// As for two tiles of activations.
        unsafe fn $name(o: Operands, ahead: Ahead) {
            // SAFETY: reads and writes what the caller vouches for, and changes the named registers only. Asking for a line
            // never faults.
            unsafe {
                asm!(
                    "test {start}, {start}",
                    "jnz 3f",
                    "tileloadd tmm0, [{sums} + {row}]",
                    "tileloadd tmm2, [{sums} + {row} + 2048]",
                    "jmp 2f",
                    "3:",
                    "tilezero tmm0",
                    "tilezero tmm2",
                    "2:",
                    $($line,)*
                    "add {w0}, {step}",
                    "add {w1}, {step}",
                    "add {x0}, 3072",
                    "add {line}, 64",
                    "mov {next}, {line}",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {row}], tmm0",
                    "tilestored [{sums} + {row} + 2048], tmm2",
                    w0 = inout(reg) o.w[0] => _,
                    w1 = inout(reg) o.w[1] => _,
                    x0 = inout(reg) o.x[0] => _,
                    steps = inout(reg) o.steps => _,
                    start = in(reg) o.start,
                    line = inout(reg) ahead.at => _,
                    next = inout(reg) ahead.at => _,
                    next_pitch = in(reg) ahead.pitch,
                    pitch = in(reg) o.pitch,
                    step = in(reg) o.step,
                    sums = in(reg) o.sums,
                    row = in(reg) 64usize,
                    out("tmm0") _, out("tmm2") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

/// Several lines of assembly.
macro_rules! lines {
    ($($line:expr),*) => {
        concat!($($line, "\n"),*)
    };
}

// Every sum takes the pieces of a step in the same order.

/// The piece of two tiles of weights at `$piece`, loaded, times the first piece of two tiles of activations.
macro_rules! tall_first {
    ($piece:literal) => {
        lines!(
            load!("4", "w0", $piece, weights),
            load!("6", "x0", "0"),
            dp!("0", "4", "6"),
            load!("5", "w1", $piece, weights),
            dp!("2", "5", "6"),
            load!("7", "x1", "0"),
            dp!("1", "4", "7"),
            dp!("3", "5", "7")
        )
    };
}

/// Multiplies the piece of weights that is loaded by the piece of activations at `$piece`.
macro_rules! tall_next {
    ($piece:literal) => {
        lines!(
            load!("6", "x0", $piece),
            dp!("0", "4", "6"),
            dp!("2", "5", "6"),
            load!("7", "x1", $piece),
            dp!("1", "4", "7"),
            dp!("3", "5", "7")
        )
    };
}

/// The first piece of two tiles of weights times all three of one tile of activations.
macro_rules! low_first {
    () => {
        lines!(
            load!("4", "w0", "0", weights),
            load!("6", "x0", "0"),
            dp!("0", "4", "6"),
            ahead!(),
            load!("5", "w1", "0", weights),
            dp!("2", "5", "6"),
            ahead!(),
            load!("7", "x0", "1024"),
            dp!("0", "4", "7"),
            dp!("2", "5", "7"),
            ahead!(),
            load!("6", "x0", "2048"),
            dp!("0", "4", "6"),
            dp!("2", "5", "6"),
            ahead!()
        )
    };
}

/// The second piece of the weights times the larger two of the activations.
macro_rules! low_second {
    () => {
        lines!(
            load!("4", "w0", "1024", weights),
            load!("6", "x0", "0"),
            dp!("0", "4", "6"),
            load!("5", "w1", "1024", weights),
            dp!("2", "5", "6"),
            load!("7", "x0", "1024"),
            dp!("0", "4", "7"),
            dp!("2", "5", "7")
        )
    };
}

tall!(
    tall_one,
    tall_first!("0"),
    tall_next!("1024"),
    tall_next!("2048")
);
tall!(
    tall_two,
    tall_first!("0"),
    tall_next!("1024"),
    tall_next!("2048"),
    tall_first!("1024"),
    tall_next!("1024")
);
low!(low_one, low_first!());
low!(low_two, low_first!(), low_second!());

impl Unit {
    /// A panel of weights times two tiles of rows, whose steps begin at `xs`: starts or continues `sums` `[tile of
    /// weights][tile of rows][TILE]`.
    ///
    /// # Panics
    /// If an operand is too short.
    #[inline]
    pub(super) fn tall(&self, w: Panel<'_>, xs: [&[f32]; 2], sums: &mut [f32; QUAD], start: bool) {
        let operands = operands(w, xs, sums, start);
        // SAFETY: a `Unit` exists only while the tile unit of this thread is configured, and stays on it; `operands` has
        // checked that there is room for the steps.
        unsafe {
            match w.pieces {
                1 => tall_one(operands),
                _ => tall_two(operands),
            }
        }
    }

    /// Multiplies one tile of rows, on the way asking for the lines ahead; of the sums only the first of either two
    /// tiles.
    ///
    /// # Panics
    /// If an operand is too short.
    #[inline]
    pub(super) fn low(
        &self,
        w: Panel<'_>,
        xs: &[f32],
        sums: &mut [f32; QUAD],
        start: bool,
        ahead: Ahead,
    ) {
        let operands = operands(w, [xs, xs], sums, start);
        // SAFETY: as in `tall`.
        unsafe {
            match w.pieces {
                1 => low_one(operands, ahead),
                _ => low_two(operands, ahead),
            }
        }
    }
}

/// Pointers to operands that are long enough.
#[inline]
fn operands(w: Panel<'_>, xs: [&[f32]; 2], sums: &mut [f32; QUAD], start: bool) -> Operands {
    assert!((1..=BLOCK / STEP).contains(&w.steps) && (1..=2).contains(&w.pieces));
    assert!(xs.iter().all(|xs| xs.len() >= w.steps * X_PIECES * TILE));
    let (first, second, pitch, step) = match w.weights {
        Weights::Packed(packed) => {
            let block = BLOCK / STEP * w.pieces * TILE;
            assert!(packed.len() >= block + w.steps * w.pieces * TILE);
            let [first, second] = [packed, &packed[block..]].map(|w| w.as_ptr().cast());
            (first, second, 64, w.pieces * TILE * size_of::<f32>())
        }
        Weights::InPlace(bytes, pitch) => {
            assert_eq!(w.pieces, 1);
            assert!(bytes.len() >= (PANEL - 1) * pitch + w.steps * 64);
            let [first, second] = [bytes, &bytes[SIDE * pitch..]].map(|w| w.as_ptr());
            (first, second, pitch, 64)
        }
    };
    Operands {
        steps: w.steps,
        w: [first, second],
        pitch,
        step,
        x: xs.map(<[f32]>::as_ptr),
        sums: sums.as_mut_ptr(),
        start: usize::from(start),
    }
}
