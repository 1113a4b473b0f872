//! Sparse Matrix Tuning's choice of tiles: a warm-up that sums gradients, scores, and a budget.

use std::collections::BTreeMap;

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use sw_model::{Linear, LinearAt, Model, TensorAt};

use super::blocks::Param;
use super::trainer::{Trained, Trainer};
use crate::adamw::AdamWOptions;
use crate::error::{Error, Result};
use crate::mapped::Text;
use crate::tiles::{TileScore, TileSelection, score_gradients, score_tiles};

/// A text to learn from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt, which are not predicted; the first token never is.
    pub given: usize,
}

impl Example {
    /// This example behind a soft prompt: its virtual tokens are given, and what was predicted is.
    #[must_use]
    pub fn behind(&self, virtual_tokens: &[u32]) -> Example {
        Example {
            tokens: [virtual_tokens, &self.tokens].concat(),
            given: virtual_tokens.len() + self.given.max(1),
        }
    }
}

impl<'t> From<&'t Example> for Text<'t> {
    fn from(example: &'t Example) -> Self {
        Text {
            tokens: &example.tokens,
            given: example.given,
        }
    }
}

/// How many tiles are trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Weights in tiles as a share of all weights of the model, rounded down to whole tiles.
    Share(f64),
    /// So many tiles.
    Tiles(usize),
}

/// What happens before the choice, so that there are gradients to choose by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// Passes forward and back, whose gradients are summed; the weights stay as they are.
    Gradients {
        /// How many.
        steps: usize,
    },
    /// Steps of full training, whose gradients are summed and whose result is kept, as in the release of the paper. They are
    /// steps of the training and count as such.
    Training {
        /// How many.
        steps: usize,
        /// Learning rate of all of them.
        rate: f32,
    },
}

/// How tiles are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TileOptions {
    /// Rows, and columns, of a tile.
    pub side: usize,
    /// How many.
    pub budget: Budget,
    /// Whether every matrix of the pool gets an equal part of the budget, rounded down.
    #[serde(default)]
    pub per_matrix: bool,
    /// Where: these maps of all layers.
    pub pool: Vec<Linear>,
    /// The score that tiles are ranked by.
    pub score: TileScore,
    /// What happens before.
    pub warmup: Warmup,
}

/// A choice of tiles.
#[derive(Clone)]
pub struct Chosen {
    /// The tiles.
    pub selection: TileSelection,
    /// The model that they are to be trained in: the one given, or what the warm-up made of it.
    pub model: Model,
    /// Steps of training that the warm-up was.
    pub steps: usize,
    /// What to know of the choice, in a line: that the budget exceeds the pool, say.
    pub note: Option<String>,
}

/// Chooses tiles. `batch` gives the texts of each step of the warm-up, counted from 0; `at_a_time` of them are in memory
/// together.
///
/// # Errors
/// A side that does not divide a matrix of the pool, a budget of no tile, errors of the passes and of `batch`.
pub fn choose_tiles(
    model: &Model,
    options: &TileOptions,
    adamw: AdamWOptions,
    clip: f64,
    at_a_time: usize,
    batch: &mut dyn FnMut(usize) -> Result<Vec<Example>>,
) -> Result<Chosen> {
    let (side, pool) = (options.side, &options.pool[..]);
    let by_gradient = !matches!(
        options.score,
        TileScore::Magnitude | TileScore::Random { .. }
    );
    let (mut after, mut steps) = (model.clone(), 0);
    let scored = match options.warmup {
        Warmup::Training { steps: n, rate } => {
            let mut trainer = Trainer::new(model, &Trained::Full, adamw, clip)?;
            let mut sums: BTreeMap<LinearAt, Array2<f32>> = BTreeMap::new();
            for step in 0..n {
                let texts = batch(step)?;
                let texts: Vec<Text<'_>> = texts.iter().map(Text::from).collect();
                let done = trainer.step(&texts, at_a_time, rate)?;
                let unclipped = (done.norm / clip).max(1.0) as f32;
                for at in model.linears().filter(|at| pool.contains(&at.linear)) {
                    let param = Param::Tensor(TensorAt::Weight(at));
                    for (_, gradient) in trainer.gradient().get(param) {
                        let zeros = || Array2::zeros(gradient.dim());
                        let sum = sums.entry(at).or_insert_with(zeros);
                        sum.scaled_add(unclipped, gradient);
                    }
                }
            }
            (after, steps) = (trainer.model().clone(), n);
            match by_gradient {
                true => score_gradients(&after, &sums, pool, side, options.score)?,
                false => score_tiles::<&Example>(&after, &[], pool, side, options.score)?,
            }
        }
        Warmup::Gradients { steps: n } => {
            let n = if by_gradient { n } else { 0 };
            let batches = (0..n).map(batch).collect::<Result<Vec<_>>>()?;
            // Parts that fit into memory; the gradient of a mean is not that of its parts, but the scores order alike.
            let parts = batches
                .iter()
                .flat_map(|texts| texts.chunks(at_a_time.max(1)));
            let parts: Vec<Vec<&Example>> = parts.map(|part| part.iter().collect()).collect();
            let parts: Vec<&[&Example]> = parts.iter().map(Vec::as_slice).collect();
            score_tiles(model, &parts, pool, side, options.score)?
        }
    };
    let matrices = model
        .linears()
        .filter(|at| pool.contains(&at.linear))
        .count();
    let asked = match options.budget {
        Budget::Tiles(n) => n,
        Budget::Share(share) if (0.0..=1.0).contains(&share) => {
            (share * model.parameters() as f64 / (side * side) as f64) as usize
        }
        Budget::Share(share) => {
            return Err(Error::Shape(format!("a share of {share}: expected 0 to 1")));
        }
    };
    if asked == 0 || (options.per_matrix && asked < matrices) {
        let needed = if options.per_matrix { matrices } else { 1 };
        return Err(Error::Shape(format!(
            "the budget is {asked} tiles of {side} x {side}, expected at least {needed}; take a larger share or a smaller tile"
        )));
    }
    let selection = match options.per_matrix {
        true => TileSelection::best_of_each(side, &scored, asked / matrices),
        false => TileSelection::best(side, &scored, asked),
    };
    let note = (asked > scored.len()).then(|| {
        format!(
            "the budget is {asked} tiles, the pool has {}: all of them are trained",
            scored.len()
        )
    });
    Ok(Chosen {
        selection,
        model: after,
        steps,
        note,
    })
}
