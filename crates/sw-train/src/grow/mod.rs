//! Learning whether to grow (LW2G, arXiv 2409.18860): tasks come one after the other to a frozen encoder, and each either gets a
//! new set of prompts or goes on with an old one.
//!
//! A set that is used again may only change where the tasks before it do not look: its gradient loses its part inside the
//! [`Subspace`] that their features span (hard projection, as in gradient projection memory). The angle between the gradient
//! and what is left of it, the [`Hindrance`], says how much that costs; LW2G adds a set where it costs more, with every set
//! there is, than the features of the encoder's pre-training cost a fresh set. [`Policy`] has this rule, its reverse, and
//! what to compare them with; [`Learner`] takes an [`Encoder`]'s tasks in their order.
//!
//! Everything here is in f64, on one thread, and decided by the recipe's seed. All rows are prompts or features in the index of
//! the prompt: the channels that a prompt row is multiplied with.
//!
//! ```
//! use sw_train::grow::{Controlled, ControlledOptions, Learner, Recipe, TaskSpec};
//!
//! # fn main() -> sw_train::Result<()> {
//! let tasks = TaskSpec::unlike(3);
//! let encoder = Controlled::new(7, &tasks, &ControlledOptions::default())?;
//! let mut learner = Learner::new(&encoder, Recipe::default())?;
//! for task in 0..tasks.len() {
//!     let learned = learner.learn(task)?;
//!     println!("task {task} is in set {}, {}", learned.set, if learned.grew { "a new one" } else { "an old one" });
//! }
//! println!("{:.2} of the answers are right", learner.scores()?.class_incremental);
//! # Ok(())
//! # }
//! ```

mod controlled;
mod eigen;
mod encoder;
mod hindrance;
mod learner;
mod optimiser;
mod policy;
mod soft;
mod subspace;

pub use controlled::{Controlled, ControlledOptions, Cue, TaskSpec};
pub use encoder::{Encoder, Samples, Split};
pub use hindrance::{Hindrance, hindrance, null_angle};
pub use learner::{Learned, Learner, Passes, PromptSet, Recipe, Scores};
pub use optimiser::{Optimiser, Projection};
pub use policy::Policy;
pub use soft::{Question, SoftPrompts};
pub use subspace::Subspace;
