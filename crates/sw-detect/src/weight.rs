//! The weights of an MLP, be it a layer's or an expert's.

use sw_model::{Linear, Model};
use sw_tensor::Mat;

/// The MLPs of a layer: `None` is the layer's own.
pub(crate) fn experts(_model: &Model, _layer: usize) -> Vec<Option<usize>> {
    vec![None]
}

/// `[hidden, intermediate]`; `None` where the model has no such matrix.
pub(crate) fn down(model: &Model, layer: usize, expert: Option<usize>) -> Option<&Mat> {
    of(model, layer, expert, Linear::Down)
}

/// `[intermediate, hidden]`; `None` where the model has no such matrix.
pub(crate) fn gate(model: &Model, layer: usize, expert: Option<usize>) -> Option<&Mat> {
    of(model, layer, expert, Linear::Gate)
}

/// `[intermediate, hidden]`; `None` where the model has no such matrix.
pub(crate) fn up(model: &Model, layer: usize, expert: Option<usize>) -> Option<&Mat> {
    of(model, layer, expert, Linear::Up)
}

fn of(model: &Model, layer: usize, expert: Option<usize>, linear: Linear) -> Option<&Mat> {
    match expert {
        None => model.weight(layer, linear),
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
