//! Activations with their outliers held out: the paper's Eq. 1.

use crate::block_params::places;
use crate::outliers::{finite, largest_places};
use crate::{
    Error, Grouping, Levels, Outlier, Quantized, Real, Scheme, error::check_shape, fake_quantize,
    quantize,
};

/// Which elements of a `[tokens, channels]` activation are held out.
///
/// ```
/// use sw_quant::{Activation, Pick};
/// let held = |pick| Activation { pick, ..Activation::paper(8) }.apply(&mut [1.0f32, -9.0, 3.0, 4.0], [2, 2]);
/// assert_eq!(held(Pick::Largest)?, [(0, 1)]);
/// assert_eq!(held(Pick::RowLargest)?, [(0, 1), (1, 1)]);
/// assert_eq!(held(Pick::Channels { channels: vec![0] })?, [(1, 0)]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum Pick {
    /// None: plain round-to-nearest.
    None,
    /// The largest magnitude of the tensor.
    #[default]
    Largest,
    /// The largest magnitude of every row.
    RowLargest,
    /// The `k` largest magnitudes of the tensor.
    TopK {
        /// How many.
        k: usize,
    },
    /// In each of these channels the largest magnitude over the tokens: a super activation whose channel is known from
    /// its super weight.
    Channels {
        /// Channels, counted from 0.
        channels: Vec<usize>,
    },
    /// These elements.
    At {
        /// (token, channel), counted from 0.
        coordinates: Vec<(usize, usize)>,
    },
}

/// What a held-out element is replaced by before quantization. The median is torch's lower one, taken over the
/// activation as it came.
///
/// ```
/// use sw_quant::{Activation, Fill};
/// // 900 becomes 2 (its row's lower median) or 3 (the tensor's) before the range of its row is taken.
/// let first = |fill| {
///     let mut x = [900.0f32, 1.0, 2.0, 2.0, 9.0, 8.0, 7.0, 3.0];
///     Activation { fill, ..Activation::paper(2) }.apply(&mut x, [2, 4]).map(|_| x[..4].to_vec())
/// };
/// assert_eq!(first(Fill::RowMedian)?, [900.0, 1.0, 2.0, 2.0]);
/// assert_eq!(first(Fill::TensorMedian)?[1], 1.0);
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Fill {
    /// The median of its row (token).
    #[default]
    RowMedian,
    /// The median of the tensor.
    TensorMedian,
}

/// A recipe for activations, `A^ = RESTORE(Q^-1(Q(REPLACE(A))))` (arXiv 2411.07191, Eq. 1). The paper leaves open which
/// element is replaced and over what the median goes; all of it is explicit here.
///
/// ```
/// use sw_quant::{Activation, Fill, Pick};
/// // Two tokens, four channels, a super activation in token 0.
/// let mut x = [0.1f32, 560.0, -0.2, 0.3, 0.4, -0.1, 0.2, -0.3];
/// let restored = Activation::paper(8).apply(&mut x, [2, 4])?;
/// assert_eq!((restored, x[1]), (vec![(0, 1)], 560.0));
/// assert!((x[0] - 0.1).abs() < 0.002); // with 560 in the range, the step would be 2.2
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Activation {
    /// The quantizer; [`Grouping::Row`] is per token.
    pub scheme: Scheme,
    /// What is held out.
    #[cfg_attr(feature = "serde", serde(default))]
    pub pick: Pick,
    /// What stands in for it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub fill: Fill,
}

impl Activation {
    /// The paper's equations: asymmetric, per token, the largest element of the tensor replaced by its row's median.
    ///
    /// ```
    /// assert_eq!(sw_quant::Activation::paper(8).pick, sw_quant::Pick::Largest);
    /// ```
    pub fn paper(bits: u8) -> Self {
        let scheme = Scheme::new(Levels::asymmetric(bits), Grouping::Row);
        Self {
            scheme,
            pick: Pick::Largest,
            fill: Fill::RowMedian,
        }
    }

    /// Plain symmetric round-to-nearest per token, as SmoothQuant's repository simulates it: the naive W8A8 baseline.
    ///
    /// ```
    /// assert_eq!(sw_quant::Activation::naive(8).pick, sw_quant::Pick::None);
    /// ```
    pub fn naive(bits: u8) -> Self {
        let scheme = Scheme::new(Levels::symmetric(bits), Grouping::Row);
        Self {
            scheme,
            pick: Pick::None,
            fill: Fill::RowMedian,
        }
    }

