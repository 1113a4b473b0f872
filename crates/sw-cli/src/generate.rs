//! `sw generate`: continue a prompt.

use anyhow::{Result, ensure};
use clap::Args;
use sw_model::{Sampling, Tokenizer};

use crate::{
    args::{DtypeArgs, ModelArgs, PromptArgs},
    program::put,
};

/// Continue a prompt: the text appears as it is made.
///
/// Without --temperature and --top-p, every token is the most probable one; with either, tokens are drawn, and the same seed
/// gives the same text.
///
/// Examples:
///   sw generate MODEL --prompt "Summer is hot. Winter is" --max-new-tokens 16
///   sw generate MODEL --prompt "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 7
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Tokens to add at most
    #[arg(long, value_name = "N", default_value_t = 32, alias = "max_new_tokens")]
    max_new_tokens: usize,
    /// Draw tokens from probabilities of logits divided by this [default: 1 where --top-p is given]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw tokens from the smallest set of most probable ones that holds this share of the probability [default: 1 where --temperature is given]
    #[arg(long, value_name = "P", allow_negative_numbers = true, alias = "top_p")]
    top_p: Option<f64>,
    /// Seed of the draws [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Generate {
    pub(crate) fn run(&self) -> Result<()> {
        let sampling = self.sampling()?;
        let (model, _) = self.model.open_changed()?;
        let model = self.dtype.applied(&model);
        let (_, tokens) = self.prompt.encode(&model)?;
        let prompt = [model.virtual_tokens(), tokens.clone()].concat();
        let mut hook = ();
        let new = model.decoding(&prompt, sampling, &mut hook)?;
        let new = new.take(self.max_new_tokens);
        match model.tokenizer() {
            Ok(tokenizer) => {
                let mut text = Growing::new(tokenizer, tokens)?;
                for token in new {
                    text.push(token?)?;
                }
                text.end()
            }
            Err(_) => {
                for (i, token) in new.enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    put(format!("{comma}{}", token?))?;
                }
                put("\n")
            }
        }
    }

    fn sampling(&self) -> Result<Option<Sampling>> {
        let is_drawn = self.temperature.is_some() || self.top_p.is_some();
        ensure!(
            is_drawn || self.seed.is_none(),
            "--seed: without --temperature or --top-p nothing is drawn; give one of them"
        );
        let sampling = Sampling::new(
            self.temperature.unwrap_or(1.0),
            self.top_p.unwrap_or(1.0),
            self.seed.unwrap_or(0),
        )?;
        Ok(is_drawn.then_some(sampling))
    }
}

/// A text that is printed as its tokens come.
struct Growing<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    shown: String,
}

impl<'a> Growing<'a> {
    fn new(tokenizer: &'a Tokenizer, tokens: Vec<u32>) -> Result<Self> {
        let mut text = Self {
            tokenizer,
            tokens,
            shown: String::new(),
        };
        text.show()?;
        Ok(text)
    }

    fn push(&mut self, token: u32) -> Result<()> {
        self.tokens.push(token);
        self.show()
    }

    /// Prints what is new and whole: a character whose bytes have not all come decodes to U+FFFD.
    fn show(&mut self) -> Result<()> {
        let text = self.tokenizer.decode(&self.tokens)?;
        self.print(text.trim_end_matches('\u{fffd}'))
    }

    /// Prints what `text` adds; nothing where what came last changes what is shown already.
    fn print(&mut self, text: &str) -> Result<()> {
        if let Some(new) = text.strip_prefix(&self.shown).filter(|new| !new.is_empty()) {
            put(new)?;
            self.shown += new;
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        let text = self.tokenizer.decode(&self.tokens)?;
        if !text.starts_with(&self.shown) {
            put("\n")?;
            self.shown.clear();
        }
        self.print(&text)?;
        put("\n")
    }
}
