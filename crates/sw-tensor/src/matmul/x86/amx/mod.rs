//! AMX: BF16 tiles with f32 sums, at the accuracy of f32.
//!
//! A tile product multiplies BF16, so operands are cut into pieces of 8 significant bits (`pack.rs`): an activation into
//! three, exactly; a BF16 weight is one piece already, an F16 weight is two. A product of activation and weight is the sum
//! of products of their pieces, each exact in f32. Of F16 weights' six, the one of both smallest pieces is left out: it
//! is below 2^-25 of the product.
//!
//! Weights are the left operand as they lie in memory, activations the right one, so what comes out is `y` transposed;
//! it is turned when the sums are complete. How a sum is made does not depend on the number of rows.

mod pack;
mod tile;

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::isa::{Amx, Isa};
use crate::matmul::blocked::{blocks, even_blocks};
use crate::matmul::cache;
use crate::matmul::kernel::{Out, with_scratch};
use crate::matmul::x86::avx512::prefetch_rows;
use crate::{Dtype, Mat};
pub(in crate::matmul) use tile::multiply_i8;
use tile::{Ahead, Panel, Weights};

/// Terms that one tile product sums.
const STEP: usize = 32;
/// Terms that are summed in one chain of tile products before the chain's sum is added to the result.
pub(in crate::matmul) const BLOCK: usize = 256;
/// Rows of a tile: of weights, or, turned, of activations.
const SIDE: usize = 16;
/// Floats that fill a tile: 16 rows of 64 bytes.
const TILE: usize = 256;
/// Tiles of weights that share the tiles of activations.
const WIDE: usize = 2;
/// Rows of weights of a panel.
const PANEL: usize = WIDE * SIDE;
/// Pieces of an activation.
const X_PIECES: usize = 3;
/// Floats that hold one tile of activations' rows over a block of K: `[step][piece][TILE]`.
const X_BLOCK: usize = BLOCK / STEP * X_PIECES * TILE;

/// Pieces of a weight.
fn pieces(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F16 => 2,
        _ => 1,
    }
}

/// `y = x * w^T`; `x` and `y` have adjacent columns, `w` is of 16 bits with adjacent columns.
///
/// # Panics
/// If that is not so.
pub(in crate::matmul) fn matmul_t(
    proof: Amx,
    x: ArrayView2<f32>,
    w: &Mat,
    mut y: ArrayViewMut2<f32>,
) {
    if y.is_empty() {
        return;
    }
    if x.ncols() == 0 {
        y.fill(0.0);
        return;
    }
    // A block of K of all rows takes three eighths of L2, and so do the sums of a part.
    let share_of_l2 = cache::l2() / size_of::<f32>() * 3 / 8;
    let rows_at_once = (share_of_l2 / X_BLOCK).max(1) * SIDE;
    for ms in even_blocks(x.nrows().div_ceil(SIDE), rows_at_once / SIDE) {
        let ms = ms.start * SIDE..x.nrows().min(ms.end * SIDE);
        let x = x.slice(s![ms.clone(), ..]);
        let mut y = y.slice_mut(s![ms, ..]);
        let (height, depth) = x.dim();
        let tiles = height.div_ceil(SIDE);
        with_scratch([depth.div_ceil(BLOCK) * tiles * X_BLOCK], |[xs]| {
            pack_rows(proof, x, xs);
            let width = part_width(w.rows(), share_of_l2 / (tiles * SIDE));
            let rows = Rows { xs, tiles, depth };
            let parts = y
                .axis_chunks_iter_mut(Axis(1), width)
                .into_par_iter()
                .with_max_len(1);
            parts.enumerate().for_each(|(part, mut y)| {
                let ns = part * width..part * width + y.ncols();
                product_of_part(proof, rows, w, ns.clone(), Out::of_view(&mut y));
                add_edits(proof, &x, w, ns, &mut y);
            });
        });
    }
}

/// Activations in pieces: `[block of K][tile of rows][X_BLOCK]`.
#[derive(Clone, Copy)]
struct Rows<'a> {
    xs: &'a [f32],
    tiles: usize,
    depth: usize,
}

impl<'a> Rows<'a> {
    /// The blocks of K with their activations.
    fn blocks(self) -> impl Iterator<Item = (Range<usize>, &'a [f32])> {
        blocks(0..self.depth, BLOCK).zip(self.xs.chunks_exact(self.tiles * X_BLOCK))
    }
}

/// Cuts all activations into pieces, on all threads.
fn pack_rows(proof: Amx, x: ArrayView2<f32>, out: &mut [f32]) {
    let tiles = x.nrows().div_ceil(SIDE);
    let pack = |(at, out): (usize, &mut [f32])| {
        let (k, tile) = (at / tiles * BLOCK, at % tiles);
        let rows = tile * SIDE..x.nrows().min((tile + 1) * SIDE);
        let ks = k..x.ncols().min(k + BLOCK);
        pack::activations(proof, &x.slice(s![rows, ks]), out);
    };
    if tiles == 1 {
        return out.chunks_exact_mut(X_BLOCK).enumerate().for_each(pack);
    }
    out.par_chunks_exact_mut(X_BLOCK).enumerate().for_each(pack);
}

/// Columns of `y` per part: at least four parts per thread to even out their speeds, equally many for each thread, none
/// wider than `fits`.
fn part_width(columns: usize, fits: usize) -> usize {
    let threads = rayon::current_num_threads();
    let count = (4 * threads).max(columns.div_ceil(fits.max(1)));
    let count = count.next_multiple_of(threads);
    columns.div_ceil(count).next_multiple_of(PANEL)
}

