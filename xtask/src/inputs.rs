//! Arguments that the experiments share: which model, which data, which weights.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sw_cli::{
    opening::{ComputeDtype, data_dir, encode, open_model},
    program::set_threads,
};
use sw_eval::{Bos, DataDir};
use sw_model::{Linear, Model, WeightCoord};

/// The model, the data and the output folder that an experiment works with.
#[derive(Args, Clone)]
pub(crate) struct Inputs {
    /// A directory in Hugging Face layout, a GGUF file or a directory that holds one, or ORG/NAME or ORG/NAME@REVISION in the Hugging Face cache
    /// [default: the checkpoint of this repository]
    #[arg(long, default_value_t = embedded("model"), hide_default_value = true)]
    pub(crate) model: String,
    /// A folder that holds ORG/NAME/... as the Hugging Face dataset repositories lay them out
    /// [default: the sets of this repository for its own checkpoint, otherwise the cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Documents of each task, and windows of each text, at most
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Where the results go; what is finished there with the same configuration is not run again. Without it they are only printed
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Whether texts begin with the beginning-of-sequence token: the tokenizer's own rule, always, or never
    #[arg(long, value_name = "auto|on|off", default_value_t)]
    pub(crate) bos: Bos,
    /// The prompt that detection runs
    #[arg(long, value_name = "TEXT", default_value = sw_detect::DEFAULT_PROMPT)]
    pub(crate) prompt: String,
    /// Super weights instead of detecting them: LAYER:ROW:COL,... or a JSON file
    #[arg(long, value_name = "FILE|L:R:C,...")]
    pub(crate) super_weights: Option<String>,
    /// Text to calibrate and search on, rows with a `text` [default: WikiText-2's training split in the data]
    #[arg(long, value_name = "FILE")]
    pub(crate) calib: Option<PathBuf>,
    /// What linear maps compute with: float32, or bfloat16, which rounds what enters them to BF16; auto is bfloat16 for
    /// checkpoints stored in BF16, else float32. What detection finds is measured in float32
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: ComputeDtype,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<std::num::NonZeroUsize>,
    /// Which GGUF file of the directory, where it holds several
    #[arg(long, value_name = "NAME")]
    pub(crate) gguf: Option<String>,
    /// Pass over a config field that is not implemented, such as alibi or rope_scaling.factor (repeatable); recorded in the
    /// results
    #[arg(long, value_name = "NAME")]
    pub(crate) ignore_config_field: Vec<String>,
    /// Refuse config fields that no known model reads, instead of passing over them with a warning
    #[arg(long)]
    pub(crate) strict_config: bool,
}

impl Inputs {
    /// Sets the number of worker threads; once, before any work.
    pub(crate) fn set_threads(&self) -> Result<()> {
        set_threads(self.threads)
    }

    pub(crate) fn open(&self) -> Result<Model> {
        if self.is_embedded() {
            present(Path::new(&self.model))?;
        }
        let model = open_model(
            &self.model,
            &self.ignore_config_field,
            self.strict_config,
            self.gguf.as_deref(),
        )?;
        Ok(self.dtype.applied(&model))
    }

    /// A text's tokens, under the BOS rule of the evaluation.
    pub(crate) fn encode(&self, model: &Model, text: &str) -> Result<Vec<u32>> {
        encode(model, text, self.bos)
    }

    pub(crate) fn data(&self) -> Result<DataDir> {
        match &self.data {
            None if self.is_embedded() => {
                let dir = PathBuf::from(embedded("data"));
                present(&dir)?;
                Ok(DataDir::folder(dir))
            }
            given => data_dir(given.as_deref()),
        }
    }

    /// Whether the model is the checkpoint of this repository.
    pub(crate) fn is_embedded(&self) -> bool {
        self.model == embedded("model")
    }
}

/// A folder of the checkpoint that this repository carries: its `model` or its `data`.
pub(crate) fn embedded(folder: &str) -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let root = workspace.unwrap_or(Path::new("."));
    root.join("nano").join(folder).display().to_string()
}

fn present(dir: &Path) -> Result<()> {
    ensure!(
        dir.is_dir(),
        "{}: the repository's own checkpoint is not there; check it out or make it with cargo xtask train-nano, or name \
         another with --model and --data",
        dir.display()
    );
    Ok(())
}

/// Super weights given by hand: `L:row:col,...`, or a JSON file with a list of coordinates or a detection report.
pub(crate) fn super_weights(given: &str) -> Result<Vec<WeightCoord>> {
    let coords = sw_detect::coordinates(given).context("--super-weights")?;
    if let Some(coord) = coords.iter().find(|c| c.linear != Linear::Down) {
        bail!(
            "--super-weights {given}: a super weight is an entry of down_proj, found {coord}; leave it out"
        );
    }
    Ok(coords)
}
