//! A constant or a row in the place of super weights, fitted to what their layers read on calibration texts.

use serde::Serialize;
use sw_model::{Hook, Model, Seq, Site, SiteView, WeightCoord};

use crate::{
    error::{Error, Result},
    intervention::{Constant, SetWeight},
};

/// Rows without super weights that do their work.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RowRepair {
    /// Every weight of the rows, the super weights as zeros.
    #[serde(skip)]
    pub weights: Vec<SetWeight>,
    /// The change's Euclidean length over that of the rows.
    pub length: f64,
    /// The cosine of the angle between the change and the rows.
    pub cosine: f64,
    /// Root of the share of the work's square that is left undone on the inputs of the fit.
    pub residual: f64,
}

impl RowRepair {
    /// Fits the rest of each super weight's row of `down_proj` so that it adds what the super weights added: ridge
    /// regression with `lambda` relative to the mean square of an input row.
    ///
    /// # Errors
    /// Inputs that were not collected for a coordinate's layer or are all zero; a coordinate outside the model.
    pub fn fit(
        model: &Model,
        samples: &SpikeInputs,
        coords: &[WeightCoord],
        lambda: f64,
    ) -> Result<Self> {
        let mut weights: Vec<SetWeight> = coords
            .iter()
            .map(|&coord| SetWeight { coord, value: 0.0 })
            .collect();
        let mut rows: Vec<(usize, usize)> = coords.iter().map(|c| (c.layer, c.row)).collect();
        rows.sort_unstable();
        rows.dedup();
        let [mut dot, mut base, mut change, mut left, mut wanted] = [0.0f64; 5];
        for (layer, row) in rows {
            let own: Vec<_> = coords
                .iter()
                .filter(|c| (c.layer, c.row) == (layer, row))
                .collect();
            let x = samples.of(layer).ok_or_else(|| {
                Error::Options(format!(
                    "layer {layer}: no inputs were collected to fit a row to"
                ))
            })?;
            let others: Vec<usize> = (0..x.cols)
                .filter(|k| own.iter().all(|c| c.col != *k))
                .collect();
            let mut work = Vec::new();
            for t in 0..x.rows() {
                let mut sum = 0.0;
                for c in &own {
                    sum += f64::from(model.value(**c)?) * f64::from(x.at(t, c.col));
                }
                work.push(sum);
            }
            let inputs: Vec<Vec<f64>> = (0..x.rows())
                .map(|t| others.iter().map(|&k| f64::from(x.at(t, k))).collect())
                .collect();
            let delta = ridge(&inputs, &work, lambda)?;
            for (x, y) in inputs.iter().zip(&work) {
                let done: f64 = x.iter().zip(&delta).map(|(a, b)| a * b).sum();
                left += (y - done).powi(2);
                wanted += y * y;
            }
            for (&col, d) in others.iter().zip(&delta) {
                let coord = WeightCoord::down(layer, row, col);
                let old = f64::from(model.value(coord)?);
                (dot, base, change) = (dot + old * d, base + old * old, change + d * d);
                weights.push(SetWeight {
                    coord,
                    value: (old + d) as f32,
                });
            }
        }
        let lengths = (base.sqrt(), change.sqrt());
        Ok(Self {
            weights,
            length: lengths.1 / lengths.0.max(f64::MIN_POSITIVE),
            cosine: dot / (lengths.0 * lengths.1).max(f64::MIN_POSITIVE),
            residual: (left / wanted.max(f64::MIN_POSITIVE)).sqrt(),
        })
    }
}

/// What `down_proj` of the super weights' layers reads on texts, and where each text's spike is.
pub struct SpikeInputs {
    layers: Vec<(usize, Rows)>,
    /// For each coordinate, text by text, the token position of the largest product of weight and input, and that product.
    spikes: Vec<Vec<(usize, f32)>>,
    most: usize,
    coords: Vec<(WeightCoord, f32)>,
}

struct Rows {
    values: Vec<f32>,
    cols: usize,
}

impl Rows {
    fn rows(&self) -> usize {
        self.values.len() / self.cols
    }

    fn at(&self, row: usize, col: usize) -> f32 {
        self.values[row * self.cols + col]
    }
}

impl SpikeInputs {
    /// Runs the texts of tokens; the inputs of the first `most` tokens are kept, and the spikes of all.
    ///
    /// # Errors
    /// A coordinate outside the model, a text that cannot be run.
    pub fn collect(
        model: &Model,
        texts: &[Vec<u32>],
        coords: &[WeightCoord],
        most: usize,
    ) -> Result<Self> {
        let valued = coords.iter().map(|&c| Ok((c, model.value(c)?)));
        let mut inputs = Self {
            layers: Vec::new(),
            spikes: vec![Vec::new(); coords.len()],
            most,
            coords: valued.collect::<Result<_>>()?,
        };
        for text in texts {
            model.forward(&[Seq::from(&text[..])], &mut inputs)?;
        }
        Ok(inputs)
    }

    fn of(&self, layer: usize) -> Option<&Rows> {
        self.layers.iter().find(|l| l.0 == layer).map(|l| &l.1)
    }