    /// Quantizes a row-major `[tokens, channels]` activation in place, and says which elements (token, channel) kept
    /// their value, in row-major order.
    ///
    /// # Errors
    /// Those of [`fake_quantize`], and a channel or coordinate outside the activation. `x` is unchanged then.
    ///
    /// ```
    /// use sw_quant::{Activation, Pick};
    /// let mut x = [1.0f32, 2.0, 3.0, 4.0];
    /// let per_row = Activation { pick: Pick::RowLargest, ..Activation::paper(4) };
    /// assert_eq!(per_row.apply(&mut x, [2, 2])?, [(0, 1), (1, 1)]);
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn apply<T: Real>(
        &self,
        x: &mut [T],
        shape: [usize; 2],
    ) -> Result<Vec<(usize, usize)>, Error> {
        let held = self.pick.places(x, shape)?;
        let kept = self.replace(x, shape, &held);
        let report = fake_quantize(x, shape, &self.scheme, &[]); // Q^-1(Q(.))
        held.iter().zip(kept).for_each(|(&p, v)| x[p] = v); // RESTORE, also after an error
        report?;
        Ok(held.iter().map(|p| (p / shape[1], p % shape[1])).collect())
    }

    /// Quantizes to codes and scales, with the held-out elements beside them: [`Quantized::dequantize`] gives exactly what
    /// [`apply`](Self::apply) leaves. For products of integers.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply).
    ///
    /// ```
    /// use sw_quant::Activation;
    /// let x = [0.1f32, 560.0, -0.2, 0.3, 0.4, -0.1, 0.2, -0.3];
    /// let codes = Activation::paper(8).quantize(&x, [2, 4])?;
    /// assert_eq!((codes.view().outliers[0].index, codes.view().scales.len()), (1, 2));
    /// let mut simulated = x;
    /// Activation::paper(8).apply(&mut simulated, [2, 4])?;
    /// assert_eq!(codes.dequantize::<f32>(), simulated);
    /// # Ok::<(), sw_quant::Error>(())
    /// ```
    pub fn quantize<T: Real>(&self, x: &[T], shape: [usize; 2]) -> Result<Quantized, Error> {
        let held = self.pick.places(x, shape)?;
        if held.is_empty() {
            return quantize(x, shape, &self.scheme, &[]);
        }
        let mut replaced = x.to_vec();
        let kept = self.replace(&mut replaced, shape, &held);
        let mut codes = quantize(&replaced, shape, &self.scheme, &[])?;
        let outlier = |(p, value): (&usize, T)| Outlier {
            index: *p as u64,
            value: value.to_f32(),
        };
        codes.set_outliers(held.iter().zip(kept).map(outlier).collect())?;
        Ok(codes)
    }

    /// REPLACE: puts the fill at `held`, and returns what was there.
    fn replace<T: Real>(&self, x: &mut [T], shape: [usize; 2], held: &[usize]) -> Vec<T> {
        let kept = held.iter().map(|&p| x[p]).collect();
        for (&p, fill) in held.iter().zip(self.fill.values(x, shape, held)) {
            x[p] = fill;
        }
        kept
    }
}

impl Pick {
    /// Sorted places of the picked elements.
    fn places<T: Real>(&self, x: &[T], shape: [usize; 2]) -> Result<Vec<usize>, Error> {
        let [rows, cols] = shape;
        check_shape("x", x.len(), shape)?;
        finite("x", x, cols)?;
        let mut found = match self {
            Self::None => Vec::new(),
            Self::Largest => largest_places(x, 0..x.len(), 1),
            Self::RowLargest => (0..rows)
                .flat_map(|r| largest_places(x, r * cols..(r + 1) * cols, 1))
                .collect(),
            Self::TopK { k } => largest_places(x, 0..x.len(), *k),
            Self::Channels { channels } => {
                let columns: Vec<(usize, usize)> = channels.iter().map(|&c| (0, c)).collect();
                let columns = places("channels", &columns, shape)?;
                columns
                    .into_iter()
                    .flat_map(|c| largest_places(x, (c..x.len()).step_by(cols), 1))
                    .collect()
            }
            Self::At { coordinates } => places("coordinates", coordinates, shape)?,
        };
        found.sort_unstable();
        Ok(found)
    }
}

