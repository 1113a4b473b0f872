//! Every kernel this CPU has, against the f64 reference, the scalar twin, and itself with other rows and threads.

#[cfg(target_arch = "x86_64")]
use half::bf16;
use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;

use super::{K_BLOCK, Order, matmul_t_each_with};
use crate::isa::Isa;
use crate::reference;
use crate::testing::{DTYPES, Random, assert_near, assert_same, gamma, with_threads};
use crate::{Dtype, Mat};

/// Terms per chain of tile products.
const AMX_BLOCK: usize = 512;
/// Edits of a matrix, at most.
const MOST_EDITS: usize = 30;

fn product(isa: Isa, x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
    product_in(Order::Fixed, isa, x, w)
}

fn product_few(isa: Isa, x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
    product_in(Order::Any, isa, x, w)
}

fn product_in(order: Order, isa: Isa, x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
    let mut y = Array2::from_elem((x.nrows(), w.rows()), f32::NAN);
    matmul_t_each_with(isa, order, x, [(w, y.view_mut())]);
    y
}

/// Roundings that a product passes through: one per term of its block (two without fused multiply-add), one per block.
fn roundings(isa: Isa, k: usize) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(_) => {
            // Sixteen terms of a step, both halves, the chain of steps and pieces, the blocks; then the edits that do not
            // fit a tile, at most as many as there are. Two more for pieces: their magnitudes add up to at most
            // (1 + 2^-7)^2 times the product's, and what is left out of an F16 product is below a rounding.
            let chain = AMX_BLOCK.min(k).div_ceil(32) * 5;
            (16 + 1 + chain + k.div_ceil(AMX_BLOCK) + MOST_EDITS) * 65 / 64 + 2
        }
        _ => K_BLOCK.min(k) + 1 + k.div_ceil(K_BLOCK),
    }
}

/// The roundings of a product of few rows: one chain in 8 or 16 lanes and a tree, or one chain for a row with edits.
fn roundings_few(isa: Isa, k: usize) -> usize {
    roundings(isa, k).max(k + 5)
}

/// Below the normal range each rounding may lose half of the smallest subnormal instead; tiles take what is not normal
/// for zero, as an operand and as a result.
fn bound(isa: Isa, x: ArrayView2<f32>, w: &Mat, roundings: usize) -> Array2<f64> {
    let k = x.ncols() as f64;
    let relative = reference::matmul_t_abs(x, w).mapv(|sum| gamma(roundings) * sum);
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(_) => {
            // Six operations per term; an operand of each may be lost with what it is multiplied by.
            let lost = |sum: f64| f64::from(f32::MIN_POSITIVE) * 6.0 * (sum + k);
            let ones = |rows| Mat::from_f32(rows, w.cols(), vec![1.0; rows * w.cols()]);
            let of_x = reference::matmul_t_abs(x, &ones(1));
            let of_w = reference::matmul_t_abs(Array2::ones((1, w.cols())).view(), w);
            Array2::from_shape_fn(relative.dim(), |(t, r)| {
                relative[[t, r]] + lost(of_x[[t, 0]] + of_w[[0, r]])
            })
        }
        _ => relative + k * f64::from(f32::from_bits(1)),
    }
}

/// The definition of `matmul_t` with fused multiply-adds, one element at a time.
fn twin(x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
    Array2::from_shape_fn((x.nrows(), w.rows()), |(t, r)| {
        let mut row = vec![0.0; w.cols()];
        w.row_into(r, &mut row);
        let x = x.row(t).to_vec();
        let chain = |(x, w): (&[f32], &[f32])| {
            x.iter()
                .zip(w)
                .fold(0.0f32, |sum, (x, w)| x.mul_add(*w, sum))
        };
        x.chunks(K_BLOCK)
            .zip(row.chunks(K_BLOCK))
            .map(chain)
            .reduce(|a, b| a + b)
            .unwrap_or(0.0)
    })
}

/// What a product with tiles must be, bit for bit.
#[cfg(target_arch = "x86_64")]
mod amx {
    use super::*;

    /// Subnormal numbers count as zero.
    fn flush(x: f32) -> f32 {
        if x.is_subnormal() { 0.0 } else { x }
    }

    /// The nearest number of 8 significant bits, and the rest.
    fn piece(x: f32) -> (f32, f32) {
        let piece = bf16::from_f32(x).to_f32();
        (piece, x - piece)
    }

    fn pieces<const N: usize>(mut x: f32) -> [f32; N] {
        std::array::from_fn(|_| {
            let (piece, rest) = piece(x);
            x = rest;
            piece
        })
    }

