//! Fine-tuning: what is trained changes, what is not keeps its bits, and equal trainings give equal bits.

mod dice;
mod tuning;

use std::collections::BTreeMap;

use sw_model::{Linear, Model, TensorAt, WeightCoord};
use sw_train::mapped::{Text, backward};
use sw_train::tiles::{Tile, TileScore, TileSelection};
use sw_train::tune::{
    Budget, Change, Example, TileOptions, TileValues, Trained, Trainer, Warmup, choose_tiles,
};
use sw_train::{AdamWOptions, Error};
use tuning::{ADAM, CLIP, MAPS, adapters, batch, bits, model, train, trained};

fn all_tiles(model: &Model, side: usize, maps: &[Linear]) -> TileSelection {
    let mut tiles = Vec::new();
    for at in model.linears().filter(|at| maps.contains(&at.linear)) {
        let [rows, cols] = model.spec().shape(at).map(|n| n / side);
        tiles.extend((0..rows * cols).map(|i| Tile {
            at,
            row: i / cols,
            col: i % cols,
        }));
    }
    TileSelection { side, tiles }
}

fn tiles(model: &Model, count: usize) -> TileSelection {
    let options = TileOptions {
        budget: Budget::Tiles(count),
        ..options()
    };
    let chosen = choose_tiles(model, &options, ADAM, CLIP, 8, &mut batch).unwrap();
    chosen.selection
}

fn options() -> TileOptions {
    TileOptions {
        side: 4,
        budget: Budget::Tiles(5),
        per_matrix: false,
        pool: MAPS.to_vec(),
        score: TileScore::MeanMagnitude,
        warmup: Warmup::Gradients { steps: 3 },
    }
}

#[test]
fn all_tiles_train_as_all_linear_maps_do_bit_for_bit() {
    // S1 and S2: a block per map, and tiles that are joined to one.
    let (_dir, model) = model(true);
    let linear = trained(&model, &Trained::Linear, 20);
    let selection = all_tiles(&model, 4, &MAPS);
    let blocks = selection.blocks(&model).unwrap();
    assert!(blocks.values().all(|blocks| blocks.len() == 1));
    let tiled = trained(&model, &Trained::Tiles(selection), 20);
    assert_eq!(bits(linear.model()), bits(tiled.model()));
    assert_ne!(bits(linear.model()), bits(&model));
}

#[test]
fn without_tiles_nothing_changes_and_nothing_is_held() {
    // S3.
    let (_dir, model) = model(false);
    let none = TileSelection {
        side: 4,
        tiles: Vec::new(),
    };
    let mut trainer = trained(&model, &Trained::Tiles(none), 3);
    assert_eq!(trainer.count(), 0);
    let bytes = trainer.bytes();
    assert_eq!([bytes.weights, bytes.gradients, bytes.moments], [0; 3]);
    assert_eq!(trainer.gradient().params().count(), 0);
    assert_eq!(bits(trainer.model()), bits(&model));
    let losses = train(&mut trainer, 0..1);
    let texts = batch(0).unwrap();
    let texts: Vec<&Example> = texts.iter().collect();
    let mut whole = sw_train::tune::BlockGradients::zeros(&model, &BTreeMap::new());
    assert_eq!(losses[0], backward(&model, &texts, &mut whole).unwrap());
}

