//! Finds the super weights of a language model with forward passes.
#![forbid(unsafe_code)]

mod error;
mod options;
mod prompt;
mod proof;
mod report;
mod scan;
mod search;
mod weight;

pub use error::{Error, Result};
pub use options::{DetectOptions, Mode};
pub use prompt::{DEFAULT_PROMPT, PROMPTS, PROOF_TEXTS, encode, proof_texts};
pub use proof::{Control, Effect, Effects, Proof, ProofOptions, prove, prove_candidates};
pub use report::{
    Applied, Candidate, ChannelGroup, Groups, LayerProfile, NeuronGroup, Peak, Report, Unit,
    Verdict,
};
pub use search::{detect, detect_prompt};
