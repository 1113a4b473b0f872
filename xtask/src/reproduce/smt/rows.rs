//! What is compared: one row each.

use sw_model::Linear;
use sw_train::tiles::TileScore;

/// Queries, keys and values: the paper's pool.
pub(super) const QKV: &[Linear] = &[Linear::Q, Linear::K, Linear::V];
/// The maps of the MLP.
pub(super) const MLP: &[Linear] = &[Linear::Gate, Linear::Up, Linear::Down];
/// All linear maps.
pub(super) const ALL: &[Linear] = &[
    Linear::Q,
    Linear::K,
    Linear::V,
    Linear::O,
    Linear::Gate,
    Linear::Up,
    Linear::Down,
];

/// The paper's two shares of all weights.
pub(super) const SMALL: f64 = 0.0086;
pub(super) const LARGE: f64 = 0.049;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum What {
    /// Nothing.
    Nothing,
    /// Every weight.
    Full,
    /// Every weight but the super weights, which are frozen.
    FullFrozen,
    /// Every weight, for the steps of the warm-up only.
    FullSteps,
    /// Linear maps.
    Linear,
    /// Tiles: pools with their shares of all weights, by a score of `By`.
    Tiles(&'static [(&'static [Linear], f64)], By),
    /// The best tiles after a warm-up that trains everything.
    TilesTrained(&'static [(&'static [Linear], f64)]),
    /// Adapters of a rank beside some maps.
    Adapters(&'static [Linear], usize, bool),
    /// The super weights, as single weights.
    SuperWeights,
    /// So many single weights of the linear maps, by chance.
    RandomWeights(usize),
}

/// The score by which tiles are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum By {
    MeanMagnitude,
    SignedMean,
    Relative,
    Magnitude,
    Random,
}

impl By {
    pub(super) fn score(self, seed: u64) -> TileScore {
        match self {
            By::MeanMagnitude => TileScore::MeanMagnitude,
            By::SignedMean => TileScore::SignedMean,
            By::Relative => TileScore::Relative,
            By::Magnitude => TileScore::Magnitude,
            By::Random => TileScore::Random { seed },
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Its name in files.
    pub(super) id: &'static str,
    /// Its name for people.
    pub(super) name: &'static str,
    pub(super) what: What,
}

impl Row {
    /// The row whose rate this one has: its own, or that of the nearest one that is searched.
    pub(super) fn searched(&self) -> &'static str {
        match self.id {
            "full-frozen" | "full-steps" | "linear" => "full",
            "signed-qkv" => "smt-qkv",
            "magnitude-all" | "relative-all" => "smt-all",
            "split-even" | "split-attention" => "smt-mlp",
            "smt-mlp-large" => "smt-all-large",
            "dora-qkv" => "lora-qkv",
            "dora-all" => "lora-all",
            "dora-qkv-large" => "lora-qkv-large",
            own => own,
        }
    }
}

const fn row(id: &'static str, name: &'static str, what: What) -> Row {
    Row { id, name, what }
}

use What::{Adapters, Tiles};

/// All rows, in the order of the table.
pub(super) const ROWS: &[Row] = &[
    row("base", "As it is", What::Nothing),
    row("full", "Full", What::Full),
    row("linear", "Linear maps", What::Linear),
    row(
        "smt-qkv",
        "SMT QKV .86 %",
        Tiles(&[(QKV, SMALL)], By::MeanMagnitude),
    ),
    row(
        "smt-all",
        "SMT all .86 %",
        Tiles(&[(ALL, SMALL)], By::MeanMagnitude),
    ),
    row(
        "smt-mlp",
        "SMT MLP .86 %",
        Tiles(&[(MLP, SMALL)], By::MeanMagnitude),
    ),
    row(
        "signed-qkv",
        "SMT QKV .86 %, signed mean",
        Tiles(&[(QKV, SMALL)], By::SignedMean),
    ),
    row(
        "random-qkv",
        "random tiles QKV .86 %",
        Tiles(&[(QKV, SMALL)], By::Random),
    ),
    row(
        "random-mlp",
        "random tiles MLP .86 %",
        Tiles(&[(MLP, SMALL)], By::Random),
    ),
    row(
        "magnitude-all",
        "largest tiles all .86 %",
        Tiles(&[(ALL, SMALL)], By::Magnitude),
    ),
    row(
        "relative-all",
        "relative tiles all .86 %",
        Tiles(&[(ALL, SMALL)], By::Relative),
    ),
    row("lora-qkv", "LoRA QKV, rank 4", Adapters(QKV, 4, false)),
    row("dora-qkv", "DoRA QKV, rank 3", Adapters(QKV, 3, true)),
    row("lora-all", "LoRA all, rank 1", Adapters(ALL, 1, false)),
    row("dora-all", "DoRA all, rank 1", Adapters(ALL, 1, true)),
    row(
        "smt-qkv-large",
        "SMT QKV 4.9 %",
        Tiles(&[(QKV, LARGE)], By::MeanMagnitude),
    ),
    row(
        "smt-all-large",
        "SMT all 4.9 %",
        Tiles(&[(ALL, LARGE)], By::MeanMagnitude),
    ),
    row(
        "smt-mlp-large",
        "SMT MLP 4.9 %",
        Tiles(&[(MLP, LARGE)], By::MeanMagnitude),
    ),
    row(
        "lora-qkv-large",
        "LoRA QKV, rank 21",
        Adapters(QKV, 21, false),
    ),
    row(
        "dora-qkv-large",
        "DoRA QKV, rank 20",
        Adapters(QKV, 20, true),
    ),
    row(
        "lora-all-large",
        "LoRA all, rank 5",
        Adapters(ALL, 5, false),
    ),
    row(
        "split-even",
        "SMT .43 % MLP, .43 % QKV",
        Tiles(&[(MLP, SMALL / 2.0), (QKV, SMALL / 2.0)], By::MeanMagnitude),
    ),
    row(
        "split-attention",
        "SMT .21 % MLP, .65 % QKV",
        Tiles(
            &[(MLP, SMALL / 4.0), (QKV, SMALL * 0.75)],
            By::MeanMagnitude,
        ),
    ),
    row(
        "full-steps",
        "Full, steps of the warm-up only",
        What::FullSteps,
    ),
    row(
        "smt-all-trained",
        "SMT all .86 %, warm-up trains",
        What::TilesTrained(&[(ALL, SMALL)]),
    ),
    row(
        "full-frozen",
        "Full, super weights frozen",
        What::FullFrozen,
    ),
    row("super-weights", "Super weights only", What::SuperWeights),
    row(
        "random-weights",
        "100 random weights",
        What::RandomWeights(100),
    ),
];

/// A row by its name in files.
pub(super) fn named(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}
