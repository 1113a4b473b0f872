//! Products of codes: weights alone, or weights and activations.

use std::{ops::Range, rc::Rc};

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;
use sw_model::{Input, Mat, Product};
use sw_quant::{Activation, Grouping, Offsets, Quantized, View};
use sw_tensor::{CodeOffsets, Codes, matmul_t_codes, matmul_t_i8};

/// Rows and columns of the blocks that share a scale.
fn group(view: &View<'_>) -> Result<[usize; 2], String> {
    let [rows, cols] = view.shape;
    Ok(match view.grouping {
        Grouping::Tensor => [rows, cols],
        Grouping::Row => [1, cols],
        Grouping::Tile {
            rows: r, cols: c, ..
        } => [r.min(rows), c.min(cols)],
        Grouping::Flat { len, .. } if len >= rows * cols => [rows, cols],
        Grouping::Flat { len, .. } if len.is_multiple_of(cols) => [len / cols, cols],
        Grouping::Flat { len, .. } if cols.is_multiple_of(len) => [1, len],
        other => {
            return Err(format!(
                "integers need blocks that are rectangles of [{rows}, {cols}], found {other:?}; use the simulated arithmetic"
            ));
        }
    })
}

/// A matrix of 4-bit or 8-bit codes; activations become integers of 16 bits for the product.
pub(super) struct Coded {
    codes: Quantized,
    group: [usize; 2],
    /// Place and value.
    outliers: Vec<(u64, f32)>,
}

impl Coded {
    pub(super) fn new(codes: Quantized) -> Result<Self, String> {
        let view = codes.view();
        if !matches!(view.bits, 4 | 8) {
            return Err(format!(
                "integers need weights of 4 or 8 bits, found {}; use the simulated arithmetic",
                view.bits
            ));
        }
        let group = group(&view)?;
        let outliers = view.outliers.iter().map(|o| (o.index, o.value)).collect();
        Ok(Self {
            codes,
            group,
            outliers,
        })
    }
}

impl Product for Coded {
    fn shape(&self) -> [usize; 2] {
        self.codes.shape()
    }

    fn multiply(&self, x: &Input<'_>, y: ArrayViewMut2<'_, f32>) {
        let view = self.codes.view();
        let codes = Codes {
            shape: view.shape,
            bits: view.bits,
            codes: view.codes,
            group: self.group,
            scales: view.scales,
            offsets: match view.offsets {
                Offsets::Integer(zeros) => CodeOffsets::Zeros(zeros),
                Offsets::Float(offsets) => CodeOffsets::Floats(offsets),
                _ => CodeOffsets::Symmetric,
            },
            outliers: &self.outliers,
        };
        matmul_t_codes(x.rows(), &codes, y);
    }

    fn matrix(&self) -> Mat {
        let [rows, cols] = self.codes.shape();
        Mat::from_f32(rows, cols, self.codes.dequantize())
    }
}

/// Symmetric weights as bytes, with what quantizes the activations they meet. A product is, in f64 but for the sum of
/// integers, which is exact, and rounded once,
///
/// ```text
/// y[t, r] = sw[r] * (sx[t] * sum_k qx[t, k] qw[r, k] + b[t] * sum_k qw[r, k]) + what is held out
/// ```
///
/// with `x^ = sx*qx + b`, where `b` is zero for symmetric activations. Held-out weights and activations have the integer
/// zero, and are added by themselves: a column of the weights for each activation, a row of activations for each weight.
pub(super) struct Bytes {
    /// `[out, in]`.
    w: Array2<i8>,
    /// The scale of each row.
    scales: Vec<f32>,
    /// The sum of each row's integers.
    sums: Vec<i32>,
    /// Row, column and value, row by row.
    held: Vec<(usize, usize, f32)>,
    recipe: Activation,
    by_row: bool,
}

/// Terms of an exact sum at most.
const MOST_TERMS: usize = 65_793;

