//! Tiles: block gradients against whole ones, and selections that do not depend on chance.

mod dice;

use std::collections::BTreeMap;
use std::path::Path;

use dice::Dice;
use ndarray::{Array2, ArrayView2, s};
use sw_model::{Linear, LinearAt, Model, TensorAt};
use sw_train::checkpoint::save;
use sw_train::mapped::{Gradients, backward};
use sw_train::tiles::{ScoredTile, Tile, TileScore, TileSelection, score_tiles};
use sw_train::tune::{BlockGradients, Param};
use sw_train::{Block, Params, Precision, Shape, Tensor};

const TEXTS: [&[u32]; 2] = [&[0, 3, 5, 3, 7, 1, 9], &[2, 12, 4]];
const POOL: [Linear; 3] = [Linear::Q, Linear::V, Linear::Down];

fn model(dir: &Path) -> Model {
    let shape = Shape {
        vocab: 13,
        hidden: 16,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        intermediate: 24,
        max_positions: 16,
        rope_theta: 100.0,
        eps: 1e-5,
        tied: true,
        experts: vec![],
    };
    let mut params = Params::blank(&shape).unwrap();
    let mut dice = Dice::new(6, 0);
    for tensor in Tensor::all(&shape).into_iter().filter(|t| !t.is_norm()) {
        params.get_mut(tensor).mapv_inplace(|_| 0.3 * dice.normal());
    }
    save(&params, Precision::Bf16, dir).unwrap();
    Model::open(dir).unwrap()
}

/// Zeros for blocks of linear maps.
fn zeros(model: &Model, blocks: &BTreeMap<LinearAt, Vec<Block>>) -> BlockGradients {
    let param = |(at, blocks): (&LinearAt, &Vec<Block>)| {
        (Param::Tensor(TensorAt::Weight(*at)), blocks.clone())
    };
    BlockGradients::zeros(model, &blocks.iter().map(param).collect())
}

/// The gradient of one map, and the lowest layer that came by.
struct One(LinearAt, Array2<f32>, usize);

impl Gradients for One {
    fn linear(&mut self, at: LinearAt, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        self.2 = self.2.min(at.layer);
        if at == self.0 {
            self.1 = dy.t().dot(&x);
        }
    }
}

#[test]
fn blocks_have_the_gradients_they_have_in_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let scored = score_tiles(&model, &[&TEXTS[..]], &POOL, 4, TileScore::MeanMagnitude).unwrap();
    for count in [1, 9, scored.len()] {
        let selection = TileSelection::best(4, &scored, count);
        assert_eq!(selection.tiles.len(), count);
        let blocks = selection.blocks(&model).unwrap();
        let mut some = zeros(&model, &blocks);
        backward(&model, &TEXTS, &mut some).unwrap();
        let mut weights = 0;
        for &at in blocks.keys() {
            let mut one = One(at, Array2::default((0, 0)), usize::MAX);
            backward(&model, &TEXTS, &mut one).unwrap();
            let largest = one.1.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            for (block, gradient) in some.get(Param::Tensor(TensorAt::Weight(at))) {
                let of_whole = one.1.slice(s![block.rows.clone(), block.cols.clone()]);
                weights += gradient.len();
                for (a, b) in gradient.iter().zip(of_whole) {
                    assert!((a - b).abs() <= 1e-5 * largest, "{at}: {a} {b}");
                }
            }
        }
        assert_eq!(weights, selection.weights());
        if count == scored.len() {
            assert!(blocks.values().all(|blocks| blocks.len() == 1));
        }
    }
}

#[test]
fn a_score_is_the_score_of_the_whole_gradient_summed_over_batches() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let batches: [&[&[u32]]; 2] = [&TEXTS[..1], &TEXTS[1..]];
    let scored = score_tiles(&model, &batches, &POOL, 4, TileScore::MeanMagnitude).unwrap();
    let at = LinearAt::dense(1, Linear::Down);
    let [first, second] = batches.map(|texts| {
        let mut one = One(at, Array2::default((0, 0)), usize::MAX);
        backward(&model, texts, &mut one).unwrap();
        one.1
    });
    let sum = first + second;
    let of_map: Vec<&ScoredTile> = scored.iter().filter(|s| s.tile.at == at).collect();
    assert_eq!(of_map.len(), 4 * 6);
    for ScoredTile { tile, score } in of_map {
        let (a, b) = (tile.row * 4, tile.col * 4);
        let mean = sum.slice(s![a..a + 4, b..b + 4]).mapv(f32::abs).mean();
        assert!((f64::from(mean.unwrap()) - score).abs() < 1e-5 * score);
    }
}

