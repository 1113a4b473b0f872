//! Arguments that several commands share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use sw_eval::{Bos, DataDir, Options};
use sw_model::Model;

use crate::{
    opening::{ComputeDtype, data_dir, encode, open_model, with_adapter},
    program::set_threads,
};

/// Which model, and how it is opened.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// A directory in Hugging Face layout, a GGUF file or a directory that holds one, or ORG/NAME or ORG/NAME@REVISION in the Hugging Face cache
    pub(crate) model: String,
    /// Branch, tag or commit in the cache
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
    /// Pass over a config field that is not implemented, such as alibi or rope_scaling.factor (repeatable); recorded in results
    #[arg(long, value_name = "NAME", alias = "ignore_config_field")]
    pub(crate) ignore_config_field: Vec<String>,
    /// Refuse config fields that no known model reads, instead of passing over them with a warning
    #[arg(long, alias = "strict_config")]
    strict_config: bool,
    /// Which GGUF file of the directory, where it holds several
    #[arg(long, value_name = "NAME")]
    gguf: Option<String>,
    /// An adapter in PEFT's layout (LoRA, DoRA) or the tiles that sw tune wrote, merged into the weights in memory; sw eval and sw generate take PEFT's soft prompts (prompt tuning), too
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
}

impl ModelArgs {
    /// The model, whose weights are what the command asks about.
    pub(crate) fn open(&self) -> Result<Model> {
        let (model, _) = self.open_changed()?;
        ensure!(
            model.soft_prompt().is_none(),
            "--adapter {}: a soft prompt changes no weight, and this command does not put it before texts; sw eval and sw generate do",
            self.adapter.as_deref().unwrap_or(Path::new("")).display()
        );
        Ok(model)
    }

    /// The model, and a digest of the adapter that is in it; or of the soft prompt, which is to stand before every text.
    pub(crate) fn open_changed(&self) -> Result<(Model, Option<String>)> {
        let (opened, ()) = self.open_beside(|| ())?;
        Ok(opened)
    }

    /// [`open_changed`](Self::open_changed) and `other`, which needs no model, at the same time.
    pub(crate) fn open_beside<T: Send>(
        &self,
        other: impl FnOnce() -> T + Send,
    ) -> Result<((Model, Option<String>), T)> {
        set_threads(self.threads)?;
        let (opened, other) = rayon::join(|| self.open_with_adapter(), other);
        Ok((opened?, other))
    }

    fn open_with_adapter(&self) -> Result<(Model, Option<String>)> {
        let model = self.open_stored()?;
        let Some(dir) = &self.adapter else {
            return Ok((model, None));
        };
        let (model, digest) = with_adapter(&model, dir).context("--adapter")?;
        Ok((model, Some(digest)))
    }

    /// The model without an adapter.
    fn open_stored(&self) -> Result<Model> {
        let name = match &self.revision {
            Some(revision) if !Path::new(&self.model).exists() => {
                format!("{}@{revision}", self.model)
            }
            _ => self.model.clone(),
        };
        open_model(
            &name,
            &self.ignore_config_field,
            self.strict_config,
            self.gguf.as_deref(),
        )
    }
}

/// In which precision linear maps are computed.
#[derive(Args)]
pub(crate) struct DtypeArgs {
    /// What linear maps compute with: float32, or bfloat16, which rounds what enters them (activations and weights) to BF16; auto is bfloat16 for checkpoints stored in BF16, else float32
    #[arg(long, value_enum, default_value_t)]
    dtype: ComputeDtype,
}

impl DtypeArgs {
    /// The model, computing so.
    pub(crate) fn applied(&self, model: &Model) -> Model {
        self.dtype.applied(model)
    }
}

/// A model, and the documents that it answers.
#[derive(Args)]
pub(crate) struct TaskArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) dtype: DtypeArgs,
    /// Tasks, as `sw tasks` lists them
    #[arg(long, value_delimiter = ',', required = true)]
    tasks: Vec<String>,
    /// A folder that holds ORG/NAME/... as the Hugging Face dataset repositories lay them out [default: the cache]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Documents of each task (windows of each text), at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Whether texts begin with the beginning-of-sequence token: the tokenizer's own rule, always, or never
    #[arg(long, value_name = "auto|on|off", default_value_t)]
    bos: Bos,
}

impl TaskArgs {
    /// The tasks' names.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.tasks.iter().map(String::as_str).collect()
    }

    /// Where data sets are found.
    pub(crate) fn data(&self) -> Result<DataDir> {
        data_dir(self.data.as_deref())
    }

    /// What these arguments say about an evaluation; the rest by default.
    pub(crate) fn options(&self) -> Options {
        let mut options = Options::default();
        options.limit = self.limit;
        options.bos = self.bos;
        options
    }
}

/// The text or the tokens that a model is shown.
#[derive(Args)]
pub(crate) struct PromptArgs {
    /// The prompt
    #[arg(long, value_name = "TEXT", default_value = sw_detect::DEFAULT_PROMPT)]
    pub(crate) prompt: String,
    /// Token ids instead of a text, such as 1,400,7 (needs no tokenizer)
    #[arg(
        long,
        value_name = "IDS",
        value_delimiter = ',',
        conflicts_with = "prompt"
    )]
    tokens: Vec<u32>,
    /// Begin with the beginning-of-sequence token: the tokenizer's own rule, always, or never
    #[arg(long, value_name = "auto|on|off", default_value_t)]
    bos: Bos,
}

impl PromptArgs {
    /// The prompt as it is named in results, and its tokens.
    pub(crate) fn encode(&self, model: &Model) -> Result<(String, Vec<u32>)> {
        if !self.tokens.is_empty() {
            let ids: Vec<_> = self.tokens.iter().map(u32::to_string).collect();
            return Ok((format!("tokens {}", ids.join(",")), self.tokens.clone()));
        }
        let tokens = encode(model, &self.prompt, self.bos)?;
        Ok((self.prompt.clone(), tokens))
    }
}
