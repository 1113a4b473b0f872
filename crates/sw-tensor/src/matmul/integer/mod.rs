//! Products of integers: exact sums of 8-bit numbers, and of packed codes with activations of 16 bits.
//!
//! Both read numbers as units of 32 bits, four of 8 or two of 16 bits, and differ from the product of floats in that sums
//! are exact: any order gives the same, so every instruction set agrees bit for bit.

mod bytes;
mod codes;
mod kernel;
mod share;
#[cfg(test)]
mod tests;

use std::ops::Range;

use ndarray::{ArrayViewMut2, Axis};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::kernel::with_scratch;
#[cfg(target_arch = "x86_64")]
use super::x86::avx512::transpose_square;
use super::{cache, split};
use crate::isa::{Isa, Work};
use kernel::{Ahead, Kernel, LANES, MOST_UNITS, Operands, PITCH, Sum, Sums, UNITS_OF_STEP, Xs};

pub use bytes::matmul_t_i8;
pub use codes::{CodeOffsets, Codes, matmul_t_codes};

/// Most rows of activations that share one packing of the weights.
const M_BLOCK: usize = 512;
/// Rows of weights that are packed at a time, at most; the more, the fewer times all activations pass by.
const PANEL: usize = 192;

/// So many rows of weights ahead are asked for: about as many lines as can be under way.
const AHEAD: usize = 4;

/// Columns whose sums fit 32 bits.
struct Part {
    ks: Range<usize>,
    /// Units of weights, filled up to whole steps.
    units: usize,
    /// Units of weights in the parts before it.
    before: usize,
}

/// Columns that are packed together, in parts.
#[derive(Default)]
struct Block {
    parts: Vec<Part>,
    units: usize,
}

impl Block {
    /// Columns of each part.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        self.parts.iter().map(|part| part.ks.clone())
    }

    fn ks(&self) -> Range<usize> {
        let end = self.parts.last().map_or(0, |part| part.ks.end);
        self.parts.first().map_or(0, |part| part.ks.start)..end
    }
}

/// Blocks that fit a kernel, in order. Parts have at most `longest` terms and cross no multiple of `group`.
fn blocks<S: Sum, K: Kernel<S>>(depth: usize, group: usize, longest: usize) -> Vec<Block> {
    let mut all: Vec<Block> = Vec::new();
    let mut start = 0;
    while start < depth {
        let end = depth.min(start + longest).min((start / group + 1) * group);
        let units = (end - start).div_ceil(K::TERMS);
        let units = units.next_multiple_of(UNITS_OF_STEP);
        debug_assert!(units <= MOST_UNITS);
        if all.last().is_none_or(|last| last.units + units > K::UNITS) {
            all.push(Block::default());
        }
        if let Some(block) = all.last_mut() {
            block.parts.push(Part {
                ks: start..end,
                units,
                before: block.units,
            });
            block.units += units;
        }
        start = end;
    }
    all
}

/// Activations as the kernels read them: for each block of K, `[tile of 16 rows][part][plane][unit][row]`.
struct Rows<'a> {
    units: &'a [i32],
    /// Rows, of which a tile may lack some.
    height: usize,
    tiles: usize,
    blocks: &'a [Block],
}

/// Rows of activations that can be packed.
trait Activations: Sync {
    /// Columns `ks` of `row`, as units; what is left of `out` stays zero.
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]);
}

/// Lends `f` all activations as a kernel reads them, packed on all threads.
fn with_rows<S: Sum, K: Kernel<S>, R>(
    isa: Isa,
    height: usize,
    blocks: &[Block],
    x: &impl Activations,
    f: impl FnOnce(&Rows<'_>) -> R,
) -> R {
    let tiles = height.div_ceil(LANES).next_multiple_of(K::TILES_STEP);
    let units: usize = blocks.iter().map(|block| block.units).sum();
    with_scratch([units * K::PLANES * tiles * LANES], |[packed]| {
        let packed: &mut [i32] = bytemuck::cast_slice_mut(packed);
        let (mut rest, mut jobs) = (&mut *packed, Vec::new());
        for block in blocks {
            for tile in 0..tiles {
                let (out, after) = rest.split_at_mut(block.units * K::PLANES * LANES);
                jobs.push((block, tile * LANES..height.min((tile + 1) * LANES), out));
                rest = after;
            }
        }
        jobs.into_par_iter().for_each(|(block, rows, out)| {
            with_scratch([out.len()], |[scratch]| {
                isa.run(Tile {
                    isa,
                    x,
                    block,
                    rows,
                    planes: K::PLANES,
                    scratch: bytemuck::cast_slice_mut(scratch),
                    out,
                });
            });
        });
        f(&Rows {
            units: packed,
            height,
            tiles,
            blocks,
        })
    })
}

/// A tile of activations to pack.
struct Tile<'a, X> {
    isa: Isa,
    x: &'a X,
    block: &'a Block,
    rows: Range<usize>,
    planes: usize,
    scratch: &'a mut [i32],
    out: &'a mut [i32],
}

