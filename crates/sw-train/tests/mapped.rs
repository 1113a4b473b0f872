//! The backward pass of opened models: against the one in f32, against finite differences, and screening on it.

mod dice;

use std::collections::BTreeMap;
use std::path::Path;

use dice::Dice;
use ndarray::{Array2, ArrayView1, ArrayView2};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use sw_model::{EditOp, Linear, LinearAt, Model, Site, WeightCoord, WeightEdit};
use sw_train::checkpoint::save;
use sw_train::mapped::{self, Gradients};
use sw_train::{
    Batch, Gradient, Params, Part, Precision, Selection, Shape, Tensor, backward, screen,
};
use tempfile::TempDir;

fn shape(tied: bool) -> Shape {
    Shape {
        vocab: 13,
        hidden: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        intermediate: 24,
        max_positions: 16,
        rope_theta: 100.0,
        eps: 1e-5,
        tied,
        experts: vec![],
    }
}

fn random(shape: &Shape, seed: u64) -> Params {
    let mut params = Params::blank(shape).unwrap();
    let mut dice = Dice::new(seed, 0);
    for tensor in Tensor::all(shape) {
        let base = if tensor.is_norm() { 1.0 } else { 0.0 };
        let w = params.get_mut(tensor);
        w.mapv_inplace(|_| base + 0.3 * dice.normal());
    }
    params
}

/// Opens these weights as a checkpoint whose config has some fields changed.
fn open(params: &Params, precision: Precision, fields: Value) -> (TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    save(params, precision, dir.path()).unwrap();
    change_config(dir.path(), fields);
    let model = Model::open(dir.path()).unwrap();
    (dir, model)
}

fn change_config(dir: &Path, fields: Value) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    let config = config.as_object_mut().unwrap();
    config.retain(|key, value| !value.is_null() || !key.ends_with("_bias"));
    let config = Value::from(config.clone());
    std::fs::write(path, config.to_string()).unwrap();
}

/// Every gradient of a pass, whole.
#[derive(Default)]
struct Whole {
    linears: BTreeMap<LinearAt, Array2<f32>>,
    norms: BTreeMap<Site, Array2<f32>>,
    head: Option<Array2<f32>>,
    embedding: Option<Array2<f32>>,
    vocab: usize,
}

impl Gradients for Whole {
    fn linear(&mut self, at: LinearAt, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        assert!(self.linears.insert(at, dy.t().dot(&x)).is_none());
    }

    fn head(&mut self, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        let more = dy.t().dot(&x);
        self.head = Some(match self.head.take() {
            Some(sum) => sum + more,
            None => more,
        });
    }

    fn norm(&mut self, at: Site, gradient: ArrayView1<'_, f32>) {
        let row = gradient.to_owned().insert_axis(ndarray::Axis(0));
        assert!(self.norms.insert(at, row).is_none());
    }

    fn embedding(&mut self, tokens: &[u32], gradient: ArrayView2<'_, f32>) {
        let mut sum = Array2::zeros((self.vocab, gradient.ncols()));
        for (&token, row) in tokens.iter().zip(gradient.rows()) {
            let mut into = sum.row_mut(token as usize);
            into += &row;
        }
        self.embedding = Some(sum);
    }
}

fn whole(model: &Model, texts: &[&[u32]]) -> (f64, Whole) {
    let mut whole = Whole {
        vocab: model.spec().vocab_size,
        ..Whole::default()
    };
    let loss = mapped::backward(model, texts, &mut whole).unwrap();
    (loss, whole)
}

