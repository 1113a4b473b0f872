//! Tasks one after the other: decide, train, remember; then measure.

use std::time::{Duration, Instant};

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

use super::optimiser::State;
use super::{
    Encoder, Hindrance, Optimiser, Policy, Projection, Samples, Split, Subspace, hindrance,
};
use crate::draw::Draw;
use crate::error::{Error, Result};

/// Everything that decides how tasks are learned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Seed of fresh prompts and head rows.
    pub seed: u64,
    /// Who decides whether to grow.
    pub policy: Policy,
    /// Share of the features' energy that spaces and keys hold.
    pub energy: f64,
    /// Samples that decisions are made on, at most.
    pub subset: usize,
    /// What the hard projection is applied to.
    pub projection: Projection,
    /// The share of its part inside the space of pre-training that every step loses (soft constraint).
    pub soft: f64,
    /// Optimiser of prompts and head.
    pub optimiser: Optimiser,
    /// Steps per task, each over all of its samples.
    pub steps: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 0,
            policy: Policy::Hindrance,
            energy: 0.95,
            subset: 80,
            projection: Projection::Update,
            soft: 0.0,
            optimiser: Optimiser::Sgd { rate: 1.0 },
            steps: 150,
        }
    }
}

/// Prompts that some tasks share.
#[derive(Clone, Debug)]
pub struct PromptSet {
    /// `[rows, dim]`.
    pub prompt: Array2<f64>,
    /// The space of its tasks' features.
    pub space: Subspace,
}

/// Samples that went forward and back: what a decision costs, beside what the training costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Passes {
    /// To decide.
    pub deciding: usize,
    /// To train.
    pub training: usize,
}

/// How a task was learned.
#[derive(Clone, Debug)]
pub struct Learned {
    /// The set it is in.
    pub set: usize,
    /// Whether that set was made for it.
    pub grew: bool,
    /// The hindrance by each set that there was; empty where the policy reads no angles.
    pub hindrances: Vec<Hindrance>,
    /// That of a fresh set by the space of pre-training.
    pub threshold: Option<Hindrance>,
    /// Share of right answers just after, with the task given.
    pub accuracy: f64,
    /// Samples forward and back.
    pub passes: Passes,
    /// Time to decide and to train.
    pub times: [Duration; 2],
}

/// What was learned after all tasks, as means over tasks.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// Sets of prompts.
    pub sets: usize,
    /// Share of right answers among the classes of all tasks, with the set that retrieval chose.
    pub class_incremental: f64,
    /// Share of right answers among the classes of the task, with the task's set.
    pub task_given: f64,
    /// Share of right answers among the task's classes, measured just after the task was learned.
    pub just_after: f64,
    /// What of that was lost at the end; the last task is left out.
    pub forgetting: f64,
    /// Share of samples for which retrieval chose the task's set.
    pub retrieval: f64,
    /// What a blind choice among the sets would give: `1 / sets`.
    pub retrieval_by_chance: f64,
    /// Per task, the answers of `class_incremental`: whether each is right.
    #[serde(skip)]
    pub answers: Vec<Vec<bool>>,
}

/// Sets of prompts for a frozen encoder, and how they came to be.
pub struct Learner<'a, E> {
    encoder: &'a E,
    recipe: Recipe,
    pretrained: Subspace,
    sets: Vec<PromptSet>,
    /// `[classes, channels]`; of a task's rows nothing changes after it.
    head: Array2<f64>,
    /// Per task, the space of its features: its retrieval key.
    keys: Vec<Subspace>,
    learned: Vec<Learned>,
}

impl<'a, E: Encoder> Learner<'a, E> {
    /// Nothing learned yet.
    ///
    /// # Errors
    /// [`Error::Shape`] where a share of the recipe is out of range.
    pub fn new(encoder: &'a E, recipe: Recipe) -> Result<Self> {
        if recipe.subset == 0 || recipe.steps == 0 || !(0.0..=1.0).contains(&recipe.soft) {
            return Err(Error::Shape(format!(
                "subset {}, steps {}, soft {}: expected the first two above 0 and the third from 0 to 1",
                recipe.subset, recipe.steps, recipe.soft
            )));
        }
        let mut pretrained = Subspace::empty(encoder.prompt().1);
        pretrained.extend(encoder.pretrained(), recipe.energy)?;
        // As large as logits of one half need to be, so that prompts have a gradient from the first step on.
        let scale = 0.5 / (encoder.head().max(1) as f64).sqrt();
        Ok(Self {
            encoder,
            recipe,
            pretrained,
            sets: Vec::new(),
            head: Draw::new(recipe.seed, 0).normals((encoder.classes(), encoder.head()), scale),
            keys: Vec::new(),
            learned: Vec::new(),
        })
    }

