//! AMX: BF16 tiles with f32 sums, at the accuracy of f32.
//!
//! A tile product multiplies BF16, so operands are cut into pieces of 8 significant bits (`pack.rs`): an activation into
//! three, exactly; a BF16 weight is one piece already, an F16 weight is two. A product of activation and weight is the sum
//! of products of their pieces, each exact in f32. Of F16 weights' six, the one of both smallest pieces is left out: it
//! is below 2^-25 of the product.
//!
//! Weights are the left operand as they lie in memory, activations the right one, so what comes out is `y` transposed;
//! it is turned when the sums are complete. How a sum is made does not depend on the number of rows.

mod bytes;
mod pack;
mod tile;

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, s};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::isa::{Amx, Isa};
use crate::matmul::kernel::{Out, with_scratch};
use crate::matmul::split::{self, blocks, even_blocks};
use crate::matmul::{Output, cache};
use crate::{Dtype, Mat};
pub(in crate::matmul) use bytes::ByteTiles;
pub(in crate::matmul) use tile::Unit;
use tile::{Ahead, Panel, Weights};

/// Terms that one tile product sums.
const STEP: usize = 32;
/// Terms that are summed in one chain of tile products before the chain's sum is added to the result.
pub(in crate::matmul) const BLOCK: usize = 512;
/// Steps of it at a time: the activations of two tiles stay in the first-level cache while weights pass by.
const PASS: usize = 4;
/// Rows of activations that share a packing of the weights, at most.
const M_BLOCK: usize = 512;
/// Rows of a tile: of weights, or, turned, of activations.
const SIDE: usize = 16;
/// Floats that fill a tile: 16 rows of 64 bytes.
const TILE: usize = 256;
/// Tiles of weights that share the tiles of activations.
const WIDE: usize = 2;
/// Rows of weights of a panel.
const PANEL: usize = WIDE * SIDE;
/// Sums of a panel with two tiles of activations: `[tile of weights][tile of activations][TILE]`.
const QUAD: usize = 2 * WIDE * TILE;
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

