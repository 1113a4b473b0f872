//! Fine-tuning of opened models: everything, linear maps only, chosen tiles (Sparse Matrix Tuning, arXiv 2405.15525), LoRA,
//! DoRA and soft prompts, all by one [`Trainer`].

mod adapter;
mod blocks;
mod checkpoint;
mod choose;
mod files;
mod order;
mod prompt;
mod state;
mod trainer;

pub use adapter::{Adapted, Adapter, AdapterOptions};
pub use blocks::{BlockGradients, Param};
pub use checkpoint::write_checkpoint;
pub use choose::{Budget, Chosen, Example, TileOptions, Warmup, choose_tiles};
pub use files::{Change, TileValues, write_adapters};
pub use order::examples_of_step;
pub use prompt::{PromptInit, PromptOptions, write_prompt};
pub use trainer::{Bytes, Step, Trained, Trainer, merged, unmerged};
