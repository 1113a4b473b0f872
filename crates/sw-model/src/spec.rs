//! What distinguishes one model from another, as data.

use crate::{
    edit::{Linear, LinearAt},
    rope::{RopeSpec, RopeTables},
};

/// Everything the forward pass needs to know about a model besides its weights.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Spec {
    /// `model_type` of the config.
    pub family: &'static str,
    /// Tokens in the vocabulary: rows of the embedding that count.
    pub vocab_size: usize,
    /// Channels of the residual stream.
    pub hidden_size: usize,
    /// Channels between the up and the down projection, outside experts.
    pub intermediate_size: usize,
    /// Positions the model was made for; where they are learned, longer sequences are refused.
    pub max_positions: usize,
    /// One entry per layer.
    pub layers: Vec<LayerSpec>,
    /// The kind of every norm.
    pub norm: Norm,
    /// Heads and how they attend.
    pub attention: Attention,
    /// Rotary embeddings; a layer names one of them by index.
    pub ropes: Vec<RopeSpec>,
    /// The non-linearity of the MLP.
    pub activation: Activation,
    /// Whether the MLP multiplies an activated gate with the up projection (SwiGLU and kin).
    pub gated: bool,
    /// Whether attention and MLP of a layer read the same residual stream, side by side.
    pub parallel: bool,
    /// Multiplies the token embeddings.
    pub embed_scale: Option<f32>,
    /// Soft cap of the logits: `cap * tanh(logit / cap)`.
    pub logit_softcap: Option<f32>,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Where the weights are.
    pub names: Names,
}

/// What may differ from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerSpec {
    /// A query sees keys at most `window - 1` positions back; `None`: all of them.
    pub window: Option<usize>,
    /// The rotary embedding of this layer: an index into [`Spec::ropes`]; `None`: no rotation.
    pub rope: Option<usize>,
    /// Multiplies the attention scores; usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// The mixture of experts in the MLP's place, or beside it.
    pub experts: Option<Experts>,
}

impl LayerSpec {
    /// Full attention with the first rotary embedding, and a dense MLP.
    pub(crate) fn new(head_dim: usize) -> Self {
        Self {
            window: None,
            rope: Some(0),
            scale: 1.0 / (head_dim as f32).sqrt(),
            experts: None,
        }
    }
}

/// The kind of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Norm {
    /// `x / sqrt(mean(x^2) + eps) * (offset + weight)`.
    Rms {
        /// Added to the mean square.
        eps: f32,
        /// Added to the stored weight (1 in Gemma, else 0).
        offset: f32,
    },
    /// `(x - mean) / sqrt(variance + eps)`, then `* weight + bias` where it has parameters.
    Layer {
        /// Added to the variance.
        eps: f32,
        /// Whether it has a weight and a bias.
        affine: bool,
    },
}

/// Heads and how they attend.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Norm of queries and keys before the rotation.
    pub qk_norm: Option<QkNorm>,
    /// Queries, keys and values are clipped to this magnitude (after their norm).
    pub clip: Option<f32>,
    /// Soft cap of the scores: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// What the norm of queries and keys runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself; weight `[head_dim]`.
    Head,
    /// All heads together; weight `[heads * head_dim]`.
    Full,
}

/// A mixture of experts: each token runs through its `per_token` most probable experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a token runs through.
    pub per_token: usize,
    /// Whether the probabilities of the chosen experts are scaled to sum 1.
    pub normalize: bool,
    /// Channels between an expert's up and down projection.
    pub intermediate_size: usize,
    /// Whether the layer's own MLP stays beside the experts: a learned two-way softmax of each token's activations mixes
    /// both (DeepSpeed-MoE's Residual-MoE, arXiv 2201.05596, section 4.1).
    pub residual: bool,
}

/// The non-linearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)` with the normal distribution's `Phi`.
    Gelu,
    /// Its approximation by a hyperbolic tangent.
    GeluTanh,
}

/// Tensor names. `{}` stands for the number of a layer or, in experts, of an expert.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Names {
    /// What every name but the head's begins with, unless the checkpoint leaves it out.
    pub base: &'static str,
    /// Token embedding, `[vocab, hidden]`.
    pub embed: &'static str,
    /// Learned position embedding, `[positions, hidden]`.
    pub positions: Option<&'static str>,
    /// Output head, `[vocab, hidden]`.
    pub head: &'static str,
    /// The norm before the head.
    pub final_norm: &'static str,
    /// What every tensor of a layer begins with.
    pub layer: &'static str,
    /// The norms of a layer.
    pub norms: LayerNorms<Option<&'static str>>,
    /// The linear maps of a layer; those of the MLP where experts have not taken its place.
    pub linears: Vec<(Linear, Slot)>,
    /// The router of a layer with experts, `[experts, hidden]`.
    pub router: &'static str,
    /// What mixes experts (0) and MLP (1) where both are: the module of a weight `[2, hidden]` and a bias `[2]`.
    pub mix: &'static str,
    /// The linear maps of an expert.
    pub expert_linears: Vec<(Linear, Slot)>,
    /// How the rows of [`Linear::Qkv`] are laid out.
    pub qkv_layout: QkvLayout,
    /// Whether matrices are stored `[input channels, output channels]` (GPT-2).
    pub transposed: bool,
    /// The base and the head in the names of transformers' modules, which checkpoints that it writes may have, too.
    pub modules: [&'static str; 2],
}

