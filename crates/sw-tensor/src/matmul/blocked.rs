//! The product with a register-blocked kernel: who packs what into which cache, and in what order.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut3, Axis, s};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::kernel::{A_STRIDE, Accumulate, Kernel, LINE, Left, Lines, Out, Right, with_scratch};
use super::split::{self, blocks, even_blocks};
use super::{K_BLOCK, Output, cache};
use crate::Mat;

/// Elements below which one thread copies them.
const PARALLEL_COPY: usize = 1 << 16;

/// `y = x * w^T` for every matrix, block of rows by block of rows.
///
/// A block of `x` is copied once, as blocks of its columns `[K_BLOCK]` that each fit L2 together with the sums of a part
/// of a `y`. The parts, some columns of a `y` each, go to the threads; where there are too few columns for all threads to have as
/// many, some rows of some columns. A chunk of weights `[NR, K_BLOCK]` is packed into L1 and multiplied with all rows of the part.
///
/// `x` must have columns, adjacent ones, and so must every `y`.
pub(super) fn matmul_t<K: Kernel>(kernel: K, x: ArrayView2<f32>, products: &mut [Output<'_>]) {
    for ms in even_blocks(x.nrows(), rows_at_once()) {
        let x = x.slice(s![ms.clone(), ..]);
        let (height, depth) = x.dim();
        // The sums of a part take a quarter of L2.
        let most = half_l2() / 2 / height;
        let pieces = pieces(products, K::NR, height);
        let parts = split::parts(products, ms, K::NR, most);
        let parts = parts.flat_map(|(w, rows, y)| {
            split::rows(y, K::MR, pieces).map(move |(ms, y)| (w, rows.clone(), ms, y))
        });
        let parts: Vec<_> = parts.collect();
        let block = K_BLOCK * K::TERMS;
        with_scratch([depth.div_ceil(block) * height * A_STRIDE], |[xs]| {
            copy_rows(kernel, &x, xs);
            let x = Rows {
                xs,
                height,
                ms: 0..height,
                depth,
                block,
            };
            let parts = parts.into_par_iter().with_max_len(1);
            parts.for_each(|(w, rows, ms, mut y)| {
                let x = Rows { ms, ..x.clone() };
                part(kernel, &x, w, rows, Out::of_view(&mut y));
            });
        });
    }
}

/// Rows per piece of a part, at least: fewer would spend too much time on packing weights, which every piece does.
const PIECE: usize = 128;
/// Panels for each thread from which on one more or less makes no difference.
const MANY_PANELS: usize = 16;

/// In how many pieces the rows of a part are cut: one for each thread where whole parts would leave some threads waiting.
fn pieces(products: &[Output<'_>], nr: usize, height: usize) -> usize {
    let threads = rayon::current_num_threads();
    let panels = products.iter().map(|(w, _)| w.rows().div_ceil(nr));
    let panels: usize = panels.sum();
    match panels.is_multiple_of(threads) || panels >= MANY_PANELS * threads {
        true => 1,
        false => threads.min(height / PIECE).max(1),
    }
}

/// Rows `ms` of a block of `x` as the kernels read it: `[K / block][height, A_STRIDE]`.
#[derive(Clone)]
struct Rows<'a> {
    xs: &'a [f32],
    height: usize,
    ms: Range<usize>,
    depth: usize,
    /// Terms of a block of K: as many as [`K_BLOCK`] units hold.
    block: usize,
}

impl<'a> Rows<'a> {
    /// Some blocks of K, of all rows.
    fn blocks(&self, blocks: &Range<usize>) -> &'a [f32] {
        let block = self.height * A_STRIDE;
        &self.xs[blocks.start * block..blocks.end * block]
    }

    /// One block of K, of the rows from the first of these on.
    fn block(&self, block: usize) -> &'a [f32] {
        &self.blocks(&(block..block + 1))[self.ms.start * A_STRIDE..]
    }

    /// The columns of a block of K; none after the last.
    fn columns(&self, block: usize) -> Range<usize> {
        let at = |block| self.depth.min(block * self.block);
        at(block)..at(block + 1)
    }
}

/// Rows of activations that share one packing of the weights: as many as half of L2 holds of one block of K.
fn rows_at_once() -> usize {
    (half_l2() / K_BLOCK).max(128)
}

/// Floats that half of L2 holds.
fn half_l2() -> usize {
    cache::l2() / 2 / size_of::<f32>()
}

/// One part, stage by stage of K: as many blocks of `x` as fit half of L2, where they stay while all panels of weights pass by,
/// beside all sums of the part, `[panels][rows, NR]`. So the weights are read in pieces of rows as long as can be. The next
/// chunk of weights and the next stage of `x` are on their way while a chunk is multiplied.
fn part<K: Kernel>(kernel: K, x: &Rows<'_>, w: &Mat, rows: Range<usize>, mut y: Out<'_>) {
    let panels = rows.len().div_ceil(K::NR);
    let height = x.ms.len();
    let panel_sums = height * K::NR;
    let fits = half_l2() / (height * A_STRIDE);
    with_scratch([K_BLOCK * K::NR, panels * panel_sums], |[packed, sums]| {
        let mut stages = even_blocks(x.depth.div_ceil(x.block), fits.max(1)).peekable();
        while let Some(stage) = stages.next() {
            let soon = stages.peek().map_or(&[][..], |next| x.blocks(next));
            let mut soon = soon.chunks(soon.len().div_ceil(panels * stage.len()).max(1));
            let of_panels = blocks(rows.clone(), K::NR).zip(sums.chunks_exact_mut(panel_sums));
            for (panel, sums) in of_panels {
                for block in stage.clone() {
                    let ks = x.columns(block);
                    kernel.pack(w, panel.clone(), ks.clone(), packed);
                    let (row, block_ahead) = if block + 1 < stage.end {
                        (panel.start, block + 1)
                    } else if panel.end < rows.end {
                        (panel.end, stage.start)
                    } else {
                        (rows.start, stage.end)
                    };
                    let rows_ahead = row..rows.end.min(row + K::NR);
                    let ahead = Ahead {
                        xs: soon.next().unwrap_or_default(),
                        ..Ahead::new(w, rows_ahead, &x.columns(block_ahead))
                    };
                    let xs = x.block(block);
                    let ns = panel.start - rows.start..panel.end - rows.start;
                    let y = y.part(0..height, ns);
                    multiply(kernel, x, (&ks, xs), packed, sums, y, ahead);
                }
            }
        }
    });
}

