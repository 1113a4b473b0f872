//! The promises of docs/numerics.md, kept or not by whole commands: the same digits whatever else changes.

use std::{ffi::OsString, fs, process::Command};

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::{
    Extent, Row, Try,
    jobs::{Scene, eval_of, eval_plain, left},
    run::{Tree, ended, spawn, succeeds, sw},
};
use crate::inputs::embedded;

pub(super) const ROWS: [(&str, Try); 11] = [
    ("digits: batches, threads and what they share", batches),
    ("digits: batches under every kernel", batches_of_kernels),
    ("digits: shards, merged in any order", shards),
    ("digits: a second run, and one that goes on", again),
    ("digits: AVX2 and AVX-512", kernels),
    ("digits: detection on any number of threads", detection),
    (
        "digits: continuing a prompt on any number of threads",
        decoding,
    ),
    ("digits: an edit, and a file with that value", edits),
    ("digits: integers under AVX2 and AVX-512", integers),
    ("digits: integers beside their simulation", simulated),
    ("digits: a kernel that this processor lacks", lacking),
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
    let mut json: Value = serde_json::from_slice(bytes)?;
    if let Some(own) = json["super_weight"].as_object_mut() {
        HOW.iter().for_each(|field| drop(own.remove(*field)));
    }
    *bytes = serde_json::to_vec(&json)?;
    Ok(())
}

/// An evaluation with more arguments, under a kernel.
fn eval(more: &[&str], isa: Option<&str>) -> Result<Tree> {
    eval_model(&embedded("model"), more, isa)
}

