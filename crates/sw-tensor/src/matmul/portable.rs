//! The product on any CPU, through the `gemm` crate.
//!
//! Every call of `gemm` has one fixed shape (rows and columns are padded), so what a row yields cannot depend on how
//! many others there are.

use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::kernel::with_scratch;
use super::precision::{Precision, RoundAll};
use super::{K_BLOCK, Output};
use crate::Mat;
use crate::isa::Work;

/// Columns of `y` (rows of `w`) per panel.
const N_BLOCK: usize = 64;
/// Rows of `x` per call.
const M_BLOCK: usize = 16;

/// `y = x * w^T` for every matrix; where `precision` says so, weights are rounded as they are widened (`x` is already).
pub(super) fn matmul_t(precision: Precision, x: ArrayView2<f32>, products: &mut [Output<'_>]) {
    for (w, y) in products {
        let panels = y.axis_chunks_iter_mut(Axis(1), N_BLOCK).into_par_iter();
        panels.enumerate().for_each(|(panel, y)| {
            product_of_panel(precision, x, w, panel * N_BLOCK, y);
        });
    }
}

/// `y = x * w[first.., :]^T` for one panel of at most `N_BLOCK` rows of `w`.
fn product_of_panel(
    precision: Precision,
    x: ArrayView2<f32>,
    w: &Mat,
    first: usize,
    mut y: ArrayViewMut2<f32>,
) {
    let (rows, width) = y.dim();
    let sizes = [N_BLOCK * K_BLOCK, M_BLOCK * K_BLOCK, M_BLOCK * N_BLOCK];
    with_scratch(sizes, |[panel, xs, sums]| {
        xs.fill(0.0);
        y.fill(0.0);
        for k in (0..x.ncols()).step_by(K_BLOCK) {
            let depth = K_BLOCK.min(x.ncols() - k);
            w.widen(
                first..first + width,
                k..k + depth,
                &mut panel[..width * depth], // [out, k]
            );
            if precision == Precision::Bfloat16 {
                RoundAll(&mut panel[..width * depth]).work();
            }
            panel[width * depth..].fill(0.0);
            for m in (0..rows).step_by(M_BLOCK) {
                let height = M_BLOCK.min(rows - m);
                let of_block = x.slice(s![m..m + height, k..k + depth]);
                for (row, xs) in of_block
                    .rows()
                    .into_iter()
                    .zip(xs.chunks_exact_mut(K_BLOCK))
                {
                    row.iter().zip(xs).for_each(|(x, to)| *to = *x);
                }
                block(sums, xs, panel, depth);
                let mut y = y.slice_mut(s![m..m + height, ..]);
                for (mut y, sums) in y.rows_mut().into_iter().zip(sums.chunks_exact(N_BLOCK)) {
                    y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
                }
            }
        }
    });
}

/// `sums = xs[:, ..depth] * panel^T`, always `M_BLOCK x N_BLOCK` whatever part of it is in use.
fn block(sums: &mut [f32], xs: &[f32], panel: &[f32], depth: usize) {
    assert!(sums.len() >= M_BLOCK * N_BLOCK && xs.len() >= M_BLOCK * K_BLOCK);
    assert!(depth <= K_BLOCK && panel.len() >= N_BLOCK * depth);
    // SAFETY: `gemm` writes M_BLOCK x N_BLOCK elements of `sums` (row stride N_BLOCK) and reads M_BLOCK x depth of `xs`
    // (row stride K_BLOCK) and depth x N_BLOCK of `panel` (column stride depth); the assertions above make all of them
    // lie inside, and the `&mut` excludes aliasing.
    unsafe {
        gemm::gemm(
            M_BLOCK,
            N_BLOCK,
            depth,
            sums.as_mut_ptr(),
            1,
            N_BLOCK as isize,
            false,
            xs.as_ptr(),
            1,
            K_BLOCK as isize,
            panel.as_ptr(),
            depth as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
