//! Training for Llama blocks: the backward pass, AdamW, checkpoints to go on from.
#![deny(unsafe_code)]

mod adamw;
mod attention;
pub mod checkpoint;
mod dense;
mod error;
mod gradient;
mod model;
mod norm;
mod params;
mod train;

pub use adamw::{AdamW, AdamWOptions, Schedule};
pub use checkpoint::Precision;
pub use error::{Error, Result};
pub use gradient::{Block, Gradient, Selection};
pub use model::{Batch, BlockTape, IGNORE, Tape, backward, forward, scores};
pub use params::{PARTS, Params, Part, Shape, Tensor};
pub use train::{gradient, step};
