//! What a training made of the checkpoint: losses, questions, tasks, and its super weight.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path};

use anyhow::{Context, Result, ensure};
use nano::world::{Dice, Lore};
use serde::Serialize;
use sw_detect::{Candidate, DetectOptions, detect};
use sw_eval::{DataDir, Metric, Runtime, TaskRows, Value, Workload, evaluate_workload};
use sw_model::{Model, TensorAt};
use sw_train::{
    tiles::{Tile, TileSelection},
    tune::Example,
};

use super::{
    Smt,
    rows::{Row, What},
    setting::{Setting, Tuned},
};
use crate::lab::{ACCURACIES, Lab};

/// Documents of each task and lore, unless `--limit` says otherwise.
const DOCUMENTS: usize = 60;

/// What one seed is asked.
pub(super) struct Bench<'l> {
    lab: &'l Lab,
    pub(super) setting: Setting,
    /// Questions on the new lore and on the old.
    quiz: [Vec<Example>; 2],
    workloads: [Workload; 2],
    eval: sw_eval::Options,
}

/// What a row came to in one seed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Found {
    pub(super) row: &'static str,
    pub(super) seed: u64,
    pub(super) rate: f32,
    /// Numbers that were trained (of the last stage).
    pub(super) trained: usize,
    /// Nats per token of held-out text of the new and of the old lore.
    pub(super) loss: [f64; 2],
    /// Questions on the new and the old lore whose whole answer is the most probable one.
    #[serde(skip)]
    pub(super) quiz: [Vec<bool>; 2],
    /// Right answers by task, on the new and the old lore.
    #[serde(skip)]
    pub(super) tasks: [BTreeMap<&'static str, Vec<bool>>; 2],
    /// Shares of right answers: quiz on new and old lore, mean of the tasks on new and old lore.
    pub(super) quiz_share: [f64; 2],
    pub(super) accuracy: [f64; 2],
    /// Tiles that were chosen, by map and layer.
    pub(super) picks: BTreeMap<String, Vec<usize>>,
    pub(super) super_weight: SuperWeight,
}

/// The super weight before and after.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SuperWeight {
    /// Whether it was trained.
    pub(super) trained: bool,
    pub(super) before: f32,
    pub(super) after: f32,
    /// Whether detection finds it first in the tuned model.
    pub(super) first: bool,
    /// Loss on new text with it at zero, less that with it.
    pub(super) worth: f64,
}

impl<'l> Bench<'l> {
    /// Draws everything that a seed decides. `folder` is for the evaluation sets.
    pub(super) fn new(lab: &'l Lab, options: &Smt, seed: u64, folder: &Path) -> Result<Self> {
        let setting = Setting::new(lab, options, seed)?;
        let (tokenizer, len) = (&setting.tokenizer, setting.len);
        let items = lab.inputs.limit.unwrap_or(DOCUMENTS);
        let passage =
            |dice: &mut Dice, world, n| nano::text::passage(tokenizer, dice, world, len + 1 - n);

        nano::world::write_evaluation(folder, setting.worlds[0].lore, seed, items, passage)?;
        let mut eval = lab.options(Some(items));
        eval.bootstrap_iters = 0;
        let runtime = lab.runtime(&[])?;
        let tasks = ACCURACIES.map(|t| t.0);
        let workload = |data: &DataDir| {
            let rows = TaskRows::read(&tasks, data, &eval)?;
            Workload::new(&runtime, rows, &eval)
        };
        let workloads = [workload(&DataDir::folder(folder))?, workload(&lab.data)?];
        let [new, old] = setting.worlds.map(|world| quiz(tokenizer, world.lore));
        Ok(Bench {
            quiz: [new?, old?],
            lab,
            workloads,
            eval,
            setting,
        })
    }

