//! The folder that a training goes on from: whose it is, what was measured, what was trained so far.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sw_model::Model;
use sw_tensor::files;
use sw_train::tune::{Example, Trained, Trainer};

use super::{MethodName, Tune};
use crate::{opening::fnv, program::write_whole};

/// Bytes of a recipe or a log, at most.
const MOST_STATE: u64 = 1 << 30;

/// The files of a state, in the order in which they are removed: where only the first are gone, the rest is that of a run which has not
/// saved yet. Without its recipe none of them counts: it is written before the first step, and removed last.
const FILES: [&str; 4] = [STATE, LOG, SELECTION, RECIPE];
/// The tiles that were chosen.
pub(super) const SELECTION: &str = "selection.json";
/// What was measured.
const LOG: &str = "log.json";
/// What is trained, and the optimizer's moments.
const STATE: &str = "state.safetensors";
/// Whose state it is.
const RECIPE: &str = "recipe.json";

/// What happened so far, measured on held-out texts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) step: usize,
    /// Mean loss over the steps since the last line, in nats per token.
    pub(super) loss: f64,
    /// Loss on held-out texts.
    pub(super) held_out: f64,
}

/// The folder that a training goes on from.
pub(super) struct State {
    pub(super) dir: PathBuf,
    pub(super) recipe: Value,
}

impl State {
    /// Opens `OUT.state`, or makes it; one of another recipe is refused.
    pub(super) fn open(
        tune: &Tune,
        method: MethodName,
        model: &Model,
        train: &[Example],
        held_out: &[Example],
    ) -> Result<State> {
        let mut dir = tune.out.as_os_str().to_owned();
        dir.push(".state");
        let dir = PathBuf::from(dir);
        let mut recipe = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": model.fingerprint()?,
            "kernel": sw_tensor::isa_name(),
            "method": method,
            "training": tune.training,
            "examples": train.len(),
            "digest": format!("{:016x}", digest(train, held_out)),
            "freeze_super_weights": tune.freeze_super_weights,
        });
        match method {
            MethodName::Smt => {
                recipe["tiles"] = json!(tune.tiles.options(model, tune.training.seed)?);
                recipe["selection"] = json!(tune.tiles.given()?);
            }
            MethodName::Lora | MethodName::Dora => {
                recipe["rank"] = json!(tune.rank);
                recipe["alpha"] = json!(tune.alpha);
                recipe["targets"] = json!(tune.targets()?);
            }
            MethodName::Prompt => recipe["prompt"] = json!(tune.prompt.options()),
            MethodName::Linear | MethodName::Full => {}
        }
        // As it reads back.
        let recipe: Value = serde_json::from_str(&recipe.to_string())?;
        let path = dir.join(RECIPE);
        if !path.is_file() {
            // A run was killed while it began or removed them: whose they are is not known.
            for name in FILES.iter().filter(|name| **name != RECIPE) {
                let path = dir.join(name);
                if path.symlink_metadata().is_ok() {
                    let removed = std::fs::remove_file(&path);
                    removed.with_context(|| path.display().to_string())?;
                }
            }
        } else {
            let found = files::read_text_at_most(&path, MOST_STATE)
                .with_context(|| path.display().to_string())?;
            let same = serde_json::from_str::<Value>(&found).is_ok_and(|found| found == recipe);
            ensure!(
                same,
                "{}: belongs to a run with other arguments or data; remove the folder, or choose another --out",
                dir.display()
            );
        }
        Ok(State { dir, recipe })
    }

    /// Writes what is decided before the first step.
    pub(super) fn begin(&self, trained: &Trained) -> Result<()> {
        std::fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        if let Trained::Tiles(selection) = trained {
            selection.write(&self.dir.join(SELECTION))?;
        }
        write_whole(&self.dir.join(RECIPE), &format!("{:#}\n", self.recipe))
    }

    /// Puts what was saved into the trainer; what was measured until then.
    pub(super) fn resume(&self, trainer: &mut Trainer) -> Result<Vec<Measured>> {
        let path = self.dir.join(STATE);
        if !path.is_file() {
            return Ok(Vec::new());
        }
        trainer.load_state(&path)?;
        let path = self.dir.join(LOG);
        let text = files::read_text_at_most(&path, MOST_STATE)
            .with_context(|| path.display().to_string())?;
        let log: Vec<Logged> =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let measured = log.into_iter().filter(|m| m.step <= trainer.steps());
        Ok(measured.map(Logged::measured).collect())
    }

    pub(super) fn save(&self, trainer: &Trainer, log: &[Measured]) -> Result<()> {
        write_whole(&self.dir.join(LOG), &serde_json::to_string(log)?)?;
        Ok(trainer.save_state(&self.dir.join(STATE))?)
    }

    pub(super) fn remove(&self) {
        for name in FILES {
            let _ = std::fs::remove_file(self.dir.join(name)); // all of it is published
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A line of the log as JSON has it, where what is not a number is null.
#[derive(Deserialize)]
struct Logged {
    step: usize,
    loss: Option<f64>,
    held_out: Option<f64>,
}

impl Logged {
    fn measured(self) -> Measured {
        Measured {
            step: self.step,
            loss: self.loss.unwrap_or(f64::NAN),
            held_out: self.held_out.unwrap_or(f64::NAN),
        }
    }
}

/// Tells data apart.
fn digest(train: &[Example], held_out: &[Example]) -> u64 {
    let bytes = train.iter().chain(held_out).flat_map(|example| {
        let given = [example.given as u32, u32::MAX];
        let numbers = given.into_iter().chain(example.tokens.iter().copied());
        numbers.flat_map(u32::to_le_bytes)
    });
    fnv(bytes)
}
