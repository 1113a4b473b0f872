//! Checkpoints in Hugging Face layout, and the optimiser's state for going on.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use ndarray::Array2;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::json;

use crate::adamw::AdamW;
use crate::error::{Error, Result};
use crate::params::{Params, Shape, Tensor};

/// Bytes of a file of tensors, at most.
const MOST: u64 = 64 << 30;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits: nothing is lost.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Precision {
    fn dtype(self) -> (Dtype, &'static str) {
        match self {
            Precision::F32 => (Dtype::F32, "float32"),
            Precision::F16 => (Dtype::F16, "float16"),
            Precision::Bf16 => (Dtype::BF16, "bfloat16"),
        }
    }

    /// A weight as it reads back after being stored.
    pub fn round(self, w: f32) -> f32 {
        match self {
            Precision::F32 => w,
            Precision::F16 => f16::from_f32(w).to_f32(),
            Precision::Bf16 => bf16::from_f32(w).to_f32(),
        }
    }

    pub(crate) fn bytes(self, values: impl Iterator<Item = f32>) -> Vec<u8> {
        match self {
            Precision::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Precision::F16 => values
                .flat_map(|v| f16::from_f32(v).to_le_bytes())
                .collect(),
            Precision::Bf16 => values
                .flat_map(|v| bf16::from_f32(v).to_le_bytes())
                .collect(),
        }
    }
}

/// Writes `model.safetensors` and `config.json` into `dir`, beside their final names first.
///
/// A model without experts is written as `llama`, one that Mixtral's layout can say as `mixtral`, and any other as `pr_moe`, which is
/// this workspace's own `model_type`: transformers does not know it.
///
/// # Errors
/// If a file cannot be written.
pub fn save(params: &Params, precision: Precision, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::file(dir))?;
    let tensors = params.iter().map(|(tensor, w)| {
        let dims = if tensor.is_vector() {
            vec![w.ncols()]
        } else {
            vec![w.nrows(), w.ncols()]
        };
        (
            tensor.name_in(params.shape()),
            dims,
            precision.dtype().0,
            precision.bytes(w.iter().copied()),
        )
    });
    write_tensors(&dir.join("model.safetensors"), tensors.collect())?;
    let config = config(params.shape(), precision);
    let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
    write(&dir.join("config.json"), text.as_bytes())
}

/// The `config.json` of a model of these sizes: token 0 opens a sequence, none ends one.
fn config(shape: &Shape, precision: Precision) -> serde_json::Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": null,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_positions,
        "mlp_bias": false,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.eps as f64,
        "rope_scaling": null,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": precision.dtype().1,
        "use_cache": true,
        "vocab_size": shape.vocab,
    });
    if let (Some(mixture), Some(config)) = (
        (0..shape.layers).find_map(|l| shape.mixture(l)),
        config.as_object_mut(),
    ) {
        let more = match shape.is_mixtral() {
            true => json!({
                "architectures": ["MixtralForCausalLM"],
                "model_type": "mixtral",
                "num_local_experts": mixture.count,
                "sliding_window": null,
            }),
            false => {
                let counts = (0..shape.layers).map(|l| shape.mixture(l).map_or(1, |e| e.count));
                json!({
                    "architectures": ["PrMoeForCausalLM"],
                    "model_type": "pr_moe",
                    "num_experts": counts.collect::<Vec<_>>(),
                    "use_residual": mixture.residual,
                    "norm_topk_prob": mixture.normalize(),
                })
            }
        };
        config.extend(more.as_object().cloned().unwrap_or_default());
        config.insert("num_experts_per_tok".into(), mixture.per_token.into());
        if shape.is_mixtral() {
            // Mixtral has neither.
            config.retain(|key, _| !["attention_bias", "mlp_bias"].contains(&key.as_str()));
        }
    }
    config
}

/// Reads weights of these sizes from `dir/model.safetensors`.
///
/// # Errors
/// If the file is missing, a tensor is missing or has another shape, or a dtype is none of the three.
pub fn load(shape: &Shape, dir: &Path) -> Result<Params> {
    let mut params = Params::blank(shape)?;
    read_tensors(&dir.join("model.safetensors"), |file| {
        for tensor in Tensor::all(shape) {
            file.read(&tensor.name_in(shape), params.get_mut(tensor))?;
        }
        Ok(())
    })?;
    Ok(params)
}

/// Writes everything that going on needs into `path`: weights, moments and the number of steps done.
///
/// # Errors
/// If the file cannot be written.
pub fn save_state(params: &Params, optimizer: &AdamW, step: usize, path: &Path) -> Result<()> {
    let f32s = |w: &Array2<f32>| {
        (
            vec![w.nrows(), w.ncols()],
            Dtype::F32,
            Precision::F32.bytes(w.iter().copied()),
        )
    };
    let mut tensors: Vec<(String, Vec<usize>, Dtype, Vec<u8>)> = Vec::new();
    let mut push = |name: String, w: &Array2<f32>| {
        let (dims, dtype, bytes) = f32s(w);
        tensors.push((name, dims, dtype, bytes));
    };
    for (tensor, w) in params.iter() {
        push(tensor.name(), w);
    }
    for (which, moment) in [("first", &optimizer.first), ("second", &optimizer.second)] {
        for (i, (tensor, _, m)) in moment.iter().enumerate() {
            push(format!("{which}.{i}.{}", tensor.name()), m);
        }
    }
    tensors.push((
        "step".into(),
        vec![1],
        Dtype::I64,
        (step as i64).to_le_bytes().to_vec(),
    ));
    tensors.push((
        "adam".into(),
        vec![1],
        Dtype::I64,
        i64::from(optimizer.steps).to_le_bytes().to_vec(),
    ));
    write_tensors(path, tensors)
}

