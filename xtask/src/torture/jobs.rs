//! The commands that write, and what must be true of what they leave.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    disk::kilobytes,
    run::{Tree, names, succeeds, sw, tree},
};
use crate::inputs::embedded;

/// A command that writes into a folder.
pub(super) struct Job {
    pub(super) name: &'static str,
    /// Its arguments, given that folder.
    args: fn(&Path) -> Vec<OsString>,
    /// What is in the folder before.
    before: Tree,
    /// What an undisturbed run leaves there.
    after: Tree,
    /// Whether files appear one after the other, each whole.
    piecewise: bool,
}

/// Jobs, and what they left undisturbed.
pub(super) struct Scene {
    pub(super) jobs: Vec<Job>,
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn quantize(dir: &Path) -> Vec<OsString> {
    let mut args = words(&[
        "quantize",
        &embedded("model"),
        "--hold",
        "none",
        "--group",
        "row",
    ]);
    args.extend(words(&[
        "--threads",
        "1",
        "--force",
        "--shard-size",
        "0.001",
        "--out",
    ]));
    args.push(dir.join("out").into());
    args
}

fn quantize_otherwise(dir: &Path) -> Vec<OsString> {
    let mut args = quantize(dir);
    args.extend(words(&["--bits", "3"]));
    args
}

fn eval(dir: &Path) -> Vec<OsString> {
    let mut args = eval_plain(dir);
    args.extend(words(&["--batch-size", "64", "--threads", "1"]));
    args
}

/// An evaluation, without what may not change its digits.
pub(super) fn eval_plain(dir: &Path) -> Vec<OsString> {
    eval_of(&embedded("model"), dir)
}

pub(super) fn eval_of(model: &str, dir: &Path) -> Vec<OsString> {
    let mut args = words(&["eval", model, "--data", &embedded("data"), "--limit", "8"]);
    args.extend(words(&[
        "--tasks",
        "lambada_openai,hellaswag",
        "--log-samples",
        "--output-path",
    ]));
    args.push(dir.join("out").into());
    args
}

fn add_to(dir: &Path) -> Vec<OsString> {
    let mut args = words(&[
        "detect",
        &embedded("model"),
        "--tokens",
        "1,2,3",
        "--no-proof",
    ]);
    args.extend(words(&["--threads", "1", "--name", "a/new", "--add-to"]));
    args.push(dir.join("known.json").into());
    args
}

/// A training that saves its state after every step, with what `method` says is trained.
fn tune(dir: &Path, method: &[&str]) -> Vec<OsString> {
    let data =
        embedded("data") + "/Salesforce/wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet";
    let mut args = words(&["tune", &embedded("model"), "--data", &data, "--method"]);
    args.extend(words(method));
    args.extend(words(&["--steps", "4", "--length", "16", "--batch", "2"]));
    args.extend(words(&["--measure-every", "2", "--measure-on", "2"]));
    args.extend(words(&["--save-every", "1", "--threads", "1"]));
    args.extend(words(&["--force", "--out"]));
    args.push(dir.join("out").into());
    args
}

fn tune_adapter(dir: &Path) -> Vec<OsString> {
    tune(dir, &["lora", "--rank", "2", "--targets", "q_proj"])
}

fn tune_tiles(dir: &Path) -> Vec<OsString> {
    let tiles = ["smt", "--tile", "16", "--share", "0.002", "--warmup", "1"];
    tune(dir, &tiles)
}

impl Scene {
    pub(super) fn new() -> Result<Self> {
        let three = made(quantize_otherwise, &Tree::new())?;
        let adapter = made(tune_adapter, &Tree::new())?;
        let mut known = Tree::new();
        let shipped = sw_detect::Directory::shipped();
        known.insert("known.json".into(), serde_json::to_vec(&shipped)?);
        Ok(Self {
            jobs: vec![
                Job::new("quantize", quantize, Tree::new(), false)?,
                Job::new("quantize --force", quantize, three, false)?,
                Job::new("tune", tune_adapter, Tree::new(), false)?,
                Job::new("tune --force", tune_tiles, adapter, false)?,
                Job::new("eval", eval, Tree::new(), true)?,
                Job::new("detect --add-to", add_to, Tree::new(), false)?,
                Job::new("detect --add-to, known", add_to, known, false)?,
            ],
        })
    }
}

/// What a job leaves undisturbed.
fn made(args: fn(&Path) -> Vec<OsString>, before: &Tree) -> Result<Tree> {
    let dir = tempfile::tempdir()?;
    put(before, dir.path())?;
    succeeds(&mut sw(&args(dir.path()))?)?;
    let left = left(dir.path())?;
    ensure!(!left.is_empty(), "it left nothing");
    Ok(left)
}

fn put(files: &Tree, dir: &Path) -> Result<()> {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap_or(dir))?;
        fs::write(path, bytes)?;
    }
    Ok(())
}

impl Job {
    fn new(
        name: &'static str,
        args: fn(&Path) -> Vec<OsString>,
        before: Tree,
        piecewise: bool,
    ) -> Result<Self> {
        Ok(Self {
            name,
            args,
            after: made(args, &before).with_context(|| name.to_owned())?,
            before,
            piecewise,
        })
    }