/// What will be read soon, asked for some lines at a time while tiles are multiplied: a chunk of weights, line after line of
/// some rows, then of the next ones; then activations.
struct Ahead<'a> {
    /// The first row of weights that is not asked for, the rows from there on, the bytes of each, from one to the next, and
    /// how many of the bytes of the first rows are.
    w: *const u8,
    rows: usize,
    len: usize,
    pitch: usize,
    asked: usize,
    xs: &'a [f32],
}

impl Ahead<'_> {
    /// A chunk of weights, unless it is empty or its rows are scattered, or blocks.
    fn new(w: &Mat, rows: Range<usize>, ks: &Range<usize>) -> Self {
        let ([pitch, step], size) = (w.strides(), w.dtype().size());
        // Rows rarely begin with a line: the last line that they touch counts, the first has been read with what is before.
        let at = (rows.start * pitch + ks.start) * size + LINE - 1;
        Ahead {
            w: w.base().as_ptr().wrapping_add(at),
            rows: if step == 1 && !ks.is_empty() && !w.is_blocks() {
                rows.len()
            } else {
                0
            },
            len: ks.len() * size,
            pitch: pitch * size,
            asked: 0,
            xs: &[],
        }
    }

    /// The lines for a tile to ask for.
    #[inline(always)]
    fn next(&mut self) -> Lines {
        if self.rows >= Lines::COUNT {
            let at = self.w.wrapping_add(self.asked);
            self.asked += LINE;
            if self.asked >= self.len {
                self.w = self.w.wrapping_add(Lines::COUNT * self.pitch);
                (self.rows, self.asked) = (self.rows - Lines::COUNT, 0);
            }
            let pitch = self.pitch;
            return Lines { at, pitch };
        }
        let at = self.xs.as_ptr().cast();
        let some = self.xs.len().min(Lines::COUNT * LINE / size_of::<f32>());
        self.xs = &self.xs[some..];
        Lines { at, pitch: LINE }
    }
}

/// One packed chunk of weights, columns `ks` of K, times all rows: starts or continues `sums` `[height, NR]`; with the last
/// chunk they go to `y`.
#[inline]
fn multiply<K: Kernel>(
    kernel: K,
    x: &Rows<'_>,
    (ks, xs): (&Range<usize>, &[f32]),
    packed: &[f32],
    sums: &mut [f32],
    mut y: Out<'_>,
    mut ahead: Ahead<'_>,
) {
    let into = if ks.start == 0 {
        Accumulate::Store
    } else {
        Accumulate::Add
    };
    let a = Left {
        data: xs,
        rows: x.ms.len(),
        depth: ks.len().div_ceil(K::TERMS),
    };
    let b = Right {
        data: packed,
        stride: K::NR,
    };
    let ahead = || ahead.next();
    let (is_complete, width) = (ks.end == x.depth, y.width());
    if is_complete && width == K::NR {
        let into = match into {
            Accumulate::Add => Accumulate::AddTo(sums),
            into => into,
        };
        return kernel.multiply(a, b, y, into, ahead);
    }
    kernel.multiply(a, b, Out::of_slice(sums, K::NR, K::NR), into, ahead);
    if is_complete {
        y.store(sums, K::NR);
    }
}

/// All of `x` to `out`, row after row, on all threads.
fn copy_rows<K: Kernel>(kernel: K, x: &ArrayView2<f32>, out: &mut [f32]) {
    let terms = K_BLOCK * K::TERMS;
    let shape = (x.ncols().div_ceil(terms), x.nrows(), A_STRIDE);
    let mut out = ArrayViewMut3::from_shape(shape, out).expect("as many blocks");
    let copy_some = |(x, mut out): (ArrayView2<f32>, ArrayViewMut3<f32>)| {
        for (row, mut out) in x.rows().into_iter().zip(out.axis_iter_mut(Axis(1))) {
            let row = row.to_slice().expect("adjacent columns");
            for (row, out) in row.chunks(terms).zip(out.rows_mut()) {
                kernel.lay(row, out.into_slice().expect("adjacent units"));
            }
        }
    };
    if x.len() < PARALLEL_COPY {
        return copy_some((x.view(), out));
    }
    let some = x.nrows().div_ceil(4 * rayon::current_num_threads());
    let x = x.axis_chunks_iter(Axis(0), some).into_par_iter();
    x.zip(out.axis_chunks_iter_mut(Axis(1), some))
        .for_each(copy_some);
}
