//! `cargo xtask bench-peers`: the same work by PyTorch, transformers, llama.cpp and candle, in alternation with ours.

mod detection;
mod passes;
mod process;
mod products;
mod work;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sw_benches::Shape;
use sw_cli::program::say;
use sw_tensor::machine;

use crate::page::{files, table::Table};
use work::Work;

const SCRIPT: &str = include_str!("peers.py");

/// Compare the speed of products, passes and detection with other programs
///
/// Checkpoints of real shapes with random weights are made in --dir, and so is a virtual environment with torch and
/// transformers, unless --python names an interpreter that has them (and llama_cpp and gguf, for llama.cpp). candle is
/// built in --dir too, from the registry. Every
/// measurement of a peer is followed by one of ours; reported are medians, and the median of the ratios. Nothing else
/// should run on the machine.
///
/// Example: cargo xtask bench-peers --out benches/record --part product
#[derive(Args)]
pub(crate) struct BenchPeers {
    /// What to compare
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "product,prefill,perplexity,error,detect"
    )]
    part: Vec<Benchmark>,
    /// Shapes of checkpoints: 1b, 7b4, 7b32 (detection only)
    #[arg(long, value_delimiter = ',', default_value = "1b,7b4")]
    model: Vec<String>,
    /// Tokens of a prefill
    #[arg(long, value_delimiter = ',', default_value = "128,512,2048")]
    tokens: Vec<usize>,
    /// Measurements of each
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Peers by name; all that can be run unless given
    #[arg(long, value_delimiter = ',')]
    peer: Vec<String>,
    /// An interpreter with the peers' packages
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Another one for llama.cpp
    #[arg(long, value_name = "FILE")]
    llama_python: Option<PathBuf>,
    /// Where checkpoints and environment are kept
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the results go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Their name
    #[arg(long, default_value = "bench-peers")]
    name: String,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Benchmark {
    /// Products with 512 rows
    Product,
    /// All logits of a prompt
    Prefill,
    /// The loss of a window of 2048 tokens
    Perplexity,
    /// Logits against float64
    Error,
    /// Detection, a whole process
    Detect,
}

/// One line of the result.
struct Comparison {
    work: String,
    peer: String,
    unit: &'static str,
    /// What both do, in units; more is better.
    theirs: f64,
    ours: f64,
    ratio: f64,
}

impl BenchPeers {
    pub(crate) fn run(&self) -> Result<()> {
        files::probe(&self.out)?;
        if self.rounds == 0 {
            bail!("--rounds 0: expected at least 1");
        }
        let dir = self
            .dir
            .clone()
            .unwrap_or_else(|| std::env::temp_dir().join("superweight-peers"));
        fs::create_dir_all(&dir).with_context(|| format!("--dir {}", dir.display()))?;
        let script = dir.join("peers.py");
        fs::write(&script, SCRIPT).with_context(|| script.display().to_string())?;
        let python = match &self.python {
            Some(python) => python.clone(),
            None => environment(&dir)?,
        };
        let llama_python = self.llama_python.clone().unwrap_or_else(|| python.clone());
        let work = Work {
            options: self,
            script,
            python,
            llama_python,
            dir,
            threads: rayon::current_num_threads(),
        };
        let mut all = Vec::new();
        if self.part.contains(&Benchmark::Product) {
            work.products(&mut all)?;
        }
        for name in &self.model {
            let shape = Shape::named(name)
                .with_context(|| format!("--model {name}: expected 1b, 7b4 or 7b32"))?;
            let path = shape
                .checkpoint(&work.dir)
                .context("a checkpoint with random weights")?;
            if self.part.contains(&Benchmark::Detect) {
                work.detection(name, &path, &mut all)?;
            }
            if name != "7b32" {
                work.passes(name, &path, &mut all)?;
            }
        }
        self.report(&work, &all)
    }

    fn wants(&self, peer: &str) -> bool {
        self.peer.is_empty() || self.peer.iter().any(|p| p == peer)
    }

    fn report(&self, work: &Work<'_>, all: &[Comparison]) -> Result<()> {
        let header = ["work", "peer", "unit", "theirs", "ours", "ours / theirs"];
        let mut table = Table {
            header: header.map(String::from).to_vec(),
            ..Table::default()
        };
        let digits = |x: f64| {
            if x < 1.0 {
                format!("{x:.3e}")
            } else {
                format!("{x:.1}")
            }
        };
        for c in all {
            table.rows.push(vec![
                c.work.clone(),
                c.peer.clone(),
                c.unit.into(),
                digits(c.theirs),
                digits(c.ours),
                format!("{:.2}", c.ratio),
            ]);
        }
        let json = json!({
            "machine": machine_description(work),
            "rounds": self.rounds,
            "comparisons": all.iter().map(|c| json!({
                "work": c.work, "peer": c.peer, "unit": c.unit, "theirs": c.theirs, "ours": c.ours, "ratio": c.ratio,
            })).collect::<Vec<_>>(),
        });
        let markdown = format!(
            "# Peers\n\nMedians of {} alternating runs; the ratio is the median of the ratios of neighbours.\n\n```json\n{}\n```\n\n{}\n",
            self.rounds,
            serde_json::to_string_pretty(&json["machine"])?,
            table.markdown()
        );
        files::write(&self.out, &self.name, &json, &markdown, &table.csv())?;
        say(table.text())
    }
}

/// A virtual environment with the peers that wheels exist for.
fn environment(dir: &Path) -> Result<PathBuf> {
    let python = dir.join("venv/bin/python");
    if !python.is_file() {
        succeed(
            Command::new("python3")
                .args(["-m", "venv"])
                .arg(dir.join("venv")),
        )?;
        let packages = ["torch", "transformers", "safetensors"];
        succeed(
            Command::new(&python)
                .args(["-m", "pip", "install", "-q"])
                .args(packages),
        )?;
    }
    Ok(python)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Processor, kernel, versions, and how fast the machine is right now.
fn machine_description(work: &Work<'_>) -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_once(':'))
            .map_or(String::new(), |(_, v)| v.trim().to_owned())
    };
    let flags = field("flags");
    let notable = [
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "amx_bf16",
        "amx_int8",
    ];
    let flags: Vec<&str> = flags.split(' ').filter(|f| notable.contains(f)).collect();
    let versions = |python: &Path| {
        let out = Command::new(python)
            .arg(&work.script)
            .arg("versions")
            .output()
            .ok()?;
        serde_json::from_slice::<Value>(&out.stdout).ok()
    };
    let second = std::time::Duration::from_secs(1);
    json!({
        "processor": field("model name"),
        "flags": flags,
        "threads": work.threads,
        "kernel": sw_tensor::isa_name(),
        "f32_multiply_add_gflops": machine::fma_gflops(second),
        "int8_vector_gops": machine::vnni_gops(second),
        "read_gbytes_per_second": machine::read_gbytes(&vec![1; 1 << 30]),
        "load": fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
        "python": versions(&work.python),
        "llama_python": versions(&work.llama_python),
    })
}