impl Fill {
    /// What replaces the values at `held`.
    fn values<T: Real>(self, x: &[T], [_, cols]: [usize; 2], held: &[usize]) -> Vec<T> {
        match self {
            Self::TensorMedian if held.is_empty() => Vec::new(),
            Self::TensorMedian => vec![median(x); held.len()],
            Self::RowMedian => held
                .iter()
                .map(|p| {
                    let start = p - p % cols;
                    median(&x[start..start + cols])
                })
                .collect(),
        }
    }
}

/// The lower median of values that are not empty: an element, so it is exact in every type.
fn median<T: Real>(x: &[T]) -> T {
    let mut values = x.to_vec();
    let middle = (values.len() - 1) / 2;
    *values
        .select_nth_unstable_by(middle, |a, b| a.to_f32().total_cmp(&b.to_f32()))
        .1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_lower() {
        assert_eq!(median(&[4.0f32, 1.0, 3.0, 2.0]), 2.0);
        let x = [9.0f32, 1.0, 2.0, 3.0, 5.0, 4.0, 6.0, 7.0];
        assert_eq!(Fill::RowMedian.values(&x, [2, 4], &[0, 7]), [2.0, 5.0]);
        assert_eq!(Fill::TensorMedian.values(&x, [2, 4], &[0, 7]), [4.0, 4.0]);
    }

    #[test]
    fn picks() {
        let x = [1.0f32, -9.0, 3.0, 4.0, 8.0, -2.0];
        let at = |pick: Pick| pick.places(&x, [2, 3]).unwrap();
        assert_eq!(at(Pick::Largest), [1]);
        assert_eq!(at(Pick::RowLargest), [1, 4]);
        assert_eq!(at(Pick::TopK { k: 3 }), [1, 3, 4]);
        assert_eq!(
            at(Pick::Channels {
                channels: vec![2, 0]
            }),
            [2, 3]
        );
        assert_eq!(
            at(Pick::At {
                coordinates: vec![(1, 2), (0, 0)]
            }),
            [0, 5]
        );
        let error = Pick::Channels { channels: vec![3] }
            .places(&x, [2, 3])
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("channels[0]: coordinate (0, 3) is outside [2, 3]"),
            "{error}"
        );
    }

    #[test]
    fn codes_stand_for_what_the_simulation_leaves() {
        let x: Vec<f32> = (0..60)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * if i == 17 { 90.0 } else { 0.3 })
            .collect();
        let picks = [
            Pick::None,
            Pick::Largest,
            Pick::RowLargest,
            Pick::TopK { k: 4 },
        ];
        for (pick, fill) in picks
            .into_iter()
            .zip([Fill::RowMedian, Fill::TensorMedian].repeat(2))
        {
            for levels in [
                Levels::symmetric(8),
                Levels::asymmetric(8),
                Levels::symmetric(4),
            ] {
                for grouping in [Grouping::Row, Grouping::Tensor] {
                    let recipe = Activation {
                        scheme: Scheme::new(levels, grouping),
                        pick: pick.clone(),
                        fill,
                    };
                    let codes = recipe.quantize(&x, [5, 12]).unwrap();
                    let mut simulated = x.clone();
                    let held = recipe.apply(&mut simulated, [5, 12]).unwrap();
                    assert_eq!(codes.dequantize::<f32>(), simulated, "{recipe:?}");
                    let places = codes.outliers.iter().map(|o| o.index as usize);
                    let places: Vec<_> = places.map(|p| (p / 12, p % 12)).collect();
                    assert_eq!(places, held);
                }
            }
        }
    }

    #[test]
    fn an_error_leaves_the_activation_as_it_was() {
        let mut x = [1.0f32, 2.0, 300.0];
        let recipe = Activation {
            scheme: Scheme::new(Levels::asymmetric(9), Grouping::Row),
            ..Activation::paper(8)
        };
        assert!(recipe.apply(&mut x, [1, 3]).is_err());
        assert_eq!(x, [1.0, 2.0, 300.0]);
    }
}
