//! Products of integers: exact sums of 8-bit numbers, and of packed codes with activations of 16 bits.
//!
//! Both read numbers as units of 32 bits, four of 8 or two of 16 bits, and differ from the product of floats in that sums
//! are exact: any order gives the same, so every instruction set agrees bit for bit.

mod bytes;
mod codes;
mod kernel;
#[cfg(test)]
mod tests;

use std::ops::Range;

use ndarray::{ArrayViewMut2, Axis};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::blocked::even_blocks;
use super::cache;
use super::kernel::with_scratch;
#[cfg(target_arch = "x86_64")]
use super::x86::avx512::transpose_square;
use crate::isa::{Isa, Work};
use kernel::{Kernel, LANES, Product, UNITS_OF_STEP};

pub use bytes::matmul_t_i8;
pub use codes::{CodeOffsets, Codes, matmul_t_codes};

/// Most rows of activations that share one packing of the weights.
const M_BLOCK: usize = 512;
/// Rows of weights that every kernel takes a whole number of times.
const ROWS: usize = 96;
/// Rows of weights that are packed at a time, at most; the more, the fewer times all activations pass by.
const PANEL: usize = 4 * ROWS;

/// So many rows of weights ahead are asked for: about as many lines as can be under way.
const AHEAD: usize = 4;

/// Units of a range that is so short that its successor can be asked for instead, of all rows of a panel.
const SHORT: usize = 128;

/// Activations as the kernels read them: for each range of K, `[tile of 16 rows][unit][row]`.
struct Rows<'a> {
    units: &'a [i32],
    /// Rows, of which a tile may lack some.
    height: usize,
    /// The ranges of K whose sums fit 32 bits, in order, and the units of weights in each, filled up to whole steps.
    ranges: &'a [(Range<usize>, usize)],
    /// Units of activations to one of weights.
    planes: usize,
}

impl Rows<'_> {
    fn tiles(&self) -> usize {
        self.height.div_ceil(LANES)
    }

    /// Units of weights in the longest range.
    fn longest(&self) -> usize {
        self.ranges.iter().map(|r| r.1).max().unwrap_or(1)
    }

    /// Ranges of K with their activations.
    fn ranges(&self) -> impl Iterator<Item = (Range<usize>, usize, &[i32])> {
        let mut rest = self.units;
        self.ranges.iter().map(move |(ks, units)| {
            let (of_range, after) = rest.split_at(units * self.planes * self.tiles() * LANES);
            rest = after;
            (ks.clone(), *units, of_range)
        })
    }
}

/// Ranges of at most `longest` terms that cross no multiple of `group`, with the units that hold them, `per_unit` each.
fn ranges(
    depth: usize,
    group: usize,
    longest: usize,
    per_unit: usize,
) -> Vec<(Range<usize>, usize)> {
    let mut all = Vec::new();
    let mut start = 0;
    while start < depth {
        let end = depth.min(start + longest).min((start / group + 1) * group);
        let units = (end - start).div_ceil(per_unit);
        all.push((start..end, units.next_multiple_of(UNITS_OF_STEP)));
        start = end;
    }
    all
}

/// Two numbers to a unit; a last one alone shares its unit with zero.
#[inline(always)]
fn pairs<T>(values: &[T], out: &mut [i32], number: impl Fn(&T) -> i32) {
    let (whole, rest) = values.as_chunks::<2>();
    for (out, [low, high]) in out.iter_mut().zip(whole) {
        *out = number(high) << 16 | (number(low) & 0xffff);
    }
    if let ([last], Some(out)) = (rest, out.get_mut(whole.len())) {
        *out = number(last) & 0xffff;
    }
}

/// Rows of activations that can be packed.
trait Activations: Sync {
    /// Columns `ks` of `row`, as units; what is left of `out` stays zero.
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]);
}

/// One row of a range.
struct OneRow<'a, X>(&'a X, usize, Range<usize>, &'a mut [i32]);

impl<X: Activations> Work for OneRow<'_, X> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let OneRow(x, row, ks, out) = self;
        x.pack(row, ks, out);
    }
}

