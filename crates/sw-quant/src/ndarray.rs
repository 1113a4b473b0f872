//! Entry points on [`ndarray`] views, in any memory order; those in row-major order are used in place.

use ::ndarray::{Array2, ArrayView2, ArrayViewMut2};

use crate::{Activation, Error, Quantized, Real, Report, Scheme};

/// [`crate::fake_quantize`] on a view.
///
/// # Errors
/// Those of [`crate::fake_quantize`].
///
/// ```
/// let mut w = ndarray::array![[1.0f32, 2.0], [3.0, 3.0]];
/// let report = sw_quant::ndarray::fake_quantize(w.view_mut().reversed_axes(), &Default::default(), &[])?;
/// assert_eq!(report.blocks, 2);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn fake_quantize<T: Real>(
    mut w: ArrayViewMut2<'_, T>,
    scheme: &Scheme,
    hold: &[(usize, usize)],
) -> Result<Report, Error> {
    let shape = w.dim().into();
    if let Some(slice) = w.as_slice_mut() {
        return crate::fake_quantize(slice, shape, scheme, hold);
    }
    let mut copy: Vec<T> = w.iter().copied().collect();
    let report = crate::fake_quantize(&mut copy, shape, scheme, hold)?;
    w.iter_mut().zip(copy).for_each(|(w, v)| *w = v);
    Ok(report)
}

/// [`crate::quantize`] on a view.
///
/// # Errors
/// Those of [`crate::quantize`].
///
/// ```
/// let w = ndarray::array![[1.0f32, 2.0], [3.0, 3.0]];
/// assert_eq!(sw_quant::ndarray::quantize(w.t(), &Default::default(), &[])?.shape(), [2, 2]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn quantize<T: Real>(
    w: ArrayView2<'_, T>,
    scheme: &Scheme,
    hold: &[(usize, usize)],
) -> Result<Quantized, Error> {
    let shape = w.dim().into();
    match w.as_slice() {
        Some(slice) => crate::quantize(slice, shape, scheme, hold),
        None => crate::quantize(&w.iter().copied().collect::<Vec<T>>(), shape, scheme, hold),
    }
}

/// [`Activation::apply`] on a `[tokens, channels]` view.
///
/// # Errors
/// Those of [`Activation::apply`].
///
/// ```
/// let mut x = ndarray::array![[0.1f32, 560.0, -0.2], [0.3, 0.2, 0.1]];
/// let restored = sw_quant::ndarray::apply(&sw_quant::Activation::paper(8), x.view_mut())?;
/// assert_eq!((restored, x[[0, 1]]), (vec![(0, 1)], 560.0));
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn apply<T: Real>(
    recipe: &Activation,
    mut x: ArrayViewMut2<'_, T>,
) -> Result<Vec<(usize, usize)>, Error> {
    let shape = x.dim().into();
    if let Some(slice) = x.as_slice_mut() {
        return recipe.apply(slice, shape);
    }
    let mut copy: Vec<T> = x.iter().copied().collect();
    let restored = recipe.apply(&mut copy, shape)?;
    x.iter_mut().zip(copy).for_each(|(x, v)| *x = v);
    Ok(restored)
}

/// [`Quantized::dequantize`] as a row-major array.
///
/// ```
/// let q = sw_quant::quantize(&[1.0f32; 6], [2, 3], &Default::default(), &[])?;
/// assert_eq!(sw_quant::ndarray::dequantize::<f32>(&q), ndarray::Array2::<f32>::ones((2, 3)));
/// # Ok::<(), sw_quant::Error>(())
/// ```
pub fn dequantize<T: Real>(q: &Quantized) -> Array2<T> {
    Array2::from_shape_vec(q.shape(), q.dequantize())
        .expect("a matrix has as many values as its shape")
}
