//! Every kernel this CPU has: integers exactly, codes within a derived bound, all of them bit for bit the same.

use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;

use super::bytes::matmul_t_i8_with;
use super::codes::matmul_t_codes_with;
use super::{CodeOffsets, Codes};
use crate::isa::Isa;
use crate::testing::{Random, U, assert_near, assert_same, with_threads};

fn bytes(random: &mut Random, rows: usize, cols: usize) -> Array2<i8> {
    // The extremes often: they are where instructions saturate.
    Array2::from_shape_simple_fn((rows, cols), || match random.next() % 8 {
        0 => -128,
        1 => 127,
        _ => random.next() as i8,
    })
}

fn sums(x: &Array2<i8>, w: &Array2<i8>) -> Array2<i32> {
    Array2::from_shape_fn((x.nrows(), w.nrows()), |(t, r)| {
        let terms = x.row(t).into_iter().zip(w.row(r));
        terms.map(|(x, w)| i32::from(*x) * i32::from(*w)).sum()
    })
}

fn product_i8(isa: Isa, x: ArrayView2<i8>, w: ArrayView2<i8>) -> Array2<i32> {
    let mut y = Array2::from_elem((x.nrows(), w.nrows()), i32::MIN);
    matmul_t_i8_with(isa, x, w, y.view_mut());
    y
}

/// A matrix of codes with everything that belongs to it.
struct Owned {
    shape: [usize; 2],
    bits: u8,
    codes: Vec<u8>,
    group: [usize; 2],
    scales: Vec<f32>,
    zeros: Option<Vec<u8>>,
    floats: Option<Vec<f32>>,
    outliers: Vec<(u64, f32)>,
}

impl Owned {
    fn new(random: &mut Random, shape: [usize; 2], bits: u8, group: [usize; 2], kind: u8) -> Owned {
        let n = shape[0] * shape[1];
        let blocks = shape[0].div_ceil(group[0]) * shape[1].div_ceil(group[1]);
        let mut codes: Vec<u8> = (0..n.div_ceil(8 / usize::from(bits)))
            .map(|_| random.next() as u8)
            .collect();
        if bits == 4 && n % 2 == 1 {
            *codes.last_mut().unwrap() &= 15;
        }
        let mut floats = |n| (0..n).map(|_| random.signed()).collect::<Vec<f32>>();
        let (scales, offsets) = (floats(blocks), floats(blocks));
        let zeros = (0..blocks)
            .map(|_| (random.next() % (1 << bits)) as u8)
            .collect();
        let mut places: Vec<u64> = (0..n / 50).map(|_| random.next() % n as u64).collect();
        places.sort_unstable();
        places.dedup();
        Owned {
            shape,
            bits,
            codes,
            group,
            scales,
            zeros: (kind == 1).then_some(zeros),
            floats: (kind == 2).then_some(offsets),
            outliers: places
                .into_iter()
                .map(|at| (at, random.signed() * 50.0))
                .collect(),
        }
    }

    fn codes(&self) -> Codes<'_> {
        Codes {
            shape: self.shape,
            bits: self.bits,
            codes: &self.codes,
            group: self.group,
            scales: &self.scales,
            offsets: match (&self.zeros, &self.floats) {
                (Some(zeros), _) => CodeOffsets::Zeros(zeros),
                (_, Some(floats)) => CodeOffsets::Floats(floats),
                _ => CodeOffsets::Symmetric,
            },
            outliers: &self.outliers,
        }
    }

    /// Code, scale and offset of a place, and the exact weight.
    fn at(&self, row: usize, col: usize) -> (f64, f64, f64, f64) {
        let at = row * self.shape[1] + col;
        let code = match self.bits {
            4 => self.codes[at / 2] >> (4 * (at % 2)) & 15,
            _ => self.codes[at],
        };
        let across = self.shape[1].div_ceil(self.group[1]);
        let block = row / self.group[0] * across + col / self.group[1];
        let (code, scale) = (f64::from(code), f64::from(self.scales[block]));
        let offset = match (&self.zeros, &self.floats) {
            (Some(zeros), _) => -scale * f64::from(zeros[block]),
            (_, Some(floats)) => f64::from(floats[block]),
            _ => -scale * f64::from(1u32 << (self.bits - 1)),
        };
        let held = self.outliers.binary_search_by_key(&(at as u64), |o| o.0);
        let value = held.map_or(code * scale + offset, |i| f64::from(self.outliers[i].1));
        (code, scale, offset, value)
    }
}

