//! `cargo xtask torture`: the commands of `sw` are killed, starved of disk, raced, signalled and cut off from what they read
//! and write; what they leave is compared with what an undisturbed run leaves.

mod disk;
mod jobs;
mod kills;
mod promises;
mod run;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod trace;
mod world;

use std::{ffi::OsString, process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use clap::Args;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use sw_cli::program::{say, tell};

use crate::page::table::Table;
use jobs::Scene;

/// Kill the commands of sw at random moments and at every system call that changes a file, fill the disk, cut files short, race
/// writers, send signals, close pipes; print a table of tries and failures.
///
/// It runs on the checkpoint of this repository, in temporary folders, and fails if anything was lost.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Torture {
    /// A minute's worth of it: every row, few tries
    #[arg(long)]
    short: bool,
    /// Only rows whose names hold this
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// Kills at random moments, of all jobs together
    #[arg(long, value_name = "N", default_value_t = 1000)]
    kills: usize,
    /// Seed of the moments
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// What was tried in one way, and what came of it.
pub(super) struct Row {
    name: String,
    tries: usize,
    failures: Vec<String>,
    /// What stands behind the numbers.
    note: String,
}

impl Row {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            tries: 0,
            failures: Vec::new(),
            note: String::new(),
        }
    }

    /// Counts a try; an error is a failure.
    pub(super) fn tried(&mut self, outcome: Result<()>) {
        self.tries += 1;
        if let Err(error) = outcome {
            self.failures.push(format!("{error:#}"));
        }
    }
}

/// How much is tried.
pub(super) struct Extent {
    pub(super) short: bool,
    kills: usize,
    random: ChaCha8Rng,
}

impl Extent {
    /// So many in full, so many in the short form.
    pub(super) fn of(&self, full: usize, short: usize) -> usize {
        if self.short { short } else { full }
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.random.next_u64() % n.max(1)
    }
}

type Try = fn(&Scene, &mut Extent, &mut Row) -> Result<()>;

impl Torture {
    pub(crate) fn run(&self) -> Result<()> {
        let scene = Scene::new()?;
        let mut extent = Extent {
            short: self.short,
            kills: if self.short { 30 } else { self.kills },
            random: ChaCha8Rng::seed_from_u64(self.seed),
        };
        let mut rows: Vec<(String, Try)> = Vec::new();
        rows.extend(kills::ROWS.map(|(name, row)| (name.to_owned(), row)));
        rows.extend(disk::ROWS.map(|(name, row)| (name.to_owned(), row)));
        rows.extend(world::ROWS.map(|(name, row)| (name.to_owned(), row)));
        rows.extend(promises::ROWS.map(|(name, row)| (name.to_owned(), row)));
        let mut table = Table::new(["what", "tries", "failures", "seconds", "note"]);
        let (mut tries, mut failures) = (0, 0);
        for (name, row) in rows {
            if self.only.as_ref().is_some_and(|word| !name.contains(word)) {
                continue;
            }
            let clock = Instant::now();
            let mut done = Row::new(name);
            row(&scene, &mut extent, &mut done)?;
            for failure in &done.failures {
                tell(format!("failure: {}: {failure}", done.name));
            }
            let seconds = clock.elapsed().as_secs_f64();
            tell(format!(
                "{}: {} tries, {} failures, {seconds:.1} s",
                done.name,
                done.tries,
                done.failures.len()
            ));
            tries += done.tries;
            failures += done.failures.len();
            table.push([
                done.name,
                done.tries.to_string(),
                done.failures.len().to_string(),
                format!("{seconds:.0}"),
                done.note,
            ]);
        }
        say(table.markdown())?;
        ensure!(failures == 0, "{failures} of {tries} tries failed");
        ensure!(tries > 0, "nothing was tried");
        say(format!("{tries} tries, nothing lost"))
    }
}

/// What this program does where its first argument is `sw`: the command itself, so that it can be tried without being built
/// beside; with `traced`, stopped before it begins, for whoever traces it.
pub(crate) fn as_sw(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let rest: Vec<OsString> = arguments.by_ref().collect();
    let first = rest.first()?.to_str()?;
    if first != "sw" && first != "traced-sw" {
        return None;
    }
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if first == "traced-sw"
        && let Err(error) = trace::stop_for_tracer()
    {
        tell(format!("error: {error:#}"));
        return Some(ExitCode::FAILURE);
    }
    Some(sw_cli::run(
        std::iter::once(OsString::from("sw")).chain(rest.into_iter().skip(1)),
    ))
}
