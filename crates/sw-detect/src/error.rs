//! Errors of detection: each one line, naming what, where, expected and found.

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a detection, a proof or a comparison could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be run or edited.
    #[error(transparent)]
    Model(#[from] sw_model::Error),
    /// The prompt has no tokens.
    #[error(
        "prompt {prompt:?}: expected at least {expected} token(s), found {found}; give a longer text or token ids"
    )]
    Prompt {
        /// The text, or the ids where there was no text.
        prompt: String,
        /// Tokens that are needed.
        expected: usize,
        /// Tokens there are.
        found: usize,
    },
    /// A layer that the model does not have.
    #[error("layer {layer}: expected 0 to {}, found {layer}; the model has {layers} layers", layers.saturating_sub(1))]
    Layer {
        /// The layer asked for.
        layer: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// A channel of the residual stream that the model does not have.
    #[error("channel {channel}: expected 0 to {}, found {channel}; the residual stream has {channels} channels", channels.saturating_sub(1))]
    Channel {
        /// The channel asked for.
        channel: usize,
        /// Channels there are.
        channels: usize,
    },
    /// A weight whose linear map is not seen from outside.
    #[error(
        "{coord}: expected a weight of a dense layer or of an expert's down_proj, whose inputs are seen; name another coordinate"
    )]
    Unmeasured {
        /// The coordinate.
        coord: String,
    },
    /// A weight of an expert that no token was routed to.
    #[error(
        "{coord}: expected a token that is routed to this expert, found none; take another prompt"
    )]
    Unseen {
        /// The coordinate.
        coord: String,
    },
    /// The ranking by weights alone needs gate, up and down projections.
    #[error(
        "{family} model, layer {layer}: expected gate, up and down projections, found no gated MLP; rank such a model by detection with a prompt"
    )]
    NotGated {
        /// The model's family.
        family: String,
        /// The layer.
        layer: usize,
    },
    /// The gradients of a text could not be computed.
    #[error("screening by gradients: {problem}")]
    Screening {
        /// What stopped it.
        problem: String,
    },
    /// A mixture of experts was expected.
    #[error("{family} model: expected a mixture of experts, found dense layers only")]
    NoExperts {
        /// The model's family.
        family: String,
    },
    /// Coordinates that cannot be read.
    #[error("{given}: {problem}")]
    Given {
        /// The file or the text.
        given: String,
        /// Expected and found.
        problem: String,
    },
    /// A directory file is not what it should be.
    #[error("directory of super weights: {problem}")]
    Directory {
        /// Where, expected and found.
        problem: String,
    },
}
