//! Prompt tuning (arXiv 2104.08691): rows in front of the text are trained, and no weight.

use std::path::Path;

use ndarray::Array2;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sw_model::Model;

use super::files::{ADAPTER, CONFIG, none};
use crate::checkpoint::{Precision, read_tensors, write, write_tensors};
use crate::draw::Draw;
use crate::error::{Error, Result};

/// The name of the rows in PEFT's file.
const ROWS: &str = "prompt_embeddings";

/// A soft prompt, and what it begins as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptOptions {
    /// Rows.
    pub virtual_tokens: usize,
    /// What they begin as.
    pub init: PromptInit,
}

/// What the rows of a soft prompt begin as, by the names of PEFT's `prompt_tuning_init`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PromptInit {
    /// The embeddings of a text's tokens, which is cut or repeated to as many.
    Text(String),
    /// The embeddings of tokens that are drawn from the whole vocabulary.
    SampleVocab,
    /// Standard normal numbers, which may be far from any embedding.
    Random,
}

impl PromptInit {
    fn name(&self) -> &'static str {
        match self {
            PromptInit::Text(_) => "TEXT",
            PromptInit::SampleVocab => "SAMPLE_VOCAB",
            PromptInit::Random => "RANDOM",
        }
    }
}

impl PromptOptions {
    /// The soft prompt that a training begins with, `[virtual tokens, hidden]`; `seed` decides what is drawn.
    ///
    /// # Errors
    /// No virtual token, or more than fit before a text of two tokens; a text without tokens, a model without a tokenizer.
    pub fn begin(&self, model: &Model, seed: u64) -> Result<Array2<f32>> {
        let (count, spec) = (self.virtual_tokens, model.spec());
        let most = spec.max_positions.saturating_sub(2);
        if count == 0 || count > most {
            return Err(Error::Shape(format!(
                "{count} virtual tokens: expected 1 to {most}, so that a text has room in the model's {} positions",
                spec.max_positions
            )));
        }
        let mut draw = Draw::new(seed, 0);
        let tokens: Vec<u32> = match &self.init {
            PromptInit::Random => {
                let rows = draw.normals((count, spec.hidden_size), 1.0);
                return Ok(rows.mapv(|v| v as f32));
            }
            PromptInit::SampleVocab => (0..count)
                .map(|_| draw.below(spec.vocab_size) as u32)
                .collect(),
            PromptInit::Text(text) => {
                let tokens = model.tokenizer()?.encode(text, true)?;
                if text.trim().is_empty() || tokens.is_empty() {
                    return Err(Error::Shape(
                        "the text that the soft prompt begins as has no token".into(),
                    ));
                }
                tokens.into_iter().cycle().take(count).collect()
            }
        };
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= spec.vocab_size) {
            return Err(Error::Shape(format!(
                "token {token} of the tokenizer is beyond the vocabulary of {}",
                spec.vocab_size
            )));
        }
        let mut rows = Array2::zeros((count, spec.hidden_size));
        for (mut row, token) in rows.rows_mut().into_iter().zip(tokens) {
            let row = row.as_slice_mut().unwrap_or_default();
            model.embedding().row_into(token as usize, row);
        }
        Ok(rows)
    }
}

/// Writes the soft prompt of a model into a folder as PEFT has it: `adapter_config.json`, and `adapter_model.safetensors` in f32.
/// `base` is what the config names as the model.
///
/// # Errors
/// A model without a soft prompt; if a file cannot be written.
pub fn write_prompt(model: &Model, options: &PromptOptions, base: &str, dir: &Path) -> Result<()> {
    let rows = model.soft_prompt();
    let rows = rows.ok_or_else(|| Error::Shape("a model without a soft prompt".into()))?;
    let bytes = Precision::F32.bytes(rows.iter().copied());
    let tensor = (ROWS.to_owned(), rows.shape().to_vec(), Dtype::F32, bytes);
    write_tensors(&dir.join(ADAPTER), vec![tensor])?;
    let spec = model.spec();
    let (text, tokenizer) = match &options.init {
        PromptInit::Text(text) => (Some(text), Some(base)),
        _ => (None, None),
    };
    let config = json!({
        "base_model_name_or_path": base,
        "inference_mode": true,
        "num_attention_heads": spec.attention.heads,
        "num_layers": spec.layers.len(),
        "num_transformer_submodules": 1,
        "num_virtual_tokens": rows.nrows(),
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": options.init.name(),
        "prompt_tuning_init_text": text,
        "task_type": "CAUSAL_LM",
        "token_dim": rows.ncols(),
        "tokenizer_kwargs": null,
        "tokenizer_name_or_path": tokenizer,
    });
    write(&dir.join(CONFIG), format!("{config:#}\n").as_bytes())
}

/// Reads the rows of PEFT's `PROMPT_TUNING`, `[virtual tokens, hidden]`.
pub(super) fn read_prompt(model: &Model, dir: &Path, config: &Value) -> Result<Array2<f32>> {
    let no = |field: &str, expected: String| {
        let problem = format!("{field} is {}, expected {expected}", config[field]);
        Error::content(dir.join(CONFIG), problem)
    };
    let spec = model.spec();
    let most = spec.max_positions.saturating_sub(1);
    let count = config["num_virtual_tokens"].as_u64();
    let count = count.and_then(|n| usize::try_from(n).ok());
    let count = count.filter(|n| (1..=most).contains(n));
    let count = count.ok_or_else(|| no("num_virtual_tokens", format!("1 to {most}")))?;
    let fixed = [
        ("token_dim", spec.hidden_size),
        ("num_transformer_submodules", 1),
    ];
    for (field, expected) in fixed {
        let found = &config[field];
        if !none(found) && *found != json!(expected) {
            return Err(no(field, expected.to_string()));
        }
    }
    let path = dir.join(ADAPTER);
    let mut rows = Array2::zeros((count, spec.hidden_size));
    read_tensors(&path, |file| match file.names().as_slice() {
        [ROWS] => file.read_shaped(ROWS, &[count, spec.hidden_size], &mut rows),
        names => {
            let odd = names.iter().find(|name| **name != ROWS);
            let odd = odd.map_or_else(|| "no tensor".to_owned(), |name| format!("{name:?}"));
            let problem = format!("holds {odd}, expected {ROWS} alone");
            Err(Error::content(&path, problem))
        }
    })?;
    Ok(rows)
}