    /// A weight: if it is an F16, ties go away from zero.
    fn pieces_of_weight(w: f32, dtype: Dtype) -> [f32; 2] {
        if dtype != Dtype::F16 {
            return pieces(w);
        }
        let first = f32::from_bits((w.to_bits() + 0x8000) & 0xffff_0000);
        [first, w - first]
    }

    /// One tile product: the even terms and the odd ones, one chain each.
    fn tile(sum: f32, x: &[f32], w: &[f32]) -> f32 {
        let mut chains = [0.0f32; 2];
        for (i, (x, w)) in x.iter().zip(w).enumerate() {
            let chain = &mut chains[i % 2];
            *chain = flush(flush(*x).mul_add(flush(*w), *chain));
        }
        flush(sum + flush(chains[0] + chains[1]))
    }

    fn block(x: &[f32], w: &[f32], dtype: Dtype) -> f32 {
        let order: &[(usize, usize)] = match dtype {
            Dtype::F16 => &[(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)],
            _ => &[(0, 0), (1, 0), (2, 0)],
        };
        let mut sum = 0.0;
        for (x, w) in x.chunks(32).zip(w.chunks(32)) {
            let x: Vec<[f32; 3]> = x.iter().map(|&x| pieces(x)).collect();
            let w: Vec<[f32; 2]> = w.iter().map(|&w| pieces_of_weight(w, dtype)).collect();
            for &(i, j) in order {
                let x: Vec<f32> = x.iter().map(|x| x[i]).collect();
                let w: Vec<f32> = w.iter().map(|w| w[j]).collect();
                sum = tile(sum, &x, &w);
            }
        }
        sum
    }

    /// `w` has no edits, or such as its type holds.
    pub(super) fn twin(x: ArrayView2<f32>, w: &Mat) -> Array2<f32> {
        let dtype = w.dtype();
        Array2::from_shape_fn((x.nrows(), w.rows()), |(t, r)| {
            let mut row = vec![0.0; w.cols()];
            w.row_into(r, &mut row);
            let x = x.row(t).to_vec();
            x.chunks(AMX_BLOCK)
                .zip(row.chunks(AMX_BLOCK))
                .map(|(x, w)| block(x, w, dtype))
                .reduce(|a, b| a + b)
                .unwrap_or(0.0)
        })
    }
}

fn edits(random: &mut Random, w: &Mat, n: usize) -> Mat {
    if w.rows() * w.cols() == 0 {
        return w.clone();
    }
    let place = |random: &mut Random| {
        let (row, col) = (
            random.next() as usize % w.rows(),
            random.next() as usize % w.cols(),
        );
        (
            row,
            col,
            if random.next().is_multiple_of(2) {
                0.0
            } else {
                random.signed() * 100.0
            },
        )
    };
    let edits: Vec<_> = (0..n).map(|_| place(random)).collect();
    w.edited(&edits).unwrap()
}

fn check_all(x: ArrayView2<f32>, w: &Mat) {
    let expected = reference::matmul_t(x, w);
    for isa in Isa::all() {
        let many = bound(isa, x, w, roundings(isa, x.ncols()));
        let few = bound(isa, x, w, roundings_few(isa, x.ncols()));
        assert_near(product(isa, x, w).view(), &expected, &many, isa.name());
        assert_near(product_few(isa, x, w).view(), &expected, &few, isa.name());
    }
    // Vectors of one width give the same.
    let wide = |isa: &Isa| has_dot(*isa, x, w) && isa.name() != "avx2";
    let few: Vec<_> = Isa::all()
        .into_iter()
        .filter(wide)
        .map(|isa| product_few(isa, x, w))
        .collect();
    for few in few.windows(2) {
        assert_same(few[0].view(), few[1].view(), "AMX and AVX-512, few rows");
    }
    let twin = twin(x, w);
    for isa in Isa::all() {
        let found = product(isa, x, w);
        match isa {
            Isa::Portable => {}
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(_) if tiled(w) => {
                if w.overlay_len() == 0 {
                    assert_same(found.view(), amx::twin(x, w).view(), isa.name());
                }
                if !has_dot(isa, x, w) {
                    assert_same(product_few(isa, x, w).view(), found.view(), "few rows");
                }
            }
            _ => assert_same(found.view(), twin.view(), isa.name()),
        }
    }
}

/// Whether few rows have a kernel of their own.
fn has_dot(isa: Isa, x: ArrayView2<f32>, w: &Mat) -> bool {
    let has_vectors = match isa.name() {
        "amx" => w.dtype() != Dtype::BF16,
        name => name != "scalar",
    };
    has_vectors && x.nrows() <= 16 && w.strides()[1] == 1
}

