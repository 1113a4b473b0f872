//! Hostile input: for each parser that meets a stranger's file, a function that feeds it bytes. An input is refused or
//! accepted; a target panics where something is promised and not so.
//!
//! `cargo xtask fuzz` runs them with [`Mutator`], fuzz/fuzz_targets with libFuzzer, and tests/replay.rs on what was found.
#![forbid(unsafe_code)]

mod mutate;
mod seeds;
mod targets;

use std::path::{Path, PathBuf};

pub use mutate::{Form, Mutator};

/// A parser under attack.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and its folder's in `regressions`.
    pub name: &'static str,
    /// What its input looks like.
    pub form: Form,
    /// Feeds it an input; whether that was accepted.
    pub run: fn(&[u8]) -> bool,
    seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Inputs to begin with: whole files, and what was found before.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        let mut all = (self.seeds)();
        all.extend(self.regressions().into_iter().map(|(_, bytes)| bytes));
        all
    }

    /// What was found before, by name.
    pub fn regressions(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("regressions")
            .join(self.name);
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        let read = |path: PathBuf| std::fs::read(&path).ok().map(|bytes| (path, bytes));
        files.into_iter().filter_map(read).collect()
    }
}

const fn target(
    name: &'static str,
    form: Form,
    run: fn(&[u8]) -> bool,
    seeds: fn() -> Vec<Vec<u8>>,
) -> Target {
    Target {
        name,
        form,
        run,
        seeds,
    }
}

/// All targets, by name.
pub const TARGETS: [Target; 15] = [
    target("config", Form::Json, targets::config, seeds::configs),
    target(
        "coordinates",
        Form::Json,
        targets::coordinates,
        seeds::coordinates,
    ),
    target("dequantize_packed", Form::Bytes, targets::packed, Vec::new),
    target(
        "directory",
        Form::Json,
        targets::directory,
        seeds::directory,
    ),
    target("index", Form::Json, targets::index, seeds::indices),
    target("journal", Form::Json, targets::journal, seeds::journals),
    target("json", Form::Json, targets::json, seeds::rows),
    target("json_gz", Form::Gzip, targets::json_gz, seeds::rows),
    target("open_gguf", Form::Bytes, targets::open_gguf, Vec::new),
    target(
        "packed_checkpoint",
        Form::Safetensors,
        targets::packed_checkpoint,
        seeds::packed_checkpoints,
    ),
    target("parquet", Form::Parquet, targets::parquet, seeds::parquets),
    target("plan", Form::Json, targets::plan, seeds::plans),
    target("results", Form::Json, targets::results, seeds::results),
    target(
        "safetensors",
        Form::Safetensors,
        targets::safetensors,
        seeds::safetensors,
    ),
    target(
        "tokenizer",
        Form::Json,
        targets::tokenizer,
        seeds::tokenizers,
    ),
];

/// Feeds the target of this name; whether the input was accepted.
///
/// # Panics
/// Where a promise is broken, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) -> bool {
    let target = TARGETS.iter().find(|t| t.name == name);
    (target.expect("a target").run)(bytes)
}
