//! The space of channels that features span, to a share of their energy.

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate};

use super::eigen;
use crate::error::{Error, Result};

/// What is smaller than this share of the whole energy is rounding.
const ROUNDING: f64 = 1e-12;

/// A linear subspace of the channels, by an orthonormal basis.
#[derive(Clone, Debug, PartialEq)]
pub struct Subspace {
    /// `[dim, rank]`.
    basis: Array2<f64>,
}

impl Subspace {
    /// The space of nothing but zero, in `dim` channels.
    pub fn empty(dim: usize) -> Self {
        Self {
            basis: Array2::zeros((dim, 0)),
        }
    }

    /// Channels.
    pub fn dim(&self) -> usize {
        self.basis.nrows()
    }

    /// Vectors of the basis.
    pub fn rank(&self) -> usize {
        self.basis.ncols()
    }

    /// The basis, `[dim, rank]`.
    pub fn basis(&self) -> ArrayView2<'_, f64> {
        self.basis.view()
    }

    /// Adds the directions that `features` (`[features, dim]`) still need, strongest first, until at least the share `energy` of
    /// their squared norm lies inside; returns how many were added.
    ///
    /// The directions are the principal ones of what lies outside, without a mean taken off (gradient projection memory,
    /// arXiv 2103.09762, equation 9). Energy is the sum of squares. With `energy` 1 the space holds the features but for rounding.
    ///
    /// # Errors
    /// [`Error::Shape`] where the features have another width or are not finite, or `energy` is not above 0 and at most 1.
    pub fn extend(&mut self, features: ArrayView2<f64>, energy: f64) -> Result<usize> {
        self.check(features)?;
        if !(energy > 0.0 && energy <= 1.0) {
            return Err(Error::Shape(format!(
                "energy {energy}: expected a share above 0 and at most 1"
            )));
        }
        let total = squares(features);
        let mut rest = features.to_owned();
        self.take_out(&mut rest, 1.0);
        let mut covered = total - squares(rest.view());
        let (mut added, mut columns) = (0, self.basis.clone());
        for (value, vector) in eigen::symmetric(rest.t().dot(&rest)) {
            if covered >= (energy - ROUNDING) * total || value <= ROUNDING * total {
                break;
            }
            let mut column = Array1::from_vec(vector);
            // Twice, so that rounding leaves nothing of the basis in it.
            for _ in 0..2 {
                let inside = columns.dot(&columns.t().dot(&column));
                column -= &inside;
                column /= column.dot(&column).sqrt();
            }
            columns = concatenate![Axis(1), columns, column.insert_axis(Axis(1))];
            covered += value;
            added += 1;
        }
        self.basis = columns;
        Ok(added)
    }

    /// The part of each row inside the space: `rows * B * B^T`.
    pub fn inside(&self, rows: ArrayView2<f64>) -> Array2<f64> {
        rows.dot(&self.basis).dot(&self.basis.t())
    }

    /// Takes the share `share` of its part inside the space from each row: all of it with 1.
    pub fn take_out(&self, rows: &mut Array2<f64>, share: f64) {
        if self.rank() > 0 {
            let inside = self.inside(rows.view());
            rows.scaled_add(-share, &inside);
        }
    }

    /// The share of the features' squared norm that lies inside, 0 to 1; 0 where the features are zero.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn energy(&self, features: ArrayView2<f64>) -> Result<f64> {
        self.check(features)?;
        let total = squares(features);
        let inside = squares(features.dot(&self.basis).view());
        Ok(if total > 0.0 { inside / total } else { 0.0 })
    }

    fn check(&self, features: ArrayView2<f64>) -> Result<()> {
        if features.ncols() != self.dim() {
            return Err(Error::Shape(format!(
                "features of {} channels, expected {}",
                features.ncols(),
                self.dim()
            )));
        }
        if !features.iter().all(|v| v.is_finite()) {
            return Err(Error::Shape("features that are not finite".into()));
        }
        Ok(())
    }
}

fn squares(rows: ArrayView2<f64>) -> f64 {
    rows.iter().map(|v| v * v).sum()
}
