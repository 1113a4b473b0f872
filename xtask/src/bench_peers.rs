//! `cargo xtask bench-peers`: the same work by PyTorch, transformers, llama.cpp and candle, in alternation with ours.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sw_benches::{Shape, VOCABULARY, median, random, tokens};
use sw_model::{Model, Seq};
use sw_tensor::{Mat, machine};

use crate::{
    output::{self, say},
    table::Table,
};

const SCRIPT: &str = include_str!("peers.py");

/// A package of its own, with what it needs from the registry.
const CANDLE: [(&str, &str); 2] = [
    ("src/main.rs", include_str!("peers_candle.rs")),
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
    part: Vec<Part>,
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
enum Part {
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
        output::probe(&self.out)?;
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
        if self.part.contains(&Part::Product) {
            work.products(&mut all)?;
        }
        for name in &self.model {
            let shape = Shape::named(name)
                .with_context(|| format!("--model {name}: expected 1b, 7b4 or 7b32"))?;
            let path = shape
                .checkpoint(&work.dir)
                .context("a checkpoint with random weights")?;
            if self.part.contains(&Part::Detect) {
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
        output::write(&self.out, &self.name, &json, &markdown, &table.csv())?;
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

struct Work<'a> {
    options: &'a BenchPeers,
    script: PathBuf,
    python: PathBuf,
    llama_python: PathBuf,
    dir: PathBuf,
    threads: usize,
}

impl Work<'_> {
    /// A peer's process, or `None` with a note where it cannot be started.
    fn peer(&self, name: &str, model: Option<&Path>) -> Option<Peer> {
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
            .map_err(|e| eprintln!("note: without {name}: {e:#}"))
            .ok()
    }

    /// The program that runs candle, built for this processor unless it is there.
    fn candle(&self) -> Result<PathBuf> {
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
    fn compare(
        &self,
        (work, unit, amount): (&str, &'static str, f64),
        peer: &mut Peer,
        command: &str,
        mut ours: impl FnMut() -> Result<()>,
    ) -> Result<Comparison> {
        let mut pairs = Vec::new();
        for round in 0..=self.options.rounds {
            let theirs = amount / peer.ask(command)?[0];
            let start = Instant::now();
            ours()?;
            let ours = amount / start.elapsed().as_secs_f64();
            if round > 0 {
                pairs.push((theirs, ours));
            }
        }
        let of = |f: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(f).collect::<Vec<_>>());
        let comparison = Comparison {
            work: work.to_owned(),
            peer: peer.name.clone(),
            unit,
            theirs: of(|p| p.0),
            ours: of(|p| p.1),
            ratio: of(|p| p.1 / p.0),
        };
        let (theirs, ours) = (comparison.theirs, comparison.ours);
        eprintln!("{work}, {}: {theirs:.1} and {ours:.1} {unit}", peer.name);
        Ok(comparison)
    }

    fn products(&self, all: &mut Vec<Comparison>) -> Result<()> {
        const M: usize = 512;
        for (n, k) in [(11008, 4096), (4096, 11008), (4096, 4096)] {
            let mut next = random(1);
            let x = ndarray::Array2::from_shape_simple_fn((M, k), &mut next);
            let mut y = ndarray::Array2::zeros((M, n));
            let amount = (2 * M * n * k) as f64 / 1e9;
            let values: Vec<f32> = (0..n * k).map(|_| next()).collect();
            let bf16 = Mat::from_bf16(
                n,
                k,
                values.iter().map(|v| half::bf16::from_f32(*v)).collect(),
            );
            let f16 = Mat::from_f16(
                n,
                k,
                values.iter().map(|v| half::f16::from_f32(*v)).collect(),
            );
            let bytes: Vec<u8> = values.iter().map(|v| (v * 127.0 + 128.0) as u8).collect();
            let scales = vec![0.01; n * k / 128];
            let codes = |bits: u8| sw_tensor::Codes {
                shape: [n, k],
                bits,
                codes: &bytes[..n * k / 8 * usize::from(bits)],
                group: [1, 128],
                scales: &scales,
                offsets: sw_tensor::CodeOffsets::Symmetric,
                outliers: &[],
            };
            for name in ["torch-f32", "torch-bf16", "torch-f16"] {
                let Some(mut peer) = self.peer(name, None) else {
                    continue;
                };
                let command = format!("product {M} {n} {k}");
                for (weights, w) in [("BF16", &bf16), ("F16", &f16)] {
                    let work = format!("product {M} {n} {k}, {weights} weights");
                    all.push(self.compare(
                        (&work, "GFLOP/s", amount),
                        &mut peer,
                        &command,
                        || {
                            sw_tensor::matmul_t(x.view(), w, y.view_mut());
                            Ok(())
                        },
                    )?);
                }
                for bits in [8, 4].into_iter().filter(|_| name == "torch-f32") {
                    let work = format!("product {M} {n} {k}, {bits}-bit codes");
                    let codes = codes(bits);
                    all.push(self.compare(
                        (&work, "GFLOP/s", amount),
                        &mut peer,
                        &command,
                        || {
                            sw_tensor::matmul_t_codes(x.view(), &codes, y.view_mut());
                            Ok(())
                        },
                    )?);
                }
            }
        }
        Ok(())
    }

    /// Prefill, perplexity and errors of one checkpoint.
    fn passes(&self, name: &str, path: &Path, all: &mut Vec<Comparison>) -> Result<()> {
        let part = |part| self.options.part.contains(&part);
        if !(part(Part::Prefill) || part(Part::Perplexity) || part(Part::Error)) {
            return Ok(());
        }
        let model = Model::open(path)?;
        for peer in ["transformers-f32", "transformers-bf16", "transformers-f16"] {
            let Some(mut peer) = self.peer(peer, Some(path)) else {
                continue;
            };
            self.timed(name, &model, &mut peer, all)?;
            if part(Part::Error) && peer.name == "transformers-f32" {
                all.push(self.error(name, &model, &mut peer)?);
            }
        }
        for peer in ["candle-f32", "candle-f16"] {
            if part(Part::Prefill)
                && let Some(mut peer) = self.peer(peer, Some(path))
            {
                self.prefill(name, &model, &mut peer, all)?;
            }
        }
        let wanted = part(Part::Prefill) || part(Part::Perplexity);
        for kind in ["F16", "BF16"].into_iter().filter(|_| wanted) {
            let peer = format!("llama-{}", kind.to_lowercase());
            let file = self.dir.join(format!("{name}.{kind}.gguf"));
            if !self.options.wants(&peer) || !self.convert(path, &file, kind) {
                continue;
            }
            let Some(mut peer) = self.peer(&peer, Some(&file)) else {
                continue;
            };
            self.timed(name, &model, &mut peer, all)?;
        }
        Ok(())
    }

    /// What is timed of a peer.
    fn timed(
        &self,
        name: &str,
        model: &Model,
        peer: &mut Peer,
        all: &mut Vec<Comparison>,
    ) -> Result<()> {
        if self.options.part.contains(&Part::Prefill) {
            self.prefill(name, model, peer, all)?;
        }
        if self.options.part.contains(&Part::Perplexity) {
            self.perplexity(name, model, peer, all)?;
        }
        Ok(())
    }

    fn perplexity(
        &self,
        name: &str,
        model: &Model,
        peer: &mut Peer,
        all: &mut Vec<Comparison>,
    ) -> Result<()> {
        const N: usize = 2048;
        let (ids, work) = (tokens(N), format!("{name}, perplexity of {N}"));
        let command = format!("perplexity {N}");
        all.push(
            self.compare((&work, "tokens/s", N as f64), peer, &command, || {
                model.score_texts(&[&ids], &mut ())?;
                Ok(())
            })?,
        );
        Ok(())
    }

    fn prefill(
        &self,
        name: &str,
        model: &Model,
        peer: &mut Peer,
        all: &mut Vec<Comparison>,
    ) -> Result<()> {
        for &n in &self.options.tokens {
            let (ids, work) = (tokens(n), format!("{name}, prefill of {n}"));
            let command = format!("prefill {n}");
            all.push(
                self.compare((&work, "tokens/s", n as f64), peer, &command, || {
                    let rows = model.forward(&[Seq::from(ids.as_slice())], &mut ())?;
                    model.logits(rows.view())?;
                    Ok(())
                })?,
            );
        }
        Ok(())
    }

    /// Errors, as their reciprocals: more is better here too.
    fn error(&self, name: &str, model: &Model, peer: &mut Peer) -> Result<Comparison> {
        const N: usize = 64;
        let rows = model.forward(&[Seq::from(tokens(N).as_slice())], &mut ())?;
        let logits = model.logits(rows.view())?;
        assert_eq!(logits.dim(), (N, VOCABULARY));
        let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        let file = self.dir.join("logits.f32");
        fs::write(&file, bytes).with_context(|| file.display().to_string())?;
        let errors = peer.ask(&format!("error {N} {}", file.display()))?;
        let [theirs, ours] = errors[..] else {
            bail!("expected two errors, found {errors:?}")
        };
        Ok(Comparison {
            work: format!("{name}, logits of {N} tokens against float64"),
            peer: peer.name.clone(),
            unit: "relative error",
            theirs,
            ours,
            ratio: ours / theirs,
        })
    }

    /// The checkpoint for llama.cpp, unless it is there.
    fn convert(&self, model: &Path, out: &Path, kind: &str) -> bool {
        let mut command = Command::new(&self.llama_python);
        command
            .arg(&self.script)
            .arg("gguf")
            .args([model, out])
            .arg(kind);
        out.is_file()
            || succeed(&mut command)
                .map_err(|e| eprintln!("note: without llama.cpp: {e:#}"))
                .is_ok()
    }

    /// Whole processes: loading and detection of ours; loading and one watched pass of theirs.
    fn detection(&self, name: &str, path: &Path, all: &mut Vec<Comparison>) -> Result<()> {
        let program =
            std::env::current_exe()?.with_file_name(format!("sw{}", std::env::consts::EXE_SUFFIX));
        if !program.is_file() {
            bail!(
                "{}: no such file; build it with: cargo build --release -p sw-cli",
                program.display()
            );
        }
        let ids: Vec<String> = tokens(12).iter().map(u32::to_string).collect();
        let time = |command: &mut Command| -> Result<f64> {
            let start = Instant::now();
            let output = command
                .stdin(Stdio::null())
                .output()
                .with_context(|| format!("{command:?}"))?;
            if !output.status.success() {
                bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            }
            Ok(start.elapsed().as_secs_f64())
        };
        let peer = "transformers-bf16";
        let with_peer = name != "7b32" && self.options.wants(peer);
        let bytes: u64 = fs::read_dir(path)?
            .filter_map(|f| Some(f.ok()?.metadata().ok()?.len()))
            .sum();
        let (mut theirs, mut ours, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=self.options.rounds {
            let mut python = Command::new(&self.python);
            python
                .arg(&self.script)
                .args(["detect", &self.threads.to_string()])
                .arg(path);
            let their_time = if with_peer {
                time(&mut python)?
            } else {
                f64::NAN
            };
            let mut sw = Command::new(&program);
            sw.arg("detect")
                .arg(path)
                .args(["--tokens", &ids.join(","), "--json"]);
            let our_time = time(&mut sw)?;
            let read = read_mapped(path)?;
            if round > 0 {
                theirs.push(their_time);
                ours.push(our_time);
                reads.push(read);
            }
        }
        let add = |peer: &str, unit, theirs: &[f64], ours: &[f64], all: &mut Vec<Comparison>| {
            let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(o, t)| o / t).collect();
            all.push(Comparison {
                work: format!("{name}, detection"),
                peer: peer.into(),
                unit,
                theirs: median(theirs),
                ours: median(ours),
                ratio: median(&ratios),
            });
        };
        if with_peer {
            add(peer, "s", &theirs, &ours, all);
        }
        let rates: Vec<f64> = ours.iter().map(|s| bytes as f64 / s / 1e9).collect();
        add("reading the mapped file", "GB/s", &reads, &rates, all);
        Ok(())
    }
}

/// Billions of bytes per second that a fresh mapping of a checkpoint is read with.
fn read_mapped(path: &Path) -> Result<f64> {
    let checkpoint = sw_tensor::Checkpoint::open(path)?;
    let (mut bytes, mut seconds) = (0.0, 0.0);
    for file in checkpoint.files() {
        bytes += file.bytes.len() as f64;
        seconds += file.bytes.len() as f64 / machine::read_gbytes(file.bytes);
    }
    Ok(bytes / seconds)
}

/// A process that answers line by line.
struct Peer {
    name: String,
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Peer {
    fn start(command: &mut Command, name: &str) -> Result<Peer> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command
            .spawn()
            .with_context(|| command.get_program().display().to_string())?;
        let (to, from) = (process.stdin.take(), process.stdout.take());
        let (Some(to), Some(from)) = (to, from) else {
            bail!("no pipes")
        };
        let mut peer = Peer {
            name: name.to_owned(),
            process,
            to,
            from: BufReader::new(from),
        };
        let first = peer.line()?;
        if first != "ready" {
            bail!("{name}: expected \"ready\", found {first:?}");
        }
        Ok(peer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("{} ended: {}", self.name, self.process.wait()?);
        }
        Ok(line.trim().to_owned())
    }

    fn ask(&mut self, command: &str) -> Result<Vec<f64>> {
        writeln!(self.to, "{command}")?;
        let line = self.line()?;
        let numbers = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<f64>, _>>();
        let numbers = numbers.with_context(|| format!("{}: {command}: {line}", self.name))?;
        if numbers.is_empty() {
            bail!("{}: {command}: no answer", self.name);
        }
        Ok(numbers)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