/// One thing per norm of a layer, relative to the layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerNorms<T> {
    /// Before the attention.
    pub attn_in: T,
    /// The norm of the queries.
    pub query: T,
    /// The norm of the keys.
    pub key: T,
    /// After the attention, before its output joins the residual stream.
    pub attn_out: T,
    /// Before the MLP.
    pub mlp_in: T,
    /// After the MLP, before its output joins the residual stream.
    pub mlp_out: T,
}

impl<T> LayerNorms<T> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let Self {
            attn_in,
            query,
            key,
            attn_out,
            mlp_in,
            mlp_out,
        } = self;
        [attn_in, query, key, attn_out, mlp_in, mlp_out].into_iter()
    }
}

/// Where the weight of one linear map is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The module's name relative to the layer, without `.weight` and `.bias`.
    pub module: &'static str,
    /// Whether the map has a bias.
    pub bias: bool,
}

/// How rows of a fused q, k, v matrix are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvLayout {
    /// All queries, all keys, all values.
    Blocks,
    /// Query, key and value of the first head, then of the second.
    Heads,
}

impl Spec {
    /// `[rows, cols]` of a linear map's weight: `[output channels, input channels]`.
    pub fn shape(&self, at: LinearAt) -> [usize; 2] {
        let h = self.hidden_size;
        let experts = self.layers.get(at.layer).and_then(|layer| layer.experts);
        let f = match (at.expert, experts) {
            (Some(_), Some(experts)) => experts.intermediate_size,
            _ => self.intermediate_size,
        };
        let (q, kv) = (self.q_width(), self.kv_width());
        match at.linear {
            Linear::Q => [q, h],
            Linear::K | Linear::V => [kv, h],
            Linear::Qkv => [q + 2 * kv, h],
            Linear::O => [h, q],
            Linear::Gate | Linear::Up => [f, h],
            Linear::GateUp => [2 * f, h],
            Linear::Down => [h, f],
        }
    }

    /// Channels of the queries: `heads * head_dim`.
    pub fn q_width(&self) -> usize {
        self.attention.heads * self.attention.head_dim
    }

    /// Channels of the keys, and of the values: `kv_heads * head_dim`.
    pub fn kv_width(&self) -> usize {
        self.attention.kv_heads * self.attention.head_dim
    }

    /// Where a linear map is stored; `None` where the model has no such map.
    pub fn slot(&self, at: LinearAt) -> Option<Slot> {
        let experts = self.layers.get(at.layer)?.experts;
        let replaced = experts.is_some_and(|e| !e.residual);
        let mlp = matches!(
            at.linear,
            Linear::Gate | Linear::Up | Linear::GateUp | Linear::Down
        );
        let table = match (at.expert, experts) {
            (None, _) if !(replaced && mlp) => &self.names.linears,
            (Some(e), Some(experts)) if e < experts.count => &self.names.expert_linears,
            _ => return None,
        };
        Some(table.iter().find(|(linear, _)| *linear == at.linear)?.1)
    }

    /// All linear maps of the layers, in the order of the computation (embedding, router and head are not among them).
    pub fn linears(&self) -> impl Iterator<Item = LinearAt> + '_ {
        let in_layer = move |layer: usize| {
            let experts = self.layers[layer].experts.map_or(0, |e| e.count);
            std::iter::once(None)
                .chain((0..experts).map(Some))
                .flat_map(move |expert| {
                    Linear::ALL.map(|linear| LinearAt {
                        layer,
                        expert,
                        linear,
                    })
                })
        };
        (0..self.layers.len())
            .flat_map(in_layer)
            .filter(|&at| self.slot(at).is_some())
    }

    /// The name of a weight tensor outside experts, such as `model.layers.2.mlp.down_proj.weight`.
    pub fn tensor_name(&self, layer: usize, linear: Linear) -> Option<String> {
        self.tensor_name_at(LinearAt::dense(layer, linear))
    }

    /// The name of a weight tensor in the checkpoint.
    pub fn tensor_name_at(&self, at: LinearAt) -> Option<String> {
        Some(format!("{}.weight", self.module_name(at)?))
    }

    /// The name of a linear map's module in the checkpoint.
    pub(crate) fn module_name(&self, at: LinearAt) -> Option<String> {
        let module = self.slot(at)?.module;
        let prefix = self.layer_prefix(at.layer);
        Some(match at.expert {
            Some(e) => format!("{prefix}{}", module.replacen("{}", &e.to_string(), 1)),
            None => format!("{prefix}{module}"),
        })
    }

    pub(crate) fn layer_prefix(&self, layer: usize) -> String {
        let layer = self.names.layer.replacen("{}", &layer.to_string(), 1);
        format!("{}{layer}", self.names.base)
    }

    pub(crate) fn rope_tables(&self) -> RopeTables {
        RopeTables::new(&self.ropes, self.max_positions)
    }
}
