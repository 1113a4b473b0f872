//! Decoding token by token, beside a peer's and beside what reading the weights once for each token takes.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};
use sw_benches::{median, tokens};
use sw_cli::program;
use sw_model::Model;
use sw_tensor::Checkpoint;

use super::{
    Class, Comparison,
    process::Peer,
    scaling,
    work::{Work, read_gbytes},
};

/// Tokens before the first that is timed.
const PROMPT: usize = 12;
/// Tokens that are timed.
const NEW: usize = 256;
/// Tokens after which the other has its turn: memory is faster in some seconds than in others.
const BURST: usize = 32;
/// So many of the first, and of the last, are compared.
const PART: usize = 64;
const _: () = assert!(NEW.is_multiple_of(BURST) && PART.is_multiple_of(BURST));

/// Tokens per second of both.
struct ByTurns {
    theirs: f64,
    ours: Rates,
}

/// Tokens per second.
struct Rates {
    all: f64,
    first: f64,
    last: f64,
}

impl Work<'_> {
    /// Decoding of ours and each peer's by turns, in its class; each beside how often the weights can be read in a second.
    pub(super) fn generation(
        &self,
        name: &str,
        path: &Path,
        all: &mut Vec<Comparison>,
    ) -> Result<()> {
        let checkpoint = Checkpoint::open(path)?;
        let weights = weights_per_token(&checkpoint);
        let model = Model::open(path)?;
        let llama = self.llama_file(name, path, "BF16");
        let peers = [
            ("transformers-f32", Some(path)),
            ("transformers-bf16", Some(path)),
            ("llama-bf16", llama.as_deref()),
        ];
        for (peer, file) in peers {
            let Some(mut peer) = file.and_then(|file| self.peer(peer, Some(file))) else {
                continue;
            };
            self.generated(name, &model, (&checkpoint, weights), &mut peer, all)?;
        }
        Ok(())
    }

    fn generated(
        &self,
        name: &str,
        model: &Model,
        (checkpoint, weights): (&Checkpoint, f64),
        peer: &mut Peer,
        all: &mut Vec<Comparison>,
    ) -> Result<()> {
        let class = Class::of(&peer.name);
        let model = model.with_precision(class.precision());
        let (mut theirs, mut ours, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        let mut threads = Vec::new();
        for round in 0..=self.options.rounds {
            let rates = by_turns(&model, peer, round % 2 == 1)?;
            // After the first round, which does not count, its pages are mapped.
            let read = read_gbytes(checkpoint);
            if round > 0 {
                theirs.push(rates.theirs);
                ours.push(rates.ours);
                reads.push(read * 1e9 / weights);
                threads.push(scaling());
            }
        }
        let mut add = |work: String, peer: &str, theirs: &[f64], ours: &[f64]| {
            let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(o, t)| o / t).collect();
            let comparison = Comparison {
                work,
                class,
                peer: peer.into(),
                unit: "tokens/s",
                theirs: median(theirs),
                ours: median(ours),
                ratio: median(&ratios),
                threads: Some(median(&threads)),
            };
            let (theirs, ours) = (comparison.theirs, comparison.ours);
            program::tell(format!(
                "{}, {peer}: {theirs:.1} and {ours:.1} tokens/s",
                comparison.work
            ));
            all.push(comparison);
        };
        let of = |f: fn(&Rates) -> f64| ours.iter().map(f).collect::<Vec<_>>();
        let work = format!("{name}, generation of {NEW}");
        add(work.clone(), &peer.name, &theirs, &of(|r| r.all));
        add(work.clone(), "reading the weights", &reads, &of(|r| r.all));
        add(
            format!("{work}: the last {PART}"),
            "its own first",
            &of(|r| r.first),
            &of(|r| r.last),
        );
        Ok(())
    }
}

/// One text of each, some tokens of one after some of the other.
fn by_turns(model: &Model, peer: &mut Peer, ours_first: bool) -> Result<ByTurns> {
    let prompt = tokens(PROMPT);
    let mut hook = ();
    let mut decoding = model.decoding(&prompt, None, &mut hook)?;
    let mut more = |n: usize| {
        let start = Instant::now();
        for _ in 0..n {
            decoding.next().context("the model ended the text")??;
        }
        Ok::<_, anyhow::Error>(start.elapsed().as_secs_f64())
    };
    // The first comes from the prompt's logits.
    more(1)?;
    peer.ask(&format!("begin {PROMPT}"))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..NEW / BURST {
        if ours_first {
            ours.push(more(BURST)?);
        }
        theirs.push(peer.ask(&format!("more {BURST}"))?[0]);
        if !ours_first {
            ours.push(more(BURST)?);
        }
    }
    let rate = |bursts: &[f64]| (bursts.len() * BURST) as f64 / bursts.iter().sum::<f64>();
    Ok(ByTurns {
        theirs: rate(&theirs),
        ours: Rates {
            all: rate(&ours),
            first: rate(&ours[..PART / BURST]),
            last: rate(&ours[(NEW - PART) / BURST..]),
        },
    })
}

/// Bytes as stored of all weights but the embedding's, of which a token needs one row; with a tied head it is the head.
fn weights_per_token(checkpoint: &Checkpoint) -> f64 {
    let has_head = checkpoint.names().any(|name| name == "lm_head.weight");
    let is_read = |name: &&str| !has_head || !name.ends_with("embed_tokens.weight");
    let read = checkpoint.names().filter(is_read);
    read.filter_map(|name| checkpoint.info(name))
        .map(|info| info.len as f64)
        .sum()
}
