//! Finds the super weights of a language model with forward passes.
#![forbid(unsafe_code)]

mod error;
mod options;
mod prompt;
mod proof;
mod report;
mod scan;
mod search;

pub use error::{Error, Result};
pub use options::{DetectOptions, Mode};
pub use prompt::{DEFAULT_PROMPT, PROMPTS, encode};
pub use proof::Effects;
pub use report::{
    Applied, Candidate, ChannelGroup, Groups, LayerProfile, NeuronGroup, Peak, Report, Unit,
    Verdict,
};
pub use search::{detect, detect_prompt};