impl Bytes {
    /// `by_row`: whether the recipe works on each token alone.
    pub(super) fn new(codes: Quantized, recipe: Activation, by_row: bool) -> Result<Self, String> {
        let view = codes.view();
        let cols = view.shape[1];
        let group = group(&view)?;
        if *view.offsets != Offsets::None || group[1] != cols {
            return Err(format!(
                "integers times integers need symmetric weights with one scale for each matrix or row, found {:?}, {:?}; use the simulated arithmetic",
                view.levels, view.grouping
            ));
        }
        if cols > MOST_TERMS {
            return Err(format!(
                "sums of at most {MOST_TERMS} terms are exact, found {cols}; use the simulated arithmetic"
            ));
        }
        let (w, held) = integers(&codes);
        let sum = |row: ArrayView1<'_, i8>| row.iter().map(|&q| i32::from(q)).sum();
        let scale = |row| view.scales[view.blocks.of(row, 0)];
        Ok(Self {
            scales: (0..view.shape[0]).map(scale).collect(),
            sums: w.rows().into_iter().map(sum).collect(),
            w,
            held,
            recipe,
            by_row,
        })
    }

    /// What the maps of one input share: its integers.
    fn read(&self, x: &Input<'_>) -> Rc<ReadBytes> {
        x.shared(
            |read: &ReadBytes| read.recipe == self.recipe,
            || {
                let whole = 0..x.rows().nrows();
                let rows = match x.seqs() {
                    Some(seqs) if !self.by_row => seqs.iter().map(|seq| seq.rows.clone()).collect(),
                    _ => vec![whole],
                };
                ReadBytes {
                    groups: rows
                        .into_iter()
                        .map(|rows| TokenGroup::new(&self.recipe, x.rows(), rows))
                        .collect(),
                    recipe: self.recipe.clone(),
                }
            },
        )
    }

    fn multiply_group(&self, x: &TokenGroup, mut y: ArrayViewMut2<'_, f32>) {
        let Some(x) = &x.bytes else {
            return y.fill(f32::NAN); // the forward pass names what is not finite
        };
        let mut sums = Array2::zeros(y.dim());
        matmul_t_i8(x.q.view(), self.w.view(), sums.view_mut());
        let row =
            |all: &mut Vec<f64>, (t, (mut y, sums)): (usize, (ArrayViewMut1<'_, f32>, _))| {
                let sums: ArrayView1<'_, i32> = sums;
                let (scale, base) = x.grid[t];
                let start = x.held.partition_point(|h| h.0 < t);
                let held = x.held[start..].iter().take_while(|h| h.0 == t);
                let held: Vec<(usize, f64)> = held.map(|h| (h.1, f64::from(h.2))).collect();
                all.clear();
                let weights = self.sums.iter();
                all.extend(sums.iter().zip(weights).map(|(sum, of_weights)| {
                    f64::from(*sum) * scale + f64::from(*of_weights) * base
                }));
                for &(k, value) in &held {
                    let column = self.w.column(k);
                    let add = |(all, w): (&mut f64, &i8)| *all += (value - base) * f64::from(*w);
                    all.iter_mut().zip(column).for_each(add);
                }
                for (all, scale) in all.iter_mut().zip(&self.scales) {
                    *all *= f64::from(*scale);
                }
                for &(r, k, w) in &self.held {
                    let value = match held.iter().find(|h| h.0 == k) {
                        Some(h) => h.1,
                        None => f64::from(x.q[[t, k]]) * scale + base,
                    };
                    all[r] += value * f64::from(w);
                }
                y.iter_mut().zip(all).for_each(|(y, all)| *y = *all as f32);
            };
        y.axis_iter_mut(Axis(0))
            .into_par_iter()
            .zip(sums.axis_iter(Axis(0)))
            .enumerate()
            .for_each_init(Vec::new, row);
    }
}

impl Product for Bytes {
    fn shape(&self) -> [usize; 2] {
        [self.w.nrows(), self.w.ncols()]
    }

    fn multiply(&self, x: &Input<'_>, mut y: ArrayViewMut2<'_, f32>) {
        for group in &self.read(x).groups {
            let rows = Slice::from(group.rows.clone());
            self.multiply_group(group, y.slice_axis_mut(Axis(0), rows));
        }
    }