impl<X: Activations> Work for Tile<'_, X> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let units = self.out.len() / LANES;
        self.scratch.fill(0);
        for (row, scratch) in self.rows.zip(self.scratch.chunks_exact_mut(units)) {
            for part in &self.block.parts {
                let out = &mut scratch[part.before * self.planes..][..part.units * self.planes];
                self.x.pack(row, part.ks.clone(), out);
            }
        }
        let squares = self.out.chunks_exact_mut(LANES * LANES);
        for (square, at) in squares.zip((0..units).step_by(LANES)) {
            let turned = turn(self.isa, &self.scratch[at..], units);
            square.copy_from_slice(turned.as_flattened());
        }
    }
}

/// What is multiplied with the activations, and what becomes of the sums. `S` is i32 or f32.
trait Operand<S>: Sync {
    /// Asks the memory system for columns of a row that will be packed soon; it need not exist.
    fn ask(&self, row: usize, ks: &Range<usize>);

    /// Columns `ks` of `row`, as units; a last one that is not full, and what is left of `out`, are zero before.
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]);

    /// What a part's sums of a row are multiplied by, where they are floats.
    fn factor(&self, row: usize, ks: &Range<usize>) -> f32;

    /// The elements of `y` in this row of weights, one per row of activations, from the sums of all parts.
    fn finish(&self, row: usize, sums: &mut [S]);
}

/// `y[t, r]` of all rows `r` of an operand.
fn product<S: Sum, K: Kernel<S>, W: Operand<S>>(
    isa: Isa,
    kernel: K,
    x: &Rows<'_>,
    w: &W,
    y: ArrayViewMut2<S>,
) {
    let longest = x.blocks.iter().map(|b| b.units).max().unwrap_or(1);
    // Whole groups of rows and whole vectors of `y`, but for the last panel. A packed one takes three eighths of L2.
    let step = (K::ROWS * LANES) >> K::ROWS.trailing_zeros().min(LANES.trailing_zeros());
    let fits = cache::l2() * 3 / 8 / (longest * size_of::<i32>() * step);
    let panels: Vec<_> = split::columns(y, step, (step * fits).min(PANEL), 1).collect();
    let jobs = panels.into_par_iter().with_max_len(1);
    jobs.for_each(|(rows, y)| panel(isa, kernel, x, w, rows, y));
}

fn panel<S: Sum, K: Kernel<S>, W: Operand<S>>(
    isa: Isa,
    kernel: K,
    x: &Rows<'_>,
    w: &W,
    rows: Range<usize>,
    y: ArrayViewMut2<S>,
) {
    let height = rows.len().next_multiple_of(K::ROWS);
    // An odd number of lines, so that rows do not compete for one cache set.
    let pitch = (x.tiles | 1) * LANES;
    let parts = x.blocks.iter().map(|b| b.parts.len()).max().unwrap_or(0);
    let (units, factors) = (height * PITCH, height * parts);
    let sums = height.next_multiple_of(LANES) * pitch;
    let sizes = [units, units, factors, factors, sums];
    with_scratch(
        sizes,
        |[units, other_units, factors, other_factors, sums]| {
            isa.run(Panel {
                isa,
                kernel,
                x,
                rows: Weights { w, rows, height },
                packed: Packed {
                    units: bytemuck::cast_slice_mut(units),
                    factors,
                },
                other: Packed {
                    units: bytemuck::cast_slice_mut(other_units),
                    factors: other_factors,
                },
                sums: bytemuck::cast_slice_mut(sums),
                pitch,
                y,
            });
        },
    );
}

/// Some rows of weights.
struct Weights<'a, W> {
    w: &'a W,
    rows: Range<usize>,
    /// Rows, filled up to whole groups.
    height: usize,
}

/// A block of some rows of weights.
struct Packed<'a> {
    /// `[row][part][unit]`, rows [`PITCH`] apart.
    units: &'a mut [i32],
    /// What dot products are multiplied by, `[part][row]`.
    factors: &'a mut [f32],
}

impl<W> Weights<'_, W> {
    /// Packs row number `i`.
    #[inline(always)]
    fn pack<S: Sum, K: Kernel<S>>(&self, i: usize, block: &Block, packed: &mut Packed<'_>)
    where
        W: Operand<S>,
    {
        let (exists, row) = (i < self.rows.len(), self.rows.start + i);
        for (p, part) in block.parts.iter().enumerate() {
            let out = &mut packed.units[i * PITCH + part.before..][..part.units];
            let full = if exists { part.ks.len() / K::TERMS } else { 0 };
            if full < part.units {
                out[full..].fill(0);
            }
            if exists {
                self.w.pack(row, part.ks.clone(), out);
                packed.factors[p * self.height + i] = self.w.factor(row, &part.ks);
            }
        }
    }
}

/// Some rows of weights times all rows of activations.
struct Panel<'a, K, S, W> {
    isa: Isa,
    kernel: K,
    x: &'a Rows<'a>,
    rows: Weights<'a, W>,
    /// The block at work.
    packed: Packed<'a>,
    /// The next one.
    other: Packed<'a>,
    /// Of the elements of `y`, `[row of weights][row of activations]`, rows `pitch` apart.
    sums: &'a mut [S],
    pitch: usize,
    y: ArrayViewMut2<'a, S>,
}

