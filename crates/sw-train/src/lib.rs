//! Training for Llama blocks, perhaps with experts: the backward pass, AdamW, checkpoints to go on from.
//!
//! Two backward passes are here. [`mapped`] reads an opened model whose weights stay on disk, for gradient [screening](screen)
//! and everything else that is done to real models; the other ([`backward`]) has a model of its own in f32, every weight in
//! memory, and grows the checkpoint of this repository bit for bit.
#![deny(unsafe_code)]

mod adamw;
mod attention;
mod begin;
pub mod checkpoint;
mod dense;
pub mod distill;
mod draw;
mod error;
mod gradient;
pub mod grow;
pub mod mapped;
pub mod mixture;
mod model;
mod norm;
mod params;
mod screen;
mod swiglu;
pub mod tiles;
mod train;
pub mod tune;

pub use adamw::{AdamW, AdamWOptions, Schedule};
pub use checkpoint::Precision;
pub use distill::Distill;
pub use error::{Error, Result};
pub use gradient::{Block, Gradient, Selection};
pub use mixture::{Experts, Load, Routing};
pub use model::{Batch, BlockTape, IGNORE, Tape, backward, forward, scores};
pub use params::{PARTS, Params, Part, Shape, Tensor};
pub use screen::{Screened, screen};
pub use train::{Losses, Objective, gradient, objective_gradient, step};
