//! What distinguishes one model from another, as data.

use crate::{
    edit::Linear,
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
    /// Channels between the up and the down projection.
    pub intermediate_size: usize,
    /// Positions the model was made for; longer sequences are refused.
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
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Where the weights are.
    pub names: Names,
}

/// What may differ from layer to layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerSpec {
    /// A query sees keys at most `window - 1` positions back; `None`: all of them.
    pub window: Option<usize>,
    /// The rotary embedding of this layer: an index into [`Spec::ropes`]; `None`: no rotation.
    pub rope: Option<usize>,
}

/// The kind of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Norm {
    /// Root mean square, times a weight.
    Rms {
        /// Added to the mean square.
        eps: f32,
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
    /// Multiplies the scores; usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// The non-linearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
}

/// Tensor names. `{}` stands for the number of a layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Names {
    /// Token embedding, `[vocab, hidden]`.
    pub embed: &'static str,
    /// Output head, `[vocab, hidden]`.
    pub head: &'static str,
    /// The norm before the head.
    pub final_norm: &'static str,
    /// What every tensor of a layer begins with.
    pub layer: &'static str,
    /// The norm before the attention, relative to the layer.
    pub attn_in_norm: Option<&'static str>,
    /// The norm before the MLP, relative to the layer.
    pub mlp_in_norm: Option<&'static str>,
    /// `q_proj` and its sisters, relative to the layer, without `.weight` and `.bias`.
    pub q: Slot,
    /// See `q`.
    pub k: Slot,
    /// See `q`.
    pub v: Slot,
    /// See `q`.
    pub o: Slot,
    /// See `q`; `None` where the MLP has no gate.
    pub gate: Option<Slot>,
    /// See `q`.
    pub up: Slot,
    /// See `q`.
    pub down: Slot,
}

/// Where the weight of one linear map is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The module's name relative to the layer.
    pub module: &'static str,
    /// Whether the map has a bias.
    pub bias: bool,
}

impl Slot {
    /// A module of its own.
    pub const fn own(module: &'static str, bias: bool) -> Self {
        Self { module, bias }
    }
}

impl Spec {
    /// `[rows, cols]` of a linear map's weight: `[output channels, input channels]`.
    pub fn shape(&self, linear: Linear) -> [usize; 2] {
        let (h, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.q_width(), self.kv_width());
        match linear {
            Linear::Q => [q, h],
            Linear::K | Linear::V => [kv, h],
            Linear::O => [h, q],
            Linear::Gate | Linear::Up => [f, h],
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
    pub fn slot(&self, linear: Linear) -> Option<Slot> {
        Some(match linear {
            Linear::Q => self.names.q,
            Linear::K => self.names.k,
            Linear::V => self.names.v,
            Linear::O => self.names.o,
            Linear::Gate => return self.names.gate,
            Linear::Up => self.names.up,
            Linear::Down => self.names.down,
        })
    }

    /// The name of a weight tensor in the checkpoint, such as `model.layers.2.mlp.down_proj.weight`.
    pub fn tensor_name(&self, layer: usize, linear: Linear) -> Option<String> {
        let slot = self.slot(linear)?;
        Some(format!(
            "{}{}.weight",
            self.layer_prefix(layer),
            slot.module
        ))
    }

    pub(crate) fn layer_prefix(&self, layer: usize) -> String {
        self.names.layer.replacen("{}", &layer.to_string(), 1)
    }

    pub(crate) fn rope_tables(&self) -> RopeTables {
        RopeTables::new(&self.ropes, self.max_positions)
    }
}
