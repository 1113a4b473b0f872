//! What a comparison needs: the peers' processes, and measurements that alternate.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};
use sw_benches::median;
use sw_cli::program;
use sw_tensor::{Checkpoint, machine};

use super::{BenchPeers, Class, Comparison, process::Peer, scaling, succeed};

/// A package of its own, with what it needs from the registry.
const CANDLE: [(&str, &str); 2] = [
    ("src/main.rs", include_str!("candle.rs")),
    (
        "Cargo.toml",
        r#"[package]
name = "peers-candle"
version = "0.0.0"
edition = "2024"

[dependencies]
candle-core = "0.11"
candle-nn = "0.11"
candle-transformers = "0.11"
serde_json = "1"

[workspace]
"#,
    ),
];

/// One run of `bench-peers`.
pub(super) struct Work<'a> {
    pub(super) options: &'a BenchPeers,
    pub(super) script: PathBuf,
    pub(super) python: PathBuf,
    pub(super) llama_python: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) threads: usize,
}

impl Work<'_> {
    /// A peer's process, or `None` with a note where it cannot be started.
    pub(super) fn peer(&self, name: &str, model: Option<&Path>) -> Option<Peer> {
        if !self.options.wants(name) {
            return None;
        }
        let command = if let Some(kind) = name.strip_prefix("candle-") {
            self.candle().map(|program| {
                let mut command = Command::new(program);
                let threads = self.threads.to_string();
                command.arg(kind).env("RAYON_NUM_THREADS", threads);
                command
            })
        } else {
            let llama = name.starts_with("llama");
            let python = if llama {
                &self.llama_python
            } else {
                &self.python
            };
            let mut command = Command::new(python);
            command.arg(&self.script);
            command.args(["serve", name, &self.threads.to_string()]);
            Ok(command)
        };
        let started = command.and_then(|mut c| Peer::start(c.args(model), name));
        started
            .map_err(|e| program::tell(format!("note: without {name}: {e:#}")))
            .ok()
    }

    /// The program that runs candle, built for this processor unless it is there.
    pub(super) fn candle(&self) -> Result<PathBuf> {
        let package = self.dir.join("candle");
        for (name, text) in CANDLE {
            let file = package.join(name);
            fs::create_dir_all(file.parent().unwrap_or(&package))
                .and_then(|()| fs::write(&file, text))
                .with_context(|| file.display().to_string())?;
        }
        let mut build = Command::new("cargo");
        build.args(["build", "--release", "-q"]);
        build.current_dir(&package);
        build.env("RUSTFLAGS", "-C target-cpu=native");
        build.env("CARGO_TARGET_DIR", package.join("target"));
        succeed(&mut build)?;
        let name = format!("peers-candle{}", std::env::consts::EXE_SUFFIX);
        Ok(package.join("target/release").join(name))
    }

    /// Alternating measurements, after one of each that does not count. `amount` is what one run does.
    pub(super) fn compare(
        &self,
        (work, unit, amount): (&str, &'static str, f64),
        peer: &mut Peer,
        command: &str,
        mut ours: impl FnMut() -> Result<()>,
    ) -> Result<Comparison> {
        let (mut pairs, mut threads) = (Vec::new(), Vec::new());
        for round in 0..=self.options.rounds {
            let theirs = amount / peer.ask(command)?[0];
            let start = Instant::now();
            ours()?;
            let ours = amount / start.elapsed().as_secs_f64();
            if round > 0 {
                pairs.push((theirs, ours));
                threads.push(scaling());
            }
        }
        let of = |f: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(f).collect::<Vec<_>>());
        let comparison = Comparison {
            work: work.to_owned(),
            class: Class::of(&peer.name),
            peer: peer.name.clone(),
            unit,
            theirs: of(|p| p.0),
            ours: of(|p| p.1),
            ratio: of(|p| p.1 / p.0),
            threads: Some(median(&threads)),
        };
        let (theirs, ours) = (comparison.theirs, comparison.ours);
        program::tell(format!(
            "{work}, {}: {theirs:.1} and {ours:.1} {unit}",
            peer.name
        ));
        Ok(comparison)
    }
}

/// Billions of bytes per second that a checkpoint is read with.
pub(super) fn read_gbytes(checkpoint: &Checkpoint) -> f64 {
    let (mut bytes, mut seconds) = (0.0, 0.0);
    for file in checkpoint.files() {
        bytes += file.bytes.len() as f64;
        seconds += file.bytes.len() as f64 / machine::read_gbytes(file.bytes);
    }
    bytes / seconds
}
