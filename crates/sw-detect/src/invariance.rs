//! Whether the coordinates depend on the prompt.

use serde::{Deserialize, Serialize};
use sw_model::Model;

use crate::{error::Result, options::DetectOptions, search::detect};

/// A super weight, and in how many prompts it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Layer, from 0.
    pub layer: usize,
    /// The expert, in mixtures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// Output channel.
    pub row: usize,
    /// Input channel.
    pub col: usize,
    /// The prompts that found it, by index.
    pub prompts: Vec<usize>,
}

/// What several prompts found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invariance {
    /// How many prompts there were.
    pub prompts: usize,
    /// Every super weight that any of them found; those found most often first.
    pub super_weights: Vec<Seen>,
    /// Whether all prompts found the same, and found something.
    pub invariant: bool,
}

/// Searches with several prompts (as tokens) and compares the coordinates.
///
/// # Errors
/// As [`detect`].
pub fn invariance(
    model: &Model,
    prompts: &[Vec<u32>],
    options: &DetectOptions,
) -> Result<Invariance> {
    let mut super_weights: Vec<Seen> = Vec::new();
    for (i, tokens) in prompts.iter().enumerate() {
        for c in detect(model, tokens, options)?.super_weights {
            let place = (c.layer, c.expert, c.row, c.col);
            match super_weights
                .iter_mut()
                .find(|s| (s.layer, s.expert, s.row, s.col) == place)
            {
                Some(seen) => seen.prompts.push(i),
                None => super_weights.push(Seen {
                    layer: c.layer,
                    expert: c.expert,
                    row: c.row,
                    col: c.col,
                    prompts: vec![i],
                }),
            }
        }
    }
    super_weights.sort_by_key(|s| std::cmp::Reverse(s.prompts.len())); // stable
    let all = |s: &Seen| s.prompts.len() == prompts.len();
    Ok(Invariance {
        prompts: prompts.len(),
        invariant: !super_weights.is_empty() && super_weights.iter().all(all),
        super_weights,
    })
}
