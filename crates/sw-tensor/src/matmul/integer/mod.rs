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

use super::kernel::with_scratch;
use crate::isa::Isa;
use kernel::{Kernel, LANES, UNITS_OF_STEP};

pub use bytes::matmul_t_i8;
pub use codes::{CodeOffsets, Codes, matmul_t_codes};

/// Most rows of activations that share one packing of the weights.
const M_BLOCK: usize = 512;
/// Rows of weights that are packed at a time; a multiple of every kernel's.
const PANEL: usize = 96;

/// Activations as the kernels read them: for each range of K, `[tile of 16 rows][unit][row]`.
struct Rows<'a> {
    units: &'a [i32],
    /// Rows, of which a tile may lack some.
    height: usize,
    /// The ranges of K whose sums fit 32 bits, in order, and the units of each, filled up to whole steps.
    ranges: &'a [(Range<usize>, usize)],
}

impl Rows<'_> {
    fn tiles(&self) -> usize {
        self.height.div_ceil(LANES)
    }

    /// Ranges of K with their activations.
    fn ranges(&self) -> impl Iterator<Item = (Range<usize>, usize, &[i32])> {
        let mut rest = self.units;
        self.ranges.iter().map(move |(ks, units)| {
            let (of_range, after) = rest.split_at(units * self.tiles() * LANES);
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

/// Packs all activations on all threads: `pack(row, ks, units)` writes one row of a range.
fn pack_rows(
    isa: Isa,
    height: usize,
    ranges: &[(Range<usize>, usize)],
    out: &mut [i32],
    pack: impl Fn(usize, Range<usize>, &mut [i32]) + Sync,
) {
    let tiles = height.div_ceil(LANES);
    let (mut rest, mut parts) = (out, Vec::new());
    for (ks, units) in ranges {
        for tile in 0..tiles {
            let (part, after) = rest.split_at_mut(units * LANES);
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
                    isa.run(|| pack(row, ks.clone(), row_units));
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
    /// Columns `ks` of `row`, as units; what is left of `out` stays zero.
    fn pack(&self, row: usize, ks: Range<usize>, out: &mut [i32]);

    /// Adds a range's sums of some rows of activations to what they make.
    fn add(&self, row: usize, ks: &Range<usize>, product: &[i32], sums: &mut [S]);

    /// The elements of `y` in this row of weights, one per row of activations, from the sums of all ranges.
    fn finish(&self, row: usize, sums: &mut [S]);
}

/// `y[t, r]` of all rows `r` of an operand.
fn product<S, K: Kernel>(
    isa: Isa,
    kernel: K,
    x: &Rows<'_>,
    w: &impl Operand<S>,
    mut y: ArrayViewMut2<S>,
) where
    S: bytemuck::Pod + Send + Sync,
{
    let parts = (4 * rayon::current_num_threads()).next_multiple_of(rayon::current_num_threads());
    let width = y.ncols().div_ceil(parts).next_multiple_of(PANEL).max(1);
    y.axis_chunks_iter_mut(Axis(1), width)
        .into_par_iter()
        .with_max_len(1)
        .enumerate()
        .for_each(|(part, mut y)| {
            for start in (0..y.ncols()).step_by(PANEL) {
                let n = PANEL.min(y.ncols() - start);
                let rows = part * width + start..part * width + start + n;
                let y = y.slice_mut(ndarray::s![.., start..start + n]);
                isa.run(|| panel(kernel, x, w, rows, y));
            }
        });
}

#[inline(always)] // so that it is compiled for the instruction set
fn panel<S, K: Kernel>(
    kernel: K,
    x: &Rows<'_>,
    w: &impl Operand<S>,
    rows: Range<usize>,
    mut y: ArrayViewMut2<S>,
) where
    S: bytemuck::Pod,
{
    let tiles = x.tiles();
    let width = tiles * LANES; // sums of one row of weights
    let most = x.ranges.iter().map(|(_, units)| *units).max().unwrap_or(0);
    let sizes = [PANEL * most, PANEL * width, K::ROWS * K::TILES * LANES];
    with_scratch(sizes, |[packed, sums, product]| {
        let packed: &mut [i32] = bytemuck::cast_slice_mut(packed);
        let sums: &mut [S] = bytemuck::cast_slice_mut(sums);
        let product: &mut [i32] = bytemuck::cast_slice_mut(product);
        sums.fill(S::zeroed());
        for (ks, units, xs) in x.ranges() {
            packed.fill(0);
            for (row, out) in rows.clone().zip(packed.chunks_exact_mut(units)) {
                w.pack(row, ks.clone(), out);
            }
            for tile in (0..tiles).step_by(K::TILES) {
                let n = K::TILES.min(tiles - tile);
                let xs = &xs[tile * units * LANES..][..n * units * LANES];
                for first in (0..rows.len()).step_by(K::ROWS) {
                    let packed = &packed[first * units..][..K::ROWS * units];
                    kernel.multiply(units, packed, xs, &mut product[..K::ROWS * n * LANES]);
                    let products = product.chunks_exact(n * LANES);
                    for (row, product) in (first..rows.len().min(first + K::ROWS)).zip(products) {
                        let sums = &mut sums[row * width + tile * LANES..][..n * LANES];
                        w.add(rows.start + row, &ks, product, sums);
                    }
                }
            }
        }
        for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(width)) {
            w.finish(row, &mut sums[..x.height]);
        }
        // Sixteen rows of weights at a time, so that what is written fills cache lines.
        for (mut columns, sums) in y
            .axis_chunks_iter_mut(Axis(1), LANES)
            .zip(sums.chunks(LANES * width))
        {
            for (t, mut y) in columns.rows_mut().into_iter().enumerate() {
                for (y, sums) in y.iter_mut().zip(sums.chunks_exact(width)) {
                    *y = sums[t];
                }
            }
        }
    });
}
