//! AVX-512 and AVX2 for few rows: weights are used as they lie, with no packing in between. On a Zen 5, those of a file that are
//! read for the first time are copied, some rows at a time: for one pass, that takes less time than mapping their pages.
//!
//! A sum is as many chains over K as a vector has lanes, added at the end; K runs in blocks so that the activations stay in
//! a cache, with the lanes of all sums kept between blocks.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::dot_tiles::{GROUP, Operands, PAD, Tiles};
use super::{avx512, dot_blocks};
use crate::isa::{self, Isa};
use crate::matmul::Output;
use crate::matmul::kernel::with_scratch;
use crate::matmul::split::{self, blocks};
use crate::{Dtype, Mat};

/// Most rows of activations.
pub(crate) const MOST_ROWS: usize = 16;
/// Rows of weights per task, at most.
const TASK: usize = 2 * GROUP;

/// `y = x * w^T` for at most [`MOST_ROWS`] rows and matrices, one at least, of one dtype with adjacent columns; `x` has adjacent
/// columns too. Tiles of pairs take weights of BF16, and edits and activations that are BF16.
///
/// # Panics
/// If that is not so.
pub(crate) fn matmul_t<T: Tiles>(tiles: T, x: ArrayView2<f32>, products: &mut [Output<'_>]) {
    let (height, depth) = x.dim();
    let dtype = products[0].0.dtype();
    let fits = |w: &Mat| {
        let is_of_kind = w.dtype() == dtype && (T::TERMS == 1 || dtype == Dtype::BF16);
        is_of_kind && w.strides()[1] == 1 && w.cols() == depth
    };
    assert!(height <= MOST_ROWS && products.iter().all(|(w, _)| fits(w)));
    let parts: Vec<_> = split::parts(products, 0..height, GROUP, TASK).collect();
    // Activations as the blocks want them: [block][row][pitch], in the order in which `Vector::weights` yields the weights.
    let (most, pitch) = (tiles.block(height), tiles.pitch(height));
    with_scratch([depth.div_ceil(most) * height * pitch], |[xs]| {
        for (m, row) in x.rows().into_iter().enumerate() {
            let row = row.to_slice().expect("adjacent columns");
            let full = depth / (2 * T::LANES) * (2 * T::LANES);
            for (block, values) in row[..full].chunks(most).enumerate() {
                let out = &mut xs[(block * height + m) * pitch..];
                tiles.arrange(dtype, values, &mut out[..values.len() / T::TERMS]);
            }
        }
        let xs = &*xs;
        let parts = parts.into_par_iter().with_max_len(1);
        parts.for_each(|(w, rows, mut y)| {
            let groups = y.axis_chunks_iter_mut(Axis(1), GROUP);
            for (rows, y) in blocks(rows, GROUP).zip(groups) {
                group(tiles, &x, xs, w, rows, y);
            }
        });
    });
}

/// Some rows of `w` times all rows of `x`.
fn group<T: Tiles>(
    tiles: T,
    x: &ArrayView2<f32>,
    xs: &[f32],
    w: &Mat,
    rows: Range<usize>,
    mut y: ArrayViewMut2<f32>,
) {
    let ((height, depth), n) = (x.dim(), rows.len());
    let full = depth / (2 * T::LANES) * (2 * T::LANES);
    // Rows that follow one another, and are passed over more than once.
    let can_copy = copies() && height > 1 && w.strides()[0] == depth && !w.is_blocks();
    let bytes = n * depth * w.dtype().size();
    let copy = if can_copy { bytes.div_ceil(4) } else { 0 };
    let sizes = [n * height * T::LANES, n * height, depth, copy];
    with_scratch(sizes, |[lanes, sums, row_of_w, copy]| {
        if full == 0 {
            lanes.fill(0.0);
        }
        let copy: &mut [u8] = bytemuck::cast_slice_mut(copy);
        let is_copied = can_copy && w.copy_first(rows.clone(), copy);
        if !is_copied && height > 1 {
            w.touch(rows.clone()); // Tiles ask for what comes next, which must be mapped.
        }
        let of_block = xs.chunks_exact(height * tiles.pitch(height));
        let mut group = Group {
            height,
            rows: rows.clone(),
            copy: is_copied.then_some(&*copy),
            lanes,
        };
        for (ks, xs) in blocks(0..full, tiles.block(height)).zip(of_block) {
            block(tiles, xs, w, ks, &mut group);
        }
        let done = match tiles.isa() {
            Isa::Avx512(proof) => avx512::add_lanes(proof, lanes, sums),
            _ => 0,
        };
        tiles.add_lanes(&lanes[done * T::LANES..], &mut sums[done..]);
        for (mut y, sums) in y.rows_mut().into_iter().zip(sums.chunks_exact(n)) {
            let y = y.as_slice_mut().expect("adjacent columns");
            y.copy_from_slice(sums);
        }
        if full == depth && w.overlay_len() == 0 {
            return;
        }
        let x_tails = x.slice(s![.., full..]);
        for (r, row) in rows.enumerate() {
            if w.edits(row..row + 1, 0..depth).next().is_some() {
                // An edited row is widened with its edits and takes the long way, so that a zero is a zero.
                w.row_into(row, row_of_w);
                for m in 0..height {
                    y[[m, r]] = chain(tiles.isa(), 0.0, x.row(m), row_of_w);
                }
            } else if full < depth {
                let tail = &mut row_of_w[..depth - full];
                w.widen(row..row + 1, full..depth, tail);
                for m in 0..height {
                    y[[m, r]] = chain(tiles.isa(), y[[m, r]], x_tails.row(m), tail);
                }
            }
        }
    });
}

/// Whether rows that are read for the first time are copied. Detection of a file in pages of 4 KiB takes .63 s with copies and
/// .76 s without on a Zen 5, 1.02 and .90 s on a Zen 4 (`benches/record`). Tests copy on every processor.
fn copies() -> bool {
    cfg!(test) || isa::is_zen5()
}

/// Some rows of weights, and what becomes of them and so many rows of activations.
struct Group<'a> {
    height: usize,
    rows: Range<usize>,
    /// These rows as stored, where they were copied into a cache.
    copy: Option<&'a [u8]>,
    /// `[height][rows][LANES]`.
    lanes: &'a mut [f32],
}

