//! The tensors that training changes, each in f32 and in place.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use sw_tensor::Mat;

use crate::{
    edit::LinearAt,
    error::{Error, Result},
    model::Model,
    spec::{Norm, Spec},
    weights::{NormWeight, no_such_tensor},
};

/// A tensor of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TensorAt {
    /// The token embedding, `[vocab, hidden]`; of a model that ties them, the output head too.
    Embedding,
    /// The weight of the norm before a layer's attention, `[1, hidden]`.
    AttnNorm(usize),
    /// The weight of the norm before a layer's MLP, `[1, hidden]`.
    MlpNorm(usize),
    /// The weight of a linear map, `[output channels, input channels]`.
    Weight(LinearAt),
    /// The bias of a linear map, `[1, output channels]`.
    Bias(LinearAt),
    /// The weight of the norm after the last layer, `[1, hidden]`.
    FinalNorm,
    /// The output head, `[vocab, hidden]`, of a model whose head is not its embedding.
    Head,
}

impl fmt::Display for TensorAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorAt::Embedding => write!(f, "the embedding"),
            TensorAt::AttnNorm(l) => write!(f, "layers[{l}], the norm before attention"),
            TensorAt::MlpNorm(l) => write!(f, "layers[{l}], the norm before the MLP"),
            TensorAt::Weight(at) => write!(f, "{at}.weight"),
            TensorAt::Bias(at) => write!(f, "{at}.bias"),
            TensorAt::FinalNorm => write!(f, "the final norm"),
            TensorAt::Head => write!(f, "the output head"),
        }
    }
}

impl Spec {
    /// The name of a tensor in the checkpoint; `None` where the model has no such tensor.
    pub fn name_of(&self, at: TensorAt) -> Option<String> {
        let (names, norms) = (&self.names, &self.names.norms);
        let of_layer = |l: usize, norm: Option<&str>| {
            let prefix = (l < self.layers.len()).then(|| self.layer_prefix(l))?;
            Some(format!("{prefix}{}.weight", norm?))
        };
        match at {
            TensorAt::Embedding => Some(format!("{}{}", names.base, names.embed)),
            TensorAt::AttnNorm(l) => of_layer(l, norms.attn_in),
            TensorAt::MlpNorm(l) => of_layer(l, norms.mlp_in),
            TensorAt::Weight(at) => Some(format!("{}.weight", self.module_name(at)?)),
            TensorAt::Bias(at) => {
                let biased = self.slot(at)?.bias;
                biased.then_some(format!("{}.bias", self.module_name(at)?))
            }
            TensorAt::FinalNorm => Some(format!("{}{}.weight", names.base, names.final_norm)),
            TensorAt::Head => (!self.tied).then(|| names.head.to_owned()),
        }
    }
}

impl Model {
    /// All tensors of a dense model with a norm before each block, in the order of the computation.
    pub fn tensors(&self) -> Vec<TensorAt> {
        let spec = self.spec();
        let mut all = vec![TensorAt::Embedding];
        for l in 0..spec.layers.len() {
            all.extend([TensorAt::AttnNorm(l), TensorAt::MlpNorm(l)]);
            let maps = spec.linears().filter(|at| at.layer == l);
            all.extend(maps.flat_map(|at| [TensorAt::Weight(at), TensorAt::Bias(at)]));
        }
        all.extend([TensorAt::FinalNorm, TensorAt::Head]);
        all.retain(|&at| self.tensor_shape(at).is_some());
        all
    }

    /// Rows and columns; `None` where the model has no such tensor. Vectors have one row.
    pub fn tensor_shape(&self, at: TensorAt) -> Option<[usize; 2]> {
        let (spec, weights) = (self.spec(), self.weights());
        let layer = |l: usize| weights.layers.get(l);
        let norm = |norm: &NormWeight| Some([1, norm.weight.as_ref()?.len()]);
        match at {
            TensorAt::Embedding => Some([weights.embed.rows(), weights.embed.cols()]),
            TensorAt::AttnNorm(l) => norm(layer(l)?.norms.attn_in.as_ref()?),
            TensorAt::MlpNorm(l) => norm(layer(l)?.norms.mlp_in.as_ref()?),
            TensorAt::Weight(at) => {
                let map = layer(at.layer)?.linear(at.expert, at.linear)?;
                Some(map.w.shape())
            }
            TensorAt::Bias(at) => Some([1, self.bias(at)?.len()]),
            TensorAt::FinalNorm => norm(&weights.final_norm),
            TensorAt::Head => (!spec.tied).then(|| [weights.head.rows(), weights.head.cols()]),
        }
    }

