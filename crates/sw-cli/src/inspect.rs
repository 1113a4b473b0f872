//! `sw inspect`: what a checkpoint is.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::{args::ModelArgs, program::say};

/// Show what a checkpoint is: family, sizes, dtype, fingerprint.
///
/// Example: sw inspect MODEL --json
#[derive(Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(crate) fn run(&self) -> Result<()> {
        let model = self.model.open()?;
        let spec = model.spec();
        let in_layers: usize = model
            .linears()
            .filter_map(|at| model.weight_at(at))
            .map(|w| w.rows() * w.cols())
            .sum();
        let ends = spec.vocab_size * spec.hidden_size * if spec.tied { 1 } else { 2 };
        let value = json!({
            "model": self.model.model,
            "family": spec.family,
            "layers": spec.layers.len(),
            "hidden_size": spec.hidden_size,
            "intermediate_size": spec.intermediate_size,
            "heads": spec.attention.heads,
            "kv_heads": spec.attention.kv_heads,
            "head_dim": spec.attention.head_dim,
            "vocab_size": spec.vocab_size,
            "max_positions": spec.max_positions,
            "tied_head": spec.tied,
            "parameters_in_linear_maps": in_layers,
            "parameters_in_embedding_and_head": ends,
            "dtype": model.coding().to_string(),
            "kernel": sw_tensor::isa_name(),
            "bos": model.tokenizer().ok().and_then(|t| t.bos()),
            "adds_bos": model.tokenizer().ok().map(|t| t.adds_bos()),
            "unknown_config_fields": model.unknown_config_fields(),
            "gguf": model.gguf(),
            "fingerprint": model.fingerprint()?,
        });
        if self.json {
            say(serde_json::to_string_pretty(&value)?)?;
        } else if let Some(map) = value.as_object() {
            for (key, value) in map {
                let value = value.to_string();
                say(format!(
                    "{:<34} {}",
                    key.replace('_', " "),
                    value.trim_matches('"')
                ))?;
            }
        }
        Ok(())
    }
}
