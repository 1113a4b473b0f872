//! One training: what decides it, how it is run, and how it is found again.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sw_train::{
    AdamW, AdamWOptions, Distill, Load, Objective, Params, Precision, Routing, Selection, Shape,
    checkpoint, objective_gradient, step,
};

use super::bench::Bench;

/// Everything that decides a training and what is asked of its model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Recipe {
    /// Stem of the folder that the model is kept in.
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) facts: usize,
    pub(super) texts: usize,
    pub(super) questions: usize,
    pub(super) steps: usize,
    pub(super) sequences: usize,
    pub(super) len: usize,
    pub(super) shape: Shape,
    pub(super) routing: Routing,
    pub(super) adamw: AdamWOptions,
    pub(super) clip: f64,
    /// Highest learning rate, after a warm-up of one step in 25; then along a cosine to one part in 20.
    pub(super) peak: f32,
    pub(super) taught: Option<Taught>,
}

/// A teacher.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Taught {
    pub(super) teacher: Box<Recipe>,
    pub(super) weight: f32,
    pub(super) temperature: f32,
    /// The step from which on the text alone teaches.
    pub(super) until: usize,
}

/// What was measured at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Steps done.
    pub(super) step: usize,
    /// Nats per token of each held-out sequence.
    pub(super) losses: Vec<f64>,
}

/// A finished training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trained {
    pub(super) marks: Vec<Mark>,
    /// Facts at the end, the most frequent first.
    pub(super) recall: Vec<bool>,
    /// Choices and drops of all steps, by layer.
    pub(super) loads: Vec<Load>,
    /// Seconds in steps.
    pub(super) seconds: f64,
}

/// Measurements in a training.
pub(super) const MARKS: usize = 8;

/// A training under way; a clone goes on as the original does.
#[derive(Clone)]
pub(super) struct Running {
    params: Params,
    optimizer: AdamW,
    done: usize,
    trained: Trained,
}

impl Recipe {
    /// The usual one for a model.
    pub(super) fn new(
        name: String,
        shape: Shape,
        seed: u64,
        options: &Options,
        bench: &Bench,
    ) -> Recipe {
        Recipe {
            name,
            seed,
            facts: bench.facts,
            texts: options.texts,
            questions: options.questions,
            steps: options.steps,
            sequences: options.sequences,
            len: super::LEN,
            shape,
            routing: Routing {
                sequences: options.sequences,
                seed,
                ..Routing::default()
            },
            adamw: AdamWOptions::default(),
            clip: 1.0,
            peak: 4e-3,
            taught: None,
        }
    }

    fn rate(&self, step: usize) -> f32 {
        const FLOOR: f32 = 0.05;
        let warm = ((step + 1) as f32 / (self.steps / 25).max(1) as f32).min(1.0);
        let turn = std::f32::consts::PI * step as f32 / self.steps.max(1) as f32;
        self.peak * warm * (FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + turn.cos()))
    }

    pub(super) fn begin(&self) -> Result<Running> {
        let all = Selection::all(&self.shape);
        Ok(Running {
            params: Params::random(&self.shape, self.seed, 0.02)?,
            optimizer: AdamW::new(&self.shape, &all, self.adamw),
            done: 0,
            trained: Trained {
                marks: vec![],
                recall: vec![],
                loads: vec![],
                seconds: 0.0,
            },
        })
    }

    /// SHA-256 of everything that decides the result.
    pub(super) fn key(&self) -> Result<String> {
        let all = serde_json::json!([env!("CARGO_PKG_VERSION"), sw_tensor::isa_name(), self]);
        Ok(format!("{:x}", Sha256::digest(all.to_string())))
    }

    /// Trains, or finds the training in `folder`; there the model is kept, too, where `keeps`.
    pub(super) fn run(
        &self,
        bench: &Bench,
        folder: &Path,
        teacher: Option<&Params>,
        keeps: bool,
    ) -> Result<Trained> {
        if let Some(found) = self.finished(folder, keeps)? {
            return Ok(found);
        }
        let mut running = self.begin()?;
        running.advance(self, bench, teacher, self.steps)?;
        self.finish(bench, folder, running, keeps)
    }

    pub(super) fn folder(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}-{}-{}", self.name, self.facts, self.seed))
    }

    /// A training that was finished before with the same recipe.
    pub(super) fn finished(&self, folder: &Path, keeps: bool) -> Result<Option<Trained>> {
        let dir = self.folder(folder);
        let Ok(text) = std::fs::read_to_string(dir.join("training.json")) else {
            return Ok(None);
        };
        let Ok(kept) = serde_json::from_str::<Kept>(&text) else {
            return Ok(None);
        };
        let whole = !keeps || dir.join("model.safetensors").is_file();
        Ok((kept.key == self.key()? && whole).then_some(kept.trained))
    }

    /// Measures the end of a training and writes it down.
    pub(super) fn finish(
        &self,
        bench: &Bench,
        folder: &Path,
        mut running: Running,
        keeps: bool,
    ) -> Result<Trained> {
        running.trained.recall = bench.recall(&running.params)?;
        let dir = self.folder(folder);
        let trained = running.trained;
        if keeps {
            checkpoint::save(&running.params, Precision::F32, &dir)?;
            nano::tokenizer::save(&bench.text.tokenizer, self.shape.max_positions, &dir)?;
        } else {
            std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        let kept = Kept {
            key: self.key()?,
            trained,
        };
        let text = serde_json::to_string(&kept)? + "\n";
        checkpoint::write(&dir.join("training.json"), text.as_bytes())?;
        Ok(kept.trained)
    }

    /// The weights that [`run`](Self::run) kept.
    pub(super) fn params(&self, folder: &Path) -> Result<Params> {
        Ok(checkpoint::load(&self.shape, &self.folder(folder))?)
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    trained: Trained,
}

/// What the command line decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) steps: usize,
    pub(super) sequences: usize,
    pub(super) texts: usize,
    pub(super) questions: usize,
}