    /// The sets there are.
    pub fn sets(&self) -> &[PromptSet] {
        &self.sets
    }

    /// The rows of the head, `[classes, channels]`.
    pub fn head(&self) -> &Array2<f64> {
        &self.head
    }

    /// The space of the features of pre-training.
    pub fn pretrained(&self) -> &Subspace {
        &self.pretrained
    }

    /// How each task was learned, in order.
    pub fn learned(&self) -> &[Learned] {
        &self.learned
    }

    /// Learns the next task.
    ///
    /// # Errors
    /// [`Error::Shape`] where `task` is not the next one or a gradient has no direction; [`Error::NotFinite`] where training
    /// diverges.
    pub fn learn(&mut self, task: usize) -> Result<&Learned> {
        if task != self.learned.len() || task >= self.encoder.tasks() {
            return Err(Error::Shape(format!(
                "task {task}: expected number {} of {}",
                self.learned.len(),
                self.encoder.tasks()
            )));
        }
        let mut passes = Passes::default();
        let clock = Instant::now();
        let (mut hindrances, mut threshold) = (Vec::new(), None);
        let chosen = self.choose(task, &mut passes, &mut hindrances, &mut threshold)?;
        let deciding = clock.elapsed();
        let clock = Instant::now();
        let grew = chosen.is_none();
        let set = chosen.unwrap_or(self.sets.len());
        if grew {
            self.sets.push(self.fresh());
        }
        let train = self.train_samples(task, usize::MAX);
        let (prompt, head, _) = self.trained(set, train, self.recipe.steps)?;
        passes.training += self.recipe.steps * train.count;
        self.sets[set].prompt = prompt;
        for (&class, row) in self.encoder.classes_of(task).iter().zip(head.rows()) {
            self.head.row_mut(class).assign(&row);
        }
        let features = self.encoder.features(train);
        self.sets[set].space.extend(features, self.recipe.energy)?;
        let mut key = Subspace::empty(self.encoder.prompt().1);
        key.extend(features, self.recipe.energy)?;
        self.keys.push(key);
        let times = [deciding, clock.elapsed()];
        self.learned.push(Learned {
            set,
            grew,
            hindrances,
            threshold,
            accuracy: self.accuracy(task, set),
            passes,
            times,
        });
        Ok(&self.learned[task])
    }

    /// The set to use again, if any.
    fn choose(
        &self,
        task: usize,
        passes: &mut Passes,
        hindrances: &mut Vec<Hindrance>,
        threshold: &mut Option<Hindrance>,
    ) -> Result<Option<usize>> {
        if self.sets.is_empty() {
            return Ok(None);
        }
        let subset = self.train_samples(task, self.recipe.subset);
        let candidates = self.sets.len() + 1;
        Ok(match self.recipe.policy {
            Policy::Always => None,
            Policy::Never { .. } => Some(0),
            Policy::Oracle => {
                let kind = self.encoder.kind(task);
                let earlier = (0..task).find(|&t| self.encoder.kind(t) == kind);
                earlier.map(|t| self.learned[t].set)
            }
            policy @ (Policy::Hindrance | Policy::Affinity) => {
                passes.deciding += candidates * subset.count;
                let (by_sets, by_pretraining) = self.hindrances(task)?;
                hindrances.extend(by_sets);
                *threshold = Some(by_pretraining);
                let degrees: Vec<f64> = hindrances.iter().map(|h| h.degrees).collect();
                policy.by_angle(&degrees, by_pretraining.degrees)
            }
            Policy::Probe { steps, tolerance } => {
                passes.deciding += candidates * subset.count * steps;
                let mut best: Option<(usize, f64)> = None;
                for set in 0..self.sets.len() {
                    let loss = self.trained(set, subset, steps)?.2;
                    if best.is_none_or(|b| loss < b.1) {
                        best = Some((set, loss));
                    }
                }
                let fresh = self.trained(self.sets.len(), subset, steps)?.2;
                best.filter(|b| b.1 <= fresh + tolerance).map(|b| b.0)
            }
        })
    }