fn product(isa: Isa, x: ArrayView2<f32>, w: &Codes<'_>) -> Array2<f32> {
    let mut y = Array2::from_elem((x.nrows(), w.shape[0]), f32::NAN);
    matmul_t_codes_with(isa, x, w, y.view_mut());
    y
}

/// The exact product, and how far off it may be: activations by half a step each, and every operation by a rounding of what
/// it handles. The step is the largest activation's over 32767, of those that no row holds out: at most 16 times the mean
/// of the others (or all, where too many are large).
fn expected(x: ArrayView2<f32>, w: &Owned) -> (Array2<f64>, Array2<f64>) {
    let [rows, cols] = w.shape;
    let mut exact = Array2::zeros((x.nrows(), rows));
    let mut bound = Array2::zeros((x.nrows(), rows));
    for (t, x) in x.rows().into_iter().enumerate() {
        let mut sizes: Vec<f64> = x.iter().map(|x| f64::from(x.abs())).collect();
        sizes.sort_by(|a, b| b.total_cmp(a));
        // The first that is not a spike, by definition.
        let most = (0..sizes.len()).find(|&i| {
            let others = &sizes[i + 1..];
            let mean = others.iter().sum::<f64>() / others.len().max(1) as f64;
            i == 16 || sizes[i] <= 16.0 * mean
        });
        let step = most.map_or(0.0, |i| sizes[i]) / 32767.0 * (1.0 + 1e-6);
        for r in 0..rows {
            let (mut sum, mut steps, mut handled) = (0.0, 0.0, 0.0);
            for (k, x) in x.iter().enumerate() {
                let (code, scale, offset, value) = w.at(r, k);
                let x = f64::from(*x);
                let middle = f64::from(1u32 << (w.bits - 1));
                let parts = (code - middle).abs() * scale.abs() + (middle * scale + offset).abs();
                sum += x * value;
                steps += parts;
                handled +=
                    (x.abs() + step) * (parts + value.abs() + middle * scale.abs() + offset.abs());
            }
            exact[[t, r]] = sum;
            let operations = (4 * cols + 40) as f64;
            bound[[t, r]] = 0.5 * step * (1.0 + 1e-5) * steps + U * operations * handled + 1e-30;
        }
    }
    (exact, bound)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn bytes_are_exact(seed: u64, m in 0usize..70, n in 0usize..110, k in prop_oneof![0usize..140, 500usize..530, 1020usize..1030]) {
        let mut random = Random(seed);
        let (x, w) = (bytes(&mut random, m, k), bytes(&mut random, n, k));
        let expected = sums(&x, &w);
        for isa in Isa::all() {
            prop_assert_eq!(&product_i8(isa, x.view(), w.view()), &expected, "{}", isa.name());
        }
    }

    #[test]
    fn codes_of_any_layout(
        seed: u64,
        m in 0usize..55,
        n in 0usize..110,
        k in prop_oneof![0usize..140, 500usize..530, 1020usize..1030],
        bits in prop::sample::select(vec![4u8, 8]),
        kind in 0u8..3,
        group in prop::sample::select(vec![[1, 32], [1, 127], [3, 64], [1, 10000], [10000, 10000], [1, 1]]),
    ) {
        let mut random = Random(seed);
        let x = random.array(m, k);
        let w = Owned::new(&mut random, [n, k], bits, group, kind);
        let (exact, bound) = expected(x.view(), &w);
        let first = product(Isa::Portable, x.view(), &w.codes());
        assert_near(first.view(), &exact, &bound, "portable");
        for isa in Isa::all() {
            assert_same(product(isa, x.view(), &w.codes()).view(), first.view(), isa.name());
        }
    }
}

