//! Greedy decoding.

use std::path::Path;

use ndarray::Axis;
use serde_json::Value;

use crate::{config, error::Result, model::Model, site::Hook};

/// The end-of-sequence tokens that a checkpoint's config files name, one or a list of them each; and what to say where one
/// of the files cannot be read.
pub(crate) fn eos_tokens(dir: &Path, config: &Value) -> (Vec<u32>, Option<String>) {
    let path = dir.join("generation_config.json");
    let generation = match path.is_file() {
        true => config::read_json(&path),
        false => Ok(Value::Null),
    };
    let (generation, unread) = match generation {
        Ok(generation) => (generation, None),
        Err(e) => {
            let unread = format!("{e}; generation ends where config.json says");
            (Value::Null, Some(unread))
        }
    };
    let mut tokens = Vec::new();
    for file in [&generation, config, &config["text_config"]] {
        let named = match &file["eos_token_id"] {
            Value::Array(all) => all.iter().collect(),
            one => vec![one],
        };
        let ids = named.into_iter().filter_map(Value::as_u64);
        tokens.extend(ids.filter_map(|id| u32::try_from(id).ok()));
    }
    tokens.sort_unstable();
    tokens.dedup();
    (tokens, unread)
}

impl Model {
    /// Continues a prompt with the most probable token (of equals, the lowest id), `max_new` times at most.
    ///
    /// Ends early at any of [`eos_tokens`](Self::eos_tokens), which is not returned. Each token runs once: keys and values of
    /// what came before are kept.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn generate(
        &self,
        prompt: &[u32],
        max_new: usize,
        hook: &mut dyn Hook,
    ) -> Result<Vec<u32>> {
        let eos = self.eos_tokens();
        let model = self.for_few_tokens();
        let mut new = Vec::new();
        let (mut rows, mut kv) = model.extend(None, prompt, hook)?;
        while new.len() < max_new {
            let last = rows.slice_axis(Axis(0), (rows.nrows() - 1..).into());
            let logits = model.logits(last)?;
            let best = logits
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (id, &x)| {
                    if x > best.1 { (id, x) } else { best }
                });
            let token = best.0 as u32;
            if eos.contains(&token) {
                break;
            }
            new.push(token);
            if new.len() < max_new {
                (rows, kv) = model.extend(Some(&kv), &[token], hook)?;
            }
        }
        Ok(new)
    }
}
