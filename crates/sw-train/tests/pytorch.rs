//! Loss, logits and gradients against transformers (`golden/gradients.py` writes the file).

use std::path::Path;

use ndarray::Array2;
use safetensors::SafeTensors;
use sw_train::{Batch, Gradient, Params, Selection, Shape, Tensor, backward, forward};

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap();
    data.data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn tokens(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let data = file.tensor(name).unwrap();
    data.data()
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
        .collect()
}

#[test]
fn a_small_llama_agrees_with_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gradients.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let shape = Shape {
        vocab: 19,
        hidden: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        intermediate: 24,
        max_positions: 16,
        rope_theta: 100.0,
        eps: 1e-5,
        tied: false,
        experts: vec![],
    };
    let mut params = Params::blank(&shape).unwrap();
    for tensor in Tensor::all(&shape) {
        let w = floats(&file, &tensor.name());
        *params.get_mut(tensor) = Array2::from_shape_vec(tensor.dim(&shape), w).unwrap();
    }
    let batch = Batch {
        len: 7,
        inputs: tokens(&file, "inputs"),
        targets: tokens(&file, "targets"),
    };

    let logits = forward(&params, &batch).unwrap().logits;
    for (ours, theirs) in logits.iter().zip(floats(&file, "logits")) {
        assert!(
            (ours - theirs).abs() < 2e-5 + 2e-5 * theirs.abs(),
            "logit {ours}, transformers {theirs}"
        );
    }
    let all = Selection::all(&shape);
    let mut gradient = Gradient::zeros(&shape, &all);
    let loss = backward(&params, &batch, |_| 1.0, &all, &mut gradient).unwrap();
    let theirs = f64::from(floats(&file, "loss")[0]);
    assert!(
        (loss - theirs).abs() < 1e-5 * theirs,
        "loss {loss}, transformers {theirs}"
    );
    for tensor in Tensor::all(&shape) {
        let theirs = floats(&file, &format!("grad.{}", tensor.name()));
        let scale = theirs.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (ours, theirs) in gradient.get(tensor)[0].1.iter().zip(&theirs) {
            assert!(
                (ours - theirs).abs() < 2e-5 * scale + 1e-6,
                "{tensor:?}: {ours}, transformers {theirs}"
            );
        }
    }
}
