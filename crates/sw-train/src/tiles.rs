//! Sparse Matrix Tuning's tiles (arXiv 2405.15525): scores and selection.
//!
//! A tile is a square of a linear map's weight; tile `(a, b)` of side `l` covers rows `a l .. (a + 1) l` and columns
//! `b l .. (b + 1) l`. [`score_tiles`] scores those of a pool of maps, [`TileSelection::best`] takes the highest, the selection is
//! a file of its own, and a [`Trainer`](crate::tune::Trainer) trains it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sw_model::{Linear, LinearAt, Model};
use sw_tensor::{files::read_at_most, product};

use crate::checkpoint::write;
use crate::error::{Error, Result};
use crate::gradient::Block;
use crate::mapped::{self, Gradients, Keep, PANEL, Text, widened};

/// Bytes of a selection, at most.
const MOST: u64 = 1 << 30;

/// What a tile is worth, by its gradient `g` (summed over the batches) or its weights `w`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TileScore {
    /// `|mean g|`: high where all of a tile moves one way. The release's default, there called `mean_abs`.
    SignedMean,
    /// `mean |g|`, the paper's wording; the release calls it `abs_mean`.
    MeanMagnitude,
    /// `sqrt(sum g^2)`.
    Euclidean,
    /// `mean |g|` over that of the whole matrix, so that matrices with large gradients do not win by size.
    Relative,
    /// `mean |w|`: without any gradient.
    Magnitude,
    /// By chance, as a control.
    Random {
        /// Equal seeds give equal scores.
        seed: u64,
    },
}

/// A tile of a linear map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tile {
    /// The map.
    #[serde(flatten)]
    pub at: LinearAt,
    /// Which row of tiles, from 0.
    pub row: usize,
    /// Which column of tiles, from 0.
    pub col: usize,
}

impl Tile {
    /// The weights it covers.
    pub fn block(&self, side: usize) -> Block {
        Block {
            rows: self.row * side..(self.row + 1) * side,
            cols: self.col * side..(self.col + 1) * side,
        }
    }
}

/// A tile and its score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredTile {
    /// Which tile.
    #[serde(flatten)]
    pub tile: Tile,
    /// The higher, the sooner it is selected.
    pub score: f64,
}

/// Scores every tile of side `side` of the maps in `pool`, in all layers; in the order of the layers, maps, rows and columns.
///
/// Gradients are those of the mean negative log-likelihood of each batch (several texts), summed over `batches` before they are
/// scored. With one batch, that of one matrix is in memory at a time; with more, those of the pool (four bytes per weight).
/// [`TileScore::Magnitude`] and [`TileScore::Random`] run no pass.
///
/// # Errors
/// A side that does not divide a matrix of the pool, a pool of maps that the model does not have, and those of
/// [`mapped::backward`].
pub fn score_tiles<'t, T: Copy + Into<Text<'t>>>(
    model: &Model,
    batches: &[&[T]],
    pool: &[Linear],
    side: usize,
    score: TileScore,
) -> Result<Vec<ScoredTile>> {
    let mut scorer = Scorer::new(model, pool, side, score)?;
    let maps: Vec<LinearAt> = scorer.maps.iter().copied().collect();
    match score {
        TileScore::Magnitude => {
            for &at in &maps {
                let weight = model.weight_at(at);
                let weight = weight.map(|w| widened(w, 0..w.cols()));
                scorer.score(at, &weight.unwrap_or_default());
            }
        }
        TileScore::Random { seed } => {
            for (stream, &at) in (0..).zip(&maps) {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(stream);
                let [rows, cols] = model.spec().shape(at).map(|n| n / side);
                let chance = || f64::from(rng.next_u32()) / f64::from(u32::MAX);
                let scores = Array2::from_shape_simple_fn((rows, cols), chance);
                scorer.scores.insert(at, scores);
            }
        }
        _ if batches.is_empty() => {
            return Err(Error::Shape(
                "no batch of texts to take gradients of".into(),
            ));
        }
        _ => {
            for (i, texts) in batches.iter().enumerate() {
                scorer.last = i + 1 == batches.len();
                mapped::backward(model, texts, &mut scorer)?;
            }
        }
    }
    scorer.finish()
}

