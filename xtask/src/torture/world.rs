//! What others do meanwhile: files that become shorter, writers at the same place, readers and terminals that go away.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    Extent, Row, Try,
    jobs::{Scene, eval_of, left},
    run::{ended, is_one_line, spawn, succeeds, sw},
};
use crate::inputs::embedded;

pub(super) const ROWS: [(&str, Try); 4] = [
    ("weights cut short while they are read", cut_short),
    ("two and four writers at one place", raced),
    ("readers that go away, streams that are full", streams),
    (
        "an input that is a pipe, a device, a folder, empty",
        odd_inputs,
    ),
];

/// An evaluation whose weights are cut at a random moment and place: one line; with the file back, the digits are the same.
fn cut_short(_: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let (model, whole) = (tempfile::tempdir()?, tempfile::tempdir()?);
    for entry in fs::read_dir(embedded("model"))? {
        let path = entry?.path();
        fs::copy(
            &path,
            model.path().join(path.file_name().unwrap_or_default()),
        )?;
    }
    let weights = model.path().join("model.safetensors");
    let bytes = fs::read(&weights)?;
    let args = |dir: &Path| {
        let mut args = eval_of(&model.path().display().to_string(), dir);
        args.extend(["--batch-size", "64", "--threads", "2"].map(OsString::from));
        args
    };
    let took = succeeds(&mut sw(&args(whole.path()))?)?;
    let expected = left(whole.path())?;
    let mut met = 0;
    for _ in 0..extent.of(60, 4) {
        let dir = tempfile::tempdir()?;
        let child = spawn(&mut sw(&args(dir.path()))?)?;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        sleep(Duration::from_micros(extent.below(micros)));
        let size = extent.below(bytes.len() as u64);
        File::options().write(true).open(&weights)?.set_len(size)?;
        let end = ended(child)?;
        fs::write(&weights, &bytes)?;
        met += usize::from(end.0 != 0);
        let outcome = if end.0 == 0 {
            Ok(())
        } else {
            is_one_line(&end)
        };
        let outcome = outcome.and_then(|()| {
            succeeds(&mut sw(&args(dir.path()))?).context("with the file back")?;
            ensure!(left(dir.path())? == expected, "other digits");
            Ok(())
        });
        row.tried(outcome);
    }
    row.note = format!("{met} met a running evaluation");
    Ok(())
}

/// Several of the same command at one place: each is done or refused in one line, and what is there is whole.
fn raced(scene: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let mut refused = 0;
    for job in &scene.jobs {
        for writers in [2, 4] {
            for _ in 0..extent.of(25, 1) {
                let dir = job.folder()?;
                let start = |_| spawn(&mut job.command(dir.path())?);
                let children: Vec<Child> = (0..writers).map(start).collect::<Result<_>>()?;
                let ends: Vec<_> = children.into_iter().map(ended).collect::<Result<_>>()?;
                let outcome = (|| {
                    let failed: Vec<_> = ends.iter().filter(|end| end.0 != 0).collect();
                    refused += failed.len();
                    ensure!(failed.len() < ends.len(), "none was done: {}", ends[0].1);
                    for end in failed {
                        is_one_line(end)?;
                        ensure!(end.1.contains("another"), "{}", end.1);
                    }
                    job.is_done(dir.path())
                })();
                row.tried(outcome.with_context(|| format!("{writers} times {}", job.name)));
            }
        }
    }
    row.note = format!("{refused} were refused because another was writing");
    Ok(())
}

/// Streams that nobody reads, or that are full: exit code 0 or 1, no panic, no signal.
fn streams(_: &Scene, _: &mut Extent, row: &mut Row) -> Result<()> {
    let model = embedded("model");
    let commands: [&[&str]; 8] = [
        &["tasks"],
        &["tasks", "--json"],
        &["directory"],
        &["inspect", &model],
        &["generate", &model, "--prompt", "a", "--max-new-tokens", "2"],
        &["detect", &model, "--tokens", "1,2,3", "--no-proof"],
        &["inspect", "no/such"],
        &["man"],
    ];
    let full = || -> Result<Stdio> { Ok(File::options().write(true).open("/dev/full")?.into()) };
    let gone = || -> Result<Stdio> {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        Ok(writer.into())
    };
    for args in commands {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let mut attempt = |stdout: Stdio, stderr: Option<Stdio>| -> Result<()> {
            let quiet = stderr.is_some();
            let mut command = sw(&args)?;
            command
                .stdout(stdout)
                .stderr(stderr.unwrap_or(Stdio::piped()));
            let end = ended(command.spawn()?)?;
            let outcome = (|| {
                ensure!((0..=1).contains(&end.0), "exit code {}", end.0);
                ensure!(
                    quiet || end.0 == 0 || end.1.contains("error: "),
                    "no word: {}",
                    end.1
                );
                Ok(())
            })();
            row.tried(outcome.with_context(|| format!("{args:?}")));
            Ok(())
        };
        attempt(full()?, None)?;
        attempt(gone()?, None)?;
        attempt(Stdio::null(), Some(full()?))?;
        attempt(Stdio::null(), Some(gone()?))?;
        attempt(full()?, Some(full()?))?;
        attempt(gone()?, Some(gone()?))?;
    }
    Ok(())
}

/// Every input file of the commands as something that is no file of the kind: one line, and soon.
fn odd_inputs(_: &Scene, _: &mut Extent, row: &mut Row) -> Result<()> {
    let odd = tempfile::tempdir()?;
    let at = |name: &str| odd.path().join(name);
    let fifo = std::process::Command::new("mkfifo")
        .arg(at("pipe"))
        .status()?;
    ensure!(fifo.success(), "mkfifo");
    fs::create_dir(at("folder"))?;
    fs::write(at("empty"), "")?;
    File::create(at("sparse"))?.set_len(7 << 30)?;
    for (name, to) in [
        ("zero", "/dev/zero"),
        ("random", "/dev/urandom"),
        ("loop", "loop"),
        ("nowhere", "no/such"),
    ] {
        std::os::unix::fs::symlink(to, at(name))?;
    }
    let model = embedded("model");
    for name in [
        "pipe", "folder", "empty", "sparse", "zero", "random", "loop", "nowhere",
    ] {
        let path = at(name).display().to_string();
        let commands: [&[&str]; 7] = [
            &["eval", &model, "--tasks", "piqa", "--plan", &path],
            &["compare", &model, "--tasks", "piqa", "--plan", &path],
            &["detect", &model, "--text", &path],
            &["directory", "--file", &path],
            &[
                "quantize",
                &model,
                "--out",
                "no/such/place",
                "--hold",
                &path,
            ],
            &[
                "quantize",
                &model,
                "--out",
                "no/such/place",
                "--hold",
                "none",
                "--check",
                &path,
            ],
            &["inspect", &path],
        ];
        for args in commands {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let end = ended(spawn(&mut sw(&args)?)?)?;
            row.tried(is_one_line(&end).with_context(|| format!("{name}: {args:?}")));
        }
    }
    row.note = "with a limit of time only in that a hang would be seen".into();
    Ok(())
}