/// Packs all activations on all threads.
fn pack_rows(
    isa: Isa,
    height: usize,
    ranges: &[(Range<usize>, usize)],
    planes: usize,
    out: &mut [i32],
    x: &impl Activations,
) {
    let tiles = height.div_ceil(LANES);
    let (mut rest, mut parts) = (out, Vec::new());
    for (ks, units) in ranges {
        for tile in 0..tiles {
            let (part, after) = rest.split_at_mut(units * planes * LANES);
            parts.push((ks.clone(), tile, part));
            rest = after;
        }
    }
    parts.into_par_iter().for_each(|(ks, tile, part)| {
        let units = part.len() / LANES;
        with_scratch([units], |[row_units]| {
            let row_units: &mut [i32] = bytemuck::cast_slice_mut(row_units);
            for lane in 0..LANES {
                row_units.fill(0);
                let row = tile * LANES + lane;
                if row < height {
                    isa.run(OneRow(x, row, ks.clone(), row_units));
                }
                for (out, unit) in part[lane..].iter_mut().step_by(LANES).zip(&*row_units) {
                    *out = *unit;
                }
            }
        });
    });
}

/// What is multiplied with the activations, and what becomes of the sums. `S` is i32 or f32.
trait Operand<S>: Sync {
    /// Asks the memory system for columns of a row that will be packed soon; it need not exist.
    fn ask(&self, row: usize, ks: &Range<usize>);

    /// Columns `ks` of `row`, as units; what is left of `out` stays zero.
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]);

    /// What a range's sums of a row are multiplied by.
    fn factor(&self, row: usize, ks: &Range<usize>) -> f32;

    /// Adds a range's sums to what they make.
    fn add(factor: f32, product: [i32; LANES], sums: &mut [S; LANES]);

    /// The elements of `y` in this row of weights, one per row of activations, from the sums of all ranges.
    fn finish(&self, row: usize, sums: &mut [S]);
}

/// `y[t, r]` of all rows `r` of an operand.
fn product<S, W: Operand<S>>(
    isa: Isa,
    kernel: impl Kernel,
    x: &Rows<'_>,
    w: &W,
    mut y: ArrayViewMut2<S>,
) where
    S: bytemuck::Pod + Send + Sync,
{
    let parts = (4 * rayon::current_num_threads()).next_multiple_of(rayon::current_num_threads());
    let width = y.ncols().div_ceil(parts).next_multiple_of(ROWS).max(1);
    // A packed panel takes three eighths of L2.
    let fits = cache::l2() * 3 / 8 / (x.longest() * size_of::<i32>() * ROWS);
    let most = fits.clamp(1, PANEL / ROWS);
    y.axis_chunks_iter_mut(Axis(1), width)
        .into_par_iter()
        .with_max_len(1)
        .enumerate()
        .for_each(|(part, mut y)| {
            for rows in even_blocks(y.ncols().div_ceil(ROWS), most) {
                let rows = rows.start * ROWS..y.ncols().min(rows.end * ROWS);
                let y = y.slice_mut(ndarray::s![.., rows.clone()]);
                let rows = part * width + rows.start..part * width + rows.end;
                panel(isa, kernel, x, w, rows, y);
            }
        });
}

fn panel<S, W: Operand<S>>(
    isa: Isa,
    kernel: impl Kernel,
    x: &Rows<'_>,
    w: &W,
    rows: Range<usize>,
    y: ArrayViewMut2<S>,
) where
    S: bytemuck::Pod,
{
    let width = x.tiles() * LANES; // sums of one row of weights
    let height = rows.len().next_multiple_of(ROWS);
    with_scratch([height * x.longest(), height * width], |[packed, sums]| {
        isa.run(Panel {
            isa,
            kernel,
            x,
            w,
            rows,
            packed: bytemuck::cast_slice_mut(packed),
            sums: bytemuck::cast_slice_mut(sums),
            y,
        });
    });
}

