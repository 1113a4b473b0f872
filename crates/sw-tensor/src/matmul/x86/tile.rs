//! The tile of AVX-512 and AVX2: activations times packed weights, all sums in registers.

use std::arch::x86_64::*;

use super::vector::Vector;
use crate::matmul::K_BLOCK;
use crate::matmul::kernel::{A_STRIDE, Accumulate, LINE, Left, Lines, Right};

/// Terms per turn of the loop, each turn of which asks for lines.
const UNROLLED: usize = K_BLOCK / Lines::COUNT;

/// [`Kernel::multiply`](crate::matmul::kernel::Kernel::multiply) of a kernel that has the given features, with rows of so many
/// vectors and the given heights, which are all from 1 to MR. The file that uses it defines `MR` and `NR`. All tiles are multiplied
/// in one function: calling one for each costs more than a hundredth of the time.
macro_rules! tiles {
    ($vector:ty, $nv:ident, $features:literal, $($m:literal)*) => {
        #[inline]
        fn multiply(
            self,
            a: Left<'_>,
            b: Right<'_>,
            mut c: Out<'_>,
            into: Accumulate<'_>,
            ahead: impl FnMut() -> Lines,
        ) {
            /// # Safety
            /// The CPU has the features; the operands are as [`check_operands`] wants them; `c`, a place and the floats from row to
            /// row, is readable and writable for as many rows of NR floats as `left` has, and disjoint from all operands and from
            /// sums that `into` names.
            #[target_feature(enable = $features)]
            unsafe fn run<const DENSE: bool>(
                left: Left<'_>,
                right: Right<'_>,
                c: (*mut f32, isize),
                into: Accumulate<'_>,
                mut ahead: impl FnMut() -> Lines,
            ) {
                for rows in even_blocks(left.rows, MR) {
                    let a = Left {
                        data: &left.data[rows.start * A_STRIDE..],
                        rows: rows.len(),
                        ..left
                    };
                    let c = (c.0.wrapping_offset(rows.start as isize * c.1), c.1);
                    let into = match into {
                        Accumulate::AddTo(sums) => Accumulate::AddTo(&sums[rows.start * NR..]),
                        into => into,
                    };
                    match rows.len() {
                        // SAFETY: this function has the features; the operands are parts of the caller's.
                        $($m => unsafe {
                            super::tile::multiply::<$vector, $m, $nv, DENSE>(a, right, c, into, ahead())
                        },)*
                        _ => unreachable!("at most MR rows"),
                    }
                }
            }
            check_operands::<Self>(a, b, into);
            let c = c.place(a.rows, Self::NR);
            // SAFETY: `self` proves the features; `check_operands` and `place` have checked that all three operands are large
            // enough for these rows and this depth, and `c` is lent mutably.
            unsafe {
                match b.stride == Self::NR {
                    true => run::<true>(a, b, c, into, ahead),
                    false => run::<false>(a, b, c, into, ahead),
                }
            }
        }
    };
}
pub(super) use tiles;

/// One tile of M rows of NV vectors. DENSE says that rows of `right` are as long: a distance that is known saves
/// instructions.
///
/// # Safety
/// The caller has the features of `V` enabled; `left` of M rows, `right` of as many as its depth, both long enough
/// ([`check_operands`](crate::matmul::kernel::check_operands)), and so are sums that `into` names; `c`, a place and the floats from
/// row to row, readable and writable for M rows of NV vectors, and disjoint from both.
#[inline(always)]
pub(super) unsafe fn multiply<V: Vector, const M: usize, const NV: usize, const DENSE: bool>(
    left: Left<'_>,
    right: Right<'_>,
    (c, c_stride): (*mut f32, isize),
    into: Accumulate<'_>,
    ahead: Lines,
) {
    // SAFETY: every address below is inside the three operands, as the caller guarantees, or only prefetched.
    unsafe {
        let mut acc = [[V::zero(); NV]; M];
        for (i, acc) in acc.iter_mut().enumerate() {
            let c = c.offset(i as isize * c_stride);
            for (v, acc) in acc.iter_mut().enumerate() {
                let c = c.add(V::LANES * v);
                match into {
                    Accumulate::Chain => *acc = V::read(c),
                    Accumulate::Add | Accumulate::AddTo(_) | Accumulate::Store => {
                        _mm_prefetch::<_MM_HINT_T0>(c.cast());
                    }
                }
            }
        }
        let (mut a, mut b) = (left.data.as_ptr(), right.data.as_ptr());
        let b_stride = if DENSE { NV * V::LANES } else { right.stride };
        // The first-level cache is small: the rows that most likely come next are called into it.
        let next = a.wrapping_add(M * A_STRIDE);
        let per_turn = (M * A_STRIDE * size_of::<f32>()).div_ceil(Lines::COUNT * LINE);
        let mut line = ahead.at;
        for turn in 0..left.depth / UNROLLED {
            _mm_prefetch::<_MM_HINT_T1>(line.cast());
            line = line.wrapping_add(ahead.pitch);
            for i in 0..per_turn {
                let at = next.cast::<i8>().wrapping_add((turn * per_turn + i) * LINE);
                _mm_prefetch::<_MM_HINT_T0>(at);
            }
            for i in 0..UNROLLED {
                add_products(&mut acc, a.add(i), b.wrapping_add(i * b_stride));
            }
            a = a.add(UNROLLED);
            b = b.wrapping_add(UNROLLED * b_stride);
        }
        for _ in 0..left.depth % UNROLLED {
            add_products(&mut acc, a, b);
            a = a.add(1);
            b = b.wrapping_add(b_stride);
        }
        for (i, acc) in acc.iter().enumerate() {
            let c = c.offset(i as isize * c_stride);
            for (v, &acc) in acc.iter().enumerate() {
                let c = c.add(V::LANES * v);
                let sum = match into {
                    Accumulate::Add => V::read(c).plus(acc),
                    Accumulate::AddTo(sums) => {
                        let before = sums.as_ptr().add((i * NV + v) * V::LANES);
                        V::read(before).plus(acc)
                    }
                    Accumulate::Chain | Accumulate::Store => acc,
                };
                sum.write(c);
            }
        }
    }
}

/// `acc[i][v] += a[i] * b[v]`.
///
/// # Safety
/// M floats can be read from `a` on, [`A_STRIDE`] apart, and NV vectors from `b` on; the caller has the features of `V` enabled.
#[inline(always)]
unsafe fn add_products<V: Vector, const M: usize, const NV: usize>(
    acc: &mut [[V; NV]; M],
    a: *const f32,
    b: *const f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut row = [V::zero(); NV];
        for (v, row) in row.iter_mut().enumerate() {
            *row = V::read(b.add(V::LANES * v));
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let a = V::splat(*a.add(i * A_STRIDE));
            for (acc, b) in acc.iter_mut().zip(row) {
                *acc = a.multiply_add(b, *acc);
            }
        }
    }
}
