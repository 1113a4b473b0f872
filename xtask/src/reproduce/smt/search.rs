//! Learning rates: the best of a grid that is widened until the best lies inside.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sw_cli::program::write_whole;
use sw_tensor::files::read_text_at_most;

use super::{
    Smt,
    rows::{Row, What},
    setting::Setting,
};
use crate::lab::Lab;

/// What a search found for a row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Searched {
    pub(super) rate: f32,
    /// Loss on held-out text of the new lore, by rate.
    pub(super) losses: BTreeMap<String, f64>,
}

/// The search that is committed: `cargo xtask reproduce-smt --search --out DIR` makes it.
const RECORD: &str = include_str!("rates.json");

/// The seed of the search; no table has it.
const SEED: u64 = 1000;

/// Bytes of rates that were found, at most.
const MOST: u64 = 1 << 20;

const RATES: [f32; 10] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0];

/// The recorded search.
pub(super) fn recorded() -> Result<BTreeMap<String, Searched>> {
    serde_json::from_str(RECORD).context("rates.json")
}

/// Searches the rates of these rows. Each is written to the output folder as it is found; those that are there from a search
/// that was stopped are not searched again.
pub(super) fn run(
    options: &Smt,
    lab: &Lab,
    rows: &[&'static Row],
) -> Result<BTreeMap<String, Searched>> {
    let setting = Setting::new(lab, options, SEED)?;
    let path = lab
        .inputs
        .out
        .as_deref()
        .context("--search: expected --out DIR, where the rates are written")?
        .join("smt-rates.json");
    let found: BTreeMap<String, Searched> = match path.is_file() {
        true => {
            let text = read_text_at_most(&path, MOST)?;
            serde_json::from_str(&text).with_context(|| path.display().to_string())?
        }
        false => BTreeMap::new(),
    };
    let open: Vec<&Row> = rows
        .iter()
        .copied()
        .filter(|row| row.what != What::Nothing && row.searched() == row.id)
        .filter(|row| !found.contains_key(row.id))
        .collect();
    let found = Mutex::new(found);
    open.par_iter().try_for_each(|row| {
        let searched = best(&setting, row)?;
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(row.id.to_owned(), searched);
        let text = serde_json::to_string_pretty(&*found)? + "\n";
        write_whole(&path, &text)
    })?;
    let mut all = recorded()?;
    all.extend(found.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(all)
}

/// The rate of least held-out loss for a row, with both of its neighbours in the grid tried.
fn best(setting: &Setting, row: &Row) -> Result<Searched> {
    let mut losses: BTreeMap<usize, f64> = BTreeMap::new();
    let mut next: Vec<usize> = vec![3, 4];
    let best = loop {
        for i in next.drain(..) {
            // A training that runs away is no candidate.
            let tuned = setting.train(row, RATES[i]);
            let loss = tuned.and_then(|tuned| setting.loss(&tuned.model, 0));
            losses.insert(i, loss.unwrap_or(f64::INFINITY));
        }
        let by_loss = |a: &(&usize, &f64), b: &(&usize, &f64)| a.1.total_cmp(b.1);
        let best = losses.iter().min_by(by_loss).map_or(0, |(i, _)| *i);
        let tried = |i: usize| losses.contains_key(&i) || i >= RATES.len();
        if best > 0 && !tried(best - 1) {
            next.push(best - 1);
        } else if !tried(best + 1) {
            next.push(best + 1);
        } else {
            break best;
        }
    };
    let finite = losses.into_iter().filter(|(_, loss)| loss.is_finite());
    Ok(Searched {
        rate: RATES[best],
        losses: finite
            .map(|(i, loss)| (RATES[i].to_string(), loss))
            .collect(),
    })
}