/// Some rows of weights times all rows of activations.
struct Panel<'a, K, S, W> {
    isa: Isa,
    kernel: K,
    x: &'a Rows<'a>,
    w: &'a W,
    rows: Range<usize>,
    packed: &'a mut [i32],
    /// Of the elements of `y`, `[row of weights][row of activations]`.
    sums: &'a mut [S],
    y: ArrayViewMut2<'a, S>,
}

impl<K: Kernel, S: bytemuck::Pod, W: Operand<S>> Work for Panel<'_, K, S, W> {
    type Output = ();

    #[inline(always)]
    fn work(mut self) {
        let width = self.x.tiles() * LANES;
        let (w, rows, sums) = (self.w, self.rows, self.sums);
        let mut product: Product = [[0; LANES]; _];
        sums.fill(S::zeroed());
        let mut ranges = self.x.ranges().peekable();
        while let Some((ks, units, xs)) = ranges.next() {
            let next = ranges.peek().map(|(ks, ..)| ks).filter(|_| units <= SHORT);
            let packed = &mut self.packed[..rows.len().next_multiple_of(ROWS) * units];
            let mut factors = [0.0; PANEL];
            packed.fill(0);
            let of_rows = packed.chunks_exact_mut(units).zip(&mut factors);
            for (row, (packed, factor)) in rows.clone().zip(of_rows) {
                match next {
                    Some(next) => w.ask(row, next),
                    None => w.ask(row + AHEAD, &ks),
                }
                w.pack(row, ks.clone(), packed);
                *factor = w.factor(row, &ks);
            }
            let session = self.kernel.session();
            let tile = K::PLANES * units * LANES;
            for (xs, at) in xs.chunks(K::TILES * tile).zip((0..).step_by(K::TILES)) {
                let tiles = xs.len() / tile;
                let rows = packed.chunks_exact(K::ROWS * units);
                for (packed, first) in rows.zip((0..).step_by(K::ROWS)) {
                    self.kernel
                        .multiply(&session, units, packed, xs, &mut product);
                    let sums = sums[first * width..].chunks_exact_mut(width);
                    let products = product.chunks_exact(tiles).take(K::ROWS);
                    for ((sums, products), factor) in sums.zip(products).zip(&factors[first..]) {
                        let sums = &mut sums.as_chunks_mut().0[at..at + tiles];
                        for (sums, product) in sums.iter_mut().zip(products) {
                            W::add(*factor, *product, sums);
                        }
                    }
                }
            }
        }
        for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(width)) {
            w.finish(row, &mut sums[..self.x.height]);
        }
        // Squares of sixteen by sixteen, so that what is written fills cache lines.
        let columns = self.y.axis_chunks_iter_mut(Axis(1), LANES);
        for (mut columns, sums) in columns.zip(sums.chunks_exact(LANES * width)) {
            let rows = columns.axis_chunks_iter_mut(Axis(0), LANES);
            for (mut y, at) in rows.zip((0..).step_by(LANES)) {
                let mut square: [[S; LANES]; LANES] = std::array::from_fn(|row| {
                    *sums[row * width + at..].first_chunk().expect("a tile")
                });
                turn(
                    self.isa,
                    bytemuck::cast_slice_mut(square.as_flattened_mut()),
                );
                for (mut y, turned) in y.rows_mut().into_iter().zip(square) {
                    match y.as_slice_mut().and_then(|y| y.first_chunk_mut()) {
                        Some(y) => *y = turned,
                        None => y.iter_mut().zip(turned).for_each(|(y, sum)| *y = sum),
                    }
                }
            }
        }
    }
}

/// Transposes 16 rows of 16 units.
#[inline(always)]
fn turn(isa: Isa, square: &mut [u32]) {
    let (rows, _) = square.as_chunks_mut::<LANES>();
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(proof) => transpose_square(proof.avx512(), rows),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(proof) => transpose_square(proof, rows),
        _ => {
            for i in 0..LANES {
                let (before, after) = rows.split_at_mut(i + 1);
                for (j, row) in after.iter_mut().enumerate() {
                    std::mem::swap(&mut before[i][i + 1 + j], &mut row[i]);
                }
            }
        }
    }
}