#[test]
fn the_two_backward_passes_agree() {
    for tied in [false, true] {
        let shape = shape(tied);
        let params = random(&shape, 7);
        let (_dir, model) = open(&params, Precision::F32, json!({}));
        let texts: [&[u32]; 2] = [&[0, 3, 5, 3, 7, 1, 9], &[0, 2, 2, 12, 4, 6, 8]];
        let (loss, found) = whole(&model, &texts);

        let batch = Batch {
            len: 6,
            inputs: texts.iter().flat_map(|t| t[..6].to_vec()).collect(),
            targets: texts.iter().flat_map(|t| t[1..].to_vec()).collect(),
        };
        let all = Selection::all(&shape);
        let mut twin = Gradient::zeros(&shape, &all);
        let sum = backward(&params, &batch, |_| 1.0 / 12.0, &all, &mut twin).unwrap();
        assert!((loss - sum / 12.0).abs() < 1e-6 * loss, "{loss} {sum}");

        for tensor in Tensor::all(&shape) {
            let expected = &twin.get(tensor)[0].1;
            let found = match tensor {
                Tensor::Embed if tied => {
                    found.embedding.as_ref().unwrap() + found.head.as_ref().unwrap()
                }
                Tensor::Embed => found.embedding.clone().unwrap(),
                Tensor::Head => found.head.clone().unwrap(),
                Tensor::Norm => found.norms[&Site::FinalNorm].clone(),
                Tensor::Block(l, Part::AttnNorm) => found.norms[&Site::AttnIn(l)].clone(),
                Tensor::Block(l, Part::MlpNorm) => found.norms[&Site::MlpIn(l)].clone(),
                Tensor::Block(l, part) => found.linears[&LinearAt::dense(l, linear(part))].clone(),
                _ => panic!("{tensor:?} in a dense model"),
            };
            let scale = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (a, b) in found.iter().zip(expected) {
                assert!((a - b).abs() < 1e-5 * scale, "{tensor:?}: {a}, twin {b}");
            }
        }
    }
}

fn linear(part: Part) -> Linear {
    match part {
        Part::Q => Linear::Q,
        Part::K => Linear::K,
        Part::V => Linear::V,
        Part::O => Linear::O,
        Part::Gate => Linear::Gate,
        Part::Up => Linear::Up,
        _ => Linear::Down,
    }
}

/// The slope of the loss at some weights of every map, by differences of fourth order, and what the backward pass says.
fn agree_with_differences(what: &str, model: &Model, texts: &[&[u32]]) {
    let (loss, found) = whole(model, texts);
    let tokens: usize = texts.iter().map(|t| t.len() - 1).sum();
    let at_value = |at: WeightCoord, value: f32| {
        let edit = WeightEdit {
            coord: at,
            op: EditOp::Set(value),
        };
        let scores = model.edited(&[edit]).unwrap();
        let scores = scores.score_texts(texts, &mut ()).unwrap();
        -scores.iter().flatten().map(|s| s.log_prob).sum::<f64>()
    };
    let mut dice = Dice::new(4, 2);
    let h = 4e-3f32;
    for (at, gradient) in &found.linears {
        for _ in 0..4 {
            let (row, col) = (dice.below(gradient.nrows()), dice.below(gradient.ncols()));
            let coord = WeightCoord {
                layer: at.layer,
                linear: at.linear,
                expert: None,
                row,
                col,
            };
            let value = model.value(coord).unwrap();
            let sum = |by: f32| at_value(coord, value + by);
            let slope =
                (8.0 * (sum(h) - sum(-h)) - (sum(2.0 * h) - sum(-2.0 * h))) / (12.0 * f64::from(h));
            let said = tokens as f64 * f64::from(gradient[(row, col)]);
            let bound = 4e-3 + 4e-3 * slope.abs();
            assert!(
                (slope - said).abs() < bound,
                "{what}, {coord}: {said}, differences say {slope}"
            );
        }
    }
    let scores = model.score_texts(texts, &mut ()).unwrap();
    let plain = -scores.iter().flatten().map(|s| s.log_prob).sum::<f64>();
    assert!((loss - plain / tokens as f64).abs() < 1e-6 * loss);
}

const RAGGED: [&[u32]; 3] = [
    &[0, 3, 5, 3, 7, 1, 9, 11, 2, 4],
    &[5, 5],
    &[2, 12, 4, 6, 8, 10, 1],
];

#[test]
fn rotary_variants_and_windows_agree_with_finite_differences() {
    let variants = [
        ("plain", json!({})),
        (
            "linear",
            json!({"rope_scaling": {"rope_type": "linear", "factor": 2.5}}),
        ),
        (
            "dynamic, beyond the positions",
            json!({"max_position_embeddings": 6, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
        ),
        (
            "llama3",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}),
        ),
        (
            "yarn, whose turns also stretch",
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4}}),
        ),
        (
            "mistral's window",
            json!({"model_type": "mistral", "sliding_window": 3, "attention_bias": null, "mlp_bias": null}),
        ),
    ];
    for (what, fields) in variants {
        let params = random(&shape(false), 11);
        let (_dir, model) = open(&params, Precision::F32, fields);
        agree_with_differences(what, &model, &RAGGED);
    }
}

