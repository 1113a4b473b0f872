//! Mixtures of experts in a wide lore: what PR-MoE and Mixture-of-Students share. `run` trains one model, `bench` asks it.

mod bench;
mod compare;
mod cost;
mod facts;
pub(super) mod mos;
pub(super) mod pr_moe;
mod published;
mod rows;
mod run;

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use crate::lab::Lab;

/// Facts of the lore, as in the pilot.
const FACTS: usize = 1536;
/// Steps of a training; in half of them the facts have hardly begun to be learned.
const STEPS: usize = 1200;
/// Sequences of a step, and predicted tokens of each.
const SEQUENCES: usize = 8;
const LEN: usize = 64;
/// Held-out sequences, unless `--limit` says otherwise.
const TEXTS: usize = 64;

/// Where trained models are kept: in the output folder, where the next run finds them.
fn folder(lab: &Lab) -> PathBuf {
    let out = lab.inputs.out.as_deref();
    out.unwrap_or(lab.scratch.path()).join("mixtures")
}

fn bar(jobs: usize, name: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(jobs as u64);
    let style = "{msg} {bar:30} {pos} of {len} trainings  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("a constant"));
    bar.with_message(name)
}
