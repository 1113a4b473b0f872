//! Greedy decoding.

use ndarray::Axis;

use crate::{error::Result, model::Model, site::Hook};

impl Model {
    /// Continues a prompt with the most probable token (of equals, the lowest id), `max_new` times at most.
    ///
    /// Ends early at the model's end-of-sequence token, which is not returned. Each token runs once: keys and values of
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
        let eos = self.tokenizer().ok().and_then(|t| t.eos());
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
            if Some(token) == eos {
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
