//! Detection as a whole process beside one watched pass of transformers.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use sw_benches::{median, tokens};
use sw_tensor::Checkpoint;

use super::{
    Class, Comparison, scaling,
    work::{Work, read_gbytes},
};

/// As many tokens as the default prompt of `sw detect` has with Mistral 7B's tokenizer, the beginning of the sequence among them.
/// The script of the peers takes as many.
const TOKENS: usize = 10;

impl Work<'_> {
    /// Whole processes: loading and detection of ours; loading and one watched pass of theirs.
    pub(super) fn detection(
        &self,
        name: &str,
        path: &Path,
        all: &mut Vec<Comparison>,
    ) -> Result<()> {
        let program =
            std::env::current_exe()?.with_file_name(format!("sw{}", std::env::consts::EXE_SUFFIX));
        if !program.is_file() {
            bail!(
                "{}: no such file; build it with: cargo build --release -p sw-cli",
                program.display()
            );
        }
        let ids: Vec<String> = tokens(TOKENS).iter().map(u32::to_string).collect();
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
        let mut threads = Vec::new();
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
                .args(["--tokens", &ids.join(","), "--json"])
                .args(["--dtype", "bfloat16", "--no-proof"]);
            let our_time = time(&mut sw)?;
            // A fresh mapping, as the process had.
            let read = read_gbytes(&Checkpoint::open(path)?);
            if round > 0 {
                theirs.push(their_time);
                ours.push(our_time);
                reads.push(read);
                threads.push(scaling());
            }
        }
        let add = |peer: &str, unit, theirs: &[f64], ours: &[f64], all: &mut Vec<Comparison>| {
            let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(o, t)| o / t).collect();
            all.push(Comparison {
                work: format!("{name}, detection"),
                class: Class::of(peer),
                peer: peer.into(),
                unit,
                theirs: median(theirs),
                ours: median(ours),
                ratio: median(&ratios),
                threads: Some(median(&threads)),
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