/// Rows `rows` of `w` times all rows of activations.
fn product_of_part(proof: Amx, x: Rows<'_>, w: &Mat, rows: Range<usize>, mut y: Out<'_>) {
    let panels = rows.len().div_ceil(PANEL);
    let panel_sums = WIDE * x.tiles * TILE;
    let sizes = [
        pieces(w.dtype()) * PANEL * BLOCK / 2, // weights [tile][step][piece][TILE]
        panels * panel_sums,                   // sums [panel][tile of weights][tile of rows][TILE]
        2 * WIDE * TILE,                       // one tile product
    ];
    with_scratch(sizes, |[packed, sums, product]| {
        tile::configured(proof, |unit| {
            let mut multiply = |panel: usize, ks: Range<usize>, xs: &[f32], next: Next| {
                let first = rows.start + panel * PANEL;
                let of_panel = first..rows.end.min(first + PANEL);
                let weights = match in_place(w, of_panel.clone(), ks.clone()) {
                    Some(weights) if x.tiles == 1 => weights,
                    _ => {
                        pack::weights(proof, w, of_panel, ks.clone(), packed);
                        Weights::Packed(packed)
                    }
                };
                let of_panel = Panel {
                    pieces: pieces(w.dtype()),
                    steps: ks.len().div_ceil(STEP),
                    weights,
                };
                let sums = &mut sums[panel * panel_sums..][..panel_sums];
                for tile in (0..x.tiles).step_by(2) {
                    if x.tiles > 1 {
                        next.ask(w, tile..x.tiles.min(tile + 2), x.tiles);
                    }
                    let tall = (x.tiles - tile).min(2);
                    let xs = &xs[tile * X_BLOCK..][..tall * X_BLOCK];
                    unit.multiply(of_panel, xs, product, next.ahead(w));
                    for (n, product) in product.chunks_exact(2 * TILE).enumerate() {
                        let sums = &mut sums[(n * x.tiles + tile) * TILE..][..tall * TILE];
                        pack::gather(proof, &product[..tall * TILE], sums, ks.start == 0);
                    }
                }
            };
            let next = |panel: usize, k: usize| Next {
                rows: if panel < panels {
                    let first = rows.start + panel * PANEL;
                    first..rows.end.min(first + PANEL)
                } else {
                    rows.end..rows.end
                },
                ks: k..x.depth.min(k + BLOCK),
            };
            if x.tiles <= 2 {
                // Few rows: panel by panel, so that the weights are read as they lie in memory.
                for panel in 0..panels {
                    for (ks, xs) in x.blocks() {
                        let next = match ks.end < x.depth {
                            true => next(panel, ks.end),
                            false => next(panel + 1, 0),
                        };
                        multiply(panel, ks, xs, next);
                    }
                }
            } else {
                // Many: block by block of K, so that a block of activations stays in L2 with the sums of the part.
                for (ks, xs) in x.blocks() {
                    for panel in 0..panels {
                        let next = match panel + 1 < panels {
                            true => next(panel + 1, ks.start),
                            false => next(0, ks.end),
                        };
                        multiply(panel, ks.clone(), xs, next);
                    }
                }
            }
        });
        let height = y.height();
        for (n, sums) in sums.chunks_exact(x.tiles * TILE).enumerate() {
            let ns = n * SIDE..rows.len().min((n + 1) * SIDE);
            if ns.is_empty() {
                break; // a tile that fills up the last panel
            }
            for (m, sums) in sums.chunks_exact(TILE).enumerate() {
                let ms = m * SIDE..height.min((m + 1) * SIDE);
                pack::turn(proof, sums, &mut y.part(ms, ns.clone()));
            }
        }
    });
}

/// A whole panel over whole steps that can be multiplied where it lies: one piece per weight, nothing edited.
fn in_place(w: &Mat, rows: Range<usize>, ks: Range<usize>) -> Option<Weights<'_>> {
    let pitch = w.strides()[0] * 2;
    let whole = rows.len() == PANEL && ks.len().is_multiple_of(STEP);
    if !whole || pieces(w.dtype()) != 1 || w.edits(rows.clone(), ks.clone()).next().is_some() {
        return None;
    }
    Some(Weights::InPlace(
        &w.base()[rows.start * pitch + ks.start * 2..],
        pitch,
    ))
}

/// The block of weights that will be wanted next; perhaps none.
struct Next {
    rows: Range<usize>,
    ks: Range<usize>,
}

impl Next {
    /// Asks for a share of it: that of some of `all` tiles.
    fn ask(&self, w: &Mat, tiles: Range<usize>, all: usize) {
        let share = |tile: usize| self.rows.start + self.rows.len() * tile / all;
        prefetch_rows(w, share(tiles.start)..share(tiles.end), self.ks.clone());
    }

    /// For asking line by line.
    fn ahead(&self, w: &Mat) -> Ahead {
        let pitch = w.strides()[0] * 2;
        Ahead {
            at: w
                .base()
                .as_ptr()
                .wrapping_add(self.rows.start * pitch + self.ks.start * 2),
            pitch,
        }
    }
}

/// Adds the products of edited weights that do not fit the pieces of the matrix's type; their tiles hold a zero.
fn add_edits(
    proof: Amx,
    x: &ArrayView2<f32>,
    w: &Mat,
    rows: Range<usize>,
    y: &mut ArrayViewMut2<f32>,
) {
    for (row, k, value) in w.edits(rows.clone(), 0..x.ncols()) {
        if pack::fits(w.dtype(), value) {
            continue;
        }
        let column = y.column_mut(row - rows.start);
        Isa::Amx(proof).run(|| {
            for (y, x) in column.into_iter().zip(x.column(k)) {
                *y = x.mul_add(value, *y);
            }
        });
    }
}