#[test]
fn a_tile_has_the_slope_of_the_loss() {
    // S4, against finite differences; tests/tiles.rs has the comparison with whole gradients.
    let (_dir, model) = model(true);
    let mut trainer = Trainer::new(&model, &Trained::Tiles(tiles(&model, 5)), ADAM, 1e9).unwrap();
    let examples = batch(0).unwrap();
    let texts: Vec<Text<'_>> = examples.iter().map(Text::from).collect();
    trainer.step(&texts, 1, 0.0).unwrap(); // in two parts, whose gradients add up
    let loss = |model: &Model| {
        let mut none = sw_train::tune::BlockGradients::zeros(model, &BTreeMap::new());
        backward(model, &texts, &mut none).unwrap()
    };
    let (mut seen, epsilon) = (0, 2e-2f32);
    for param in trainer.gradient().params() {
        let sw_train::tune::Param::Tensor(at) = param else {
            panic!("{param}");
        };
        let cols = model.tensor_shape(at).unwrap()[1];
        for (block, gradient) in trainer.gradient().get(param) {
            for ((r, c), &slope) in gradient.indexed_iter().step_by(5) {
                let place = (block.rows.start + r) * cols + block.cols.start + c;
                let moved = |by: f32| {
                    let mut moved = model.clone();
                    moved.change(at, |values| values[place] += by).unwrap();
                    loss(&moved)
                };
                let found = (moved(epsilon) - moved(-epsilon)) / f64::from(2.0 * epsilon);
                assert!(
                    (found - f64::from(slope)).abs() < 2e-3,
                    "{param} {found} {slope}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 10);
}

#[test]
fn weights_outside_tiles_keep_their_bits_and_the_diff_is_the_training() {
    // S5.
    let (_dir, model) = model(true);
    let selection = tiles(&model, 7);
    let trainer = trained(&model, &Trained::Tiles(selection.clone()), 10);
    let (before, after) = (bits(&model), bits(trainer.model()));
    let blocks = selection.blocks(&model).unwrap();
    let mut changed = 0;
    for (at, values) in &before {
        let cols = model.tensor_shape(*at).unwrap()[1];
        let inside = |place: usize| match at {
            TensorAt::Weight(at) => blocks.get(at).is_some_and(|blocks| {
                let hit = |b: &sw_train::Block| {
                    b.rows.contains(&(place / cols)) && b.cols.contains(&(place % cols))
                };
                blocks.iter().any(hit)
            }),
            _ => false,
        };
        for (place, (a, b)) in values.iter().zip(&after[at]).enumerate() {
            assert!(a == b || inside(place), "{at} at {place}");
            changed += usize::from(a != b);
        }
    }
    assert!(changed > selection.weights() / 2, "{changed} changed");

    let diff = TileValues::of(trainer.model(), &selection).unwrap();
    let dir = tempfile::tempdir().unwrap();
    diff.write(&model, dir.path()).unwrap();
    let read = Change::read(&model, dir.path()).unwrap();
    assert_eq!(read, Change::Tiles(diff));
    assert_eq!(read.count(), selection.weights());
    assert_eq!(bits(&read.merged(&model).unwrap()), after);
}

#[test]
fn a_budget_beyond_the_pool_is_the_pool_and_says_so() {
    // S7; ties and threads are in tests/tiles.rs.
    let (_dir, model) = model(true);
    let choose = |options: &TileOptions| {
        choose_tiles(&model, options, ADAM, CLIP, 8, &mut batch).map(|c| (c.selection, c.note))
    };
    let down = TileOptions {
        pool: vec![Linear::Down],
        budget: Budget::Tiles(1000),
        ..options()
    };
    let (selection, note) = choose(&down).unwrap();
    assert_eq!(selection.tiles.len(), 3 * 4 * 6);
    assert!(note.unwrap().contains("the pool has 72"));
    let share = TileOptions {
        budget: Budget::Share(0.1),
        ..options()
    };
    let (selection, note) = choose(&share).unwrap();
    assert_eq!(note, None);
    assert_eq!(selection.tiles.len(), model.parameters() / 10 / 16);
    let each = TileOptions {
        per_matrix: true,
        budget: Budget::Tiles(43),
        ..options()
    };
    assert_eq!(choose(&each).unwrap().0.tiles.len(), 2 * 21);
    let none = TileOptions {
        budget: Budget::Share(1e-6),
        ..options()
    };
    let error = choose(&none).err().unwrap().to_string();
    assert!(
        error.contains("0 tiles of 4 x 4, expected at least 1"),
        "{error}"
    );
    // Of random tiles and magnitudes no batch is asked for.
    let random = TileOptions {
        score: TileScore::Random { seed: 2 },
        ..options()
    };
    let mut nothing = |_| Err(Error::Shape("a batch was asked for".into()));
    let chosen = choose_tiles(&model, &random, ADAM, CLIP, 8, &mut nothing).unwrap();
    assert_eq!(chosen.selection.tiles.len(), 5);
}

#[test]
fn counts_are_what_the_formulas_say() {
    // S9.
    let (_dir, model) = model(true);
    let sides: usize = model
        .linears()
        .map(|at| model.spec().shape(at).iter().sum::<usize>())
        .sum();
    let outputs: usize = model.linears().map(|at| model.spec().shape(at)[0]).sum();
    for dora in [false, true] {
        let what = Trained::Adapters {
            options: adapters(dora),
            seed: 0,
        };
        let trainer = Trainer::new(&model, &what, ADAM, CLIP).unwrap();
        assert_eq!(trainer.count(), 2 * sides + if dora { outputs } else { 0 });
        assert_eq!(trainer.bytes().moments, 8 * trainer.count());
    }
    let full = Trainer::new(&model, &Trained::Full, ADAM, CLIP).unwrap();
    assert_eq!(full.count(), model.parameters());
    let some = Trainer::new(&model, &Trained::Tiles(tiles(&model, 9)), ADAM, CLIP).unwrap();
    assert_eq!(some.count(), 9 * 16);
    assert_eq!(some.bytes().gradients, 4 * 9 * 16);
}

#[test]
fn a_warmup_that_trains_is_full_training() {
    // S10.
    let (_dir, model) = model(true);
    let options = TileOptions {
        warmup: Warmup::Training {
            steps: 4,
            rate: 0.01,
        },
        ..options()
    };
    let chosen = choose_tiles(&model, &options, ADAM, CLIP, 8, &mut batch).unwrap();
    assert_eq!(chosen.steps, 4);
    let full = trained(&model, &Trained::Full, 4);
    assert_eq!(bits(&chosen.model), bits(full.model()));
    let tiles = trained(&chosen.model, &Trained::Tiles(chosen.selection), 0);
    assert_eq!(bits(tiles.model()), bits(full.model()));
}

#[test]
fn full_training_learns_of_tied_and_untied_models() {
    for tied in [true, false] {
        let (_dir, model) = model(tied);
        let mut trainer = Trainer::new(&model, &Trained::Full, ADAM, CLIP).unwrap();
        let losses = train(&mut trainer, 0..80);
        let last = losses[70..].iter().sum::<f64>() / 10.0;
        assert!(last < 0.6 * losses[0], "{tied}: {} to {last}", losses[0]);
        assert_eq!(trainer.model().spec().tied, tied);
        // Whoever has a clone keeps it as it is.
        let before = trainer.model().clone();
        let kept = bits(&before);
        train(&mut trainer, 80..81);
        assert_eq!(bits(&before), kept);
        assert_ne!(bits(trainer.model()), kept);
    }
}

#[test]
fn an_interrupted_training_goes_on_bit_for_bit() {
    let (_dir, model) = model(true);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let kinds = [
        Trained::Full,
        Trained::Tiles(tiles(&model, 5)),
        Trained::Adapters {
            options: adapters(true),
            seed: 1,
        },
    ];
    for what in kinds {
        let mut whole = trained(&model, &what, 12);
        let half = trained(&model, &what, 5);
        half.save_state(&path).unwrap();
        let mut rest = Trainer::new(&model, &what, ADAM, CLIP).unwrap();
        rest.load_state(&path).unwrap();
        assert_eq!(rest.steps(), 5);
        train(&mut rest, 5..12);
        assert_eq!(bits(whole.model()), bits(rest.model()));
        assert_eq!(train(&mut whole, 12..13), train(&mut rest, 12..13));
    }
    // A state of another training is refused.
    let mut other = Trainer::new(&model, &Trained::Linear, ADAM, CLIP).unwrap();
    let error = other.load_state(&path).unwrap_err().to_string();
    assert!(error.contains("no tensor value."), "{error}");
}

#[test]
fn frozen_weights_keep_their_bits_and_single_weights_train_alone() {
    let (_dir, model) = model(true);
    let frozen = [WeightCoord::down(1, 3, 7), WeightCoord::down(2, 0, 0)];
    let options = AdamWOptions {
        weight_decay: 0.5,
        ..ADAM
    };
    let mut trainer = Trainer::new(&model, &Trained::Full, options, CLIP).unwrap();
    trainer.freeze(&frozen).unwrap();
    train(&mut trainer, 0..5);
    for coord in frozen {
        assert_eq!(
            trainer.model().value(coord).unwrap(),
            model.value(coord).unwrap()
        );
    }
    let beside = WeightCoord::down(1, 3, 8);
    assert_ne!(
        trainer.model().value(beside).unwrap(),
        model.value(beside).unwrap()
    );

    let one = TileSelection {
        side: 1,
        tiles: vec![Tile {
            at: frozen[0].at(),
            row: 3,
            col: 7,
        }],
    };
    let single = trained(&model, &Trained::Tiles(one), 5);
    let (before, after) = (bits(&model), bits(single.model()));
    let changed = before.iter().map(|(at, values)| {
        let pairs = values.iter().zip(&after[at]);
        pairs.filter(|(a, b)| a != b).count()
    });
    assert_eq!(changed.sum::<usize>(), 1);

    let what = Trained::Adapters {
        options: adapters(false),
        seed: 1,
    };
    let mut adapted = Trainer::new(&model, &what, ADAM, CLIP).unwrap();
    let error = adapted.freeze(&frozen).unwrap_err().to_string();
    assert!(error.contains("so none can be frozen"), "{error}");
}