/// As [`score_tiles`], by gradients that were summed elsewhere, over the steps of a training say.
///
/// # Errors
/// As [`score_tiles`]; a map of the pool without a gradient of its shape.
pub fn score_gradients(
    model: &Model,
    gradients: &BTreeMap<LinearAt, Array2<f32>>,
    pool: &[Linear],
    side: usize,
    score: TileScore,
) -> Result<Vec<ScoredTile>> {
    let mut scorer = Scorer::new(model, pool, side, score)?;
    for at in scorer.maps.clone() {
        let [rows, cols] = model.spec().shape(at);
        let gradient = gradients.get(&at).filter(|g| g.dim() == (rows, cols));
        let gradient = gradient
            .ok_or_else(|| Error::Shape(format!("no gradient of [{rows}, {cols}] for {at}")))?;
        scorer.score(at, gradient);
    }
    scorer.finish()
}

fn fits(model: &Model, at: LinearAt, side: usize) -> Result<()> {
    let [rows, cols] = model.spec().shape(at);
    if side == 0 || !rows.is_multiple_of(side) || !cols.is_multiple_of(side) {
        return Err(Error::Shape(format!(
            "tiles of {side} x {side} do not fill {at} of [{rows}, {cols}]; take a side that divides both"
        )));
    }
    Ok(())
}

struct Scorer {
    side: usize,
    by: TileScore,
    maps: BTreeSet<LinearAt>,
    /// Gradients of the batches so far.
    sums: BTreeMap<LinearAt, Array2<f32>>,
    /// Whether this is the last batch, so that a sum is complete.
    last: bool,
    scores: BTreeMap<LinearAt, Array2<f64>>,
}

impl Scorer {
    fn new(model: &Model, pool: &[Linear], side: usize, by: TileScore) -> Result<Scorer> {
        let maps = model.linears().filter(|at| pool.contains(&at.linear));
        let maps: BTreeSet<LinearAt> = maps.collect();
        if maps.is_empty() {
            return Err(Error::Shape(
                "the pool names no linear map that the model has".into(),
            ));
        }
        for &at in &maps {
            fits(model, at, side)?;
        }
        Ok(Scorer {
            side,
            by,
            maps,
            sums: BTreeMap::new(),
            last: false,
            scores: BTreeMap::new(),
        })
    }

    /// All tiles with their scores.
    fn finish(self) -> Result<Vec<ScoredTile>> {
        let of_map = |(at, scores): (LinearAt, Array2<f64>)| {
            let scored = scores
                .indexed_iter()
                .map(|((row, col), &score)| ScoredTile {
                    tile: Tile { at, row, col },
                    score,
                });
            scored.collect::<Vec<_>>()
        };
        let scored: Vec<ScoredTile> = self.scores.into_iter().flat_map(of_map).collect();
        match scored.iter().find(|tile| !tile.score.is_finite()) {
            Some(bad) => Err(Error::Shape(format!(
                "the gradient of {} is not finite on these texts",
                bad.tile.at
            ))),
            None => Ok(scored),
        }
    }

    /// Scores a map by this matrix.
    fn score(&mut self, at: LinearAt, of: &Array2<f32>) {
        let scores = scores(of.view(), self.side, self.by);
        self.scores.insert(at, scores);
    }
}

impl Gradients for Scorer {
    fn linear(&mut self, at: LinearAt, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        let zeros = || Array2::zeros((dy.ncols(), x.ncols()));
        let mut sum = self.sums.remove(&at).unwrap_or_else(zeros);
        add_product(dy, x, sum.view_mut());
        if self.last {
            self.score(at, &sum);
        } else {
            self.sums.insert(at, sum);
        }
    }