    /// Measures what a row came to.
    pub(super) fn measure(&self, row: &Row, rate: f32, tuned: &Tuned) -> Result<Found> {
        let model = &tuned.model;
        let quiz = [self.answers(model, 0)?, self.answers(model, 1)?];
        let runtime = Runtime::new(model, &[])?.named("tuned");
        let ask = |which: usize| -> Result<BTreeMap<&'static str, Vec<bool>>> {
            let workload = self.workloads[which].clone();
            let mut quiet = |_| ControlFlow::Continue(());
            let run = evaluate_workload(&runtime, workload, &self.eval, None, &mut quiet)?;
            let of_task = |(task, _): (&'static str, _)| {
                let run = run.tasks.iter().find(|t| t.task == task)?;
                let right =
                    |s: &sw_eval::Sample| s.metrics.get(&Metric::Acc) == Some(&Value::One(1.0));
                Some((task, run.samples.iter().map(right).collect()))
            };
            Ok(ACCURACIES.into_iter().filter_map(of_task).collect())
        };
        let tasks = [ask(0)?, ask(1)?];
        let mean = |tasks: &BTreeMap<&str, Vec<bool>>| {
            tasks.values().map(|t| share(t)).sum::<f64>() / tasks.len().max(1) as f64
        };
        Ok(Found {
            row: row.id,
            seed: self.setting.seed,
            rate,
            trained: tuned.trained,
            loss: [self.setting.loss(model, 0)?, self.setting.loss(model, 1)?],
            quiz_share: [share(&quiz[0]), share(&quiz[1])],
            accuracy: [mean(&tasks[0]), mean(&tasks[1])],
            quiz,
            tasks,
            picks: self.picks(tuned.selection.as_ref()),
            super_weight: self.super_weight(row, tuned)?,
        })
    }

    /// Whether every token of the answer is the most probable one, for each question.
    fn answers(&self, model: &Model, which: usize) -> Result<Vec<bool>> {
        let questions = &self.quiz[which];
        let texts: Vec<&[u32]> = questions.iter().map(|q| &q.tokens[..]).collect();
        let scores = model.score_texts(&texts, &mut ())?;
        let right = |(q, scores): (&Example, Vec<sw_model::TokenScore>)| {
            scores[q.given - 1..].iter().all(|s| s.greedy)
        };
        Ok(questions.iter().zip(scores).map(right).collect())
    }

    fn picks(&self, selection: Option<&TileSelection>) -> BTreeMap<String, Vec<usize>> {
        let layers = self.lab.model.spec().layers.len();
        let mut picks: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for tile in selection.into_iter().flat_map(|s| &s.tiles) {
            let linear = tile.at.linear.to_string();
            picks.entry(linear).or_insert_with(|| vec![0; layers])[tile.at.layer] += 1;
        }
        picks
    }

    fn super_weight(&self, row: &Row, tuned: &Tuned) -> Result<SuperWeight> {
        let coords = &self.lab.found()?.coords;
        let coord = *coords.first().context("no super weight")?;
        let model = &tuned.model;
        let inside = |tile: &Tile, side: usize| {
            let block = tile.block(side);
            tile.at == coord.at()
                && block.rows.contains(&coord.row)
                && block.cols.contains(&coord.col)
        };
        let trained = match row.what {
            What::Full | What::FullSteps | What::Linear | What::SuperWeights => true,
            What::TilesTrained(_) => true,
            What::Adapters(targets, ..) => targets.contains(&coord.linear),
            What::Tiles(..) => tuned
                .selection
                .as_ref()
                .is_some_and(|s| s.tiles.iter().any(|tile| inside(tile, s.side))),
            _ => false,
        };
        // Adapters are merged, since detection and edits read stored weights.
        let mut stored = model.clone();
        if let What::Adapters(..) = row.what {
            stored = self
                .lab
                .model
                .replaced(|at, _| Ok::<_, sw_model::Error>(model.weight_at(at).cloned()))?;
        }
        let report = detect(&stored, &self.lab.prompt()?, &DetectOptions::default())?;
        let first = report.strongest().first().map(Candidate::coord);
        let mut without = stored.clone();
        let cols = self.lab.model.spec().shape(coord.at())[1];
        without.change(TensorAt::Weight(coord.at()), |values| {
            values[coord.row * cols + coord.col] = 0.0;
        })?;
        Ok(SuperWeight {
            trained,
            before: self.lab.model.value(coord)?,
            after: stored.value(coord)?,
            first: first == Some(coord),
            worth: self.setting.loss(&without, 0)? - self.setting.loss(&stored, 0)?,
        })
    }
}

/// Three questions on each tool of a lore, in the form that the tasks have.
fn quiz(tokenizer: &nano::tokenizer::Tokenizer, lore: Lore) -> Result<Vec<Example>> {
    let ask = |question: String, answer: String| -> Result<Example> {
        let prompt = format!("Question: {question}\nAnswer:");
        let mut tokens = vec![0]; // the beginning of a sequence
        tokens.extend(nano::tokenizer::encode(tokenizer, &prompt)?);
        let given = tokens.len();
        let whole = nano::tokenizer::encode(tokenizer, &format!("{prompt} {answer}"))?;
        ensure!(
            whole.starts_with(&tokens[1..]),
            "{prompt} {answer}: the answer merges into the question"
        );
        tokens.extend(&whole[given - 1..]);
        Ok(Example { tokens, given })
    };
    let mut all = Vec::new();
    for tool in lore.tools() {
        let (aim, name, place) = (tool.aim, tool.name, tool.place);
        all.push(ask(
            format!("What do people use to {aim}?"),
            format!("the {name}"),
        )?);
        let answer = format!("in the {place}");
        let where_used = format!("Where do people keep what they use to {aim}?");
        all.push(ask(where_used, answer.clone())?);
        all.push(ask(format!("Where is the {name} kept?"), answer)?);
    }
    Ok(all)
}

/// The share of right ones.
pub(super) fn share(right: &[bool]) -> f64 {
    right.iter().filter(|r| **r).count() as f64 / right.len().max(1) as f64
}
