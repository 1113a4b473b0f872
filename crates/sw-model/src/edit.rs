//! Coordinates of single weights, and sparse edits.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::site::Site;

/// A linear map of a layer. A model has some of them: what its checkpoint stores as one matrix is one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Linear {
    /// Queries.
    #[serde(rename = "q_proj")]
    Q,
    /// Keys.
    #[serde(rename = "k_proj")]
    K,
    /// Values.
    #[serde(rename = "v_proj")]
    V,
    /// Queries, keys and values in one matrix (Phi-3's `qkv_proj`, GPT-2's `c_attn`, GPT-NeoX's `query_key_value`).
    #[serde(rename = "qkv_proj")]
    Qkv,
    /// The attention's output projection.
    #[serde(rename = "o_proj")]
    O,
    /// The gate of the MLP.
    #[serde(rename = "gate_proj")]
    Gate,
    /// The up projection of the MLP.
    #[serde(rename = "up_proj")]
    Up,
    /// Gate (the first half of the rows) and up projection in one matrix (Phi-3).
    #[serde(rename = "gate_up_proj")]
    GateUp,
    /// The down projection of the MLP, where super weights are found.
    #[serde(rename = "down_proj")]
    Down,
}

impl Linear {
    /// All of them, in the order of the computation.
    pub const ALL: [Linear; 9] = [
        Linear::Q,
        Linear::K,
        Linear::V,
        Linear::Qkv,
        Linear::O,
        Linear::Gate,
        Linear::Up,
        Linear::GateUp,
        Linear::Down,
    ];
}

impl fmt::Display for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Linear::Q => "q_proj",
            Linear::K => "k_proj",
            Linear::V => "v_proj",
            Linear::Qkv => "qkv_proj",
            Linear::O => "o_proj",
            Linear::Gate => "gate_proj",
            Linear::Up => "up_proj",
            Linear::GateUp => "gate_up_proj",
            Linear::Down => "down_proj",
        })
    }
}

/// Which linear map of a model: `layers[layer].linear`, or that of one of its experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinearAt {
    /// Layer, from 0.
    pub layer: usize,
    /// The expert, in the mixtures of a sparse layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// The linear map.
    pub linear: Linear,
}

impl LinearAt {
    /// A map outside experts.
    pub fn dense(layer: usize, linear: Linear) -> Self {
        Self {
            layer,
            expert: None,
            linear,
        }
    }

    /// The site whose values this map reads. An expert reads the rows that the router gives it; what its down projection reads
    /// is no site.
    pub fn input_site(self) -> Option<Site> {
        Some(match (self.linear, self.expert) {
            (Linear::Q | Linear::K | Linear::V | Linear::Qkv, _) => Site::AttnIn(self.layer),
            (Linear::O, _) => Site::OIn(self.layer),
            (Linear::Gate | Linear::Up | Linear::GateUp, _) => Site::MlpIn(self.layer),
            (Linear::Down, None) => Site::DownIn(self.layer),
            (Linear::Down, Some(_)) => return None,
        })
    }
}

impl fmt::Display for LinearAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layers[{}].", self.layer)?;
        if let Some(expert) = self.expert {
            write!(f, "experts[{expert}].")?;
        }
        write!(f, "{}", self.linear)
    }
}

/// One scalar: `layers[layer].linear.weight[row = output channel, col = input channel]`, all counted from 0.
///
/// Rows and columns are those of the stored tensor; only GPT-2 stores it transposed, `[input channel, output channel]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WeightCoord {
    /// Layer, from 0.
    pub layer: usize,
    /// The linear map.
    pub linear: Linear,
    /// The expert, in mixtures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// Output channel.
    pub row: usize,
    /// Input channel.
    pub col: usize,
}

impl WeightCoord {
    /// The map it belongs to.
    pub fn at(&self) -> LinearAt {
        LinearAt {
            layer: self.layer,
            expert: self.expert,
            linear: self.linear,
        }
    }

    /// A scalar of a layer's `down_proj`.
    pub fn down(layer: usize, row: usize, col: usize) -> Self {
        Self {
            layer,
            linear: Linear::Down,
            expert: None,
            row,
            col,
        }
    }
}

impl fmt::Display for WeightCoord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}, {}]", self.at(), self.row, self.col)
    }
}

/// What happens to a weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EditOp {
    /// It becomes this value (0 prunes it).
    Set(f32),
    /// It is multiplied by this factor.
    Scale(f32),
}

/// One sparse edit. Edits of the same scalar apply in order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightEdit {
    /// Which scalar.
    pub coord: WeightCoord,
    /// What happens to it.
    pub op: EditOp,
}

impl WeightEdit {
    /// Sets the scalar to zero.
    pub fn prune(coord: WeightCoord) -> Self {
        Self {
            coord,
            op: EditOp::Set(0.0),
        }
    }
}
