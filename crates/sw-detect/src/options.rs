//! How to search.

use serde::{Deserialize, Serialize};

/// Which threshold decides whether a value stands out; see `docs/detection.md` for the definitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Relative: it does not depend on the scale of a model's residual stream.
    #[default]
    Auto,
    /// `|value| > absolute`, as the paper's released code has it.
    Absolute,
    /// `|value| > relative * median`.
    Relative,
}

/// How to search for super weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DetectOptions {
    /// Which threshold applies.
    pub mode: Mode,
    /// The absolute threshold on |input| and |output|; 50 in the released code.
    pub absolute: f32,
    /// The relative threshold: how many times the median of the channels' largest values.
    pub relative: f32,
    /// A candidate must contribute at least this share of the output spike.
    pub min_share: f32,
    /// From this share on the output is one weight's doing, below it the whole row's.
    pub scalar_share: f32,
    /// In later rounds, an output below this share of one already accepted at the same matrix is what is left of it.
    pub suppressed: f32,
    /// Rounds of zeroing and running again, at most; 0 for as many as there are.
    pub max_rounds: usize,
}

impl Default for DetectOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            absolute: 50.0,
            relative: 8.0,
            min_share: 0.1,
            scalar_share: 0.5,
            suppressed: 0.02,
            max_rounds: 0,
        }
    }
}