#[test]
fn biases_agree_with_finite_differences() {
    let shape = shape(true);
    let (dir, _) = open(&random(&shape, 5), Precision::F32, json!({}));
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut dice = Dice::new(8, 0);
    let mut biases = BTreeMap::new();
    for tensor in Tensor::all(&shape).into_iter().filter(|t| t.is_linear()) {
        let rows = tensor.dim(&shape).0;
        let values = (0..rows).flat_map(|_| (0.3 * dice.normal()).to_le_bytes());
        let name = tensor.name().replace(".weight", ".bias");
        biases.insert(name, (rows, values.collect::<Vec<u8>>()));
    }
    let mut all: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
    for (name, (rows, bytes)) in &biases {
        let view = TensorView::new(Dtype::F32, vec![*rows], bytes).unwrap();
        all.insert(name.clone(), view);
    }
    let with_biases = safetensors::serialize(all, None).unwrap();
    std::fs::write(&path, with_biases).unwrap();
    change_config(
        dir.path(),
        json!({"attention_bias": true, "mlp_bias": true}),
    );
    let model = Model::open(dir.path()).unwrap();
    agree_with_differences("biases", &model, &RAGGED);
}

#[test]
fn screening_finds_the_largest_of_the_whole_gradient_for_any_number_of_threads() {
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        let (_dir, model) = open(&random(&shape(true), 3), precision, json!({}));
        let (_, found) = whole(&model, &RAGGED);
        let mut expected: Vec<(f32, WeightCoord)> = Vec::new();
        for (at, gradient) in &found.linears {
            for ((row, col), g) in gradient.indexed_iter() {
                let coord = WeightCoord {
                    layer: at.layer,
                    linear: at.linear,
                    expert: None,
                    row,
                    col,
                };
                expected.push(((model.value(coord).unwrap() * g).abs(), coord));
            }
        }
        expected.sort_by(|a, b| b.0.total_cmp(&a.0));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| screen(&model, &RAGGED, 40).unwrap())
        };
        let (one, three) = (on(1), on(3));
        assert_eq!(one, three);
        assert_eq!(one.len(), 40);
        for (screened, (score, coord)) in one.iter().zip(&expected) {
            assert_eq!(screened.at, *coord);
            assert!((screened.score - score).abs() < 1e-5 * score);
            assert_eq!(screened.value, model.value(*coord).unwrap());
            assert_eq!(screened.score, (screened.value * screened.gradient).abs());
        }
    }
}

#[test]
fn a_pruned_weight_is_screened_as_zero() {
    let (_dir, model) = open(&random(&shape(true), 3), Precision::Bf16, json!({}));
    let first = screen(&model, &RAGGED, 1).unwrap()[0];
    let pruned = model.edited(&[WeightEdit::prune(first.at)]).unwrap();
    let after = screen(&pruned, &RAGGED, 2000).unwrap();
    assert!(after.iter().all(|s| s.at != first.at || s.score == 0.0));
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sw-model/tests/golden");
    for (case, what) in [
        ("gemma2", "another MLP than SwiGLU"),
        ("qwen3", "norm of queries and keys"),
        ("mixtral", "mixture of experts"),
        ("gpt2", "RMSNorm"),
        ("phi3", "share a matrix"),
    ] {
        let model = Model::open(golden.join(case)).unwrap();
        let error = screen(&model, &[&[1, 2, 3]], 5).unwrap_err().to_string();
        assert!(error.contains(what), "{case}: {error}");
    }
    let (_dir, model) = open(&random(&shape(true), 3), Precision::F32, json!({}));
    let error = screen(&model, &[&[1]], 5).unwrap_err().to_string();
    assert!(error.contains("nothing to predict"), "{error}");
    let error = screen(&model, &[&[1, 99]], 5).unwrap_err().to_string();
    assert!(error.contains("token id 99"), "{error}");
}