/// Whether AMX has tiles for such weights.
fn tiled(w: &Mat) -> bool {
    w.dtype() != Dtype::F32 && w.strides()[1] == 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_dtype_alignment_and_overlay(
        seed: u64,
        m in 0usize..40,
        n in 0usize..100,
        k in prop_oneof![0usize..70, 500usize..530, 1000usize..1100, 4090usize..4140],
        dtype in prop::sample::select(DTYPES.to_vec()),
        shift in 0usize..4,
        edited in 0usize..MOST_EDITS,
        transposed: bool,
    ) {
        let mut random = Random(seed);
        let x = random.array(m, k);
        let w = match transposed {
            true => random.mat(dtype, k, n, shift).transposed(),
            false => random.mat(dtype, n, k, shift),
        };
        check_all(x.view(), &edits(&mut random, &w, edited));
    }

    #[test]
    fn a_slice_of_rows_gives_a_slice_of_columns(seed: u64, dtype in prop::sample::select(DTYPES.to_vec())) {
        let mut random = Random(seed);
        let x = random.array(5, 40);
        let base = random.mat(dtype, 70, 40, 1);
        let w = edits(&mut random, &base, 20);
        for isa in Isa::all() {
            let whole = product(isa, x.view(), &w);
            for rows in [0..0, 0..1, 3..40, 69..70, 70..70, 0..70] {
                let part = product(isa, x.view(), &w.slice_rows(rows.clone()));
                assert_same(part.view(), whole.slice(s![.., rows]), isa.name());
            }
        }
    }
}

