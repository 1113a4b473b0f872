//! The weights of a Llama model as a flat list of matrices, and their names.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Sizes of a Llama model: pre-norm RMSNorm, rotary positions, SwiGLU, no biases, no query or key norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Channels of the residual stream.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels per head; even.
    pub head_dim: usize,
    /// Neurons of the MLP.
    pub intermediate: usize,
    /// Longest sequence the model is meant for.
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in every norm.
    pub eps: f32,
    /// Whether the embedding is the output head.
    pub tied: bool,
}

impl Shape {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Shape`] names the field.
    pub fn check(&self) -> Result<()> {
        let err = |what: String| Err(Error::Shape(what));
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return err(format!(
                "kv_heads {} does not divide heads {}",
                self.kv_heads, self.heads
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return err(format!(
                "head_dim {} is not even and positive",
                self.head_dim
            ));
        }
        match [self.vocab, self.hidden, self.layers, self.intermediate].contains(&0) {
            true => err("vocab, hidden, layers and intermediate must be positive".to_string()),
            false => Ok(()),
        }
    }
}

/// A matrix of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Weight of the norm before attention, one row.
    AttnNorm,
    /// `q_proj`.
    Q,
    /// `k_proj`.
    K,
    /// `v_proj`.
    V,
    /// `o_proj`.
    O,
    /// Weight of the norm before the MLP, one row.
    MlpNorm,
    /// `gate_proj`.
    Gate,
    /// `up_proj`.
    Up,
    /// `down_proj`.
    Down,
}

/// The matrices of a block, in the order in which they are stored.
pub const PARTS: [Part; 9] = [
    Part::AttnNorm,
    Part::Q,
    Part::K,
    Part::V,
    Part::O,
    Part::MlpNorm,
    Part::Gate,
    Part::Up,
    Part::Down,
];

/// A matrix of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tensor {
    /// Token embedding, `[vocab, hidden]`.
    Embed,
    /// A matrix of the block with this number.
    Block(usize, Part),
    /// Weight of the final norm, one row.
    Norm,
    /// Output head, `[vocab, hidden]`; of an untied model only.
    Head,
}

impl Tensor {
    /// All matrices of a model, in the order of [`Params`].
    pub fn all(shape: &Shape) -> Vec<Tensor> {
        let blocks = (0..shape.layers).flat_map(|l| PARTS.map(|part| Tensor::Block(l, part)));
        let head = (!shape.tied).then_some(Tensor::Head);
        [Tensor::Embed]
            .into_iter()
            .chain(blocks)
            .chain([Tensor::Norm])
            .chain(head)
            .collect()
    }

    /// Place in [`Params`]. A tied model's head is its embedding.
    pub fn index(self, shape: &Shape) -> usize {
        match self {
            Tensor::Embed => 0,
            Tensor::Block(l, part) => 1 + l * PARTS.len() + part as usize,
            Tensor::Norm => 1 + shape.layers * PARTS.len(),
            Tensor::Head if shape.tied => 0,
            Tensor::Head => 2 + shape.layers * PARTS.len(),
        }
    }

    /// Rows and columns.
    pub fn dim(self, shape: &Shape) -> (usize, usize) {
        let q = shape.heads * shape.head_dim;
        let kv = shape.kv_heads * shape.head_dim;
        let (d, h) = (shape.hidden, shape.intermediate);
        match self {
            Tensor::Embed | Tensor::Head => (shape.vocab, d),
            Tensor::Norm | Tensor::Block(_, Part::AttnNorm | Part::MlpNorm) => (1, d),
            Tensor::Block(_, Part::Q) => (q, d),
            Tensor::Block(_, Part::K | Part::V) => (kv, d),
            Tensor::Block(_, Part::O) => (d, q),
            Tensor::Block(_, Part::Gate | Part::Up) => (h, d),
            Tensor::Block(_, Part::Down) => (d, h),
        }
    }

    /// Whether it is a norm's weight (stored as a vector, never decayed).
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            Tensor::Norm | Tensor::Block(_, Part::AttnNorm | Part::MlpNorm)
        )
    }

    /// Whether it is one of a block's seven linear maps.
    pub fn is_linear(self) -> bool {
        matches!(self, Tensor::Block(..)) && !self.is_norm()
    }

    /// Hugging Face's name.
    pub fn name(self) -> String {
        match self {
            Tensor::Embed => "model.embed_tokens.weight".to_string(),
            Tensor::Norm => "model.norm.weight".to_string(),
            Tensor::Head => "lm_head.weight".to_string(),
            Tensor::Block(l, part) => {
                let part = match part {
                    Part::AttnNorm => "input_layernorm",
                    Part::Q => "self_attn.q_proj",
                    Part::K => "self_attn.k_proj",
                    Part::V => "self_attn.v_proj",
                    Part::O => "self_attn.o_proj",
                    Part::MlpNorm => "post_attention_layernorm",
                    Part::Gate => "mlp.gate_proj",
                    Part::Up => "mlp.up_proj",
                    Part::Down => "mlp.down_proj",
                };
                format!("model.layers.{l}.{part}.weight")
            }
        }
    }
}

/// The weights, one matrix per [`Tensor`], `[out, in]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    shape: Shape,
    mats: Vec<Array2<f32>>,
}

impl Params {
    /// Norms at one, everything else at zero.
    ///
    /// # Errors
    /// If the sizes do not fit together.
    pub fn blank(shape: &Shape) -> Result<Params> {
        shape.check()?;
        let mats = Tensor::all(shape).into_iter().map(|tensor| {
            let fill = if tensor.is_norm() { 1.0 } else { 0.0 };
            Array2::from_elem(tensor.dim(shape), fill)
        });
        Ok(Params {
            shape: shape.clone(),
            mats: mats.collect(),
        })
    }

    /// The sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// One matrix.
    pub fn get(&self, tensor: Tensor) -> &Array2<f32> {
        &self.mats[tensor.index(&self.shape)]
    }

    /// One matrix, to change.
    pub fn get_mut(&mut self, tensor: Tensor) -> &mut Array2<f32> {
        &mut self.mats[tensor.index(&self.shape)]
    }

    /// A matrix of the block `l`.
    pub fn part(&self, l: usize, part: Part) -> &Array2<f32> {
        self.get(Tensor::Block(l, part))
    }

    /// All matrices with what they are.
    pub fn iter(&self) -> impl Iterator<Item = (Tensor, &Array2<f32>)> {
        Tensor::all(&self.shape).into_iter().zip(&self.mats)
    }

    /// Number of weights.
    pub fn count(&self) -> usize {
        self.mats.iter().map(Array2::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_tensor_is_its_place_in_the_list() {
        for tied in [false, true] {
            let shape = Shape {
                vocab: 7,
                hidden: 6,
                layers: 3,
                heads: 2,
                kv_heads: 1,
                head_dim: 2,
                intermediate: 5,
                max_positions: 8,
                rope_theta: 1e4,
                eps: 1e-5,
                tied,
            };
            for (i, tensor) in Tensor::all(&shape).into_iter().enumerate() {
                assert_eq!(tensor.index(&shape), i);
                assert_eq!(
                    Params::blank(&shape).unwrap().get(tensor).dim(),
                    tensor.dim(&shape)
                );
            }
        }
    }
}