    fn matrix(&self) -> Mat {
        let scaled = |(row, scale): (ArrayView1<'_, i8>, &f32)| {
            row.iter()
                .map(|&q| f32::from(q) * scale)
                .collect::<Vec<_>>()
        };
        let rows = self.w.rows().into_iter().zip(&self.scales);
        let mut values: Vec<f32> = rows.flat_map(scaled).collect();
        for &(row, col, value) in &self.held {
            values[row * self.w.ncols() + col] = value;
        }
        Mat::from_f32(self.w.nrows(), self.w.ncols(), values)
    }
}

/// Codes less their middle, zero where a value is held out, and the held-out values: row, column and value, row by row.
fn integers(codes: &Quantized) -> (Array2<i8>, Vec<(usize, usize, f32)>) {
    let view = codes.view();
    let [rows, cols] = view.shape;
    let mut bytes = vec![0u8; rows * cols];
    codes.codes_into(0, &mut bytes).expect("as many codes");
    let middle = 1u8 << (view.bits - 1);
    let mut integers: Vec<i8> = bytes
        .into_iter()
        .map(|code| code.wrapping_sub(middle) as i8)
        .collect();
    let place = |o: &sw_quant::Outlier| {
        let at = o.index as usize;
        (at / cols, at % cols, o.value)
    };
    let held: Vec<_> = view.outliers.iter().map(place).collect();
    for &(row, col, _) in &held {
        integers[row * cols + col] = 0;
    }
    let integers = Array2::from_shape_vec((rows, cols), integers).expect("as many codes");
    (integers, held)
}

/// An input as bytes.
struct ReadBytes {
    recipe: Activation,
    groups: Vec<TokenGroup>,
}

/// Tokens whose recipe is applied together.
struct TokenGroup {
    rows: Range<usize>,
    /// `None` where an activation is not finite.
    bytes: Option<GroupBytes>,
}

struct GroupBytes {
    /// `[tokens, in]`.
    q: Array2<i8>,
    /// What an integer stands for, `scale * q + base`, in each row: scale and base.
    grid: Vec<(f64, f64)>,
    /// Row, column and value, row by row.
    held: Vec<(usize, usize, f32)>,
}

impl TokenGroup {
    fn new(recipe: &Activation, x: ArrayView2<'_, f32>, rows: Range<usize>) -> Self {
        let x = x.slice_axis(Axis(0), Slice::from(rows.clone()));
        let x = x.as_standard_layout();
        let values = x.as_slice().expect("standard layout");
        let codes = recipe.quantize(values, [x.nrows(), x.ncols()]).ok();
        let bytes = codes.map(|codes| {
            let (q, held) = integers(&codes);
            let grid = (0..rows.len())
                .map(|row| of_row(&codes.view(), row))
                .collect();
            GroupBytes { q, grid, held }
        });
        Self { rows, bytes }
    }
}

/// What the integers of activations stand for in a row: scale and base.
fn of_row(view: &View<'_>, row: usize) -> (f64, f64) {
    let block = view.blocks.of(row, 0);
    let (scale, middle) = (
        f64::from(view.scales[block]),
        f64::from(1u32 << (view.bits - 1)),
    );
    let base = match view.offsets {
        Offsets::Integer(zeros) => (middle - f64::from(zeros[block])) * scale,
        Offsets::Float(offsets) => middle * scale + f64::from(offsets[block]),
        _ => 0.0,
    };
    (scale, base)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sw_model::{Hook, Linear, Model, Seq, SeqRange, Site, SiteView};
    use sw_quant::{Levels, Pick, Scheme, fake_quantize, quantize};

    use super::*;

    /// What the maps of a model read on a text.
    #[derive(Default)]
    struct Read(Vec<(Site, Array2<f32>)>);

    impl Hook for Read {
        fn wants(&self, site: Site) -> bool {
            matches!(
                site,
                Site::AttnIn(_) | Site::OIn(_) | Site::MlpIn(_) | Site::DownIn(_)
            )
        }
        fn visit(&mut self, site: Site, view: SiteView<'_>) {
            self.0.push((site, view.data.to_owned()));
        }
    }

    /// The integers that simulated values are multiples of.
    fn multiples(values: &[f32], scale: impl Fn(usize) -> f64) -> Vec<i64> {
        let integer = |(i, v): (usize, &f32)| {
            let q = match scale(i) {
                0.0 => 0.0,
                scale => f64::from(*v) / scale,
            };
            assert!((q - q.round()).abs() < 1e-4, "{q}");
            q.round() as i64
        };
        values.iter().enumerate().map(integer).collect()
    }

    /// On real weights and activations, the sums of integers are those of the simulation's values divided by their
    /// scales, exactly; and the product is the simulation's, up to the roundings of floats.
    #[test]
    fn sums_are_the_simulations() {
        for name in ["../../nano/model", "../sw-model/tests/golden/gpt_neox"] {
            let model = Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
            let text: Vec<u32> = (0..20).map(|i| (i * 31 + 1) % 97).collect();
            let mut read = Read::default();
            model.forward(&[Seq::from(&text[..])], &mut read).unwrap();
            for (site, x) in read.0 {
                let (layer, linear) = match site {
                    Site::AttnIn(l) if model.weight(l, Linear::Qkv).is_some() => (l, Linear::Qkv),
                    Site::AttnIn(l) => (l, Linear::K),
                    Site::OIn(l) => (l, Linear::O),
                    Site::MlpIn(l) => (l, Linear::Up),
                    Site::DownIn(l) => (l, Linear::Down),
                    other => unreachable!("{other}"),
                };
                let w = model.weight(layer, linear).unwrap();
                for grouping in [Grouping::Tensor, Grouping::Row] {
                    check(&x, w, &Scheme::new(Levels::symmetric(8), grouping), &[]);
                }
                let held = [(1, 2), (1, 5), (w.rows() - 1, 0)];
                let scheme = Scheme::new(Levels::symmetric(8), Grouping::Tensor);
                check(&x, w, &scheme, &held);
            }
        }
    }

    fn check(x: &Array2<f32>, w: &Mat, scheme: &Scheme, held: &[(usize, usize)]) {
        let shape @ [rows, cols] = [w.rows(), w.cols()];
        let wide = w.to_f32_vec();
        let codes = quantize(&wide, shape, scheme, held).unwrap();
        let (qw, _) = integers(&codes);
        let mut fake = wide.clone();
        fake_quantize(&mut fake, shape, scheme, held).unwrap();
        let scales = |row: usize| f64::from(codes.view().scales[codes.view().blocks.of(row, 0)]);
        let mut stripped = fake.clone();
        held.iter().for_each(|&(r, c)| stripped[r * cols + c] = 0.0);
        let of_weights = multiples(&stripped, |i| scales(i / cols));

        let picks = [Pick::None, Pick::Largest, Pick::RowLargest];
        for (pick, levels) in picks.iter().flat_map(|p| {
            [Levels::symmetric(8), Levels::asymmetric(8)].map(|levels| (p.clone(), levels))
        }) {
            let recipe = Activation {
                scheme: Scheme::new(levels, Grouping::Row),
                pick,
                ..Activation::naive(8)
            };
            let mut simulated = x.clone();
            let tokens = x.nrows();
            let kept = recipe
                .apply(simulated.as_slice_mut().unwrap(), [tokens, cols])
                .unwrap();
            let codes = recipe
                .quantize(x.as_slice().unwrap(), [tokens, cols])
                .unwrap();
            let (qx, _) = integers(&codes);
            let mut sums = Array2::<i32>::zeros((tokens, rows));
            matmul_t_i8(qx.view(), qw.view(), sums.view_mut());
            if levels == Levels::symmetric(8) {
                let scale = |i: usize| f64::from(codes.view().scales[i / cols]);
                let mut stripped = simulated.clone();
                kept.iter().for_each(|&at| stripped[at] = 0.0);
                let of_activations = multiples(stripped.as_slice().unwrap(), scale);
                for ((t, r), sum) in sums.indexed_iter() {
                    let x = &of_activations[t * cols..][..cols];
                    let w = &of_weights[r * cols..][..cols];
                    let exact: i64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                    assert_eq!(i64::from(*sum), exact, "{recipe:?}, [{t}, {r}]");
                }
            }
            let product = Bytes::new(
                quantize(&wide, shape, scheme, held).unwrap(),
                recipe.clone(),
                recipe.pick != Pick::Largest,
            )
            .unwrap();
            assert_eq!(product.shape(), shape);
            let mut y = Array2::zeros((tokens, rows));
            let seqs = [SeqRange {
                rows: 0..tokens,
                start: 0,
            }];
            let input = Input::new(x.view(), Some(&seqs));
            product.multiply(&input, y.view_mut());
            for ((t, r), y) in y.indexed_iter() {
                let terms = (0..cols).map(|k| {
                    let (x, w) = (f64::from(simulated[[t, k]]), f64::from(fake[r * cols + k]));
                    (
                        x * w,
                        (x.abs() + 256.0 * f64::from(codes.view().scales[t])) * w.abs(),
                    )
                });
                let (exact, size) = terms.fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
                // Simulated values are rounded to f32, at most three times each; ours only at the end.
                let bound = 4.0 * size * 2f64.powi(-24) + exact.abs() * 2f64.powi(-24);
                assert!(
                    (f64::from(*y) - exact).abs() <= bound,
                    "{y}, {exact}, {bound}"
                );
            }
            let own = product.matrix().to_f32_vec();
            assert_eq!(own, fake);
        }
    }
}