    fn keep(&self, at: LinearAt) -> Keep {
        match self.maps.contains(&at) {
            true => Keep::All,
            false => Keep::Nothing,
        }
    }

    fn lowest_layer(&self) -> usize {
        self.maps.first().map_or(usize::MAX, |at| at.layer)
    }
}

/// The score of every tile of a matrix of gradients (or weights).
fn scores(of: ArrayView2<'_, f32>, side: usize, score: TileScore) -> Array2<f64> {
    let magnitude = |g: &f32| f64::from(g.abs());
    let n = (side * side) as f64;
    let whole = match score {
        TileScore::Relative => of.iter().map(magnitude).sum::<f64>() / of.len() as f64,
        _ => 1.0,
    };
    let of_tile = |tile: ArrayView2<'_, f32>| match score {
        TileScore::SignedMean => (tile.iter().map(|&g| f64::from(g)).sum::<f64>() / n).abs(),
        TileScore::Euclidean => {
            let squares = tile.iter().map(|&g| f64::from(g).powi(2));
            squares.sum::<f64>().sqrt()
        }
        // A matrix without any gradient has no tile that stands out.
        TileScore::Relative if whole == 0.0 => 0.0,
        _ => tile.iter().map(magnitude).sum::<f64>() / n / whole,
    };
    let shape = (of.nrows() / side, of.ncols() / side);
    Array2::from_shape_fn(shape, |(a, b)| {
        of_tile(of.slice(s![a * side..(a + 1) * side, b * side..(b + 1) * side]))
    })
}

/// Tiles that are to be trained, as a file: `{"side": 16, "tiles": [{"layer": 0, "linear": "down_proj", "row": 3, "col": 1}, ..]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileSelection {
    /// Rows, and columns, of a tile.
    pub side: usize,
    /// Which tiles; no two the same.
    pub tiles: Vec<Tile>,
}

impl TileSelection {
    /// The `count` tiles with the highest scores; of equal scores the first in the order of layers, maps, rows and columns. All
    /// of them where there are fewer.
    pub fn best(side: usize, scored: &[ScoredTile], count: usize) -> TileSelection {
        let mut order: Vec<&ScoredTile> = scored.iter().collect();
        order.sort_by(|a, b| {
            let by_score = b.score.total_cmp(&a.score);
            by_score.then_with(|| a.tile.cmp(&b.tile))
        });
        let mut tiles: Vec<Tile> = order.iter().take(count).map(|s| s.tile).collect();
        tiles.sort();
        TileSelection { side, tiles }
    }

    /// As [`best`](Self::best), for every matrix by itself.
    pub fn best_of_each(side: usize, scored: &[ScoredTile], count: usize) -> TileSelection {
        let mut by_map: BTreeMap<LinearAt, Vec<ScoredTile>> = BTreeMap::new();
        for tile in scored {
            by_map.entry(tile.tile.at).or_default().push(*tile);
        }
        let of_map = |scored: &Vec<ScoredTile>| TileSelection::best(side, scored, count).tiles;
        TileSelection {
            side,
            tiles: by_map.values().flat_map(of_map).collect(),
        }
    }

    /// Weights in the tiles.
    pub fn weights(&self) -> usize {
        self.tiles.len() * self.side * self.side
    }

