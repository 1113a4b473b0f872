//! Training for Llama blocks: the backward pass, AdamW, and the micro-world in which the embedded checkpoint is grown.
//!
//! The library never prints: progress is reported through a callback.
#![deny(unsafe_code)]

mod adamw;
mod attention;
pub mod checkpoint;
mod dense;
mod error;
mod gradient;
mod model;
pub mod nano;
mod norm;
mod params;
mod train;
pub mod world;

pub use adamw::{AdamW, AdamWOptions, Schedule};
pub use checkpoint::Precision;
pub use error::{Error, Result};
pub use gradient::{Block, Gradient, Selection};
pub use model::{Batch, BlockTape, IGNORE, Tape, backward, forward, scores};
pub use params::{PARTS, Params, Part, Shape, Tensor};
pub use train::{gradient, step};
