//! What is done to a language model: typed interventions on its weights and activations, and quantized checkpoints.
//!
//! ```text
//! Model + [Intervention] --Applied--> edited weights + hooks   (in memory; the checkpoint stays as it is)
//! Model + Export         --Plan-----> a new checkpoint         (on disk; one matrix in memory at a time)
//! ```
//!
//! - **Experiments are values.** An [`Intervention`] is what plans hold, what results record, and what tests compare.
//! - **Both ways give the same values**: a matrix that is quantized in memory and one that is written to disk.
//!
//! Deliberately absent: tasks, metrics and data files. Where an intervention needs texts, the caller passes a reader.
#![forbid(unsafe_code)]

mod calibrate;
mod compare;
mod error;
mod export;
mod held;
mod inputs;
mod intervention;
mod repair;

pub use calibrate::{Calibrated, Check, calibrate, check, judges};
pub use error::{Error, Result};
pub use export::{
    Export, Exporting, Format, Outcome, Override, PackedReader, Plan, Rule, TensorPlan,
};
pub use held::{Bought, HeldMore, hold_more};
pub use inputs::{LinearInputs, simplest};
pub use intervention::{
    ActivationSite, Applied, Arithmetic, Constant, Intervention, Largest, PickAt, Ranges,
    ReadTexts, SetWeight, largest,
};
pub use repair::{RowRepair, SpikeInputs};