    /// Reads a selection from a file; [`blocks`](Self::blocks) says whether it fits a model.
    ///
    /// # Errors
    /// If the file cannot be read, or is no selection.
    pub fn read(path: &Path) -> Result<TileSelection> {
        let bytes = read_at_most(path, MOST).map_err(Error::file(path))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::content(path, e))
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::content(path, e))?;
        write(path, (text + "\n").as_bytes())
    }

    /// The rectangles of each map that the tiles cover, as few as the order of summation asks for: a map that is covered is one
    /// block, full rows of tiles that follow each other are one band, every other tile is a block.
    ///
    /// # Errors
    /// A tile outside its matrix, one that is there twice, a map that the model does not have, a side that does not divide it.
    pub fn blocks(&self, model: &Model) -> Result<BTreeMap<LinearAt, Vec<Block>>> {
        let mut by_map: BTreeMap<LinearAt, BTreeMap<usize, BTreeSet<usize>>> = BTreeMap::new();
        for tile in &self.tiles {
            if model.weight_at(tile.at).is_none() {
                return Err(Error::Shape(format!("the model has no {}", tile.at)));
            }
            fits(model, tile.at, self.side)?;
            let [rows, cols] = model.spec().shape(tile.at).map(|n| n / self.side);
            if tile.row >= rows || tile.col >= cols {
                return Err(Error::Shape(format!(
                    "tile [{}, {}] of {} lies outside its {rows} x {cols} tiles",
                    tile.row, tile.col, tile.at
                )));
            }
            let row = by_map.entry(tile.at).or_default().entry(tile.row);
            if !row.or_default().insert(tile.col) {
                return Err(Error::Shape(format!(
                    "tile [{}, {}] of {} is there twice",
                    tile.row, tile.col, tile.at
                )));
            }
        }
        let of_map = |(at, rows): (LinearAt, BTreeMap<usize, BTreeSet<usize>>)| {
            let cols = model.spec().shape(at)[1];
            (at, self.coalesced(&rows, cols))
        };
        Ok(by_map.into_iter().map(of_map).collect())
    }

    fn coalesced(&self, rows: &BTreeMap<usize, BTreeSet<usize>>, cols: usize) -> Vec<Block> {
        let side = self.side;
        let mut blocks: Vec<Block> = Vec::new();
        for (&row, tiles) in rows {
            let span = row * side..(row + 1) * side;
            if tiles.len() * side == cols {
                match blocks.last_mut() {
                    Some(band) if band.cols == (0..cols) && band.rows.end == span.start => {
                        band.rows.end = span.end;
                    }
                    _ => blocks.push(Block {
                        rows: span,
                        cols: 0..cols,
                    }),
                }
                continue;
            }
            blocks.extend(tiles.iter().map(|&col| Block {
                rows: span.clone(),
                cols: col * side..(col + 1) * side,
            }));
        }
        blocks
    }
}

/// `dw += dy^T * x`, some columns per thread: `[tokens, out]^T x [tokens, in] -> [out, in]`.
pub(crate) fn add_product(
    dy: ArrayView2<'_, f32>,
    x: ArrayView2<'_, f32>,
    mut dw: ArrayViewMut2<'_, f32>,
) {
    let panels = dw.axis_chunks_iter_mut(Axis(1), PANEL).into_par_iter();
    panels
        .zip(x.axis_chunks_iter(Axis(1), PANEL))
        .for_each(|(dw, x)| product(1.0, dy.t(), x, 1.0, dw));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_that_moves_one_way_and_one_that_moves_both_ways_are_told_apart() {
        // Tiles of 2 x 2: one constant 1, one that alternates between 2 and -2, two of zeros.
        let gradient = Array2::from_shape_fn((4, 4), |(r, c)| match (r / 2, c / 2) {
            (0, 0) => 1.0,
            (1, 1) if (r + c) % 2 == 0 => 2.0,
            (1, 1) => -2.0,
            _ => 0.0,
        });
        let of = |score| scores(gradient.view(), 2, score);
        assert_eq!(
            of(TileScore::SignedMean),
            ndarray::array![[1.0, 0.0], [0.0, 0.0]]
        );
        assert_eq!(
            of(TileScore::MeanMagnitude),
            ndarray::array![[1.0, 0.0], [0.0, 2.0]]
        );
        assert_eq!(
            of(TileScore::Euclidean),
            ndarray::array![[2.0, 0.0], [0.0, 4.0]]
        );
        let relative = ndarray::array![[1.0 / 0.75, 0.0], [0.0, 2.0 / 0.75]];
        assert_eq!(of(TileScore::Relative), relative);
    }
}
