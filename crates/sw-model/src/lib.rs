//! Hugging Face checkpoints on CPUs: `config.json` becomes a [`Spec`], and one forward pass with typed sites runs it.
//!
//! ```text
//! config.json --family table--> Spec --+
//! *.safetensors --mmap--------> Mat ---+--> Model --forward--> rows after the final norm --score--> log-probabilities
//! tokenizer.json -------------> Tokenizer      ^ Hook sees (or changes) [tokens, channels] at every Site
//! ```
//!
//! - **Model differences are data.** A family (module [`family`]) is a table from config keys and tensor names to a
//!   [`Spec`]; it contains no arithmetic. The forward pass exists once, in `forward.rs` and `block.rs`.
//! - **A weight is a base plus an overlay.** [`Model::edited`] returns a model that shares every byte of the checkpoint
//!   and differs in the named scalars only; a pruned weight is a true zero.
//! - **Coordinates** follow the stored tensors: `weight[row = output channel, col = input channel]`, counted from 0.
//!
//! Deliberately absent: printing, downloading, evaluation.
//!
#![doc = ""]
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod block;
mod bos;
mod config;
mod edit;
mod error;
mod experts;
pub mod family;
mod fingerprint;
mod forward;
mod generate;
mod gguf;
mod guard;
mod kv;
mod layout;
mod locate;
mod model;
mod norm;
mod open;
mod parts;
mod passes;
mod product;
mod rope;
mod sample;
mod score;
mod site;
mod soft_prompt;
mod spec;
mod tensor;
mod tokenizer;
mod weights;

pub use bos::{Bos, BosRule, NoBos};
pub use edit::{EditOp, Linear, LinearAt, WeightCoord, WeightEdit};
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use forward::{Prefix, Seq};
pub use generate::Decoding;
pub use gguf::GgufFile;
pub use guard::guarded;
pub use kv::Kv;
pub use locate::{Repo, locate_dataset, locate_model};
pub use model::Model;
pub use open::{BESIDE, Decoder, OpenOptions};
pub use product::{Input, Product, Weight};
pub use rope::{RopeScaling, RopeSpec};
pub use sample::Sampling;
pub use score::TokenScore;
pub use site::{Hook, SeqRange, Site, SiteView};
pub use spec::{
    Activation, Attention, Experts, LayerNorms, LayerSpec, Names, Norm, QkNorm, QkvLayout, Slot,
    Spec,
};
pub use sw_tensor::{Coding, Dtype, Mat, Precision};
pub use tensor::TensorAt;
pub use tokenizer::Tokenizer;