    /// How much each set there is hinders a task, and how much the space of pre-training hinders a fresh set: what
    /// [`Policy::Hindrance`] and [`Policy::Affinity`] decide by, from the gradients on the subset.
    ///
    /// # Errors
    /// [`Error::Shape`] where a gradient has no direction.
    pub fn hindrances(&self, task: usize) -> Result<(Vec<Hindrance>, Hindrance)> {
        let subset = self.train_samples(task, self.recipe.subset);
        let angle = |prompt, space| {
            let gradient = self.gradient(subset, prompt, &self.rows(task)).1;
            hindrance(gradient.view(), space)
        };
        let sets = self.sets.iter().map(|set| angle(&set.prompt, &set.space));
        let by_sets = sets.collect::<Result<_>>()?;
        let fresh = self.fresh();
        Ok((by_sets, angle(&fresh.prompt, &self.pretrained)?))
    }

    /// A set of its own random prompts, the same for the same number of sets.
    fn fresh(&self) -> PromptSet {
        let (rows, dim) = self.encoder.prompt();
        let mut draw = Draw::new(self.recipe.seed, 1 + self.sets.len() as u64);
        PromptSet {
            prompt: draw.normals((rows, dim), self.encoder.scale()),
            space: Subspace::empty(dim),
        }
    }

    /// A task's rows of the head.
    fn rows(&self, task: usize) -> Array2<f64> {
        self.head.select(Axis(0), self.encoder.classes_of(task))
    }

    fn train_samples(&self, task: usize, most: usize) -> Samples {
        let split = Split::Train;
        let count = self.encoder.count(task, split).min(most);
        Samples { task, split, count }
    }

    /// Prompts and head rows after some steps from those of a set (a fresh one where there is none of this number), and the loss
    /// then, in nats.
    fn trained(
        &self,
        set: usize,
        samples: Samples,
        steps: usize,
    ) -> Result<(Array2<f64>, Array2<f64>, f64)> {
        let Recipe {
            policy,
            projection,
            soft,
            optimiser,
            ..
        } = self.recipe;
        let PromptSet { mut prompt, space } =
            self.sets.get(set).cloned().unwrap_or_else(|| self.fresh());
        let mut head = self.rows(samples.task);
        let mut states = [prompt.dim(), head.dim()].map(|dim| State::new(optimiser, dim));
        let constrain = |rows: &mut Array2<f64>| {
            if policy.projects() {
                space.take_out(rows, 1.0);
            }
            if soft > 0.0 {
                self.pretrained.take_out(rows, soft);
            }
        };
        for step in 0..steps {
            let (loss, mut dprompt, dhead) = self.gradient(samples, &prompt, &head);
            if !loss.is_finite() {
                return Err(Error::NotFinite { step, what: "loss" });
            }
            if projection == Projection::Gradient {
                constrain(&mut dprompt);
            }
            let mut update = states[0].update(&dprompt);
            if projection == Projection::Update {
                constrain(&mut update);
            }
            prompt += &update;
            head += &states[1].update(&dhead);
        }
        let loss = self.gradient(samples, &prompt, &head).0;
        Ok((prompt, head, loss))
    }

    /// Mean cross-entropy over the task's classes, in nats, and its gradients by prompts and head rows.
    fn gradient(
        &self,
        samples: Samples,
        prompt: &Array2<f64>,
        head: &Array2<f64>,
    ) -> (f64, Array2<f64>, Array2<f64>) {
        let classes = self.encoder.classes_of(samples.task);
        let (mut logits, tape) = self.encoder.forward(samples, prompt, head, classes);
        let labels = self.encoder.labels(samples);
        let share = 1.0 / samples.count as f64;
        let mut loss = 0.0;
        for (mut row, label) in logits.rows_mut().into_iter().zip(labels) {
            let max = row.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let log_sum = max + row.iter().map(|v| (v - max).exp()).sum::<f64>().ln();
            let at = classes.iter().position(|c| c == label).unwrap_or(0);
            loss += share * (log_sum - row[at]);
            row.mapv_inplace(|v| share * (v - log_sum).exp());
            row[at] -= share;
        }
        let (dprompt, dhead) = self
            .encoder
            .backward(samples, prompt, head, classes, &tape, &logits);
        (loss, dprompt, dhead)
    }

