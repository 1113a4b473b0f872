//! Training for Llama blocks: the backward pass, AdamW, and the micro-world in which the embedded checkpoint is grown.
//!
//! The library never prints: progress is reported through a callback.
#![deny(unsafe_code)]

mod adamw;
mod attention;
mod dense;
mod error;
mod gradient;
mod model;
mod norm;
mod params;
pub mod world;

pub use adamw::{AdamW, AdamWOptions, Schedule};
pub use error::{Error, Result};
pub use gradient::{Block, Gradient, Selection};
pub use model::{Batch, BlockTape, IGNORE, Tape, backward, forward, scores};
pub use params::{PARTS, Params, Part, Shape, Tensor};
