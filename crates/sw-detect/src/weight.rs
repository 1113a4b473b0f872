//! The weights of an MLP, be it a layer's or an expert's.

use sw_model::{Linear, LinearAt, Model};
use sw_tensor::Mat;

/// The MLPs of a layer: `None` is the layer's own, which stays beside residual experts and gives way to others.
pub(crate) fn experts(model: &Model, layer: usize) -> Vec<Option<usize>> {
    match model.spec().layers[layer].experts {
        Some(experts) => {
            let own = experts.residual.then_some(None);
            own.into_iter()
                .chain((0..experts.count).map(Some))
                .collect()
        }
        None => vec![None],
    }
}

/// `[hidden, intermediate]`; `None` where the model has no such matrix.
pub(crate) fn down(model: &Model, layer: usize, expert: Option<usize>) -> Option<&Mat> {
    let linear = Linear::Down;
    model.weight_at(LinearAt {
        layer,
        expert,
        linear,
    })
}

/// Gate and up projection, each `[intermediate, hidden]`; `None` where the MLP has no gate.
pub(crate) fn gate_up(model: &Model, layer: usize, expert: Option<usize>) -> Option<(Mat, Mat)> {
    let of = |linear| {
        model.weight_at(LinearAt {
            layer,
            expert,
            linear,
        })
    };
    if let Some(both) = of(Linear::GateUp) {
        let half = both.rows() / 2;
        return Some((both.slice_rows(0..half), both.slice_rows(half..both.rows())));
    }
    of(Linear::Gate).cloned().zip(of(Linear::Up).cloned())
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