    /// The values of a tensor as it is stored, row by row, in f32; `None` where the model has no such tensor.
    pub fn tensor(&self, at: TensorAt) -> Option<Vec<f32>> {
        let weights = self.weights();
        let layer = |l: usize| weights.layers.get(l);
        let norm = |norm: &NormWeight| {
            let weight = norm.weight.as_ref()?.iter();
            Some(weight.map(|w| w - norm_offset(self.spec())).collect())
        };
        match at {
            TensorAt::Embedding => Some(wide(&weights.embed)),
            TensorAt::AttnNorm(l) => norm(layer(l)?.norms.attn_in.as_ref()?),
            TensorAt::MlpNorm(l) => norm(layer(l)?.norms.mlp_in.as_ref()?),
            TensorAt::Weight(at) => Some(wide(self.weight_at(at)?)),
            TensorAt::Bias(at) => self.bias(at).map(<[f32]>::to_vec),
            TensorAt::FinalNorm => norm(&weights.final_norm),
            TensorAt::Head if self.spec().tied => None,
            TensorAt::Head => Some(wide(&weights.head)),
        }
    }

    /// Changes the values of a tensor: `change` gets them row by row, in f32, as the forward pass reads them (a norm's weight
    /// with the family's offset added). They are changed in place where they are this model's own, that is from the second
    /// time on; until then a copy is made, and the checkpoint stays as it is.
    ///
    /// # Errors
    /// A tensor that the model does not have, and a map whose product is not computed from a stored matrix.
    pub fn change(&mut self, at: TensorAt, change: impl FnOnce(&mut [f32])) -> Result<()> {
        let tied = self.spec().tied;
        let none = || no_such_tensor(at);
        let weights = self.weights_mut();
        let layer = match at {
            TensorAt::AttnNorm(l) | TensorAt::MlpNorm(l) => Some(l),
            TensorAt::Weight(at) | TensorAt::Bias(at) => Some(at.layer),
            _ => None,
        };
        let layer = layer.and_then(|l| weights.layers.get_mut(l));
        let layer = layer.map(Arc::make_mut);
        match at {
            TensorAt::Embedding => {
                if tied {
                    // Else the head would share the embedding, and each change would copy it.
                    weights.head = Mat::from_f32(0, 0, Vec::new());
                }
                change(weights.embed.to_mut());
                if tied {
                    weights.head = weights.embed.clone();
                }
            }
            TensorAt::Head if tied => return Err(none()),
            TensorAt::Head => change(weights.head.to_mut()),
            TensorAt::AttnNorm(_) | TensorAt::MlpNorm(_) | TensorAt::FinalNorm => {
                let norm = match (at, layer) {
                    (TensorAt::FinalNorm, _) => Some(&mut weights.final_norm),
                    (TensorAt::AttnNorm(_), Some(layer)) => layer.norms.attn_in.as_mut(),
                    (_, Some(layer)) => layer.norms.mlp_in.as_mut(),
                    _ => None,
                };
                let weight = norm.and_then(|norm| norm.weight.as_mut());
                change(Arc::make_mut(weight.ok_or_else(none)?));
            }
            TensorAt::Weight(map) | TensorAt::Bias(map) => {
                let affine = layer.and_then(|layer| layer.linear_mut(map));
                let affine = affine.ok_or_else(none)?;
                if at == TensorAt::Bias(map) {
                    change(Arc::make_mut(affine.bias.as_mut().ok_or_else(none)?));
                    return Ok(());
                }
                let stored = affine.w.stored_mut().ok_or_else(|| Error::Coordinate {
                    coord: at.to_string(),
                    problem: "its product does not read stored numbers, so none can be changed"
                        .into(),
                })?;
                change(stored.to_mut());
            }
        }
        Ok(())
    }
}

fn norm_offset(spec: &Spec) -> f32 {
    match spec.norm {
        Norm::Rms { offset, .. } => offset,
        Norm::Layer { .. } => 0.0,
    }
}

fn wide(w: &Mat) -> Vec<f32> {
    let mut values = vec![0.0; w.rows() * w.cols()];
    w.widen(0..w.rows(), 0..w.cols(), &mut values);
    values
}
