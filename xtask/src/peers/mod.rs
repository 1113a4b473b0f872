//! `cargo xtask bench-peers`: the same work by PyTorch, transformers, llama.cpp and candle, in alternation with ours.

mod detection;
mod generation;
mod passes;
mod process;
mod products;
mod work;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sw_benches::Shape;
use sw_cli::program::{say, set_threads};
use sw_tensor::{Precision, machine};

use crate::page::{files, table::Table};
use work::Work;

const SCRIPT: &str = include_str!("peers.py");

/// Compare the speed of products, passes and detection with other programs
///
/// Checkpoints of real shapes with random weights are made in --dir, and so is a virtual environment with torch and
/// transformers, unless --python names an interpreter that has them (and llama_cpp and gguf, for llama.cpp). candle is
/// built in --dir too, from the registry. Every
/// measurement of a peer is followed by one of ours, in the peer's class of accuracy: ours in bfloat16 beside a peer that rounds
/// activations to BF16, else in float32; reported are medians, and the median of the ratios. With each, all threads are
/// compared with one, and threads of other programs that want a core are counted: where anything else was running, no ratio
/// is given.
///
/// Example: cargo xtask bench-peers --out benches/record --part product
#[derive(Args)]
pub(crate) struct BenchPeers {
    /// What to compare
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "product,prefill,perplexity,error,detect,generate"
    )]
    part: Vec<Benchmark>,
    /// Checkpoints: shapes with random weights (1b, 7b4, and 7b32 for detection only), or folders of Llama models in Hugging
    /// Face layout, such as one of SmolLM2
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
    /// 256 tokens, one after the other
    Generate,
}

/// Accuracies that may be compared: what both do to the activations that enter a product.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    /// Nothing.
    Float32,
    /// Both round them to BF16.
    Bfloat16,
    /// The peer rounds them to F16, and we do not.
    Float16,
    /// The work is another.
    None,
}

impl Class {
    /// The class of a peer, by its name.
    fn of(peer: &str) -> Class {
        match peer.rsplit('-').next() {
            Some("f32") => Class::Float32,
            Some("bf16") => Class::Bfloat16,
            Some("f16") => Class::Float16,
            _ => Class::None,
        }
    }

    /// How we compute in it.
    fn precision(self) -> Precision {
        match self {
            Class::Bfloat16 => Precision::Bfloat16,
            _ => Precision::Float32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Class::Float32 => "float32",
            Class::Bfloat16 => "bfloat16",
            Class::Float16 => "float16 (ours: float32)",
            Class::None => "",
        }
    }
}

/// One line of the result.
struct Comparison {
    work: String,
    class: Class,
    peer: String,
    unit: &'static str,
    /// What both do, in units; more is better.
    theirs: f64,
    ours: f64,
    ratio: f64,
    /// What [`scaling`] says, measured in between; `None` where the figure is no time.
    threads: Option<f64>,
}

impl Comparison {
    /// Whether something else was running.
    fn is_busy(&self, threads: usize) -> bool {
        self.threads.is_some_and(|n| n < BUSY * threads as f64)
    }
}

/// The share of perfect scaling below which a machine counts as busy.
const BUSY: f64 = 0.93;

/// How many times as much all threads multiply and add in registers as one does, divided among this program and each thread
/// of others that wants a core; the number of threads on an idle machine.
fn scaling() -> f64 {
    const TIME: Duration = Duration::from_millis(30);
    let others = others_running();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let one = one.map_or(0.0, |one| one.install(|| machine::fma_gflops(TIME)));
    machine::fma_gflops(TIME) / one / (1 + others) as f64
}

/// Threads that run or want to, beside the one that asks, all the time that this looks; 0 where the system does not say.
fn others_running() -> usize {
    const LOOKS: usize = 5;
    let running = |_| {
        thread::sleep(Duration::from_millis(5));
        let load = fs::read_to_string("/proc/loadavg").ok()?;
        let (running, _) = load.split_whitespace().nth(3)?.split_once('/')?;
        running.parse::<usize>().ok()
    };
    let fewest = (0..LOOKS).filter_map(running).min();
    fewest.unwrap_or(1).saturating_sub(1)
}

impl BenchPeers {
    pub(crate) fn run(&self) -> Result<()> {
        files::probe(&self.out)?;
        set_threads(None)?;
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
        for name in self.model.iter().map(String::as_str) {
            let folder = Path::new(name);
            let (name, path) = match Shape::named(name) {
                Some(shape) => {
                    let path = shape.checkpoint(&work.dir);
                    (name, path.context("a checkpoint with random weights")?)
                }
                None if folder.join("config.json").is_file() => {
                    let last = folder.file_name().and_then(|name| name.to_str());
                    (last.unwrap_or(name), folder.to_owned())
                }
                None => {
                    bail!("--model {name}: expected 1b, 7b4, 7b32 or a folder with a config.json")
                }
            };
            if self.part.contains(&Benchmark::Detect) {
                work.detection(name, &path, &mut all)?;
            }
            if name == "7b32" {
                continue;
            }
            work.passes(name, &path, &mut all)?;
            if self.part.contains(&Benchmark::Generate) {
                work.generation(name, &path, &mut all)?;
            }
        }
        self.report(&work, &all)
    }

    fn wants(&self, peer: &str) -> bool {
        self.peer.is_empty() || self.peer.iter().any(|p| p == peer)
    }

    fn report(&self, work: &Work<'_>, all: &[Comparison]) -> Result<()> {
        let header = [
            "work",
            "class",
            "peer",
            "unit",
            "theirs",
            "ours",
            "ours / theirs",
        ];
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
                c.class.name().into(),
                c.peer.clone(),
                c.unit.into(),
                digits(c.theirs),
                digits(c.ours),
                match c.is_busy(work.threads) {
                    true => "busy: no result".into(),
                    false => format!("{:.2}", c.ratio),
                },
            ]);
        }
        let json = json!({
            "machine": machine_description(work),
            "rounds": self.rounds,
            "comparisons": all.iter().map(|c| json!({
                "work": c.work, "class": c.class.name(), "peer": c.peer, "unit": c.unit, "theirs": c.theirs, "ours": c.ours,
                "ratio": (!c.is_busy(work.threads)).then_some(c.ratio), "threads_beside_one": c.threads,
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
        "kernel_bfloat16": sw_tensor::kernel_name(Precision::Bfloat16),
        "f32_multiply_add_gflops": machine::fma_gflops(second),
        "bf16_dot_gflops": machine::bf16_gflops(second),
        "int8_vector_gops": machine::vnni_gops(second),
        "read_gbytes_per_second": machine::read_gbytes(&vec![1; 1 << 30]),
        "load": fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
        "python": versions(&work.python),
        "llama_python": versions(&work.llama_python),
    })
}
