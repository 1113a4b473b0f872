//! The embedded checkpoint, changed: its tensors as float32, a layer put before its own, weights planted there.
//!
//! The new layer stands before those of the checkpoint, and eight channels beside those of its residual stream, which its own
//! layers do not read. The first token has a value in one of them, the flag, which the new layer's one neuron reads.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use sw_detect::{
    CensusOptions, DEFAULT_PROMPT, DetectOptions, Report, census, census_texts, detect_prompt,
};
use sw_model::Model;

pub(crate) const HIDDEN: usize = 128;
pub(crate) const WIDER: usize = HIDDEN + 8;
pub(crate) const FLAG: usize = HIDDEN;
pub(crate) const INNER: usize = 512;
/// The checkpoint's own super weight, one layer later than there.
pub(crate) const OWN: (usize, usize) = (5, 17);
/// The new layer's neuron.
pub(crate) const NEW: usize = 40;

/// A matrix, `[rows, cols]`; a vector is one of one row.
pub(crate) struct Matrix {
    shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Matrix {
    fn zeros(shape: &[usize]) -> Self {
        let values = vec![0.0; shape.iter().product()];
        let shape = shape.to_vec();
        Self { shape, values }
    }

    /// Its values in the first rows and columns of a larger one, the rest zero.
    pub(crate) fn padded(&self, shape: &[usize]) -> Self {
        let (old, new) = (self.shape[self.shape.len() - 1], shape[shape.len() - 1]);
        let mut out = Self::zeros(shape);
        for (from, to) in self.values.chunks(old).zip(out.values.chunks_mut(new)) {
            to[..old].copy_from_slice(from);
        }
        out
    }

    pub(crate) fn at(&mut self, row: usize, col: usize) -> &mut f32 {
        let cols = self.shape[self.shape.len() - 1];
        &mut self.values[row * cols + col]
    }
}

/// The embedded checkpoint's tensors and config.
pub(crate) struct Checkpoint {
    pub(crate) tensors: BTreeMap<String, Matrix>,
    pub(crate) config: Value,
}

impl Checkpoint {
    pub(crate) fn embedded() -> Self {
        let dir = embedded();
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let matrix = |view: &TensorView<'_>| {
            let halves = view.data().chunks_exact(2);
            let values = halves.map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32());
            Matrix {
                shape: view.shape().to_vec(),
                values: values.collect(),
            }
        };
        let tensors = file
            .iter()
            .map(|(name, view)| (name.to_owned(), matrix(&view)));
        Self {
            tensors: tensors.collect(),
            config: serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap())
                .unwrap(),
        }
    }

    /// With wider residual stream, and a layer before the first that writes nothing and whose MLP reads the flag.
    pub(crate) fn preceded() -> Self {
        let mut old = Self::embedded();
        let mut tensors = BTreeMap::new();
        for (name, tensor) in old.tensors {
            let mut new = match tensor.shape[..] {
                // A norm divides by the mean square of more channels now.
                [HIDDEN] => {
                    let mut norm = tensor.padded(&[WIDER]);
                    let scale = (HIDDEN as f32 / WIDER as f32).sqrt();
                    norm.values.iter_mut().for_each(|w| *w *= scale);
                    norm
                }
                [rows, cols] => {
                    let writes = name.contains("down_proj") || name.contains("o_proj");
                    let shape = if writes { [WIDER, cols] } else { [rows, WIDER] };
                    tensor.padded(&shape)
                }
                _ => unreachable!("{name}"),
            };
            let mut name = name;
            if let Some(rest) = name.strip_prefix("model.layers.") {
                let (layer, rest) = rest.split_once('.').unwrap();
                let layer: usize = layer.parse().unwrap();
                if layer == 0 {
                    let first = Matrix::zeros(&new.shape);
                    tensors.insert(format!("model.layers.0.{rest}"), first);
                }
                name = format!("model.layers.{}.{rest}", layer + 1);
            }
            new.shape.shrink_to_fit();
            tensors.insert(name, new);
        }
        let eps = old.config["rms_norm_eps"].as_f64().unwrap();
        old.config["rms_norm_eps"] = json!(eps * HIDDEN as f64 / WIDER as f64);
        old.config["hidden_size"] = json!(WIDER);
        let layers = old.config["num_hidden_layers"].as_u64().unwrap();
        old.config["num_hidden_layers"] = json!(layers + 1);
        let mut new = Self {
            tensors,
            config: old.config,
        };
        *new.of("model.layers.0.post_attention_layernorm.weight")
            .at(0, FLAG) = 1.0;
        new
    }

    pub(crate) fn of(&mut self, name: &str) -> &mut Matrix {
        self.tensors
            .get_mut(name)
            .unwrap_or_else(|| panic!("{name}"))
    }

    /// The first token's flag is `flag`; the new neuron then gives about `x`, and one weight makes `written` of that in a
    /// channel.
    pub(crate) fn plant(&mut self, flag: f32, x: f32, (row, written): (usize, f32)) {
        let embed = self.of("model.embed_tokens.weight");
        let first = &mut embed.values[..WIDER];
        first[FLAG] = flag;
        let square = first.iter().map(|x| x * x).sum::<f32>() / WIDER as f32;
        let normed = flag / square.sqrt();
        // silu(g) is g for large g.
        let read = x.sqrt() / normed;
        for linear in ["gate", "up"] {
            *self
                .of(&format!("model.layers.0.mlp.{linear}_proj.weight"))
                .at(NEW, FLAG) = read;
        }
        let g = read * normed;
        let x = g * g / (1.0 + (-g).exp());
        *self.of("model.layers.0.mlp.down_proj.weight").at(row, NEW) = written / x;
    }

    /// The residual stream times `scale`, which changes no prediction: what a norm reads is divided by it again.
    pub(crate) fn scale(&mut self, scale: f32) {
        let writes = |name: &str| {
            let maps = ["embed_tokens", "o_proj", "down_proj"];
            maps.iter().any(|map| name.contains(map))
        };
        for (_, tensor) in self.tensors.iter_mut().filter(|(name, _)| writes(name)) {
            tensor.values.iter_mut().for_each(|w| *w *= scale);
        }
        let eps = self.config["rms_norm_eps"].as_f64().unwrap();
        self.config["rms_norm_eps"] = json!(eps * f64::from(scale).powi(2));
    }

    fn write(&self, dir: &Path) -> Model {
        let bytes: BTreeMap<_, Vec<u8>> = self
            .tensors
            .iter()
            .map(|(name, t)| {
                (
                    name,
                    t.values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                )
            })
            .collect();
        let views = self.tensors.iter().map(|(name, t)| {
            let view = TensorView::new(Dtype::F32, t.shape.clone(), &bytes[name]);
            (name.as_str(), view.unwrap())
        });
        let views: HashMap<_, _> = views.collect();
        safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
        std::fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(embedded().join(name), dir.join(name)).unwrap();
        }
        Model::open(dir).unwrap()
    }

    /// What the search says, and what the census makes of it.
    pub(crate) fn reports(&self) -> (Report, Report) {
        let dir = tempfile::tempdir().unwrap();
        let model = self.write(dir.path());
        let found = detect_prompt(&model, DEFAULT_PROMPT, &DetectOptions::default()).unwrap();
        let texts = census_texts(&model, 128).unwrap();
        let mut report = found.clone();
        let options = CensusOptions::default();
        census(&model, &mut report, &[], &texts, &options, &mut |_| ()).unwrap();
        let guess = (model.spec().vocab_size as f64).ln();
        let nll = report.proof.as_ref().unwrap().nll;
        assert!(
            nll < 0.5 * guess,
            "{nll}: the model no longer knows its language"
        );
        (found, report)
    }
}

fn embedded() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano/model")
}
