//! The checkpoint, a new lore to learn, and trainings of it. All that threads share.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use nano::{
    text::Source,
    world::{Dialect, Dice, Lore, World, story},
};
use sw_model::{Linear, LinearAt, Model, WeightCoord};
use sw_train::{
    AdamWOptions, Schedule,
    mapped::Text,
    tiles::{Tile, TileSelection},
    tune::{AdapterOptions, Budget, Example, TileOptions, Trained, Trainer, Warmup, choose_tiles},
};

use super::{
    Smt,
    rows::{By, Row, What},
};
use crate::lab::Lab;

/// AdamW as the release has it, without decay.
const ADAMW: AdamWOptions = AdamWOptions {
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.0,
};
/// Largest gradient norm.
const CLIP: f64 = 1.0;

/// What one seed trains on.
pub(super) struct Setting {
    pub(super) model: Model,
    pub(super) super_weights: Vec<WeightCoord>,
    pub(super) options: Smt,
    pub(super) seed: u64,
    pub(super) tokenizer: nano::tokenizer::Tokenizer,
    /// The new lore, and the old.
    pub(super) worlds: [World; 2],
    breaks: u32,
    /// Predicted tokens of a sequence.
    pub(super) len: usize,
    /// Held-out texts: about the new lore, and about all that the checkpoint has learned, the old lore among it.
    held_out: [Vec<Example>; 2],
}

/// A trained model and how it came to be.
pub(super) struct Tuned {
    pub(super) model: Model,
    pub(super) trained: usize,
    pub(super) selection: Option<TileSelection>,
}

/// A training before its first step.
pub(super) struct Begun {
    pub(super) trainer: Trainer,
    /// Steps that its warm-up was.
    steps: usize,
    selection: Option<TileSelection>,
}

impl Setting {
    /// Draws everything that a seed decides.
    pub(super) fn new(lab: &Lab, options: &Smt, seed: u64) -> Result<Self> {
        let tokenizer = nano::tokenizer::load(lab.model.dir())?;
        let breaks = nano::tokenizer::encode(&tokenizer, nano::tokenizer::BREAK)?;
        let breaks = *breaks.first().context("the tokenizer has no blank line")?;
        // One token fewer than the model has positions, since the last is predicted only.
        let len = lab.model.spec().max_positions - 1;
        let worlds = [Lore::permuted(seed), Lore::home()].map(|lore| World {
            dialect: Dialect::InWorld,
            lore,
        });
        let held_out = |source: Source| -> Result<Vec<Example>> {
            let batch = nano::text::held_out(&tokenizer, source, seed, breaks, 16, len)?;
            Ok(examples(&batch))
        };
        let new = held_out(on_lore(worlds[0]));
        let old = held_out(worlds[1].into());
        Ok(Setting {
            held_out: [new?, old?],
            model: lab.model.clone(),
            super_weights: lab.found()?.coords.clone(),
            options: options.clone(),
            seed,
            tokenizer,
            worlds,
            breaks,
            len,
        })
    }

    /// The texts of a step.
    pub(super) fn batch(&self, step: usize) -> Result<Vec<Example>> {
        let (tokenizer, sequences) = (&self.tokenizer, self.options.sequences);
        let step = u32::try_from(step)?;
        // Streams of the trainings are apart from the one that grew the checkpoint.
        let seed = 0x5337_0000 + self.seed;
        let batch = nano::text::batch(
            tokenizer,
            on_lore(self.worlds[0]),
            seed,
            self.breaks,
            step,
            sequences,
            self.len,
        )?;
        Ok(examples(&batch))
    }

    /// Trains a row at a rate.
    pub(super) fn train(&self, row: &Row, rate: f32) -> Result<Tuned> {
        if row.what == What::Nothing {
            return Ok(Tuned {
                model: self.model.clone(),
                trained: 0,
                selection: None,
            });
        }
        let Begun {
            mut trainer,
            steps,
            selection,
        } = self.begin(row, rate)?;
        let last = match row.what {
            What::FullSteps => self.options.warmup.min(self.options.steps),
            _ => self.options.steps,
        };
        let schedule = self.schedule(rate);
        for step in steps..last {
            let texts = self.batch(step)?;
            let texts: Vec<Text<'_>> = texts.iter().map(Text::from).collect();
            trainer.step(&texts, usize::MAX, schedule.rate(step))?;
        }
        Ok(Tuned {
            model: trainer.model().clone(),
            trained: trainer.count(),
            selection,
        })
    }

