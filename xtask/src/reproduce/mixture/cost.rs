//! What a step and a generated token take, the models taking turns.

use std::{path::Path, time::Instant};

use anyhow::Result;
use serde::Serialize;
use sw_model::{Model, Seq};
use sw_train::{
    AdamW, Objective, Params, Precision, Selection, checkpoint, objective_gradient, step,
};

use super::{bench::Bench, rows::weights, run::Recipe};
use crate::page::table::{Table, fixed};

/// Turns; the least of them counts.
const TURNS: usize = 7;
/// Tokens that are generated.
const TOKENS: usize = 32;

/// What one model takes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cost {
    pub(super) row: &'static str,
    pub(super) name: &'static str,
    active: usize,
    /// Seconds for a step of the training, on one thread.
    pub(super) seconds_per_step: f64,
    /// Seconds for a token when tokens are generated one at a time, on one thread.
    seconds_per_generated: f64,
    /// Seconds for a token when the same tokens run in one pass.
    seconds_per_read: f64,
}

/// Measures models with fresh weights, one thread each.
pub(super) fn measure(
    recipes: &[(&'static str, &'static str, Recipe)],
    bench: &Bench,
    scratch: &Path,
) -> Result<Vec<Cost>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| in_turns(recipes, bench, scratch))
}

fn in_turns(
    recipes: &[(&'static str, &'static str, Recipe)],
    bench: &Bench,
    scratch: &Path,
) -> Result<Vec<Cost>> {
    struct Run<'r> {
        recipe: &'r Recipe,
        params: Params,
        optimizer: AdamW,
        model: Model,
    }
    let mut runs = Vec::new();
    let mut costs = Vec::new();
    for (row, name, recipe) in recipes {
        let params = Params::random(&recipe.shape, 1, 0.02)?;
        let dir = scratch.join("cost").join(row);
        checkpoint::save(&params, Precision::F32, &dir)?;
        let all = Selection::all(&recipe.shape);
        runs.push(Run {
            recipe,
            optimizer: AdamW::new(&recipe.shape, &all, recipe.adamw),
            model: Model::open(&dir)?,
            params,
        });
        costs.push(Cost {
            row,
            name,
            active: weights(&recipe.shape)[1],
            seconds_per_step: f64::INFINITY,
            seconds_per_generated: f64::INFINITY,
            seconds_per_read: f64::INFINITY,
        });
    }
    for turn in 0..TURNS {
        for (run, cost) in runs.iter_mut().zip(&mut costs) {
            let recipe = run.recipe;
            let batch = bench
                .text
                .batch(1, turn as u32, recipe.sequences, recipe.len);
            let all = Selection::all(&recipe.shape);
            let objective = Objective {
                routing: &recipe.routing,
                distill: None,
            };
            let clock = Instant::now();
            let (_, gradient) = objective_gradient(&run.params, &batch, turn, &objective, &all)?;
            // The rate is zero: routing stays as it is drawn, and all turns are alike.
            step(
                &mut run.params,
                &mut run.optimizer,
                gradient,
                recipe.clip,
                0.0,
                turn,
            )?;
            cost.seconds_per_step = cost.seconds_per_step.min(clock.elapsed().as_secs_f64());
            let clock = Instant::now();
            run.model.generate(&batch.inputs[..1], TOKENS, &mut ())?;
            let seconds = clock.elapsed().as_secs_f64() / TOKENS as f64;
            cost.seconds_per_generated = cost.seconds_per_generated.min(seconds);
            let texts: Vec<Seq<'_>> = batch
                .inputs
                .chunks(recipe.len)
                .take(2)
                .map(Seq::from)
                .collect();
            let clock = Instant::now();
            let rows = run.model.forward(&texts, &mut ())?;
            let seconds = clock.elapsed().as_secs_f64() / rows.nrows() as f64;
            cost.seconds_per_read = cost.seconds_per_read.min(seconds);
        }
    }
    Ok(costs)
}

/// What stands under the table.
pub(super) const CAPTION: &str = "The least of seven turns on one thread: a step of the training (without drawing its text), and a token of the finished model, generated one at a time or read 128 at a time. The last column is the time of a step per active weight, as a multiple of that of the dense model of 256 neurons, whose active size is that of the residual rows. The paper's latencies and training costs are of 128 GPUs against other systems and are not reproduced.";

pub(super) fn table(costs: &[Cost]) -> Table {
    let mut table = Table::new([
        "Model",
        "ms per step",
        "us per generated token",
        "us per read token",
        "step per active weight",
    ]);
    for c in costs {
        table.push([
            c.name.to_owned(),
            format!("{:.2}", 1e3 * c.seconds_per_step),
            format!("{:.1}", 1e6 * c.seconds_per_generated),
            format!("{:.1}", 1e6 * c.seconds_per_read),
            fixed(per_active(costs, c), 2),
        ]);
    }
    table
}

/// Seconds of a step per active weight, as a multiple of those of `dense-256`.
pub(super) fn per_active(costs: &[Cost], of: &Cost) -> Option<f64> {
    let dense = costs.iter().find(|c| c.row == "dense-256")?;
    let each = |c: &Cost| c.seconds_per_step / c.active as f64;
    Some(each(of) / each(dense))
}
