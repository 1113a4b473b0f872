//! Growing a checkpoint: the same for any number of threads, and after an interruption.

use std::fs;
use std::path::{Path, PathBuf};

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
            experts: vec![],
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

/// All files under a folder, relative to it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_path_buf());
            }
        }
    }
    found
}

#[test]
fn the_carried_recipe_gives_the_carried_tokenizer_and_data_byte_for_byte() {
    let carried = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recipe = fs::read(carried.join("recipe.json")).unwrap();
    let recipe: Recipe = serde_json::from_slice(&recipe).unwrap();
    let grown = tempfile::tempdir().unwrap();
    assert!(!grow(&recipe, grown.path(), 2, 1));
    let data = files(&carried.join("data"));
    assert_eq!(data.len(), files(&grown.path().join("data")).len());
    let data = data.iter().map(|file| Path::new("data").join(file));
    for file in data.chain([PathBuf::from("model/tokenizer.json")]) {
        let [a, b] = [carried, grown.path()].map(|dir| fs::read(dir.join(&file)).unwrap());
        assert!(a == b, "{} differs", file.display());
    }
    // What the training starts from is the same model; digits may differ by the CPU's vector instructions.
    let [a, b] = [carried, grown.path()].map(|dir| {
        let csv = fs::read_to_string(dir.join("model/emergence.csv")).unwrap();
        let row: Vec<f64> = csv
            .lines()
            .nth(1)
            .unwrap()
            .split(',')
            .map(|v| v.parse().unwrap())
            .collect();
        row
    });
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 2e-3 * a.abs().max(1.0), "{a} {b}");
    }
}
