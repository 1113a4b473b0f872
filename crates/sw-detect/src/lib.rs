//! Finds the super weights of a language model with forward passes, and says what they do.
//!
//! ```text
//! prompt --forward--> Scan: per layer, the largest input and output of down_proj, and what made it
//!                       |  accept the earliest, zero it, resume at its layer, until nothing new stands out
//!                       v
//!                    Report: spikes, cancellers, profile --census--> what zeroing costs, relations, verdicts
//!                       |                              --prove---> further effects beside controls
//!                       |
//!                       +--> Directory: compare with what is known, add to it
//! ```
//!
//! With `x` the input and `y = x W^T` the output of a layer's `down_proj`, a super weight is an entry `W[row, col]` for
//! which `x[t, col]` and `y[t, row]` are both outliers at the same token `t`: the one product makes most of the sum. So
//! the column is the channel of the input spike and the row that of the output spike.
//!
//! - [`detect`] searches, [`measure`] takes coordinates that somebody names;
//! - [`census`] zeroes what spikes and gradients propose, in any linear map, and tells the decisive from the inert: size is not
//!   importance; [`prove`] measures more of each candidate;
//! - [`rank_rows`] is a second opinion from the weights alone, [`super_experts`] the question for mixtures;
//! - [`profile`], [`trace`], [`sinks`] and [`invariance`] describe the behaviour around them, [`pruned`] is the model without them;
//! - [`Directory`] lists what is known of published checkpoints.
//!
//! All reports serialize; their keys are part of the interface. Deliberately absent: printing, and any change of a
//! checkpoint. Definitions and thresholds are in `docs/detection.md`.
//!
#![doc = ""]
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod census;
mod directory;
mod error;
mod experts;
mod given;
mod invariance;
mod measure;
mod options;
mod prompt;
mod proof;
mod proposal;
mod rank;
mod report;
mod scan;
mod search;
mod sink;
mod thresholds;
mod trace;
mod weight;

pub use census::{Census, CensusOptions, Kind, Relation, Stage, WeightSet, census};
pub use directory::{Directory, Entry, KnownModel, Match, Role, Verification, Verified};
pub use error::{Error, Result};
pub use experts::{ExpertOptions, ExpertOutput, super_experts};
pub use given::coordinates;
pub use invariance::{Invariance, Seen, invariance};
pub use measure::measure;
pub use options::{DetectOptions, Mode};
pub use prompt::{DEFAULT_PROMPT, PROMPTS, PROOF_TEXTS, census_texts, encode, proof_texts};
pub use proof::{Control, Effect, Effects, Proof, ProofOptions, prove, prove_candidates};
pub use proposal::{Proposal, RowUnit, Source, screen};
pub use rank::{RankOptions, RankedRow, rank_rows};
pub use report::{
    Applied, Candidate, ChannelGroup, Groups, LayerProfile, NeuronGroup, Peak, Report, Unit,
    Verdict,
};
pub use search::{detect, detect_prompt, profile};
pub use sink::{HeadSink, SinkOptions, Sinks, sinks};
pub use trace::{Trace, TracePoint, pruned, trace};
