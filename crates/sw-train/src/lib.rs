//! Training for Llama blocks: the backward pass, AdamW, checkpoints to go on from.
//!
//! Two backward passes are here. [`mapped`] reads an opened model whose weights stay on disk, for gradient [screening](screen)
//! and everything else that is done to real models; the other ([`backward`]) has a model of its own in f32, every weight in
//! memory, and grows the checkpoint of this repository bit for bit.
#![deny(unsafe_code)]

mod adamw;
mod attention;
pub mod checkpoint;
mod dense;
mod draw;
mod error;
mod gradient;
pub mod grow;
pub mod mapped;
mod model;
mod norm;
mod params;
mod screen;
pub mod tiles;
mod train;
pub mod tune;

pub use adamw::{AdamW, AdamWOptions, Schedule};
pub use checkpoint::Precision;
pub use error::{Error, Result};
pub use gradient::{Block, Gradient, Selection};
pub use model::{Batch, BlockTape, IGNORE, Tape, backward, forward, scores};
pub use params::{PARTS, Params, Part, Shape, Tensor};
pub use screen::{Screened, screen};
pub use train::{gradient, step};
