//! What a detection found, in the shape other programs read.

use serde::{Deserialize, Serialize};
use sw_model::{Linear, LinearAt, WeightCoord};

use crate::{
    census::{Census, Relation},
    options::Mode,
    proof::{Effects, Proof},
    proposal::{Proposal, RowUnit},
};

/// The largest |value| of a `[tokens, channels]` matrix, and where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// The value, signed.
    pub value: f32,
    /// Token, from 0.
    pub token: usize,
    /// Channel, from 0.
    pub channel: usize,
    /// The median over the channels of their largest |value|: what is usual here.
    pub median: f32,
}

/// The largest values at the input and the output of one layer's `down_proj` (Figures 3 and 10 of the paper).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerProfile {
    /// Layer, from 0.
    pub layer: usize,
    /// Input of `down_proj`; in a mixture the largest over its experts.
    pub down_in: Peak,
    /// Output of `down_proj`; in a mixture the experts' weighted sum.
    pub down_out: Peak,
}

/// What produces an output spike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// One weight: most of one output channel's spike is one input times this weight.
    Scalar,
    /// One input neuron (a column): it makes several output channels spike.
    Neuron,
    /// One output channel (a row): many inputs contribute, none of them most of it.
    Row,
}

/// What the proof says about a candidate; thresholds in [`ProofOptions`](crate::ProofOptions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Zeroing it alone damages the model.
    #[serde(rename = "decisive")]
    Decisive,
    /// Zeroing it alone does not, but it takes part in joint damage.
    #[serde(rename = "decisive jointly")]
    DecisiveJointly,
    /// Neither.
    #[serde(rename = "inert")]
    Inert,
}

/// One weight that stood out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Layer, from 0.
    pub layer: usize,
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// The linear map that it is.
    #[serde(default = "down")]
    pub linear: Linear,
    /// The expert, in mixtures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// Output channel: the first index of the stored weight.
    pub row: usize,
    /// Input channel: the second index.
    pub col: usize,
    /// The weight.
    pub value: f32,
    /// In which round it stood out, from 1; before it, the candidates of earlier rounds were zeroed.
    pub round: usize,
    /// The input of its linear map, at the token where the weight's part of the output is largest.
    pub down_in: f32,
    /// The output of its linear map there.
    pub down_out: f32,
    /// At which token.
    pub token: usize,
    /// `down_in * value / down_out`: this weight's part of the output spike.
    pub share: f32,
    /// What the spike is the work of.
    pub unit: Unit,
    /// Whether it is below the thresholds, and only the strongest there is.
    pub weak: bool,
    /// What the proof says; `null` without one.
    pub verdict: Option<Verdict>,
    /// How many inputs, largest contributions first, it takes to make half of the output spike.
    pub columns_for_half: usize,
    /// `|down_in|` over the median of the channels' largest values.
    pub in_ratio: f32,
    /// `|down_out|` likewise.
    pub out_ratio: f32,
    /// What the proof measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects: Option<Effects>,
    /// How its effect depends on other weights'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relations: Vec<Relation>,
}

/// What reports of earlier versions are about.
fn down() -> Linear {
    Linear::Down
}

impl Candidate {
    /// The linear map it belongs to.
    pub fn at(&self) -> LinearAt {
        self.coord().at()
    }

    /// The weight's coordinate.
    pub fn coord(&self) -> WeightCoord {
        WeightCoord {
            layer: self.layer,
            linear: self.linear,
            expert: self.expert,
            row: self.row,
            col: self.col,
        }
    }
}

/// Super weights that write to the same output channel of the residual stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelGroup {
    /// The output channel.
    pub row: usize,
    /// Indices into [`Report::super_weights`].
    pub members: Vec<usize>,
}

/// Super weights that read the same input neuron.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeuronGroup {
    /// Layer of the neuron.
    pub layer: usize,
    /// Its expert, in mixtures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// The input channel.
    pub col: usize,
    /// Indices into [`Report::super_weights`].
    pub members: Vec<usize>,
}

/// The two ways in which the super weights of a model belong together; groups of one are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// By shared output channel.
    pub output_channel: Vec<ChannelGroup>,
    /// By shared input neuron.
    pub input_neuron: Vec<NeuronGroup>,
}

impl Groups {
    /// Groups a list of super weights; in the order of their first members.
    pub fn of(super_weights: &[Candidate]) -> Self {
        let mut groups = Self::default();
        for (i, c) in super_weights.iter().enumerate() {
            match groups.output_channel.iter_mut().find(|g| g.row == c.row) {
                Some(group) => group.members.push(i),
                None => groups.output_channel.push(ChannelGroup {
                    row: c.row,
                    members: vec![i],
                }),
            }
            let same =
                |g: &&mut NeuronGroup| (g.layer, g.expert, g.col) == (c.layer, c.expert, c.col);
            match groups.input_neuron.iter_mut().find(same) {
                Some(group) => group.members.push(i),
                None => groups.input_neuron.push(NeuronGroup {
                    layer: c.layer,
                    expert: c.expert,
                    col: c.col,
                    members: vec![i],
                }),
            }
        }
        groups.output_channel.retain(|g| g.members.len() > 1);
        groups.input_neuron.retain(|g| g.members.len() > 1);
        groups
    }
}

/// Which threshold was applied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Absolute or relative, never automatic.
    pub mode: Mode,
    /// The threshold's value in that mode.
    pub value: f32,
}

/// What a detection found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The checkpoint's directory.
    pub model: String,
    /// The prompt; `null` where token ids were given.
    pub prompt: Option<String>,
    /// After a census, what is decisive, alone or jointly, of any linear map, most costly first; before one, every accepted
    /// spike, in the order of acceptance, without a verdict.
    pub super_weights: Vec<Candidate>,
    /// After a census, accepted spikes that are not decisive.
    #[serde(default)]
    pub inert: Vec<Candidate>,
    /// Weights of later layers that cancel a super activation, and are not decisive themselves.
    pub cancellers: Vec<Candidate>,
    /// Every weight that was proposed, and what zeroing it costs on a short text.
    #[serde(default)]
    pub candidates: Vec<Proposal>,
    /// Outputs that stand out although no single weight makes a tenth of them (`min_share`).
    #[serde(default)]
    pub rows: Vec<RowUnit>,
    /// The largest values of the first round, layer by layer.
    pub profile: Vec<LayerProfile>,
    /// The strongest candidate, where none was accepted.
    pub weak_candidate: Option<Candidate>,
    /// Which threshold was applied.
    pub threshold: Applied,
    /// Rounds that were run, the last one (in which nothing new stood out) included.
    pub rounds: usize,
    /// Whether the last round found nothing new, and no limit of the census left out a weight that may be decisive.
    pub complete: bool,
    /// The tokens that were run.
    pub tokens: Vec<u32>,
    /// How the super weights belong together.
    pub groups: Groups,
    /// What the proof measured for the super weights together; `null` without one.
    pub proof: Option<Proof>,
    /// How the census came to its list; `null` without one.
    #[serde(default)]
    pub census: Option<Census>,
}

impl Report {
    /// The accepted super weights, or else the weak candidate: what an experiment should prune.
    pub fn strongest(&self) -> &[Candidate] {
        if self.super_weights.is_empty() {
            self.weak_candidate.as_slice()
        } else {
            &self.super_weights
        }
    }

    /// The report under the names that model and prompt were asked for by: the search itself knows a folder and token ids.
    #[must_use]
    pub fn named(mut self, model: impl Into<String>, prompt: Option<String>) -> Self {
        self.model = model.into();
        self.prompt = prompt;
        self
    }
}
