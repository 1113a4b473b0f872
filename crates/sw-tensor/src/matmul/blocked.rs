//! The product with a register-blocked kernel: who packs what into which cache, and in what order.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::K_BLOCK;
use super::cache;
use super::kernel::{A_STRIDE, Into, Kernel, Left, Out, Right, with_scratch};
use crate::Mat;

/// Columns of K that are packed at a time for few rows: 32 rows of that many floats take a third of a 48 KiB L1.
const K_CHUNK: usize = 128;

/// `y = x * w^T`. Columns of `y` are split among the threads; every part packs its weights once, for all rows.
///
/// `x` must have adjacent columns, and so must `y`.
pub(super) fn matmul_t<K: Kernel>(
    kernel: K,
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
    let few = x.nrows() <= 2 * K::MR;
    // The panel of weights takes half of the L2 cache; several parts per thread even out their speeds.
    let fits = cache::l2() / 2 / (K_BLOCK * size_of::<f32>());
    let share = y.ncols().div_ceil(4 * rayon::current_num_threads());
    let width = share.clamp(1, fits.max(1)).next_multiple_of(K::NR);
    let parts = y
        .axis_chunks_iter_mut(Axis(1), width)
        .into_par_iter()
        .with_max_len(1);
    parts.enumerate().for_each(|(part, y)| {
        let rows = part * width..part * width + y.ncols();
        if few {
            few_rows(kernel, x, w, rows, y)
        } else {
            many_rows(kernel, x, w, rows, y)
        }
    });
}

/// Many rows: a panel of weights `[width, 512]` in L2, a tile of activations `[MR, 512]` in L1.
fn many_rows<K: Kernel>(
    kernel: K,
    x: ArrayView2<f32>,
    w: &Mat,
    rows: Range<usize>,
    mut y: ArrayViewMut2<f32>,
) {
    let panels = rows.len().div_ceil(K::NR);
    let mut y = Out::of_view(&mut y);
    with_scratch(
        [panels * K_BLOCK * K::NR, K::MR * A_STRIDE, K::MR * K::NR],
        |[packed, tile, edge]| {
            for ks in blocks(0..x.ncols(), K_BLOCK) {
                for (panel, packed) in
                    blocks(rows.clone(), K::NR).zip(packed.chunks_exact_mut(K_BLOCK * K::NR))
                {
                    kernel.pack(w, panel, ks.clone(), packed);
                }
                let into = if ks.start == 0 {
                    Into::Store
                } else {
                    Into::Add
                };
                for ms in even_blocks(x.nrows(), K::MR) {
                    copy_tile(&x, ms.clone(), ks.clone(), tile);
                    let a = Left {
                        data: tile,
                        rows: ms.len(),
                        depth: ks.len(),
                    };
                    for (ns, packed) in
                        blocks(0..rows.len(), K::NR).zip(packed.chunks_exact(K_BLOCK * K::NR))
                    {
                        let b = Right {
                            data: packed,
                            stride: K::NR,
                        };
                        let full = ns.len() == K::NR;
                        let mut c = y.part(ms.clone(), ns);
                        if full {
                            kernel.tile(a, b, c, into);
                        } else {
                            kernel.tile(a, b, Out::of_slice(edge, K::NR, K::NR), Into::Store);
                            c.take(edge, K::NR, into);
                        }
                    }
                }
            }
        },
    );
}

/// Few rows: all activations in L2, a small chunk of weights in L1 that is packed, used and forgotten while the next
/// one is on its way from memory.
fn few_rows<K: Kernel>(
    kernel: K,
    x: ArrayView2<f32>,
    w: &Mat,
    rows: Range<usize>,
    mut y: ArrayViewMut2<f32>,
) {
    let mut y = Out::of_view(&mut y);
    let k_blocks = x.ncols().div_ceil(K_BLOCK);
    let x_block = x.nrows() * A_STRIDE;
    let sizes = [
        K_CHUNK * K::NR,
        k_blocks * x_block,
        x.nrows() * K::NR,
        x.nrows() * K::NR,
    ];
    with_scratch(sizes, |[packed, xs, chain, sums]| {
        for (ks, xs) in blocks(0..x.ncols(), K_BLOCK).zip(xs.chunks_exact_mut(x_block)) {
            copy_tile(&x, 0..x.nrows(), ks, xs);
        }
        for panel in blocks(rows.clone(), K::NR) {
            for (ks, xs) in blocks(0..x.ncols(), K_BLOCK).zip(xs.chunks_exact(x_block)) {
                for chunk in blocks(ks.clone(), K_CHUNK) {
                    kernel.pack(w, panel.clone(), chunk.clone(), packed);
                    if chunk.end < x.ncols() {
                        let next = chunk.end..x.ncols().min(chunk.end + K_CHUNK);
                        kernel.prefetch(w, panel.clone(), next);
                    } else if panel.end < rows.end {
                        let next = panel.end..rows.end.min(panel.end + K::NR);
                        kernel.prefetch(w, next, 0..x.ncols().min(K_CHUNK));
                    }
                    let into = if chunk.start == ks.start {
                        Into::Store
                    } else {
                        Into::Chain
                    };
                    let b = Right {
                        data: packed,
                        stride: K::NR,
                    };
                    for ms in even_blocks(x.nrows(), K::MR) {
                        let data = &xs[ms.start * A_STRIDE + (chunk.start - ks.start)..];
                        let a = Left {
                            data,
                            rows: ms.len(),
                            depth: chunk.len(),
                        };
                        let chain = &mut chain[ms.start * K::NR..];
                        kernel.tile(a, b, Out::of_slice(chain, K::NR, K::NR), into);
                    }
                }
                if ks.start == 0 {
                    sums.copy_from_slice(chain);
                } else {
                    for (sum, chain) in sums.iter_mut().zip(chain.iter()) {
                        *sum += chain;
                    }
                }
            }
            let columns = panel.start - rows.start..panel.end - rows.start;
            y.part(0..x.nrows(), columns).take(sums, K::NR, Into::Store);
        }
    });
}

/// Rows `ms` and columns `ks` of `x` to `out`, rows `A_STRIDE` apart.
fn copy_tile(x: &ArrayView2<f32>, ms: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
    for (m, out) in ms.zip(out.chunks_mut(A_STRIDE)) {
        let row = x.row(m).to_slice().expect("adjacent columns");
        out[..ks.len()].copy_from_slice(&row[ks.clone()]);
    }
}

/// `range` in pieces of `size`, the last one shorter.
fn blocks(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(size)
        .map(move |start| start..end.min(start + size))
}

/// `0..len` in the fewest pieces of at most `size`, as even as possible.
fn even_blocks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let n = len.div_ceil(size);
    (0..n).map(move |i| i * len / n..(i + 1) * len / n)
}
