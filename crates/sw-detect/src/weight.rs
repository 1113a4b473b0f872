//! The weight of a `down_proj`, be it a layer's or an expert's.

use sw_model::{Linear, Model};
use sw_tensor::Mat;

/// `[hidden, intermediate]`; `None` where the model has no such matrix.
pub(crate) fn down(model: &Model, layer: usize, expert: Option<usize>) -> Option<&Mat> {
    match expert {
        None => model.weight(layer, Linear::Down),
        Some(_) => None,
    }
}

/// One row: the weights that make one output channel.
pub(crate) fn row(w: &Mat, row: usize) -> Vec<f32> {
    let mut out = vec![0.0; w.cols()];
    w.row_into(row, &mut out);
    out
}

/// One column: the weights that read one input channel.
pub(crate) fn column(w: &Mat, col: usize) -> Vec<f32> {
    let mut out = vec![0.0; w.rows()];
    w.widen(0..w.rows(), col..col + 1, &mut out);
    out
}
