//! Coordinates of single weights, and sparse edits.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A linear map of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// The attention's output projection.
    #[serde(rename = "o_proj")]
    O,
    /// The gate of the MLP.
    #[serde(rename = "gate_proj")]
    Gate,
    /// The up projection of the MLP.
    #[serde(rename = "up_proj")]
    Up,
    /// The down projection of the MLP, where super weights are found.
    #[serde(rename = "down_proj")]
    Down,
}

impl Linear {
    /// All of them, in the order of the computation.
    pub const ALL: [Linear; 7] = [
        Linear::Q,
        Linear::K,
        Linear::V,
        Linear::O,
        Linear::Gate,
        Linear::Up,
        Linear::Down,
    ];
}

impl fmt::Display for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Linear::Q => "q_proj",
            Linear::K => "k_proj",
            Linear::V => "v_proj",
            Linear::O => "o_proj",
            Linear::Gate => "gate_proj",
            Linear::Up => "up_proj",
            Linear::Down => "down_proj",
        })
    }
}

/// One scalar: `layers[layer].linear.weight[row = output channel, col = input channel]`, all counted from 0.
///
/// Where a checkpoint stores several maps in one tensor, rows count within the map, not within the tensor.
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
        write!(f, "layers[{}].", self.layer)?;
        if let Some(expert) = self.expert {
            write!(f, "experts[{expert}].")?;
        }
        write!(f, "{}[{}, {}]", self.linear, self.row, self.col)
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