#[test]
fn a_row_depends_on_nothing_but_itself() {
    let mut random = Random(7);
    for (m, n, k) in [(61, 83, 1300), (30, 64, 512), (3, 200, 96)] {
        let x = random.array(m, k);
        for dtype in DTYPES {
            let w = random.mat(dtype, n, k, 2);
            for isa in Isa::all() {
                let whole = product(isa, x.view(), &w);
                for threads in [1, 2, 3, 7] {
                    let again = with_threads(threads, || product(isa, x.view(), &w));
                    assert_same(again.view(), whole.view(), isa.name());
                }
                for rows in [0..1, m - 1..m, 1..m.min(20), 0..m.min(29)] {
                    let part = product(isa, x.slice(s![rows.clone(), ..]), &w);
                    assert_same(part.view(), whole.slice(s![rows, ..]), isa.name());
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_normal_number() {
    // Every magnitude, and what is not finite, somewhere in each row; a sum of products must not overflow.
    let mut random = Random(11);
    let mut value = |limit: f32| {
        let size = f32::from_bits((random.next() % u64::from(limit.to_bits())) as u32);
        if random.next().is_multiple_of(2) {
            size
        } else {
            -size
        }
    };
    for (dtype, largest) in [
        (Dtype::BF16, 1.0f32),
        (Dtype::F16, 60000.0),
        (Dtype::F32, 1.0),
    ] {
        let w: Vec<f32> = (0..20 * 70).map(|_| value(largest)).collect();
        let w = match dtype {
            Dtype::F32 => Mat::from_f32(20, 70, w),
            Dtype::F16 => Mat::from_f16(20, 70, w.into_iter().map(half::f16::from_f32).collect()),
            Dtype::BF16 => {
                Mat::from_bf16(20, 70, w.into_iter().map(half::bf16::from_f32).collect())
            }
        };
        let x = Array2::from_shape_simple_fn((5, 70), || value(f32::MAX / 70.0 / largest));
        check_all(x.view(), &w);
        let mut largest_x = Array2::zeros((1, 70));
        let near_overflow = f32::from_bits(0x7f3f_ffff);
        largest_x[[0, 3]] = near_overflow;
        check_all(largest_x.view(), &w.slice_rows(0..0));
        let one = w.edited(&[(0, 3, 1.0)]).unwrap().slice_rows(0..1);
        for isa in Isa::all() {
            assert_eq!(
                product(isa, largest_x.view(), &one)[[0, 0]],
                near_overflow,
                "{}",
                isa.name()
            );
            for bad in [f32::INFINITY, f32::NAN] {
                let mut x = x.clone();
                x[[2, 69]] = bad;
                let y = product(isa, x.view(), &w);
                let finite = |t: usize| y.row(t).iter().all(|y| y.is_finite());
                assert!(
                    finite(1) && finite(3),
                    "{}: a neighbour's {bad}",
                    isa.name()
                );
                assert!(
                    y.row(2).iter().all(|y| !y.is_finite()),
                    "{}: lost {bad}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn views_of_any_stride() {
    let mut random = Random(3);
    let (x, w) = (random.array(64, 66), random.mat(Dtype::BF16, 40, 33, 1));
    for isa in Isa::all() {
        let strided = x.slice(s![..;2, ..;2]);
        let dense = strided.to_owned();
        let expected = product(isa, dense.view(), &w);
        assert_same(
            product(isa, strided, &w).view(),
            expected.view(),
            "strided x",
        );
        let turned = dense.t().as_standard_layout().into_owned();
        assert_same(
            product(isa, turned.t(), &w).view(),
            expected.view(),
            "transposed x",
        );
        let mut y = Array2::zeros((40, 32));
        let to_y = [(&w, y.view_mut().reversed_axes())];
        matmul_t_each_with(isa, Order::Fixed, dense.view(), to_y);
        assert_same(y.t(), expected.view(), "transposed y");
        let mut y = Array2::zeros((32, 50));
        let to_y = [(&w, y.slice_mut(s![..;-1, 5..45]))];
        matmul_t_each_with(isa, Order::Fixed, dense.view(), to_y);
        assert_same(y.slice(s![..;-1, 5..45]), expected.view(), "reversed y");
        assert!(
            y.slice(s![.., ..5])
                .iter()
                .chain(y.slice(s![.., 45..]))
                .all(|&y| y == 0.0),
            "wrote outside"
        );
    }
}

#[test]
fn products_made_together_are_those_made_alone() {
    let mut random = Random(4);
    // More rows than share one packing of the weights, fewer than a tile, none; odd and no columns.
    for (m, k) in [(530, 160), (33, 260), (7, 129), (1, 700), (0, 5), (5, 0)] {
        let x = random.array(m, k);
        let turned = x.t().as_standard_layout().into_owned();
        let mut ws = Vec::new();
        for dtype in DTYPES {
            ws.extend([70, 0, 1, 130].map(|n| random.mat(dtype, n, k, 2)));
            if k > 0 {
                ws.push(
                    ws[ws.len() - 1]
                        .edited(&[(3, k - 1, 0.5), (129, 0, 0.0)])
                        .unwrap(),
                );
            }
            ws.extend([40, 9].map(|n| random.mat(dtype, k, n, 0).transposed()));
        }
        // One kind comes again, after others.
        ws.push(random.mat(DTYPES[0], 65, k, 0));
        let orders = [Order::Fixed, Order::Any];
        let all = Isa::all().into_iter();
        for (isa, order) in all.flat_map(|isa| orders.map(|order| (isa, order))) {
            let alone = ws.iter().map(|w| product_in(order, isa, x.view(), w));
            let alone: Vec<_> = alone.collect();
            for threads in [1, 3] {
                let places = ws
                    .iter()
                    .map(|w| Array2::from_elem((w.rows(), m), f32::NAN));
                let mut ys: Vec<_> = places.collect();
                // Every third result lies turned, and so does `x`.
                let products = ws.iter().zip(&mut ys).enumerate().map(|(i, (w, y))| {
                    let y = match i % 3 {
                        0 => y.view_mut().reversed_axes(),
                        _ => {
                            *y = Array2::from_elem((m, w.rows()), f32::NAN);
                            y.view_mut()
                        }
                    };
                    (w, y)
                });
                let products: Vec<_> = products.collect();
                with_threads(threads, || {
                    matmul_t_each_with(isa, order, turned.t(), products)
                });
                for (i, (y, alone)) in ys.iter().zip(&alone).enumerate() {
                    let y = if i % 3 == 0 { y.t() } else { y.view() };
                    assert_same(y, alone.view(), "together");
                }
            }
        }
    }
}

#[test]
fn a_pruned_weight_is_a_true_zero() {
    // A product with infinity shows whether the weight is zero or merely subtracted afterwards.
    let mut x = Array2::ones((3, 600));
    x[[1, 550]] = f32::MAX;
    for dtype in DTYPES {
        let w = Random(1)
            .mat(dtype, 40, 600, 0)
            .edited(&[(7, 550, 0.0)])
            .unwrap();
        let mut clean = x.clone();
        clean[[1, 550]] = 0.0;
        for isa in Isa::all() {
            let (with, without) = (product(isa, x.view(), &w), product(isa, clean.view(), &w));
            assert_eq!(with[[1, 7]].to_bits(), without[[1, 7]].to_bits());
        }
    }
}

#[test]
#[should_panic(expected = "x has 3 columns, w has 4")]
fn shapes_must_agree() {
    product(
        Isa::Portable,
        Array2::zeros((1, 3)).view(),
        &Mat::from_f32(1, 4, vec![0.0; 4]),
    );
}
