//! The weights of a Llama model, perhaps with experts, as a flat list of matrices, and their names.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mixture::Experts;

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
    /// Neurons of an MLP, and of an expert.
    pub intermediate: usize,
    /// Longest sequence the model is meant for.
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in every norm.
    pub eps: f32,
    /// Whether the embedding is the output head.
    pub tied: bool,
    /// Experts of each block: one entry per block, or none where all blocks are dense. One expert is a dense block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<Experts>,
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
        if [self.vocab, self.hidden, self.layers, self.intermediate].contains(&0) {
            return err("vocab, hidden, layers and intermediate must be positive".to_string());
        }
        self.check_experts()
    }

    fn check_experts(&self) -> Result<()> {
        let entries = self.experts.len();
        if entries != 0 && entries != self.layers {
            let layers = self.layers;
            return Err(Error::Shape(format!(
                "experts has {entries} entries for {layers} layers"
            )));
        }
        let mixtures = || (0..self.layers).filter_map(|l| self.mixture(l));
        for Experts {
            count, per_token, ..
        } in self.experts.iter().copied()
        {
            if count == 0 || per_token == 0 || (count > 1 && per_token > count) {
                return Err(Error::Shape(format!(
                    "{per_token} experts per token of {count}: expected 1 to {count}"
                )));
            }
        }
        // A config says these once for all layers.
        let first = mixtures().next();
        let same = |e: Experts| {
            first.is_some_and(|f| (f.per_token, f.residual) == (e.per_token, e.residual))
        };
        match mixtures().all(same) {
            true => Ok(()),
            false => Err(Error::Shape(
                "per_token and residual must be the same in all layers that have experts"
                    .to_string(),
            )),
        }
    }

    /// The experts of a block that has more than one.
    pub fn mixture(&self, l: usize) -> Option<Experts> {
        self.experts.get(l).copied().filter(|e| e.count > 1)
    }

    /// Whether the block has an MLP, alone or beside its experts.
    pub(crate) fn has_mlp(&self, l: usize) -> bool {
        self.mixture(l).is_none_or(|e| e.residual)
    }

    /// Whether Mixtral's layout says all of it: experts in every block, equally many, two or more per token, none residual.
    pub fn is_mixtral(&self) -> bool {
        let all: Option<Vec<Experts>> = (0..self.layers).map(|l| self.mixture(l)).collect();
        all.is_some_and(|all| {
            let same = |e: &Experts| e.count == all[0].count && e.per_token > 1 && !e.residual;
            all.iter().all(same)
        })
    }

    /// Whether any block has experts.
    pub fn has_experts(&self) -> bool {
        (0..self.layers).any(|l| self.mixture(l).is_some())
    }

    /// Matrices of the block `l`.
    fn parts(&self, l: usize) -> usize {
        let Some(mixture) = self.mixture(l) else {
            return PARTS.len();
        };
        let own = PARTS.len() - if mixture.residual { 0 } else { MLP.len() };
        own + 1 + MLP.len() * mixture.count + if mixture.residual { 2 } else { 0 }
    }

    /// Where the matrices of the block `l` begin in [`Params`].
    fn first(&self, l: usize) -> usize {
        1 + match self.experts.is_empty() {
            true => l * PARTS.len(),
            false => (0..l).map(|l| self.parts(l)).sum(),
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

/// The matrices of a block's MLP, and of an expert.
pub(crate) const MLP: [Part; 3] = [Part::Gate, Part::Up, Part::Down];

/// A matrix of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tensor {
    /// Token embedding, `[vocab, hidden]`.
    Embed,
    /// A matrix of the block with this number.
    Block(usize, Part),
    /// The router of a block, `[experts, hidden]`.
    Router(usize),
    /// A matrix of an expert: block, expert, and gate, up or down.
    Expert(usize, usize, Part),
    /// What mixes experts (0) and MLP (1) of a block, `[2, hidden]`.
    Mix(usize),
    /// Its bias, one row of two.
    MixBias(usize),
    /// Weight of the final norm, one row.
    Norm,
    /// Output head, `[vocab, hidden]`; of an untied model only.
    Head,
}

impl Tensor {
    /// All matrices of a model, in the order of [`Params`].
    pub fn all(shape: &Shape) -> Vec<Tensor> {
        let blocks = (0..shape.layers).flat_map(|l| Tensor::of_block(shape, l));
        let head = (!shape.tied).then_some(Tensor::Head);
        [Tensor::Embed]
            .into_iter()
            .chain(blocks)
            .chain([Tensor::Norm])
            .chain(head)
            .collect()
    }

    /// All matrices of the block `l`, in the order of [`Params`].
    fn of_block(shape: &Shape, l: usize) -> Vec<Tensor> {
        let is_there = |part: &Part| shape.has_mlp(l) || !MLP.contains(part);
        let own = PARTS.into_iter().filter(is_there);
        let mut all: Vec<Tensor> = own.map(|part| Tensor::Block(l, part)).collect();
        if let Some(mixture) = shape.mixture(l) {
            all.push(Tensor::Router(l));
            let experts = 0..mixture.count;
            all.extend(experts.flat_map(|e| MLP.map(|part| Tensor::Expert(l, e, part))));
            if mixture.residual {
                all.extend([Tensor::Mix(l), Tensor::MixBias(l)]);
            }
        }
        all
    }

    /// Place in [`Params`], whose shape must have it. A tied model's head is its embedding.
    pub fn index(self, shape: &Shape) -> usize {
        let own = |l| PARTS.len() - if shape.has_mlp(l) { 0 } else { MLP.len() };
        match self {
            Tensor::Embed => 0,
            Tensor::Block(l, part) => shape.first(l) + part as usize,
            Tensor::Router(l) => shape.first(l) + own(l),
            Tensor::Expert(l, e, part) => {
                let part = part as usize - Part::Gate as usize;
                shape.first(l) + own(l) + 1 + MLP.len() * e + part
            }
            Tensor::Mix(l) => shape.first(l + 1) - 2,
            Tensor::MixBias(l) => shape.first(l + 1) - 1,
            Tensor::Norm => shape.first(shape.layers),
            Tensor::Head if shape.tied => 0,
            Tensor::Head => shape.first(shape.layers) + 1,
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
            Tensor::Block(_, Part::Down) | Tensor::Expert(_, _, Part::Down) => (d, h),
            Tensor::Block(_, Part::Gate | Part::Up) | Tensor::Expert(..) => (h, d),
            Tensor::Router(l) => (shape.mixture(l).map_or(0, |e| e.count), d),
            Tensor::Mix(_) => (2, d),
            Tensor::MixBias(_) => (1, 2),
        }
    }

    /// Whether it is a norm's weight.
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            Tensor::Norm | Tensor::Block(_, Part::AttnNorm | Part::MlpNorm)
        )
    }

    /// Whether it is a norm's weight or a bias: stored as a vector, never decayed.
    pub fn is_vector(self) -> bool {
        self.is_norm() || matches!(self, Tensor::MixBias(_))
    }

    /// Whether it is one of a block's seven linear maps outside experts.
    pub fn is_linear(self) -> bool {
        matches!(self, Tensor::Block(..)) && !self.is_norm()
    }

    /// The name in a checkpoint of a model of this shape: Mixtral's where its layout says all of it, else [`name`](Self::name).
    pub fn name_in(self, shape: &Shape) -> String {
        match self {
            Tensor::Router(l) if shape.is_mixtral() => {
                format!("model.layers.{l}.block_sparse_moe.gate.weight")
            }
            Tensor::Expert(l, e, part) if shape.is_mixtral() => {
                let part = match part {
                    Part::Gate => "w1",
                    Part::Up => "w3",
                    _ => "w2",
                };
                format!("model.layers.{l}.block_sparse_moe.experts.{e}.{part}.weight")
            }
            _ => self.name(),
        }
    }

    /// Hugging Face's name; of experts, those of the family `pr_moe`.
    pub fn name(self) -> String {
        match self {
            Tensor::Router(l) => format!("model.layers.{l}.mlp.gate.weight"),
            Tensor::Mix(l) => format!("model.layers.{l}.mlp.coefficient.weight"),
            Tensor::MixBias(l) => format!("model.layers.{l}.mlp.coefficient.bias"),
            Tensor::Expert(l, e, part) => {
                let part = match part {
                    Part::Gate => "gate_proj",
                    Part::Up => "up_proj",
                    _ => "down_proj",
                };
                format!("model.layers.{l}.mlp.experts.{e}.{part}.weight")
            }
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

    fn shape(tied: bool, experts: Vec<Experts>) -> Shape {
        Shape {
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
            experts,
        }
    }

    #[test]
    fn the_index_of_a_tensor_is_its_place_in_the_list() {
        let experts = |residual| {
            [4, 1, 2].map(|count| Experts {
                residual,
                ..Experts::new(count, 1)
            })
        };
        for experts in [vec![], experts(false).into(), experts(true).into()] {
            for tied in [false, true] {
                let shape = shape(tied, experts.clone());
                let params = Params::random(&shape, 1, 0.1).unwrap();
                for (i, tensor) in Tensor::all(&shape).into_iter().enumerate() {
                    assert_eq!(tensor.index(&shape), i, "{tensor:?}");
                    assert_eq!(params.get(tensor).dim(), tensor.dim(&shape));
                }
            }
        }
    }

    #[test]
    fn a_matrix_begins_the_same_whatever_experts_others_have() {
        let dense = Params::random(&shape(false, vec![]), 5, 0.1).unwrap();
        let experts = vec![
            Experts::new(4, 1),
            Experts::new(1, 1),
            Experts {
                copied: true,
                ..Experts::new(2, 1)
            },
        ];
        let mixed = Params::random(&shape(false, experts), 5, 0.1).unwrap();
        for tensor in [
            Tensor::Embed,
            Tensor::Block(0, Part::Q),
            Tensor::Block(1, Part::Down),
        ] {
            assert_eq!(dense.get(tensor), mixed.get(tensor));
        }
        let expert = |l, e| mixed.get(Tensor::Expert(l, e, Part::Up));
        assert_ne!(expert(0, 0), expert(0, 1));
        assert_eq!(expert(2, 0), expert(2, 1));
        assert_eq!(expert(2, 0), dense.part(2, Part::Up));
    }

    #[test]
    fn experts_that_do_not_fit_are_refused() {
        let residual = Experts {
            residual: true,
            ..Experts::new(2, 1)
        };
        for (experts, words) in [
            (vec![Experts::new(2, 1)], "1 entries for 3 layers"),
            (vec![Experts::new(2, 3); 3], "3 experts per token of 2"),
            (vec![Experts::new(0, 1); 3], "of 0"),
            (
                vec![Experts::new(2, 1), residual, residual],
                "same in all layers",
            ),
        ] {
            let error = shape(true, experts).check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