fn eval_model(model: &str, more: &[&str], isa: Option<&str>) -> Result<Tree> {
    let dir = tempfile::tempdir()?;
    let mut args = eval_of(model, dir.path());
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

/// A row depends on nothing but itself under each kernel, also where the kernels' digits differ.
fn batches_of_kernels(_: &Scene, _: &mut Extent, row: &mut Row) -> Result<()> {
    let mut tried = Vec::new();
    for isa in ["scalar", "avx2", "avx512", "amx"] {
        if !has(isa)? {
            continue;
        }
        tried.push(isa);
        let expected = eval(&["--batch-size", "1", "--threads", "1"], Some(isa))?;
        for size in ["64", "333"] {
            let more = ["--batch-size", size, "--threads", "2"];
            let what = format!("{isa}, batches of {size}");
            alike(row, &expected, eval(&more, Some(isa)), &what);
        }
    }
    row.note = tried.join(", ");
    Ok(())
}

/// What a command prints must be the same on any number of threads.
fn prints_alike(args: &[&str], extent: &Extent, row: &mut Row) -> Result<()> {
    let printed = |threads: &str| {
        let args = [args, &["--threads", threads]].concat();
        let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
        let output = sw(&args)?.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{stderr}");
        ensure!(!output.stdout.is_empty(), "it printed nothing");
        Ok(output.stdout)
    };
    let expected = printed("1")?;
    for threads in ["1", "2", "3", "8"].iter().take(extent.of(4, 2)) {
        let outcome = printed(threads).and_then(|found| {
            ensure!(found == expected, "another answer");
            Ok(())
        });
        row.tried(outcome.with_context(|| format!("{threads} threads")));
    }
    Ok(())
}

fn detection(_: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let model = embedded("model");
    prints_alike(&["detect", &model, "--json", "--no-proof"], extent, row)
}

fn decoding(_: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let model = embedded("model");
    let prompt = ["--tokens", "1,2,3", "--max-new-tokens", "48"];
    let args = [&["generate", &model][..], &prompt].concat();
    prints_alike(&args, extent, row)
}

/// A weight that a plan changes, and the same checkpoint with that value in its file: a pruned weight is a zero in every
/// product, and no correction afterwards.
fn edits(_: &Scene, _: &mut Extent, row: &mut Row) -> Result<()> {
    let (layer, at, col) = (1, 5, 17);
    let dir = tempfile::tempdir()?;
    for entry in fs::read_dir(embedded("model"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        fs::copy(&path, dir.path().join(name))?;
    }
    let weights = dir.path().join("model.safetensors");
    let stored = fs::read(&weights)?;
    let place = {
        let file = SafeTensors::deserialize(&stored)?;
        let name = format!("model.layers.{layer}.mlp.down_proj.weight");
        let tensor = file.tensor(&name)?;
        ensure!(tensor.dtype() == Dtype::BF16, "{name}: expected BF16");
        let start = tensor.data().as_ptr() as usize - stored.as_ptr() as usize;
        start + 2 * (at * tensor.shape()[1] + col)
    };
    for value in [0.0, -3.5, 96.0] {
        let mut bytes = stored.clone();
        let new = half::bf16::from_f32(value).to_le_bytes();
        bytes[place..place + 2].copy_from_slice(&new);
        fs::write(&weights, bytes)?;
        let coord = json!({"layer": layer, "linear": "down_proj", "row": at, "col": col});
        let mut set = coord.clone();
        set["value"] = json!(value);
        let plan = match value == 0.0 {
            true => json!([{"kind": "prune_weights", "coords": [coord]}]),
            false => json!([{"kind": "set_weights", "weights": [set]}]),
        };
        let file = dir.path().join("plan.json");
        fs::write(&file, plan.to_string())?;
        let file = file.display().to_string();
        let in_file = eval_model(&dir.path().display().to_string(), &[], None)?;
        let edited = eval(&["--plan", &file], None).and_then(answers);
        let [in_file, as_stored] = [in_file, eval(&[], None)?].map(answers);
        let (in_file, as_stored) = (in_file?, as_stored?);
        ensure!(in_file != as_stored, "the weight decides nothing");
        alike(row, &in_file, edited, &format!("the value {value}"));
    }
    Ok(())
}

/// What was found, without what says of which model and plan.
fn answers(mut tree: Tree) -> Result<Tree> {
    for (name, bytes) in &mut tree {
        if name.ends_with("results") {
            let json: Value = serde_json::from_slice(bytes)?;
            *bytes = json["results"].to_string().into_bytes();
        }
    }
    Ok(tree)
}

/// Sums of integers are exact under every instruction set; the floats around them agree between these two.
fn integers(_: &Scene, _: &mut Extent, row: &mut Row) -> Result<()> {
    if !(has("avx2")? && has("avx512")?) {
        row.note = "this processor does not have both".into();
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let plan = dir.path().join("plan.json");
    fs::write(&plan, plan_of(true, "integer").to_string())?;
    let plan = plan.display().to_string();
    let more = ["--plan", plan.as_str()];
    let expected = eval(&more, Some("avx2"))?;
    for isa in ["avx512", "avx2"] {
        alike(row, &expected, eval(&more, Some(isa)), isa);
    }
    Ok(())
}

/// Weights, or weights and activations, in 8 bits with a scale for each row.
fn plan_of(activations: bool, arithmetic: &str) -> Value {
    let scheme = json!({"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "row"}});
    let weights = json!({"kind": "quantize_weights", "arithmetic": arithmetic, "scheme": scheme});
    let recipe = json!({"scheme": scheme, "pick": {"kind": "row_largest"}});
    match activations {
        true => json!([
            weights,
            {"kind": "quantize_activations", "arithmetic": arithmetic, "recipe": recipe}
        ]),
        false => json!([weights]),
    }
}

/// Perplexity of products of integers, and of the simulation that they stand for.
fn simulated(_: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let limit = extent.of(400, 100).to_string();
    let perplexity = |activations, arithmetic| -> Result<f64> {
        let dir = tempfile::tempdir()?;
        let plan = dir.path().join("plan.json");
        fs::write(&plan, plan_of(activations, arithmetic).to_string())?;
        let plan = plan.display().to_string();
        let (model, data) = (embedded("model"), embedded("data"));
        let what = ["--tasks", "wikitext2", "--limit", &limit, "--data", &data];
        let args = [&["eval", &model, "--json", "--plan", &plan][..], &what].concat();
        let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
        let output = sw(&args)?.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let json: Value =
            serde_json::from_slice(&output.stdout).with_context(|| stderr.trim().to_owned())?;
        let found = json["results"]["wikitext2"]["perplexity,none"].as_f64();
        found.context("no perplexity")
    };
    let mut notes = Vec::new();
    for (what, activations, most) in [
        ("weights and activations", true, 1e-3),
        ("weights alone", false, 1e-4),
    ] {
        let integers = perplexity(activations, "integer")?;
        let apart = (integers / perplexity(activations, "simulated")? - 1.0).abs();
        notes.push(format!("{what}: {apart:.1e} apart"));
        let outcome = match apart <= most {
            true => Ok(()),
            false => Err(anyhow!(
                "perplexities are {apart:.1e} apart, expected {most:.0e}"
            )),
        };
        row.tried(outcome.context(what));
    }
    row.note = notes.join("; ");
    Ok(())
}

/// A kernel that cannot be had is refused, and no other is taken for it.
fn lacking(_: &Scene, _: &mut Extent, row: &mut Row) -> Result<()> {
    for isa in ["scalar", "avx2", "avx512", "amx", "neon"] {
        if has(isa)? {
            continue;
        }
        let (code, stderr) = ended(spawn(sw(&["tasks".into()])?.env("SW_ISA", isa))?)?;
        let named = stderr.starts_with("error: SW_ISA") && stderr.lines().count() == 1;
        let outcome = match code == 2 && named {
            true => Ok(()),
            false => Err(anyhow!("exit code {code}: {stderr}")),
        };
        row.tried(outcome.with_context(|| format!("SW_ISA={isa}")));
    }
    Ok(())
}