/// Reads what [`save_state`] wrote into weights and an optimiser of the same sizes and selection; the steps done.
///
/// # Errors
/// If the file is missing or was written for other sizes.
pub fn load_state(params: &mut Params, optimizer: &mut AdamW, path: &Path) -> Result<usize> {
    let shape = params.shape().clone();
    let mut step = 0;
    read_tensors(path, |file| {
        for tensor in Tensor::all(&shape) {
            file.read(&tensor.name(), params.get_mut(tensor))?;
        }
        for (which, moment) in [
            ("first", &mut optimizer.first),
            ("second", &mut optimizer.second),
        ] {
            let mut i = 0;
            for tensor in Tensor::all(&shape) {
                for (_, m) in moment.get_mut(tensor) {
                    file.read(&format!("{which}.{i}.{}", tensor.name()), m)?;
                    i += 1;
                }
            }
        }
        step = usize::try_from(file.number("step")?).unwrap_or(0);
        optimizer.steps = i32::try_from(file.number("adam")?).unwrap_or(0);
        Ok(())
    })?;
    Ok(step)
}

pub(crate) struct File<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl File<'_> {
    fn view(&self, name: &str) -> Result<TensorView<'_>> {
        let missing = |_| {
            Error::content(
                self.path,
                format!("no tensor {name}; another model or an older state"),
            )
        };
        self.tensors.tensor(name).map_err(missing)
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.tensors.names()
    }

    /// Rows of a matrix.
    pub(crate) fn rows(&self, name: &str) -> Result<usize> {
        match self.view(name)?.shape() {
            [rows, _] => Ok(*rows),
            dims => Err(Error::content(
                self.path,
                format!("{name} has shape {dims:?}, expected a matrix"),
            )),
        }
    }

    /// Reads a matrix, or a vector as one row.
    pub(crate) fn read(&self, name: &str, w: &mut Array2<f32>) -> Result<()> {
        let (rows, cols) = w.dim();
        if rows == 1 && self.view(name)?.shape() == [cols] {
            return self.read_shaped(name, &[cols], w);
        }
        self.read_shaped(name, &[rows, cols], w)
    }

    /// Reads a tensor of this shape, whose elements are as many as those of `w`.
    pub(crate) fn read_shaped(
        &self,
        name: &str,
        shape: &[usize],
        w: &mut Array2<f32>,
    ) -> Result<()> {
        let view = self.view(name)?;
        let dims = view.shape();
        if dims != shape {
            let what = format!("{name} has shape {dims:?}, expected {shape:?}");
            return Err(Error::content(self.path, what));
        }
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => {
                let values = data
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                w.iter_mut().zip(values).for_each(|(w, v)| *w = v);
            }
            Dtype::F16 => {
                let values = data
                    .chunks_exact(2)
                    .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
                w.iter_mut().zip(values).for_each(|(w, v)| *w = v);
            }
            Dtype::BF16 => {
                let values = data
                    .chunks_exact(2)
                    .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32());
                w.iter_mut().zip(values).for_each(|(w, v)| *w = v);
            }
            other => {
                return Err(Error::content(
                    self.path,
                    format!("{name} is {other:?}, expected F32, F16 or BF16"),
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn number(&self, name: &str) -> Result<i64> {
        let view = self.view(name)?;
        let bytes: [u8; 8] = view
            .data()
            .try_into()
            .map_err(|_| Error::content(self.path, format!("{name} is not one 64-bit number")))?;
        Ok(i64::from_le_bytes(bytes))
    }
}

pub(crate) fn read_tensors(path: &Path, read: impl FnOnce(&File<'_>) -> Result<()>) -> Result<()> {
    let bytes = sw_tensor::files::read_at_most(path, MOST).map_err(Error::file(path))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| Error::content(path, e))?;
    read(&File { path, tensors })
}

pub(crate) fn write_tensors(
    path: &Path,
    tensors: Vec<(String, Vec<usize>, Dtype, Vec<u8>)>,
) -> Result<()> {
    let mut views = BTreeMap::new();
    for (name, dims, dtype, bytes) in &tensors {
        let view =
            TensorView::new(*dtype, dims.clone(), bytes).map_err(|e| Error::content(path, e))?;
        views.insert(name.as_str(), view);
    }
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes =
        safetensors::serialize(views, Some(metadata)).map_err(|e| Error::content(path, e))?;
    write(path, &bytes)
}

/// Writes a file whole or not at all: a reader never sees half a file.
///
/// # Errors
/// If the file cannot be written or renamed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    sw_tensor::files::write_whole(path, |file| file.write_all(bytes)).map_err(Error::file(path))
}
