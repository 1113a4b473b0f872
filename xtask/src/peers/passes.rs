//! Prefill, perplexity and errors of one checkpoint beside transformers', candle's and llama.cpp's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sw_benches::tokens;
use sw_cli::program;
use sw_model::{Model, Seq};

use super::{Benchmark, Class, Comparison, process::Peer, succeed, work::Work};

impl Work<'_> {
    /// Prefill, perplexity and errors of one checkpoint.
    pub(super) fn passes(&self, name: &str, path: &Path, all: &mut Vec<Comparison>) -> Result<()> {
        let part = |part| self.options.part.contains(&part);
        if !(part(Benchmark::Prefill) || part(Benchmark::Perplexity) || part(Benchmark::Error)) {
            return Ok(());
        }
        let model = Model::open(path)?;
        for peer in ["transformers-f32", "transformers-bf16", "transformers-f16"] {
            let Some(mut peer) = self.peer(peer, Some(path)) else {
                continue;
            };
            self.timed(name, &model, &mut peer, all)?;
            if part(Benchmark::Error) && peer.name != "transformers-f16" {
                all.push(self.error(name, &model, &mut peer)?);
            }
        }
        for peer in ["candle-f32", "candle-f16"] {
            if part(Benchmark::Prefill)
                && let Some(mut peer) = self.peer(peer, Some(path))
            {
                self.prefill(name, &model, &mut peer, all)?;
            }
        }
        let wanted = part(Benchmark::Prefill) || part(Benchmark::Perplexity);
        for kind in ["F16", "BF16"].into_iter().filter(|_| wanted) {
            let peer = format!("llama-{}", kind.to_lowercase());
            let file = self.llama_file(name, path, kind);
            let Some(mut peer) = file.and_then(|file| self.peer(&peer, Some(&file))) else {
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
        if self.options.part.contains(&Benchmark::Prefill) {
            self.prefill(name, model, peer, all)?;
        }
        if self.options.part.contains(&Benchmark::Perplexity) {
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
        let model = model.with_precision(Class::of(&peer.name).precision());
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
        let model = model.with_precision(Class::of(&peer.name).precision());
        for &n in &self.options.tokens {
            let (ids, work) = (tokens(n), format!("{name}, prefill of {n}"));
            let command = format!("prefill {n}");
            // llama.cpp gives logits of the last token only, and is compared with as much work of ours.
            let wanted_from = if peer.name.starts_with("llama-") {
                n.saturating_sub(1)
            } else {
                0
            };
            let seq = Seq::from(ids.as_slice()).wanting_from(wanted_from);
            all.push(
                self.compare((&work, "tokens/s", n as f64), peer, &command, || {
                    let rows = model.forward(&[seq], &mut ())?;
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
        let model = model.with_precision(Class::of(&peer.name).precision());
        let rows = model.forward(&[Seq::from(tokens(N).as_slice())], &mut ())?;
        let logits = model.logits(rows.view())?;
        assert_eq!(logits.nrows(), N);
        let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        let file = self.dir.join("logits.f32");
        fs::write(&file, bytes).with_context(|| file.display().to_string())?;
        let errors = peer.ask(&format!("error {N} {}", file.display()))?;
        let [theirs, ours] = errors[..] else {
            bail!("expected two errors, found {errors:?}")
        };
        Ok(Comparison {
            work: format!("{name}, logits of {N} tokens against float64"),
            class: Class::of(&peer.name),
            peer: peer.name.clone(),
            unit: "relative error",
            theirs,
            ours,
            ratio: ours / theirs,
            threads: None,
        })
    }

    /// The checkpoint for llama.cpp, made unless it is there; `None` where it is not wanted or cannot be made.
    pub(super) fn llama_file(&self, name: &str, model: &Path, kind: &str) -> Option<PathBuf> {
        let out = self.dir.join(format!("{name}.{kind}.gguf"));
        if !self
            .options
            .wants(&format!("llama-{}", kind.to_lowercase()))
        {
            return None;
        }
        let mut command = Command::new(&self.llama_python);
        command
            .arg(&self.script)
            .arg("gguf")
            .args([model, &out])
            .arg(kind);
        let made = out.is_file()
            || succeed(&mut command)
                .map_err(|e| program::tell(format!("note: without llama.cpp: {e:#}")))
                .is_ok();
        made.then_some(out)
    }
}
