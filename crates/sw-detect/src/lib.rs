//! Finds the super weights of a language model with forward passes.
#![forbid(unsafe_code)]

mod directory;
mod error;
mod experts;
mod invariance;
mod options;
mod prompt;
mod proof;
mod rank;
mod report;
mod scan;
mod search;
mod sink;
mod trace;
mod weight;

pub use directory::{Directory, Entry, KnownModel, Match, Role, Verification, Verified};
pub use error::{Error, Result};
pub use experts::{ExpertOptions, ExpertOutput, super_experts};
pub use invariance::{Invariance, Seen, invariance};
pub use options::{DetectOptions, Mode};
pub use prompt::{DEFAULT_PROMPT, PROMPTS, PROOF_TEXTS, encode, proof_texts};
pub use proof::{Control, Effect, Effects, Proof, ProofOptions, prove, prove_candidates};
pub use rank::{RankOptions, RankedRow, rank_rows};
pub use report::{
    Applied, Candidate, ChannelGroup, Groups, LayerProfile, NeuronGroup, Peak, Report, Unit,
    Verdict,
};
pub use search::{detect, detect_prompt};
pub use sink::{HeadSink, SinkOptions, Sinks, sinks};
pub use trace::{Trace, TracePoint, pruned, trace};
