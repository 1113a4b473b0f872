//! LW2G: learning whether to grow. Tasks come one after the other to a frozen encoder; each gets prompts of its own, or old ones.

mod expected;
mod measure;
mod show;
mod tables;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nano::quiz::{Quizzes, prompts};
use rayon::prelude::*;
use serde::Serialize;
use sw_train::grow::{Controlled, ControlledOptions, SoftPrompts};

use super::Experiment;
use crate::{inputs::embedded, lab::Lab, outcome::Outcome};
use measure::{Angle, QUIZ_ROWS, ROWS, Row, Run, SCENARIOS, angle, run};

/// Show when prompts of a frozen model grow (LW2G, arXiv 2409.18860): on controlled tasks, and on quizzes for nano.
///
/// Reads no model but the checkpoint of this repository, whatever --model says.
///
/// Example:
///   cargo xtask reproduce-lw2g --seeds 5 --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Lw2g {
    /// Draws of the controlled tasks and of the quizzes; at most a third of --limit
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: u64,
    /// Steps per controlled task
    #[arg(long, value_name = "N", default_value_t = 150)]
    steps: usize,
    /// Steps per quiz
    #[arg(long, value_name = "N", default_value_t = 60)]
    quiz_steps: usize,
    /// Share of the features' energy that a space holds
    #[arg(long, value_name = "X", default_value_t = 0.95)]
    energy: f64,
}

/// Shares of features that two tasks have in common, and energies, at which the angle is measured.
const OVERLAPS: [f64; 4] = [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0];
const ENERGIES: [f64; 3] = [0.9, 0.95, 0.99];

/// What is measured.
pub(crate) struct Measured {
    /// By energy, overlap and seed.
    angles: Vec<Angle>,
    /// By scenario, row and seed.
    runs: Vec<Run>,
    /// By row and seed.
    quizzes: Vec<Run>,
    seeds: u64,
    options: ControlledOptions,
}

impl Experiment for Lw2g {
    const NAME: &'static str = "lw2g";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        ensure!(
            self.seeds > 0 && self.steps > 0 && self.quiz_steps > 0,
            "--seeds {}, --steps {}, --quiz-steps {}: expected numbers above 0",
            self.seeds,
            self.steps,
            self.quiz_steps
        );
        ensure!(
            self.energy > 0.0 && self.energy <= 1.0,
            "--energy {}: expected a share above 0 and at most 1",
            self.energy
        );
        let most = lab.inputs.limit.unwrap_or(usize::MAX).max(1);
        // Few samples are for a quick look, which a third as many draws give.
        let seeds = self.seeds.min((most / 3).max(1) as u64);
        let usual = ControlledOptions::default();
        let options = ControlledOptions {
            train: usual.train.min(most),
            test: usual.test.min(most),
            ..usual
        };
        let angles: Vec<_> = each([ENERGIES.len(), OVERLAPS.len(), seeds as usize]);
        let angles: Result<Vec<_>> = angles
            .par_iter()
            .map(|&[e, o, s]| angle(s as u64, ENERGIES[e], OVERLAPS[o], self.steps, &options))
            .collect();
        let jobs = each([SCENARIOS.len(), ROWS.len(), seeds as usize]);
        let runs: Result<Vec<_>> = jobs
            .par_iter()
            .map(|&[scenario, row, seed]| {
                let tasks = (SCENARIOS[scenario].tasks)();
                let encoder = Controlled::new(seed as u64, &tasks, &options)?;
                let row: Row = ROWS[row];
                let recipe = row.recipe(seed as u64, self.energy, self.steps);
                run(&encoder, SCENARIOS[scenario].name, row.name, recipe)
            })
            .collect();
        let quizzes = Quizzes {
            most,
            ..Quizzes::default()
        };
        let root = embedded("");
        // Two draws of the quizzes: they cost more than the controlled tasks.
        let draws = seeds.min(2);
        let encoders: Result<Vec<SoftPrompts>> = (0..draws)
            .map(|seed| {
                prompts(Path::new(&root), 1 + 10 * seed, &quizzes)
                    .with_context(|| format!("{root}: the repository's own checkpoint"))
            })
            .collect();
        let encoders = encoders?;
        let jobs = each([QUIZ_ROWS.len(), 1, draws as usize]);
        let quizzes: Result<Vec<_>> = jobs
            .par_iter()
            .map(|&[row, _, seed]| {
                let recipe = QUIZ_ROWS[row].recipe(seed as u64, self.energy, self.quiz_steps);
                run(&encoders[seed], "quizzes", QUIZ_ROWS[row].name, recipe)
            })
            .collect();
        Ok(Measured {
            angles: angles?,
            runs: runs?,
            quizzes: quizzes?,
            seeds,
            options,
        })
    }

    fn show(&self, _: &Lab, measured: Measured) -> Result<Outcome> {
        measured.show(self)
    }
}

/// All places of a grid, the last number fastest.
fn each([a, b, c]: [usize; 3]) -> Vec<[usize; 3]> {
    let places = (0..a).flat_map(|i| (0..b).map(move |j| (i, j)));
    places
        .flat_map(|(i, j)| (0..c).map(move |k| [i, j, k]))
        .collect()
}