impl Running {
    /// Goes on until `until` steps are done.
    pub(super) fn advance(
        &mut self,
        recipe: &Recipe,
        bench: &Bench,
        teacher: Option<&Params>,
        until: usize,
    ) -> Result<()> {
        let all = Selection::all(&recipe.shape);
        let distill = recipe
            .taught
            .as_ref()
            .zip(teacher)
            .map(|(t, teacher)| Distill {
                teacher,
                weight: t.weight,
                temperature: t.temperature,
                until: t.until,
            });
        let objective = Objective {
            routing: &recipe.routing,
            distill,
        };
        while self.done < until {
            let number = self.done;
            let batch = bench
                .text
                .batch(recipe.seed, number as u32, recipe.sequences, recipe.len);
            let clock = Instant::now();
            let (losses, gradient) =
                objective_gradient(&self.params, &batch, number, &objective, &all)?;
            let rate = recipe.rate(number);
            step(
                &mut self.params,
                &mut self.optimizer,
                gradient,
                recipe.clip,
                rate,
                number,
            )?;
            self.trained.seconds += clock.elapsed().as_secs_f64();
            match self.trained.loads.is_empty() {
                true => self.trained.loads = losses.loads,
                false => {
                    let both = self.trained.loads.iter_mut().zip(&losses.loads);
                    both.for_each(|(mine, more)| mine.add(more));
                }
            }
            self.done += 1;
            let is_mark = |i: usize| self.done == mark(recipe.steps, i);
            if (1..=MARKS).any(is_mark) {
                self.trained.marks.push(Mark {
                    step: self.done,
                    losses: bench.losses(&self.params)?,
                });
            }
        }
        Ok(())
    }
}

/// Steps done at the measurement `i` of [`MARKS`].
pub(super) fn mark(steps: usize, i: usize) -> usize {
    (steps * i).div_ceil(MARKS)
}

impl Trained {
    /// The losses at the first measurement at or behind a share of the steps.
    pub(super) fn at(&self, share: f64) -> &[f64] {
        let i = ((share * MARKS as f64).round() as usize).clamp(1, MARKS) - 1;
        let mark = self.marks.get(i).or(self.marks.last());
        mark.map_or(&[], |m| &m.losses)
    }

    /// The largest part of a layer's choices that one expert had, of all layers.
    pub(super) fn largest_load(&self) -> Option<f64> {
        self.loads.iter().map(Load::largest).max_by(f64::total_cmp)
    }

    /// The part of all choices that was turned away.
    pub(super) fn dropped(&self) -> Option<f64> {
        let all: u64 = self.loads.iter().flat_map(|l| &l.choices).sum();
        let dropped: u64 = self.loads.iter().map(|l| l.dropped).sum();
        (all > 0).then(|| dropped as f64 / all as f64)
    }
}