/// `y = x * w^T` for matrices, one at least, of one dtype of 16 bits; all of `x`, `y` and the matrices have columns, which are adjacent.
///
/// # Panics
/// If that is not so.
pub(in crate::matmul) fn matmul_t(proof: Amx, x: ArrayView2<f32>, products: &mut [Output<'_>]) {
    let dtype = products[0].0.dtype();
    let fits = |w: &Mat| w.dtype() == dtype && w.strides()[1] == 1 && w.cols() == x.ncols();
    assert!(dtype != Dtype::F32 && products.iter().all(|(w, _)| fits(w)));
    for ms in even_blocks(x.nrows().div_ceil(SIDE), M_BLOCK / SIDE) {
        let ms = ms.start * SIDE..x.nrows().min(ms.end * SIDE);
        let x = x.slice(s![ms.clone(), ..]);
        let (height, depth) = x.dim();
        let tiles = height.div_ceil(SIDE);
        let most = most_columns(tiles, pieces(dtype));
        let parts: Vec<_> = split::parts(products, ms, PANEL, most).collect();
        with_scratch([depth.div_ceil(BLOCK) * tiles * X_BLOCK], |[xs]| {
            pack_rows(proof, x, xs);
            let rows = Rows { xs, tiles, depth };
            let parts = parts.into_par_iter().with_max_len(1);
            parts.for_each(|(w, ns, mut y)| {
                let out = Out::of_view(&mut y);
                match tiles {
                    1 => one_tile(proof, rows, w, ns.clone(), out),
                    _ => many_tiles(proof, rows, w, ns.clone(), out),
                }
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

/// Columns of `y` per part at most: their sums take three eighths of L2, a packed block of weights half as much.
fn most_columns(tiles: usize, pieces: usize) -> usize {
    let share = cache::l2() * 3 / 8;
    (share / (tiles * SIDE * size_of::<f32>())).min(share / (2 * BLOCK * pieces))
}

/// Rows `rows` of `w` times one tile of activations, panel by panel, so that the weights are read as they lie in memory.
fn one_tile(proof: Amx, x: Rows<'_>, w: &Mat, rows: Range<usize>, mut y: Out<'_>) {
    let sizes = [pieces(w.dtype()) * PANEL * BLOCK / 2, QUAD, QUAD];
    with_scratch(sizes, |[packed, sums, chain]| {
        let (sums, chain) = (quad(sums), quad(chain));
        let unit = Unit::new(proof);
        for of_panel in blocks(rows.clone(), PANEL) {
            for (ks, xs) in x.blocks() {
                let weights = in_place(w, of_panel.clone(), ks.clone()).unwrap_or_else(|| {
                    pack::weights(proof, w, of_panel.clone(), ks.clone(), packed);
                    Weights::Packed(packed)
                });
                let panel = Panel {
                    pieces: pieces(w.dtype()),
                    steps: ks.len().div_ceil(STEP),
                    weights,
                };
                let (row, k) = match ks.end < x.depth {
                    true => (of_panel.start, ks.end),
                    false => (of_panel.end, 0),
                };
                let ahead = Ahead::weights(w, row, k);
                if ks.start == 0 {
                    unit.low(panel, xs, sums, true, ahead);
                } else {
                    unit.low(panel, xs, chain, true, ahead);
                    pack::gather(proof, chain, sums);
                }
            }
            let ns = of_panel.start - rows.start..of_panel.end - rows.start;
            let ms = 0..y.height();
            store(proof, sums, &mut y.part(ms, ns));
        }
    });
}

/// Rows `rows` of `w` times many tiles of activations, block by block of K: its weights are packed into L2, and pass by two
/// tiles of activations at a time, of which a few steps stay in L1.
fn many_tiles(proof: Amx, x: Rows<'_>, w: &Mat, rows: Range<usize>, mut y: Out<'_>) {
    let pieces = pieces(w.dtype());
    let (panels, pairs) = (rows.len().div_ceil(PANEL), x.tiles.div_ceil(2));
    let packed_panel = pieces * PANEL * BLOCK / 2;
    let kept = if x.depth > BLOCK { pairs } else { 0 }; // one chain needs no sums beside it
    let sizes = [
        panels * packed_panel,
        panels * QUAD,
        kept * panels * QUAD, // [pair][panel][QUAD]
    ];
    with_scratch(sizes, |[packed, chains, sums]| {
        let unit = Unit::new(proof);
        for (ks, xs) in x.blocks() {
            let (first, last) = (ks.start == 0, ks.end == x.depth);
            let of_panels = blocks(rows.clone(), PANEL);
            for (of_panel, packed) in of_panels.zip(packed.chunks_exact_mut(packed_panel)) {
                pack::weights(proof, w, of_panel, ks.clone(), packed);
            }
            let block = Block {
                pieces,
                steps: ks.len().div_ceil(STEP),
                packed,
            };
            for pair in 0..pairs {
                let xs = &xs[2 * pair * X_BLOCK..x.tiles.min(2 * pair + 2) * X_BLOCK];
                // The first chain's sums are the sums.
                if first && !last {
                    let sums = &mut sums[pair * panels * QUAD..][..panels * QUAD];
                    block.chains(&unit, xs, sums);
                    continue;
                }
                block.chains(&unit, xs, chains);
                for (panel, ns) in blocks(0..rows.len(), PANEL).enumerate() {
                    let mut done = quad(&mut chains[panel * QUAD..]);
                    if !first {
                        let sums = quad(&mut sums[(pair * panels + panel) * QUAD..]);
                        pack::gather(proof, done, sums);
                        done = sums;
                    }
                    if last {
                        let ms = 2 * pair * SIDE..y.height().min((2 * pair + 2) * SIDE);
                        store(proof, done, &mut y.part(ms, ns));
                    }
                }
            }
        }
    });
}

/// A packed block of weights, `[panel][tile of 2][step][piece][TILE]`.
struct Block<'a> {
    pieces: usize,
    steps: usize,
    packed: &'a [f32],
}

impl Block<'_> {
    /// Its product with one or two tiles of activations, `[tile][X_BLOCK]`, to `chains` `[panel][QUAD]`.
    fn chains(&self, unit: &Unit, xs: &[f32], chains: &mut [f32]) {
        let packed_panel = self.pieces * PANEL * BLOCK / 2;
        let is_tall = xs.len() > X_BLOCK;
        for step in (0..self.steps).step_by(PASS) {
            let xs = |tile: usize| &xs[tile * X_BLOCK + step * X_PIECES * TILE..];
            let panels = self.packed.chunks_exact(packed_panel);
            for (packed, chain) in panels.zip(chains.chunks_exact_mut(QUAD)) {
                let panel = Panel {
                    pieces: self.pieces,
                    steps: PASS.min(self.steps - step),
                    weights: Weights::Packed(&packed[step * self.pieces * TILE..]),
                };
                let (chain, start) = (quad(chain), step == 0);
                if is_tall {
                    unit.tall(panel, [xs(0), xs(1)], chain, start);
                } else {
                    unit.low(panel, xs(0), chain, start, Ahead::at_hand(packed));
                }
            }
        }
    }
}

/// The first sums of a quad.
fn quad(sums: &mut [f32]) -> &mut [f32; QUAD] {
    sums.first_chunk_mut().expect("a quad")
}

/// A panel's complete sums, turned, to `y`, as far as they fit.
fn store(proof: Amx, sums: &[f32; QUAD], y: &mut Out<'_>) {
    for (i, tile) in sums.as_chunks::<TILE>().0.iter().enumerate() {
        let [n, m] = [i / 2, i % 2].map(|i| i * SIDE);
        let (ns, ms) = (n..y.width().min(n + SIDE), m..y.height().min(m + SIDE));
        if !ns.is_empty() && !ms.is_empty() {
            pack::turn(proof, tile, &mut y.part(ms, ns));
        }
    }
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
