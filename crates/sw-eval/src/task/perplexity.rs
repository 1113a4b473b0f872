//! Perplexity by the protocol of GPTQ's evaluation: windows of tokens, each scored by itself from its second token on.

use std::collections::{HashMap, HashSet};

use super::{Cut, Kind, Task};
use crate::{
    data::{Dataset, Doc, Split},
    encode::Encoder,
    error::{Error, Result},
    metric::Metric,
    random::PyRandom,
};

pub(super) const WIKITEXT2: Task = Task {
    name: "wikitext2",
    version: 1.0,
    dataset: Dataset::new("Salesforce/wikitext", Some("wikitext-2-raw-v1")),
    split: Split::Test,
    shots: Split::Test,
    metrics: &[Metric::Perplexity],
    kind: Kind::Windows(wikitext2),
};

const C4_SHARD: Dataset = Dataset {
    path: "allenai/c4",
    config: Some("en"),
    first_file_only: true,
};

pub(super) const C4: Task = Task {
    name: "c4",
    dataset: C4_SHARD,
    split: Split::Validation,
    kind: Kind::Windows(c4),
    ..WIKITEXT2
};

pub(super) const C4_NEW: Task = Task {
    name: "c4_new",
    kind: Kind::Windows(c4_new),
    ..C4
};

const C4_WINDOWS: usize = 256;

/// The rows joined by blank lines, encoded once, cut to windows that do not overlap; what is left over is dropped.
fn wikitext2(rows: &[Doc], encoder: &Encoder<'_>, cut: Cut) -> Result<Vec<Vec<u32>>> {
    let texts = rows
        .iter()
        .map(|row| row.text("text"))
        .collect::<Result<Vec<_>>>()?;
    whole_windows(rows, encoder.text(&texts.join("\n\n"))?, cut)
}

/// The first 1100 documents joined by spaces, encoded once, cut to at most 256 windows.
fn c4_new(docs: &[Doc], encoder: &Encoder<'_>, cut: Cut) -> Result<Vec<Vec<u32>>> {
    let texts = docs
        .iter()
        .take(1100)
        .map(|doc| doc.text("text"))
        .collect::<Result<Vec<_>>>()?;
    let cut = Cut {
        limit: cut.limit.min(C4_WINDOWS),
        ..cut
    };
    whole_windows(docs, encoder.text(&texts.join(" "))?, cut)
}

fn whole_windows(docs: &[Doc], tokens: Vec<u32>, cut: Cut) -> Result<Vec<Vec<u32>>> {
    let windows: Vec<_> = tokens
        .chunks_exact(cut.window)
        .take(cut.limit)
        .map(<[u32]>::to_vec)
        .collect();
    if windows.is_empty() {
        let problem = format!(
            "{} tokens in all do not fill one window of {}",
            tokens.len(),
            cut.window
        );
        return Err(Error::data(docs[0].file(), problem));
    }
    Ok(windows)
}

/// 256 windows at random places of random documents that are long enough; Python's generator with seed 0.
///
/// A document of exactly one window stops the original with an error (it draws from an empty range); here it counts
/// as too short.
fn c4(docs: &[Doc], encoder: &Encoder<'_>, cut: Cut) -> Result<Vec<Vec<u32>>> {
    let mut random = PyRandom::new(0);
    let mut long: HashMap<usize, Vec<u32>> = HashMap::new();
    let mut short: HashSet<usize> = HashSet::new();
    let mut windows = Vec::new();
    while windows.len() < cut.limit.min(C4_WINDOWS) {
        let i = random.below(docs.len());
        if short.contains(&i) {
            continue;
        }
        let tokens = match long.entry(i) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let tokens = encoder.text(docs[i].text("text")?)?;
                if tokens.len() <= cut.window {
                    short.insert(i);
                    if short.len() == docs.len() {
                        let problem = format!(
                            "none of the {} documents is longer than a window of {}",
                            docs.len(),
                            cut.window
                        );
                        return Err(Error::data(docs[0].file(), problem));
                    }
                    continue;
                }
                new.insert(tokens)
            }
        };
        let start = random.below(tokens.len() - cut.window);
        windows.push(tokens[start..start + cut.window].to_vec());
    }
    Ok(windows)
}