    /// A training of a row before its first step.
    pub(super) fn begin(&self, row: &Row, rate: f32) -> Result<Begun> {
        let mut begun = (self.model.clone(), 0);
        let mut selection = None;
        let trained = match row.what {
            What::Nothing => bail!("{}: nothing is trained", row.id),
            What::Full | What::FullFrozen | What::FullSteps => Trained::Full,
            What::Linear => Trained::Linear,
            What::Tiles(pools, by) => {
                let (tiles, ..) = self.tiles(pools, by, false, rate)?;
                selection = Some(tiles.clone());
                Trained::Tiles(tiles)
            }
            What::TilesTrained(pools) => {
                let (tiles, model, steps) = self.tiles(pools, By::MeanMagnitude, true, rate)?;
                begun = (model, steps);
                selection = Some(tiles.clone());
                Trained::Tiles(tiles)
            }
            What::Adapters(targets, rank, dora) => Trained::Adapters {
                options: AdapterOptions {
                    rank,
                    alpha: rank as f32,
                    targets: targets.to_vec(),
                    dora,
                },
                seed: self.seed,
            },
            What::SuperWeights => Trained::Tiles(single(&self.super_weights)),
            What::RandomWeights(count) => Trained::Tiles(single(&self.random(count))),
        };
        let mut trainer = Trainer::new(&begun.0, &trained, ADAMW, CLIP)?;
        if row.what == What::FullFrozen {
            trainer.freeze(&self.super_weights)?;
        }
        Ok(Begun {
            trainer,
            steps: begun.1,
            selection,
        })
    }

    /// Linear to zero.
    fn schedule(&self, peak: f32) -> Schedule {
        Schedule {
            peak,
            warmup: 0,
            descent: 0,
            steps: self.options.steps,
            floor: 0.0,
        }
    }

    /// Tiles of some pools, each with its share; the model after the warm-up, and the steps that this was.
    pub(super) fn tiles(
        &self,
        pools: &[(&[Linear], f64)],
        by: By,
        trains: bool,
        rate: f32,
    ) -> Result<(TileSelection, Model, usize)> {
        let warmup = self.options.warmup.min(self.options.steps);
        let mut all = TileSelection {
            side: self.options.tile,
            tiles: Vec::new(),
        };
        let mut begun = (self.model.clone(), 0);
        for &(pool, share) in pools {
            let options = TileOptions {
                side: self.options.tile,
                budget: Budget::Share(share),
                per_matrix: false,
                pool: pool.to_vec(),
                score: by.score(self.seed),
                warmup: match trains {
                    true => Warmup::Training {
                        steps: warmup,
                        rate,
                    },
                    false => Warmup::Gradients { steps: warmup },
                },
            };
            // Texts that only look are those after the training's own.
            let first = if trains { 0 } else { self.options.steps };
            let mut batch = |step| {
                let texts = self.batch(first + step);
                texts.map_err(|e| sw_train::Error::Shape(e.to_string()))
            };
            let model = &self.model;
            let chosen = choose_tiles(model, &options, ADAMW, CLIP, usize::MAX, &mut batch)?;
            all.tiles.extend(chosen.selection.tiles);
            begun = (chosen.model, chosen.steps);
        }
        all.tiles.sort();
        Ok((all, begun.0, begun.1))
    }

    /// Single weights by chance.
    fn random(&self, count: usize) -> Vec<WeightCoord> {
        let mut dice = Dice::new(self.seed, 1 << 40);
        let maps: Vec<LinearAt> = self.model.linears().collect();
        let mut found = BTreeSet::new();
        while found.len() < count {
            let at = maps[dice.below(maps.len())];
            let [rows, cols] = self.model.spec().shape(at);
            let (row, col) = (dice.below(rows), dice.below(cols));
            found.insert(WeightCoord {
                layer: at.layer,
                linear: at.linear,
                expert: at.expert,
                row,
                col,
            });
        }
        found.into_iter().collect()
    }

    /// Nats per token of held-out text: 0 about the new lore, 1 about all that the checkpoint has learned.
    pub(super) fn loss(&self, model: &Model, which: usize) -> Result<f64> {
        let texts: Vec<&[u32]> = self.held_out[which].iter().map(|e| &e.tokens[..]).collect();
        let scores = model.score_texts(&texts, &mut ())?;
        let all: Vec<f64> = scores.iter().flatten().map(|s| -s.log_prob).collect();
        Ok(all.iter().sum::<f64>() / all.len().max(1) as f64)
    }
}

/// Documents about a world's lore.
fn on_lore(world: World) -> Source {
    Source {
        document: story::on_lore,
        world,
    }
}

/// The sequences of a batch, each with the token that its last one predicts.
fn examples(batch: &sw_train::Batch) -> Vec<Example> {
    let pairs = batch
        .inputs
        .chunks(batch.len)
        .zip(batch.targets.chunks(batch.len));
    let one = |(inputs, targets): (&[u32], &[u32])| Example {
        tokens: inputs.iter().chain(targets.last()).copied().collect(),
        given: 1,
    };
    pairs.map(one).collect()
}

fn single(coords: &[WeightCoord]) -> TileSelection {
    let mut tiles: Vec<Tile> = coords
        .iter()
        .map(|coord| Tile {
            at: coord.at(),
            row: coord.row,
            col: coord.col,
        })
        .collect();
    tiles.sort();
    TileSelection { side: 1, tiles }
}