    /// Which answers are right on a task's test samples, with a set, among `classes`.
    fn right(&self, task: usize, set: usize, classes: &[usize]) -> Vec<bool> {
        let split = Split::Test;
        let count = self.encoder.count(task, split);
        let samples = Samples { task, split, count };
        let head = self.head.select(Axis(0), classes);
        let prompt = &self.sets[set].prompt;
        let logits = self.encoder.forward(samples, prompt, &head, classes).0;
        let best = |row: ndarray::ArrayView1<f64>| {
            let larger = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
            (0..row.len()).reduce(larger).map(|i| classes[i])
        };
        let rows = logits.rows().into_iter().zip(self.encoder.labels(samples));
        rows.map(|(row, label)| best(row) == Some(*label)).collect()
    }

    fn accuracy(&self, task: usize, set: usize) -> f64 {
        share(&self.right(task, set, self.encoder.classes_of(task)))
    }

    /// For each test sample of `task`, the set of whichever task's key holds most of the energy of the sample's features.
    fn retrieved(&self, task: usize) -> Vec<usize> {
        let split = Split::Test;
        let count = self.encoder.count(task, split);
        let features = self.encoder.features(Samples { task, split, count });
        let per_sample = features.nrows() / count.max(1);
        let inside: Vec<Array2<f64>> = self.keys.iter().map(|k| features.dot(&k.basis())).collect();
        let energy = |key: &Array2<f64>, i: usize| {
            let rows = key.slice(ndarray::s![i * per_sample..(i + 1) * per_sample, ..]);
            rows.iter().map(|v| v * v).sum::<f64>()
        };
        (0..count)
            .map(|i| {
                let energies: Vec<f64> = inside.iter().map(|key| energy(key, i)).collect();
                let larger = |best: usize, t: usize| {
                    if energies[t] > energies[best] {
                        t
                    } else {
                        best
                    }
                };
                let nearest = (0..energies.len()).reduce(larger).unwrap_or(0);
                self.learned[nearest].set
            })
            .collect()
    }

    /// Measures on the test samples of all tasks learned so far.
    ///
    /// # Errors
    /// [`Error::Shape`] where no task was learned.
    pub fn scores(&self) -> Result<Scores> {
        let tasks = self.learned.len();
        if tasks == 0 {
            return Err(Error::Shape("no task was learned".into()));
        }
        let mut classes: Vec<usize> = (0..tasks)
            .flat_map(|t| self.encoder.classes_of(t).iter().copied())
            .collect();
        classes.sort_unstable();
        classes.dedup();
        let mut answers = Vec::new();
        let (mut given, mut retrieval, mut lost) = (0.0, 0.0, 0.0);
        for (task, learned) in self.learned.iter().enumerate() {
            let by_set: Vec<_> = (0..self.sets.len())
                .map(|set| self.right(task, set, &classes))
                .collect();
            let retrieved = self.retrieved(task);
            let own: Vec<bool> = retrieved.iter().map(|&set| set == learned.set).collect();
            retrieval += share(&own);
            let right = retrieved.iter().enumerate().map(|(i, &set)| by_set[set][i]);
            answers.push(right.collect::<Vec<bool>>());
            let now = self.accuracy(task, learned.set);
            given += now;
            if task + 1 < tasks {
                lost += learned.accuracy - now;
            }
        }
        let n = tasks as f64;
        Ok(Scores {
            sets: self.sets.len(),
            class_incremental: answers.iter().map(|a| share(a)).sum::<f64>() / n,
            task_given: given / n,
            just_after: self.learned.iter().map(|l| l.accuracy).sum::<f64>() / n,
            forgetting: lost / (n - 1.0).max(1.0),
            retrieval: retrieval / n,
            retrieval_by_chance: 1.0 / self.sets.len() as f64,
            answers,
        })
    }
}

fn share(right: &[bool]) -> f64 {
    right.iter().filter(|r| **r).count() as f64 / right.len().max(1) as f64
}