    /// A folder with what is there before.
    pub(super) fn folder(&self) -> Result<TempDir> {
        let dir = tempfile::tempdir()?;
        self.prepare(dir.path())?;
        Ok(dir)
    }

    pub(super) fn prepare(&self, dir: &Path) -> Result<()> {
        put(&self.before, dir)
    }

    /// What it writes, in KiB.
    pub(super) fn kilobytes(&self) -> usize {
        kilobytes(&self.after)
    }

    /// What is there before, in KiB.
    pub(super) fn kilobytes_before(&self) -> usize {
        kilobytes(&self.before)
    }

    pub(super) fn args(&self, dir: &Path) -> Vec<OsString> {
        (self.args)(dir)
    }

    pub(super) fn command(&self, dir: &Path) -> Result<Command> {
        sw(&self.args(dir))
    }

    /// After a disturbance: all of what was there, or all of what is made, and nothing half.
    pub(super) fn nothing_half(&self, dir: &Path) -> Result<()> {
        let found = left(dir)?;
        if found == self.before || found == self.after {
            return Ok(());
        }
        let whole = |(name, bytes): (&String, &Vec<u8>)| self.after.get(name) == Some(bytes);
        ensure!(
            self.piecewise && found.iter().all(whole),
            "half written: {}",
            names(&found)
        );
        Ok(())
    }

    /// After an end that the command saw coming: nothing that it only wanted to write is left. (What a training and an
    /// evaluation go on from is.)
    pub(super) fn is_tidy(&self, dir: &Path) -> Result<()> {
        let mut parts = hidden(dir)?;
        parts.retain(|path| path.contains(".part"));
        ensure!(parts.is_empty(), "left behind: {}", parts.join(", "));
        Ok(())
    }

    /// The same command again: it leaves what an undisturbed run leaves, and nothing beside.
    pub(super) fn goes_on(&self, dir: &Path) -> Result<()> {
        succeeds(&mut self.command(dir)?).context("run again")?;
        self.is_done(dir)
    }

    pub(super) fn is_done(&self, dir: &Path) -> Result<()> {
        let found = left(dir)?;
        ensure!(
            found == self.after,
            "differs from an undisturbed run: found {}, expected {}",
            names(&found),
            names(&self.after)
        );
        let hidden = hidden(dir)?;
        ensure!(hidden.is_empty(), "left behind: {}", hidden.join(", "));
        Ok(())
    }
}

/// What a user sees in a folder; of results, what may differ between two equal runs is left out.
pub(super) fn left(dir: &Path) -> Result<Tree> {
    let mut seen = Tree::new();
    for (name, bytes) in tree(dir)? {
        let file = name.rsplit('/').next().unwrap_or_default();
        let inside = |of: fn(&str) -> bool| name.split('/').any(of);
        if inside(|part| part.starts_with('.') || part.ends_with(STATE))
            || file.starts_with("journal_")
        {
            continue;
        }
        let (name, bytes) = match file.rsplit_once('_') {
            _ if file == "tune.json" => (name.clone(), untimed(&bytes)?),
            Some((kind @ "results", _)) => (kind.to_owned(), undated(&bytes)?),
            Some((kind, stamp)) if stamp.starts_with("20") => (kind.to_owned(), bytes),
            _ => (name, bytes),
        };
        // A run that was killed between its last two steps has written its files: the next writes them once more.
        if let Some(before) = seen.insert(name.clone(), bytes)
            && seen.get(&name) != Some(&before)
        {
            bail!("two files {name} that differ");
        }
    }
    Ok(seen)
}

fn undated(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut json: Value = serde_json::from_slice(bytes).context("a results file")?;
    json["super_weight"]["environment"] = Value::Null;
    Ok(serde_json::to_vec(&json)?)
}

/// What a training says of itself, without what the last of several runs says only of its own steps.
fn untimed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut json: Value = serde_json::from_slice(bytes).context("tune.json")?;
    for key in [
        "steps_of_this_run",
        "seconds_of_this_run",
        "least_seconds_of_a_step",
        "peak_private_bytes",
        "bytes",
        "log",
    ] {
        json[key] = Value::Null;
    }
    Ok(serde_json::to_vec(&json)?)
}

/// How the name of the folder ends that a training goes on from.
const STATE: &str = ".state";

/// What a user does not see, and what is there only while a command has not come to its end.
fn hidden(dir: &Path) -> Result<Vec<String>> {
    let names = tree(dir)?.into_keys();
    let mut hidden: Vec<_> = names
        .filter(|name| name.split('/').any(|part| part.starts_with('.')))
        .collect();
    let folders = fs::read_dir(dir)?.filter_map(|e| Some(e.ok()?.path()));
    let unfinished = |path: &PathBuf| {
        let name = path.to_string_lossy();
        name.ends_with(".part") || name.ends_with(STATE)
    };
    hidden.extend(folders.filter(unfinished).map(|p| p.display().to_string()));
    Ok(hidden)
}
