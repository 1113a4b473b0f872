//! `cargo xtask fuzz`: the targets of `fuzz/`, fed with mutants of whole files, on stable.

use std::{
    collections::VecDeque,
    fs::{self, File},
    os::unix::fs::FileExt,
    panic,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sw_cli::program::{say, tell};
use sw_fuzz::{Mutator, TARGETS, Target};

use crate::page::table::Table;

/// Feed the parsers that meet strangers' files with mutants of whole ones.
///
/// Every target runs in a process of its own with at most 4 GiB of memory and ten seconds for an input. An input that
/// makes one panic, stop or grow is written to fuzz/regressions/TARGET, where the tests replay it.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// Minutes for all targets together
    #[arg(long, value_name = "N", default_value_t = 15.0)]
    minutes: f64,
    /// Seconds for each target instead
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    seconds: Option<f64>,
    /// Only the target of this name
    #[arg(long, value_name = "TARGET")]
    only: Option<String>,
    /// Seed of the mutants; a later campaign takes another
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Targets at a time [default: one per core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Where this process, which runs one target, keeps the input that it is at
    #[arg(long, hide = true, requires = "only")]
    child: Option<PathBuf>,
}

/// Memory of a target's process, at most.
const MEMORY: u64 = 4 << 30;
/// Seconds for an input, at most.
const LONGEST: u64 = 10;

/// What one process did.
#[derive(Default, Serialize, Deserialize)]
struct Done {
    executions: u64,
    accepted: u64,
    slowest_ms: u64,
    peak_mib: u64,
    found: Vec<String>,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<()> {
        let targets: VecDeque<Target> = TARGETS
            .into_iter()
            .filter(|t| {
                self.only
                    .as_ref()
                    .is_none_or(|only| t.name == only.as_str())
            })
            .collect();
        let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
        ensure!(
            !targets.is_empty(),
            "--only: expected one of {}",
            names.join(", ")
        );
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.unwrap_or(cores).clamp(1, targets.len());
        let each = match self.seconds {
            Some(seconds) => seconds,
            None => self.minutes * 60.0 * jobs as f64 / targets.len() as f64,
        };
        ensure!(each > 0.0 && each < 1e6, "expected a time above 0");
        let each = Duration::from_secs_f64(each);
        if let (Some(at), Some(target)) = (&self.child, targets.front()) {
            let done = attack(target, self.seed, each, at)?;
            return say(serde_json::to_string(&done)?);
        }
        let (queue, rows) = (Mutex::new(targets), Mutex::new(Vec::new()));
        let next = || {
            queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front()
        };
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(target) = next() {
                        let done = supervised(&target, self.seed, each);
                        if let Ok(done) = &done {
                            tell(format!(
                                "{}: {} executions, {} found",
                                target.name,
                                done.executions,
                                done.found.len()
                            ));
                        }
                        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                        rows.push((target.name, done));
                    }
                });
            }
        });
        let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        rows.sort_by_key(|row| row.0);
        let mut table = Table::new([
            "target",
            "executions",
            "accepted",
            "found",
            "slowest, ms",
            "peak, MiB",
        ]);
        let (mut executions, mut found) = (0, Vec::new());
        for (name, done) in rows {
            let done = done.with_context(|| name.to_owned())?;
            let numbers = [
                done.executions,
                done.accepted,
                done.found.len() as u64,
                done.slowest_ms,
                done.peak_mib,
            ];
            table.push(std::iter::once(name.to_owned()).chain(numbers.map(|n| n.to_string())));
            executions += done.executions;
            found.extend(done.found);
        }
        say(table.markdown())?;
        say(format!("{executions} executions"))?;
        ensure!(
            found.is_empty(),
            "{} inputs broke a promise: {}",
            found.len(),
            found.join("; ")
        );
        Ok(())
    }
}

/// Runs a target in processes of its own until its time is up. One that dies leaves the input that it was at.
fn supervised(target: &Target, seed: u64, each: Duration) -> Result<Done> {
    let dir = tempfile::tempdir()?;
    let at = dir.path().join("input");
    let (began, mut all) = (Instant::now(), Done::default());
    for round in 0.. {
        let rest = each.saturating_sub(began.elapsed());
        if rest < Duration::from_millis(100) || all.found.len() >= 10 {
            break;
        }
        let seed = seed.wrapping_add(round << 32);
        let output = Command::new(std::env::current_exe()?)
            .args(["fuzz", "--only", target.name, "--seed", &seed.to_string()])
            .args(["--seconds", &rest.as_secs_f64().to_string(), "--child"])
            .arg(&at)
            .stdin(Stdio::null())
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            let done: Done = serde_json::from_slice(&output.stdout).context("a child's answer")?;
            all.executions += done.executions;
            all.accepted += done.accepted;
            all.slowest_ms = all.slowest_ms.max(done.slowest_ms);
            all.peak_mib = all.peak_mib.max(done.peak_mib);
            all.found.extend(done.found);
        } else {
            let Ok(input) = fs::read(&at) else {
                bail!("{}: {}", output.status, stderr.trim());
            };
            let why = stderr.lines().last().unwrap_or_default();
            all.found
                .push(keep(target, &input, &format!("{}: {why}", output.status))?);
        }
    }
    Ok(all)
}

/// Writes an input down for the tests.
fn keep(target: &Target, input: &[u8], why: &str) -> Result<String> {
    let digest = Sha256::digest(input);
    let name: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions");
    let folder = root.join(target.name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("found-{name}")), input)?;
    Ok(format!("{}/found-{name}: {why}", target.name))
}

/// Executions of this process, for its watch.
static EXECUTIONS: AtomicU64 = AtomicU64::new(0);
/// What the last panic said.
static SAID: Mutex<String> = Mutex::new(String::new());

/// Feeds a target in this process.
fn attack(target: &Target, seed: u64, time: Duration, at: &Path) -> Result<Done> {
    let limit = Rlimit {
        current: Some(MEMORY),
        maximum: Some(MEMORY),
    };
    setrlimit(Resource::Data, limit).context("a limit on memory")?;
    panic::set_hook(Box::new(|info| {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        *said = info.to_string().replace('\n', " ");
    }));
    thread::spawn(|| {
        let mut before = u64::MAX;
        loop {
            let now = EXECUTIONS.load(Ordering::Relaxed);
            if now == before {
                tell(format!("an input took more than {LONGEST} seconds"));
                std::process::abort();
            }
            before = now;
            thread::sleep(Duration::from_secs(LONGEST));
        }
    });
    let input_file = File::create(at)?;
    let mut mutator = Mutator::new(target.form, target.seeds(), seed);
    let (began, mut done) = (Instant::now(), Done::default());
    while began.elapsed() < time && done.found.len() < 5 {
        let input = mutator.input();
        input_file.write_all_at(&input, 0)?;
        input_file.set_len(input.len() as u64)?;
        let clock = Instant::now();
        let outcome = panic::catch_unwind(|| (target.run)(&input));
        let milliseconds = clock.elapsed().as_millis() as u64;
        done.slowest_ms = done.slowest_ms.max(milliseconds);
        done.executions = EXECUTIONS.fetch_add(1, Ordering::Relaxed) + 1;
        match outcome {
            Ok(accepted) => done.accepted += u64::from(accepted),
            Err(_) => {
                let said = SAID.lock().unwrap_or_else(PoisonError::into_inner).clone();
                done.found.push(keep(target, &input, &said)?);
            }
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    done.peak_mib = peak.unwrap_or(0) / 1024;
    Ok(done)
}