    /// For each coordinate a constant: the mean product at the position where the spike stands most often. Beside them the
    /// share of texts, from 0 to 1, whose spike stands there.
    ///
    /// # Errors
    /// A coordinate outside the model, no texts.
    pub fn constants(&self, model: &Model, coords: &[WeightCoord]) -> Result<(Vec<Constant>, f64)> {
        let mut constants: Vec<Constant> = Vec::new();
        let (mut there, mut all) = (0, 0);
        for (coord, spikes) in coords.iter().zip(&self.spikes) {
            model.value(*coord)?;
            let count = |p: usize| spikes.iter().filter(|s| s.0 == p).count();
            let position = spikes
                .iter()
                .map(|s| s.0)
                .max_by_key(|&p| (count(p), usize::MAX - p));
            let position = position.ok_or_else(|| {
                Error::Options(
                    "constants in the place of super weights: no calibration text".into(),
                )
            })?;
            let at: Vec<f64> = spikes
                .iter()
                .filter(|s| s.0 == position)
                .map(|s| f64::from(s.1))
                .collect();
            (there, all) = (there + at.len(), all + spikes.len());
            let value = (at.iter().sum::<f64>() / at.len() as f64) as f32;
            let same = |c: &&mut Constant| {
                (c.layer, c.position, c.channel) == (coord.layer, position, coord.row)
            };
            match constants.iter_mut().find(same) {
                Some(constant) => constant.value += value,
                None => constants.push(Constant {
                    layer: coord.layer,
                    position,
                    channel: coord.row,
                    value,
                }),
            }
        }
        Ok((constants, there as f64 / f64::max(all as f64, 1.0)))
    }
}

impl Hook for SpikeInputs {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::DownIn(l) if self.coords.iter().any(|c| c.0.layer == l))
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let Site::DownIn(layer) = site else { return };
        for (i, (coord, value)) in self
            .coords
            .iter()
            .enumerate()
            .filter(|(_, c)| c.0.layer == layer)
        {
            let products = view
                .data
                .column(coord.col)
                .into_iter()
                .map(|x| x * value)
                .enumerate();
            let largest = products.reduce(|a, b| if b.1.abs() > a.1.abs() { b } else { a });
            self.spikes[i].extend(largest);
        }
        let cols = view.data.ncols();
        if self.layers.iter().all(|l| l.0 != layer) {
            self.layers.push((
                layer,
                Rows {
                    values: Vec::new(),
                    cols,
                },
            ));
        }
        if let Some((_, rows)) = self.layers.iter_mut().find(|l| l.0 == layer) {
            for row in view.data.rows() {
                if rows.values.len() < self.most * cols {
                    rows.values.extend(row);
                }
            }
        }
    }
}

/// `d` with the least `|X d - y|^2 + l |d|^2`, `l` relative to the mean square of the rows, by the dual system
/// `d = X^T (X X^T + l)^-1 y`.
fn ridge(x: &[Vec<f64>], y: &[f64], relative: f64) -> Result<Vec<f64>> {
    let n = x.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut gram = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            gram[i][j] = dot(&x[i], &x[j]);
        }
    }
    let mean = (0..n).map(|i| gram[i][i]).sum::<f64>() / n.max(1) as f64;
    for (i, row) in gram.iter_mut().enumerate() {
        row[i] += relative * mean;
    }
    // Cholesky's factor in place, then forward and backward substitution.
    for i in 0..n {
        for j in 0..=i {
            let sum = gram[i][j] - dot(&gram[i][..j], &gram[j][..j]);
            gram[i][j] = if i == j {
                if sum <= 0.0 {
                    return Err(Error::Options(
                        "the inputs are all zero; there is nothing to fit a row to".into(),
                    ));
                }
                sum.sqrt()
            } else {
                sum / gram[j][j]
            };
        }
    }
    let mut a = y.to_vec();
    for i in 0..n {
        a[i] = (a[i] - dot(&gram[i][..i], &a[..i])) / gram[i][i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| gram[k][i] * a[k]).sum();
        a[i] = (a[i] - sum) / gram[i][i];
    }
    let columns = x.first().map_or(0, Vec::len);
    let mut d = vec![0.0; columns];
    for (row, a) in x.iter().zip(&a) {
        d.iter_mut().zip(row).for_each(|(d, x)| *d += a * x);
    }
    Ok(d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ridge_without_weight_interpolates() {
        let x = [vec![1.0, 2.0, 0.5], vec![-1.0, 0.5, 3.0]];
        let y = [3.0, -2.0];
        let d = ridge(&x, &y, 1e-12).unwrap();
        for (x, y) in x.iter().zip(y) {
            let done: f64 = x.iter().zip(&d).map(|(a, b)| a * b).sum();
            assert!((done - y).abs() < 1e-6, "{done} {y}");
        }
        let shrunk = ridge(&x, &y, 100.0).unwrap();
        let length = |d: &[f64]| d.iter().map(|v| v * v).sum::<f64>();
        assert!(length(&shrunk) < length(&d));
        assert!(ridge(&[vec![0.0]], &[1.0], 1e-3).is_err());
    }
}