/// `sum` plus the products of `x` and `w`, one after the other.
fn chain(isa: Isa, sum: f32, x: ArrayView1<f32>, w: &[f32]) -> f32 {
    isa.run(|| x.iter().zip(w).fold(sum, |sum, (x, w)| x.mul_add(*w, sum)))
}

/// One block of K: `lanes[row of x][row of w][LANES] += ...`; the first one stores them.
fn block<T: Tiles>(tiles: T, xs: &[f32], w: &Mat, ks: Range<usize>, group: &mut Group<'_>) {
    let (height, rows) = (group.height, group.rows.clone());
    assert!(
        rows.end <= w.rows()
            && ks.end <= w.cols()
            && ks.len().is_multiple_of(2 * T::LANES)
            && ks.len() <= tiles.block(height)
    );
    let is_first = ks.start == 0;
    if w.is_blocks() {
        if let (Isa::Avx512(proof), 1) = (tiles.isa(), T::TERMS)
            && let Some(blocks) = w.whole_blocks(ks.clone())
        {
            let rows = rows.clone().map(|row| blocks.row(row));
            let lanes = &mut *group.lanes;
            if dot_blocks::block(proof, blocks.coding(), xs, height, rows, lanes, is_first) {
                return;
            }
        }
        let pitch = ks.len() + PAD;
        return with_scratch([rows.len() * pitch], |[wide]| {
            for (row, wide) in rows.zip(wide.chunks_exact_mut(pitch)) {
                w.widen(row..row + 1, ks.clone(), &mut wide[..ks.len()]);
            }
            let base = bytemuck::cast_slice(wide);
            let weights = Weights {
                dtype: Dtype::F32,
                base,
                pitch,
                ks,
                next: base.as_ptr(),
            };
            block_of_rows(tiles, xs, weights, group);
        });
    }
    let (size, pitch) = (w.dtype().size(), w.strides()[0]);
    let (base, next) = match group.copy {
        Some(copy) => (&copy[ks.start * size..], std::ptr::null()),
        None => {
            let base = &w.base()[(rows.start * pitch + ks.start) * size..];
            let next = match ks.end + 2 * T::LANES <= w.cols() {
                true => base[ks.len() * size..].as_ptr(),
                false => w.base().as_ptr().wrapping_add(rows.end * pitch * size),
            };
            (base, next)
        }
    };
    let weights = Weights {
        dtype: w.dtype(),
        base,
        pitch,
        ks,
        next,
    };
    block_of_rows(tiles, xs, weights, group);
}

/// Columns `ks` of a group's rows of weights, which are `pitch` elements apart in `base`.
struct Weights<'a> {
    dtype: Dtype,
    base: &'a [u8],
    pitch: usize,
    ks: Range<usize>,
    /// What is read after them, laid out in the same way: the next columns, or the next rows; null where that is in a cache. It
    /// may be anything, and is only ever prefetched.
    next: *const u8,
}

/// [`block`] of weights that lie as they are multiplied.
fn block_of_rows<T: Tiles>(tiles: T, xs: &[f32], w: Weights<'_>, group: &mut Group<'_>) {
    let (size, depth, height, n) = (w.dtype.size(), w.ks.len(), group.height, group.rows.len());
    assert!(depth.is_multiple_of(2 * T::LANES) && depth <= tiles.block(height));
    assert!(n > 0 && w.base.len() >= ((n - 1) * w.pitch + depth) * size);
    let pitch_of_xs = tiles.pitch(height);
    assert!(xs.len() >= height * pitch_of_xs && group.lanes.len() >= n * height * T::LANES);
    // As many tiles as it takes for the sums to fit the registers.
    let parts = height.div_ceil(tiles.tallest());
    for part in 0..parts {
        let ms = part * height / parts..(part + 1) * height / parts;
        assert!(tiles.pitch(ms.len()) == pitch_of_xs);
        let operands = Operands {
            steps: depth / (2 * T::LANES),
            xs: xs[ms.start * pitch_of_xs..].as_ptr(),
            w: w.base.as_ptr(),
            pitch: w.pitch * size,
            next: w.next,
            part: [part, parts],
            lanes: group.lanes[ms.start * n * T::LANES..].as_mut_ptr(),
            n,
            is_first: w.ks.start == 0,
        };
        // SAFETY: `n` rows of `w`, `steps` steps each, lie inside `base`; `ms.len()` rows of `xs`, as far apart as a tile of so
        // many takes them, and the lanes of so many rows of activations, `n * LANES` apart, inside theirs, by the assertions
        // above; `lanes` is borrowed mutably, so it overlaps neither.
        unsafe { tiles.multiply(w.dtype, ms.len(), n, operands) };
    }
}