impl<K: Kernel<S>, S: Sum, W: Operand<S>> Work for Panel<'_, K, S, W> {
    type Output = ();

    #[inline(always)]
    fn work(mut self) {
        self.sums.fill(S::zeroed());
        let session = self.kernel.session();
        let mut blocks = self.x.blocks.iter().peekable();
        if let Some(first) = blocks.peek() {
            for i in 0..self.rows.height {
                let ahead = self.rows.rows.start + i + AHEAD;
                self.rows.w.ask(ahead, &first.ks());
                self.rows.pack::<S, K>(i, first, &mut self.packed);
            }
        }
        let mut xs = self.x.units;
        while let Some(block) = blocks.next() {
            self.multiply(&session, block, blocks.peek().copied(), xs);
            xs = &xs[block.units * K::PLANES * LANES * self.x.tiles..];
            std::mem::swap(&mut self.packed, &mut self.other);
        }
        drop(session);
        let sums = self.sums.chunks_exact_mut(self.pitch);
        for (row, sums) in self.rows.rows.clone().zip(sums) {
            self.rows.w.finish(row, &mut sums[..self.x.height]);
        }
        self.copy_out();
    }
}

impl<K: Kernel<S>, S: Sum, W: Operand<S>> Panel<'_, K, S, W> {
    /// The first block of `xs` times the packed one. Meanwhile the next one is packed, row by row between the products, so that
    /// the weights come from memory while others are multiplied and need no place in the caches.
    #[inline(always)]
    fn multiply(&mut self, session: &K::Session, block: &Block, next: Option<&Block>, xs: &[i32]) {
        let (tile, height) = (block.units * K::PLANES * LANES, self.rows.height);
        // The next tiles of activations come closer too, some lines with each step of each group of rows.
        let steps = height / K::ROWS * (block.units / UNITS_OF_STEP);
        let lines = (K::TILES * tile / LANES).div_ceil(steps);
        let turns = self.x.tiles.div_ceil(K::TILES);
        for (turn, at) in (0..self.x.tiles).step_by(K::TILES).enumerate() {
            let tiles = K::TILES.min(self.x.tiles - at);
            let (here, after) = xs[at * tile..].split_at(tiles * tile);
            let mut ahead = Ahead {
                at: after.as_ptr().cast(),
                lines,
            };
            for group in (0..height).step_by(K::ROWS) {
                if let Some(next) = next {
                    for i in (group..group + K::ROWS).skip(turn).step_by(turns) {
                        self.rows.pack::<S, K>(i, next, &mut self.other);
                        let ahead = self.rows.rows.start + i + 2 * K::ROWS;
                        self.rows.w.ask(ahead, &next.ks());
                    }
                }
                let w = &self.packed.units[group * PITCH..];
                let sums = &mut self.sums[group * self.pitch + at * LANES..];
                for (p, part) in block.parts.iter().enumerate() {
                    let operands = Operands {
                        units: part.units,
                        w: &w[part.before..],
                        xs: Xs {
                            units: &here[part.before * K::PLANES * LANES..],
                            tiles,
                            pitch: tile,
                        },
                        factors: &self.packed.factors[p * height + group..][..K::ROWS],
                        sums: Sums {
                            sums,
                            pitch: self.pitch,
                        },
                        ahead,
                    };
                    self.kernel.multiply(session, operands);
                    ahead.advance(part.units);
                }
            }
        }
    }

    /// Transposes the sums in squares, so that what is written fills cache lines.
    #[inline(always)]
    fn copy_out(&mut self) {
        let tiles = self.y.axis_chunks_iter_mut(Axis(0), LANES);
        for (mut of_tile, tile) in tiles.zip((0..).step_by(LANES)) {
            let squares = of_tile.axis_chunks_iter_mut(Axis(1), LANES);
            for (mut y, sums) in squares.zip(self.sums.chunks(LANES * self.pitch)) {
                let square = turn(self.isa, &sums[tile..], self.pitch);
                for (mut y, turned) in y.rows_mut().into_iter().zip(&square) {
                    match y.as_slice_mut().and_then(|y| y.first_chunk_mut()) {
                        Some(y) => *y = *turned,
                        None => y.iter_mut().zip(turned).for_each(|(y, sum)| *y = *sum),
                    }
                }
            }
        }
    }
}

/// The transpose of 16 rows of 16 numbers, `pitch` apart.
#[inline(always)]
fn turn<T: bytemuck::Pod>(isa: Isa, square: &[T], pitch: usize) -> [[T; LANES]; LANES] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(proof) => {
            let turned = transpose_square(proof.avx512(), bytemuck::cast_slice(square), pitch);
            bytemuck::cast(turned)
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(proof) => {
            bytemuck::cast(transpose_square(proof, bytemuck::cast_slice(square), pitch))
        }
        _ => {
            let mut turned = [[T::zeroed(); LANES]; LANES];
            for (i, turned) in turned.iter_mut().enumerate() {
                for (j, turned) in turned.iter_mut().enumerate() {
                    *turned = square[j * pitch + i];
                }
            }
            turned
        }
    }
}
