//! Soft prompts: rows of numbers in the place of embedded tokens (arXiv 2104.08691, section 2).

use ndarray::Array2;
use sw_tensor::all_finite;

use crate::{
    error::{Error, Result},
    model::Model,
};

impl Model {
    /// This model with the soft prompt `rows`, `[virtual tokens, hidden]`, in the place of any that it had.
    ///
    /// Its vocabulary goes on behind the last token: each row is the embedding of a [virtual token](Self::virtual_tokens). A text
    /// behind the prompt is a sequence that begins with all of them, so that they take the first positions. No weight changes,
    /// and no virtual token is ever predicted: the output head does not know them.
    ///
    /// # Errors
    /// No row or too many for the model's positions, rows of another width than the embedding's, values that are not finite,
    /// a family that multiplies embeddings.
    pub fn with_soft_prompt(&self, rows: Array2<f32>) -> Result<Model> {
        let spec = self.spec();
        let (count, most) = (rows.nrows(), spec.max_positions.saturating_sub(1));
        let problem = if count == 0 || count > most {
            Some(format!("{count} virtual tokens, expected 1 to {most}"))
        } else if rows.ncols() != spec.hidden_size {
            Some(format!(
                "rows of {} numbers, expected the model's {} hidden channels",
                rows.ncols(),
                spec.hidden_size
            ))
        } else if !all_finite(rows.view()) {
            Some("a value that is not finite".into())
        } else if spec.embed_scale.is_some() {
            Some(format!(
                "{} multiplies embeddings, which is not implemented for virtual tokens",
                spec.family
            ))
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(Error::SoftPrompt { problem });
        }
        let mut model = self.clone();
        model.weights_mut().soft_prompt = Some(rows);
        Ok(model)
    }

    /// The rows of the soft prompt, `[virtual tokens, hidden]`; `None` of a model without one.
    pub fn soft_prompt(&self) -> Option<&Array2<f32>> {
        self.weights().soft_prompt.as_ref()
    }

    /// The ids of the virtual tokens, from the first row of the soft prompt to the last; none of a model without one.
    pub fn virtual_tokens(&self) -> Vec<u32> {
        let first = self.spec().vocab_size;
        let rows = self.soft_prompt().map_or(0, Array2::nrows);
        (first..first + rows).map(|id| id as u32).collect()
    }
}