#[test]
fn selections_do_not_depend_on_threads_and_ties_go_by_order() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    for score in [
        TileScore::SignedMean,
        TileScore::Euclidean,
        TileScore::Relative,
        TileScore::Magnitude,
        TileScore::Random { seed: 3 },
    ] {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| score_tiles(&model, &[&TEXTS[..]], &POOL, 8, score).unwrap())
        };
        assert_eq!(on(1), on(3), "{score:?}");
    }
    let tile = |layer, row, col| Tile {
        at: LinearAt::dense(layer, Linear::V),
        row,
        col,
    };
    let equal = [tile(1, 0, 0), tile(0, 1, 1), tile(0, 1, 0), tile(0, 0, 1)];
    let equal = equal.map(|tile| ScoredTile { tile, score: 1.0 });
    let two = TileSelection::best(4, &equal, 2);
    assert_eq!(two.tiles, [tile(0, 0, 1), tile(0, 1, 0)]);
    let each = TileSelection::best_of_each(4, &equal, 1);
    assert_eq!(each.tiles, [tile(0, 0, 1), tile(1, 0, 0)]);
    assert_eq!(TileSelection::best(4, &equal, 100).tiles.len(), 4);
}

#[test]
fn the_way_back_ends_at_the_lowest_selected_layer() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let tiles = vec![Tile {
        at: LinearAt::dense(1, Linear::Up),
        row: 0,
        col: 1,
    }];
    let blocks = TileSelection { side: 4, tiles }.blocks(&model).unwrap();
    let some = zeros(&model, &blocks);
    assert_eq!(some.lowest_layer(), 1);
    let none = TileSelection {
        side: 4,
        tiles: Vec::new(),
    };
    let mut none = zeros(&model, &none.blocks(&model).unwrap());
    assert_eq!(none.lowest_layer(), usize::MAX);
    assert!(backward(&model, &TEXTS, &mut none).unwrap() > 0.0);
}

#[test]
fn a_selection_is_a_file_and_a_wrong_one_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let path = dir.path().join("selection.json");
    let scored =
        score_tiles::<&[u32]>(&model, &[], &POOL, 4, TileScore::Random { seed: 1 }).unwrap();
    let selection = TileSelection::best(4, &scored, 5);
    selection.write(&path).unwrap();
    assert_eq!(TileSelection::read(&path).unwrap(), selection);

    std::fs::write(&path, r#"{"side": 4, "tiles": [], "share": 1}"#).unwrap();
    let error = TileSelection::read(&path).unwrap_err().to_string();
    assert!(
        error.contains("selection.json") && error.contains("share"),
        "{error}"
    );

    let refused = |side, row, linear| {
        let tile = Tile {
            at: LinearAt::dense(0, linear),
            row,
            col: 0,
        };
        let tiles = vec![tile, tile];
        let error = TileSelection { side, tiles }.blocks(&model).unwrap_err();
        error.to_string()
    };
    assert!(refused(5, 0, Linear::Q).contains("do not fill"));
    assert!(refused(4, 9, Linear::Q).contains("outside its 4 x 4 tiles"));
    assert!(refused(4, 0, Linear::Qkv).contains("has no layers[0].qkv_proj"));
    assert!(refused(4, 0, Linear::Q).contains("twice"));
    let error = score_tiles(&model, &[&TEXTS[..]], &POOL, 7, TileScore::SignedMean).unwrap_err();
    assert!(error.to_string().contains("take a side that divides both"));
    let error = score_tiles::<&[u32]>(&model, &[], &POOL, 4, TileScore::SignedMean).unwrap_err();
    assert!(error.to_string().contains("no batch"));
}
