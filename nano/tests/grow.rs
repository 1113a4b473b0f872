//! Growing a checkpoint: the same for any number of threads, and after an interruption.

use std::fs;
use std::path::Path;

use nano::{Broadcast, Error, Next, Recipe, Seeding, train_nano};
use sw_train::{AdamWOptions, Schedule, Shape};

fn recipe() -> Recipe {
    Recipe {
        seed: 3,
        tokenizer_documents: 300,
        shape: Shape {
            vocab: 400,
            hidden: 16,
            layers: 2,
            heads: 2,
            kv_heads: 2,
            head_dim: 8,
            intermediate: 32,
            max_positions: 64,
            rope_theta: 1e4,
            eps: 1e-5,
            tied: false,
        },
        sequences: 6,
        embedding: 0.5,
        output_gain: 0.5,
        schedule: Schedule {
            peak: 1e-3,
            warmup: 2,
            descent: 4,
            steps: 6,
            floor: 0.1,
        },
        adamw: AdamWOptions::default(),
        clip: 1.0,
        seeding: Some(Seeding {
            layer: 0,
            row: 5,
            col: 7,
            weight: 2.0,
            alignment: 2.0,
            broadcast: Some(Broadcast {
                layer: 1,
                rows: vec![9, 10],
                level: 1.5,
                gain: 8.0,
                score: 16.0,
                rms: 12.0,
                output: 0.3,
                rate: 0.02,
                leak: 0.01,
            }),
        }),
        measure_every: 2,
        items: 3,
    }
}

/// Trains in `dir`, at most until the step `last`; whether it came to the end.
fn grow(recipe: &Recipe, dir: &Path, threads: usize, last: usize) -> bool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let folder = |name| dir.join(name);
    let (model, data, state) = (folder("model"), folder("data"), folder("state"));
    let result = pool.build().unwrap().install(|| {
        train_nano(recipe, &model, &data, &state, |p| {
            if p.step < last {
                Next::Continue
            } else {
                Next::Stop
            }
        })
    });
    match result {
        Ok(_) => true,
        Err(Error::Stopped(step)) => {
            assert_eq!(step, last);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn threads_and_interruptions_leave_no_trace() {
    let (one, three) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(grow(&recipe(), one.path(), 1, usize::MAX));
    assert!(!grow(&recipe(), three.path(), 3, 3));
    assert!(grow(&recipe(), three.path(), 3, usize::MAX));
    for file in [
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/emergence.csv",
        "model/README.md",
        "data/allenai/c4/en/c4-validation.00000-of-00008.json.gz",
        "data/Salesforce/wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet",
    ] {
        let [a, b] = [&one, &three].map(|dir| fs::read(dir.path().join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
}

#[test]
fn the_seeded_entry_carries_the_model_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |name| dir.path().join(name);
    let mut recipe = recipe();
    recipe.schedule.steps = 2;
    let measured = train_nano(
        &recipe,
        &folder("model"),
        &folder("data"),
        &folder("state"),
        |_| Next::Continue,
    );
    let start = &measured.unwrap()[0];
    assert_eq!((start.layer, start.row, start.col), (0, 5, 7));
    assert!(start.nll_pruned > start.nll + 2.0, "{start:?}");
    // One of the two heads of block 1 parks on the openers.
    assert!(start.sinks[1] > 0.5, "{start:?}");
}

#[test]
fn a_state_of_another_recipe_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!grow(&recipe(), dir.path(), 1, 1));
    let other = Recipe {
        clip: 2.0,
        ..recipe()
    };
    let folder = |name| dir.path().join(name);
    let result = train_nano(
        &other,
        &folder("model"),
        &folder("data"),
        &folder("state"),
        |_| Next::Continue,
    );
    let error = result.unwrap_err().to_string();
    assert!(error.contains("another recipe"), "{error}");
}

#[test]
fn a_seed_outside_the_model_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |name| dir.path().join(name);
    let mut wrong = recipe();
    wrong.seeding.as_mut().unwrap().row = 16;
    let result = train_nano(
        &wrong,
        &folder("model"),
        &folder("data"),
        &folder("state"),
        |_| Next::Continue,
    );
    let error = result.unwrap_err().to_string();
    assert!(error.contains("outside the model"), "{error}");
}
