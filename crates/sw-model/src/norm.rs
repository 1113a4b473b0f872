//! Norms of the residual stream and of queries and keys.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use crate::{spec::Norm, weights::NormWeight};

/// The norm of this kind with these parameters.
fn of(norm: Norm, p: &NormWeight) -> sw_tensor::Norm<'_> {
    let (weight, bias) = (p.weight.as_deref(), p.bias.as_deref());
    match norm {
        Norm::Rms { eps, .. } => sw_tensor::Norm::Rms {
            weight: weight.unwrap_or_default(),
            eps,
        },
        Norm::Layer { eps, .. } => sw_tensor::Norm::Layer { weight, bias, eps },
    }
}

/// Norms `x` into `out`; copies it where there is no norm.
pub(crate) fn norm_into(
    norm: Norm,
    weight: Option<&NormWeight>,
    x: &Array2<f32>,
    out: &mut Array2<f32>,
) {
    match weight {
        None => out.assign(x),
        Some(weight) => of(norm, weight).apply(x.view(), out.view_mut()),
    }
}

/// `acc += x`, and `acc` normed into `out`, in one sweep; whether `acc` is finite. The same as one after the other.
pub(crate) fn norm_sum_into(
    norm: Norm,
    weight: Option<&NormWeight>,
    acc: &mut Array2<f32>,
    x: &Array2<f32>,
    out: &mut Array2<f32>,
) -> bool {
    let norm = weight.map(|weight| of(norm, weight));
    match norm {
        Some(norm) => norm.apply_to_sum(acc.view_mut(), x.view(), out.view_mut()),
        None => {
            sw_tensor::add(acc.view_mut(), x.view());
            out.assign(acc);
            sw_tensor::all_finite(acc.view())
        }
    }
}

/// Norms queries or keys: as many channels at a time as the weight has, one head or all of them. `spare` has room for `x`.
pub(crate) fn norm_heads(
    norm: Norm,
    weight: Option<&NormWeight>,
    x: &mut Array2<f32>,
    spare: &mut Array2<f32>,
) {
    let Some(parameters) = weight else { return };
    let channels = parameters.weight.as_ref().map_or(x.ncols(), |w| w.len());
    let shape = (x.len() / channels, channels);
    let x = x.as_slice_mut().expect("row-major");
    let before = &mut spare.as_slice_mut().expect("row-major")[..x.len()];
    before.copy_from_slice(x);
    let before = ArrayView2::from_shape(shape, before).expect("whole heads");
    let x = ArrayViewMut2::from_shape(shape, x).expect("whole heads");
    of(norm, parameters).apply(before, x);
}
