//! `sw generate`: continue a prompt.

use anyhow::Result;
use clap::Args;

use crate::{
    args::{ModelArgs, PromptArgs},
    program::say,
};

/// Continue a prompt greedily.
///
/// Example: sw generate MODEL --prompt "Summer is hot. Winter is" --max-new-tokens 16
#[derive(Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Tokens to add at most
    #[arg(long, value_name = "N", default_value_t = 32, alias = "max_new_tokens")]
    max_new_tokens: usize,
}

impl Generate {
    pub(crate) fn run(&self) -> Result<()> {
        let (model, _) = self.model.open_changed()?;
        let (_, tokens) = self.prompt.encode(&model)?;
        let prompt = [model.virtual_tokens(), tokens.clone()].concat();
        let new = model.generate(&prompt, self.max_new_tokens, &mut ())?;
        match model.tokenizer() {
            Ok(tokenizer) => say(tokenizer.decode(&[tokens, new].concat())?),
            Err(_) => say(new.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}