#[test]
fn the_largest_sums_fit() {
    for (a, b) in [(-128i8, -128i8), (-128, 127), (127, 127)] {
        let (x, w) = (
            Array2::from_elem((3, 65793), a),
            Array2::from_elem((2, 65793), b),
        );
        let sum = i32::from(a) * i32::from(b) * 65793;
        for isa in Isa::all() {
            assert!(
                product_i8(isa, x.view(), w.view())
                    .iter()
                    .all(|y| *y == sum),
                "{}",
                isa.name()
            );
        }
    }
    // 512 times the largest activation and the largest code, without a flush in between.
    let x = Array2::from_elem((1, 1024), 1.0f32);
    let mut random = Random(1);
    let mut w = Owned::new(&mut random, [1, 1024], 8, [1, 1024], 0);
    w.outliers.clear();
    w.codes.fill(0);
    w.scales.fill(1.0);
    for isa in Isa::all() {
        let y = product(isa, x.view(), &w.codes())[[0, 0]];
        assert!((y + 128.0 * 1024.0).abs() < 0.1, "{}: {y}", isa.name());
    }
}

#[test]
fn a_row_depends_on_nothing_but_itself() {
    let mut random = Random(5);
    let x = random.array(61, 700);
    let (bytes_x, bytes_w) = (bytes(&mut random, 61, 700), bytes(&mut random, 203, 700));
    let w = Owned::new(&mut random, [203, 700], 4, [1, 100], 2);
    for isa in Isa::all() {
        let whole = product(isa, x.view(), &w.codes());
        let integers = product_i8(isa, bytes_x.view(), bytes_w.view());
        for threads in [1, 2, 3, 7] {
            let again = with_threads(threads, || product(isa, x.view(), &w.codes()));
            assert_same(again.view(), whole.view(), isa.name());
            let again = with_threads(threads, || product_i8(isa, bytes_x.view(), bytes_w.view()));
            assert_eq!(again, integers, "{}", isa.name());
        }
        for rows in [0..1, 60..61, 3..40] {
            let part = product(isa, x.slice(s![rows.clone(), ..]), &w.codes());
            assert_same(part.view(), whole.slice(s![rows, ..]), isa.name());
        }
    }
}

/// Rows as models have them: around one, with a few channels a thousand times larger.
#[test]
fn spikes_cost_no_accuracy() {
    let mut random = Random(9);
    let mut gauss = || (0..12).map(|_| random.signed()).sum::<f32>() / 2.0;
    let mut x = Array2::from_shape_simple_fn((4, 4096), &mut gauss);
    let mut w = Owned::new(&mut Random(3), [32, 4096], 8, [1, 128], 0);
    w.outliers.clear();
    let error = |x: &Array2<f32>| {
        let (exact, _) = expected(x.view(), &w);
        let found = product(Isa::all()[0], x.view(), &w.codes());
        let off = exact
            .iter()
            .zip(&found)
            .map(|(e, f)| (e - f64::from(*f)).powi(2))
            .sum::<f64>();
        (off / exact.mapv(|e| e * e).sum()).sqrt()
    };
    let plain = error(&x);
    assert!(plain < 5e-5, "{plain:e}");
    // The spikes' own products are left out of the size that the error is measured by.
    let size = |x: &Array2<f32>| expected(x.view(), &w).0.mapv(|e| e * e).sum().sqrt();
    let before = size(&x);
    for (t, mut row) in x.rows_mut().into_iter().enumerate() {
        row[17 * t + 1] = 3000.0;
        row[4000 - t] = -800.0;
    }
    let spiky = error(&x) * size(&x) / before;
    assert!(spiky < 8e-5, "{spiky:e} beside {plain:e}");
}
