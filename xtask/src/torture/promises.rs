//! The promises of docs/numerics.md, kept or not by whole commands: the same digits whatever else changes.

use std::{ffi::OsString, process::Command};

use anyhow::{Context, Result, ensure};

use super::{
    Extent, Row, Try,
    jobs::{Scene, eval_plain, left},
    run::{Tree, succeeds, sw},
};
use crate::inputs::embedded;

pub(super) const ROWS: [(&str, Try); 6] = [
    ("digits: batches, threads and what they share", batches),
    ("digits: shards, merged in any order", shards),
    ("digits: a second run, and one that goes on", again),
    ("digits: AVX2 and AVX-512", kernels),
    ("digits: detection on any number of threads", detection),
    ("digits: integers under AVX2 and AVX-512", integers),
];

/// Fields that say how a run was made, and not what it found.
const HOW: [&str; 2] = ["kernel", "configuration"];

fn results(mut command: Command, dir: &std::path::Path) -> Result<Tree> {
    succeeds(&mut command)?;
    let mut left = left(dir)?;
    // Another kernel has another name, and with it the configuration.
    for (name, bytes) in &mut left {
        if name.ends_with("results") {
            strip(bytes)?;
        }
    }
    Ok(left)
}

fn strip(bytes: &mut Vec<u8>) -> Result<()> {
    let mut json: serde_json::Value = serde_json::from_slice(bytes)?;
    if let Some(own) = json["super_weight"].as_object_mut() {
        HOW.iter().for_each(|field| drop(own.remove(*field)));
    }
    *bytes = serde_json::to_vec(&json)?;
    Ok(())
}

/// An evaluation with more arguments, under a kernel.
fn eval(more: &[&str], isa: Option<&str>) -> Result<Tree> {
    let dir = tempfile::tempdir()?;
    let mut args = eval_plain(dir.path());
    args.extend(more.iter().map(OsString::from));
    let mut command = sw(&args)?;
    if let Some(isa) = isa {
        command.env("SW_ISA", isa);
    }
    results(command, dir.path())
}

fn alike(row: &mut Row, expected: &Tree, found: Result<Tree>, what: &str) {
    let outcome = found.and_then(|found| {
        ensure!(found == *expected, "other digits");
        Ok(())
    });
    row.tried(outcome.with_context(|| what.to_owned()));
}

fn batches(_: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let expected = eval(&["--threads", "1"], None)?;
    let sizes = ["1", "17", "64", "333", "2048", "auto"];
    for size in &sizes[..extent.of(sizes.len(), 2)] {
        for threads in ["1", "2", "3", "7"].iter().take(extent.of(4, 2)) {
            let more = ["--batch-size", size, "--threads", threads];
            alike(row, &expected, eval(&more, None), &more.join(" "));
        }
    }
    Ok(())
}

fn shards(_: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let expected = eval(&[], None)?;
    for count in [2, 3, 8].iter().take(extent.of(3, 1)) {
        let dir = tempfile::tempdir()?;
        for index in (1..=*count).rev() {
            let mut args = eval_plain(dir.path());
            args.extend([OsString::from("--shard"), format!("{index}/{count}").into()]);
            succeeds(&mut sw(&args)?)?;
        }
        let out = dir.path().join("out");
        let merge = sw(&["merge".into(), "--log-samples".into(), out.clone().into()])?;
        let found = results(merge, dir.path()).map(|mut tree| {
            tree.retain(|name, _| !name.contains("shard_"));
            tree
        });
        alike(row, &expected, found, &format!("{count} shards"));
    }
    Ok(())
}

fn again(scene: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    for job in &scene.jobs {
        for _ in 0..extent.of(4, 1) {
            let dir = job.folder()?;
            row.tried(job.goes_on(dir.path()).context(job.name));
        }
    }
    row.note = "runs that are killed and go on are in the rows of kills".into();
    Ok(())
}

/// Whether this processor has a kernel.
fn has(isa: &str) -> Result<bool> {
    let status = sw(&["tasks".into()])?
        .env("SW_ISA", isa)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()?;
    Ok(status.success())
}

fn kernels(_: &Scene, _: &mut Extent, row: &mut Row) -> Result<()> {
    if !(has("avx2")? && has("avx512")?) {
        row.note = "this processor does not have both".into();
        return Ok(());
    }
    let expected = eval(&[], Some("avx2"))?;
    alike(row, &expected, eval(&[], Some("avx512")), "avx512");
    alike(
        row,
        &expected,
        eval(&["--batch-size", "50"], Some("avx512")),
        "avx512, batches of 50",
    );
    Ok(())
}

fn detection(_: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let found = |threads: &str| -> Result<Vec<u8>> {
        let args = [
            "detect",
            &embedded("model"),
            "--json",
            "--no-proof",
            "--threads",
            threads,
        ];
        let output = sw(&args.map(OsString::from))?.output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    };
    let expected = found("1")?;
    for threads in ["1", "2", "3", "8"].iter().take(extent.of(4, 2)) {
        let outcome = found(threads).and_then(|found| {
            ensure!(found == expected, "another report");
            Ok(())
        });
        row.tried(outcome.with_context(|| format!("{threads} threads")));
    }
    Ok(())
}

/// Sums of integers are exact under every instruction set; the floats around them agree between these two.
fn integers(_: &Scene, _: &mut Extent, row: &mut Row) -> Result<()> {
    if !(has("avx2")? && has("avx512")?) {
        row.note = "this processor does not have both".into();
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let plan = dir.path().join("plan.json");
    std::fs::write(&plan, PLAN)?;
    let plan = plan.display().to_string();
    let more = ["--plan", plan.as_str()];
    let expected = eval(&more, Some("avx2"))?;
    for isa in ["avx512", "avx2"] {
        alike(row, &expected, eval(&more, Some(isa)), isa);
    }
    Ok(())
}

/// Weights and activations in 8 bits, computed as integers.
const PLAN: &str = r#"[
    {"kind": "quantize_weights", "arithmetic": "integer", "scheme": {"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "row"}}},
    {"kind": "quantize_activations", "arithmetic": "integer", "recipe": {"scheme": {"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "row"}}, "pick": {"kind": "row_largest"}}}
]"#;
