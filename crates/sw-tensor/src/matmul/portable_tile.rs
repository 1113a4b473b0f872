//! A micro-kernel without intrinsics, for attention on any CPU. Products with weights go through `gemm` there.

use std::ops::Range;

use super::kernel::{A_STRIDE, Accumulate, Kernel, Left, Lines, Out, Right, check_operands};
use super::pack::{apply_edits, pack_scalar, zero_missing};
use crate::Mat;

/// The portable kernel: multiplies, then adds, since a fused multiply-add in software would cost a hundred times more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PortableTile;

const NR: usize = 16;

impl Kernel for PortableTile {
    const MR: usize = 4;
    const NR: usize = NR;

    fn multiply(
        self,
        a: Left<'_>,
        b: Right<'_>,
        mut c: Out<'_>,
        into: Accumulate<'_>,
        _ahead: impl FnMut() -> Lines,
    ) {
        check_operands::<Self>(a, b, into);
        for i in 0..a.rows {
            let c = c.row(i, NR).first_chunk_mut::<NR>().expect("NR columns");
            let mut sums = match into {
                Accumulate::Chain => *c,
                Accumulate::Store | Accumulate::Add | Accumulate::AddTo(_) => [0.0; NR],
            };
            for (k, a) in a.data[i * A_STRIDE..][..a.depth].iter().enumerate() {
                for (sum, b) in sums.iter_mut().zip(&b.data[k * b.stride..][..NR]) {
                    *sum += a * b;
                }
            }
            let before = match into {
                Accumulate::Add => &*c,
                Accumulate::AddTo(sums) => &sums[i * NR..],
                Accumulate::Store | Accumulate::Chain => &[],
            };
            sums.iter_mut().zip(before).for_each(|(sum, c)| *sum += c);
            *c = sums;
        }
    }

    fn pack(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]) {
        let out = &mut out[..ks.len() * NR];
        pack_scalar(w, NR, rows.start, rows.clone(), ks.clone(), out);
        zero_missing(NR, rows.len(), out);
        apply_edits(w, NR, rows, ks, out);
    }
}
