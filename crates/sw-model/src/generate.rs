//! Decoding: a sequence is continued token by token.

use std::path::Path;

use ndarray::Array2;
use serde_json::Value;

use crate::{
    config,
    error::Result,
    forward::Seq,
    kv::Kv,
    model::Model,
    sample::{Draws, Sampling},
    site::Hook,
};

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

/// A sequence that is being continued: an iterator over the tokens that come after a prompt. It ends at any of
/// [`eos_tokens`](Model::eos_tokens), which it does not return.
///
/// Each token runs once, when the one after it is asked for; keys and values of what came before are kept in memory that
/// grows in place. The same prompt and the same [`Sampling`] give the same tokens, whatever the number of threads.
pub struct Decoding<'a> {
    model: Model,
    hook: &'a mut dyn Hook,
    kv: Kv,
    /// The last row after the final norm, `[1, hidden]`.
    row: Array2<f32>,
    /// A token that was returned, and has not run yet.
    next: Option<u32>,
    draws: Option<Draws>,
    ends: Vec<u32>,
    has_ended: bool,
}

impl Decoding<'_> {
    fn step(&mut self) -> Result<Option<u32>> {
        if let Some(token) = self.next.take() {
            self.row = self
                .model
                .extend_in_place(&mut self.kv, &[token], self.hook)?;
        }
        let logits = self.model.logits(self.row.view())?;
        let logits = logits.as_slice().expect("freshly made, row-major");
        let token = match &mut self.draws {
            None => most_probable(logits),
            Some(draws) => draws.token(logits),
        };
        if self.ends.contains(&token) {
            return Ok(None);
        }
        self.next = Some(token);
        Ok(Some(token))
    }
}

impl Iterator for Decoding<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.has_ended {
            return None;
        }
        let token = self.step();
        self.has_ended = !matches!(token, Ok(Some(_)));
        token.transpose()
    }
}

/// The token of the largest logit; of equals, the one with the lowest id.
fn most_probable(logits: &[f32]) -> u32 {
    let larger = |best: (usize, f32), (id, &x): (usize, &f32)| match x > best.1 {
        true => (id, x),
        false => best,
    };
    let first = (0, f32::NEG_INFINITY);
    logits.iter().enumerate().fold(first, larger).0 as u32
}

impl Model {
    /// Continues a prompt, as long as tokens are asked for: with the most probable one (of equals, the lowest id), or, under
    /// a `sampling`, with one that is drawn.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), of the prompt; of a token, the iterator's last item.
    pub fn decoding<'a>(
        &self,
        prompt: &[u32],
        sampling: Option<Sampling>,
        hook: &'a mut dyn Hook,
    ) -> Result<Decoding<'a>> {
        let model = self.for_few_tokens();
        let last = Seq::from(prompt).wanting_from(prompt.len());
        let (row, mut kvs) = model.extend_first(&[last], 1, hook)?;
        let kv = kvs.swap_remove(0);
        Ok(Decoding {
            ends: self.eos_tokens(),
            model,
            hook,
            kv,
            row,
            next: None,
            draws: sampling.map(Draws::new),
            has_ended: false,
        })
    }

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
        self.decoding(prompt, None, hook)?.take(max_new).collect()
    }
}
