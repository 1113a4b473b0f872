//! Sparse Matrix Tuning beside LoRA, DoRA and full training: a new lore for the embedded checkpoint.

mod bench;
mod compare;
mod published;
mod rows;
mod search;
mod setting;
mod show;

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::Serialize;
use sw_train::tune::{Bytes, Trainer};

use super::Experiment;
use crate::{
    inputs::{Inputs, embedded},
    lab::Lab,
    outcome::Outcome,
};
use bench::{Bench, Found};
use rows::{ROWS, Row, What};
use setting::Setting;

/// Teach the repository's own checkpoint a new lore by Sparse Matrix Tuning, LoRA, DoRA and full training (arXiv 2405.15525).
///
/// Reads no model but the checkpoint of this repository, whatever --model says. The texts are documents of the world that it knows
/// that speak of the tools, with their aims and places permuted. What is learned is measured on questions about the new lore, what is forgotten on
/// those about the old; --limit cuts the tasks' documents. Learning rates are those of a search that is recorded in the
/// repository; --search makes it anew, writes smt-rates.json into --out, and goes on from what is there.
///
/// Examples:
///   cargo xtask reproduce-smt --out out
///   cargo xtask reproduce-smt --seeds 1 --limit 20
#[derive(Args, Clone, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Smt {
    /// How many times everything is run: each with a lore, texts and initial adapters of its own
    #[arg(long, value_name = "N", default_value_t = 3)]
    seeds: u64,
    /// Steps of a training
    #[arg(long, value_name = "N", default_value_t = 200)]
    steps: usize,
    /// Sequences of a step, each of 128 tokens
    #[arg(long, value_name = "N", default_value_t = 4)]
    sequences: usize,
    /// Passes whose gradients choose tiles
    #[arg(long, value_name = "N", default_value_t = 25)]
    warmup: usize,
    /// Rows, and columns, of a tile
    #[arg(long, value_name = "N", default_value_t = 16)]
    tile: usize,
    /// Some rows only, by their names in the JSON
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    rows: Vec<String>,
    /// Search the learning rates anew
    #[arg(long)]
    search: bool,
}

/// What was measured.
pub(crate) struct Measured {
    found: Vec<Found>,
    cost: Vec<Cost>,
    searched: BTreeMap<String, search::Searched>,
    /// Weights of the model.
    parameters: usize,
    layers: usize,
}

/// What a step of a method takes.
#[derive(Clone, Debug, Serialize)]
struct Cost {
    row: &'static str,
    trained: usize,
    bytes: Bytes,
    /// The least of five, the methods taking turns.
    seconds_per_step: f64,
}

impl Smt {
    pub(super) fn with_seeds(self, seeds: u64) -> Smt {
        Smt { seeds, ..self }
    }

    fn chosen(&self) -> Result<Vec<&'static Row>> {
        if self.rows.is_empty() {
            return Ok(ROWS.iter().collect());
        }
        let named = |id: &String| {
            let ids: Vec<_> = ROWS.iter().map(|row| row.id).collect();
            rows::named(id).with_context(|| {
                format!(
                    "--rows {id}: no such row; expected some of {}",
                    ids.join(", ")
                )
            })
        };
        self.rows.iter().map(named).collect()
    }
}

impl Experiment for Smt {
    const NAME: &'static str = "smt";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        ensure!(
            self.seeds > 0 && self.steps > 0 && self.sequences > 0 && self.warmup > 0,
            "--seeds, --steps, --sequences, --warmup: expected at least 1"
        );
        let chosen = self.chosen()?;
        let lab = &own(lab)?;
        let searched = match self.search {
            true => search::run(self, lab, &chosen)?,
            false => search::recorded()?,
        };
        let rate = |row: &Row| -> Result<f32> {
            if row.what == What::Nothing {
                return Ok(0.0);
            }
            let found = searched.get(row.searched());
            Ok(found
                .with_context(|| format!("{}: no rate was searched", row.id))?
                .rate)
        };
        let mut found = Vec::new();
        for seed in 1..=self.seeds {
            let folder = tempfile::tempdir().context("a temporary folder")?;
            let bench = Bench::new(lab, self, seed, folder.path())?;
            let bar = bar(chosen.len(), seed);
            // Small models train best one per thread.
            let setting = &bench.setting;
            let tuned: Vec<_> = chosen
                .par_iter()
                .map(|row| {
                    let tuned = setting.train(row, rate(row)?)?;
                    bar.inc(1);
                    anyhow::Ok(tuned)
                })
                .collect();
            for (row, tuned) in chosen.iter().zip(tuned) {
                let tuned = tuned.with_context(|| row.id)?;
                found.push(bench.measure(row, rate(row)?, &tuned)?);
                bar.inc(1);
            }
            bar.finish_and_clear();
        }
        Ok(Measured {
            cost: cost(&Setting::new(lab, self, 1)?, &chosen)?,
            found,
            searched,
            parameters: lab.model.parameters(),
            layers: lab.model.spec().layers.len(),
        })
    }

    fn show(&self, _: &Lab, measured: Measured) -> Result<Outcome> {
        show::outcome(self, &measured)
    }
}

/// The repository's own checkpoint on the bench.
fn own(lab: &Lab) -> Result<Lab> {
    Lab::open(&Inputs {
        model: embedded("model"),
        data: None,
        super_weights: None,
        gguf: None,
        ..lab.inputs.clone()
    })
}

fn bar(rows: usize, seed: u64) -> ProgressBar {
    let bar = ProgressBar::new(2 * rows as u64);
    let style = "smt, seed {msg} {bar:30} {percent:>3}%  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("a constant"));
    bar.with_message(seed.to_string())
}

/// Seconds and bytes of a step, the methods taking turns five times.
fn cost(setting: &Setting, chosen: &[&'static Row]) -> Result<Vec<Cost>> {
    const TURNS: usize = 5;
    let timed = [
        "full", "linear", "smt-all", "smt-mlp", "lora-all", "dora-all",
    ];
    let mut trainers: Vec<(&Row, Trainer)> = Vec::new();
    for row in chosen.iter().filter(|row| timed.contains(&row.id)) {
        trainers.push((row, setting.begin(row, 1e-3)?.trainer));
    }
    let mut best = vec![f64::INFINITY; trainers.len()];
    for turn in 0..TURNS {
        for ((_, trainer), best) in trainers.iter_mut().zip(&mut best) {
            let texts = setting.batch(turn)?;
            let texts: Vec<_> = texts.iter().map(Into::into).collect();
            let clock = Instant::now();
            trainer.step(&texts, usize::MAX, 0.0)?;
            *best = best.min(clock.elapsed().as_secs_f64());
        }
    }
    let cost = |((row, trainer), seconds_per_step): ((&Row, Trainer), f64)| Cost {
        row: row.id,
        trained: trainer.count(),
        bytes: trainer.bytes(),
        seconds_per_step,
    };
    Ok(trainers.into_iter().zip(best).map(cost).collect())
}
