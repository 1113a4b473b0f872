//! How much of a gradient the projection takes: an angle, and what that angle is by chance.

use ndarray::{ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::Subspace;
use crate::error::{Error, Result};

/// The hindrance of forward capability (HFC), in degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hindrance {
    /// Angle between gradient and its part outside the space, 0 (nothing is taken) to 90 (all of it); the mean over rows.
    pub degrees: f64,
    /// The angle that a random gradient has: it depends on ranks alone.
    pub null: f64,
}

/// The angle between each row of `gradient` (`[rows, dim]`) and what is left of it outside `space`, averaged over rows.
///
/// `atan2(|M g|, |g - M g|)` with the projection `M` onto the space: exact at both ends. Rows of zeros have no direction and
/// are left out.
///
/// # Errors
/// [`Error::Shape`] where all rows are zero, one is not finite, or the widths differ.
pub fn hindrance(gradient: ArrayView2<f64>, space: &Subspace) -> Result<Hindrance> {
    if gradient.ncols() != space.dim() || !gradient.iter().all(|v| v.is_finite()) {
        return Err(Error::Shape(format!(
            "a gradient of {} channels, expected {} that are finite",
            gradient.ncols(),
            space.dim()
        )));
    }
    let inside = space.inside(gradient);
    let outside = &gradient - &inside;
    let norm = |row: ArrayView1<f64>| row.dot(&row).sqrt();
    let rows = gradient.rows().into_iter().enumerate();
    let angles: Vec<f64> = rows
        .filter(|(_, g)| norm(*g) > 0.0)
        .map(|(i, _)| norm(inside.row(i)).atan2(norm(outside.row(i))).to_degrees())
        .collect();
    if angles.is_empty() {
        return Err(Error::Shape(
            "a gradient of zeros has no direction, so no angle to a space".into(),
        ));
    }
    Ok(Hindrance {
        degrees: angles.iter().sum::<f64>() / angles.len() as f64,
        null: null_angle(space.rank(), space.dim()),
    })
}

/// The hindrance of a random direction by a space of this rank, in degrees: `arcsin sqrt(rank / dim)`, as the mean of the squared
/// sine is `rank / dim`; 0 in a space without channels.
pub fn null_angle(rank: usize, dim: usize) -> f64 {
    let share = rank as f64 / dim.max(1) as f64;
    share.min(1.0).sqrt().asin().to_degrees()
}
