//! How the programs of this workspace open models and data, and turn a prompt into tokens.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use sw_eval::{Bos, DataDir};
use sw_intervene::PackedReader;
use sw_model::{Model, OpenOptions, locate_model};
use sw_tensor::{Coding, Precision, files};
use sw_train::tune::Change;

use crate::program::tell;

/// Opens a model: a directory in Hugging Face layout, a GGUF file or a directory that holds one (`gguf` says which of
/// several), or `ORG/NAME` or `ORG/NAME@REVISION` in the Hugging Face cache;
/// what `sw quantize --format packed-sw` wrote opens, too. Config fields that
/// are not implemented are passed over where they are named. What the model noticed while opening is printed as warnings;
/// with `strict_config`, a field that no known model reads is an error instead.
///
/// # Errors
/// A model that is not there, or that is not supported.
pub fn open_model(
    name: &str,
    ignore_config_fields: &[String],
    strict_config: bool,
    gguf: Option<&str>,
) -> Result<Model> {
    let mut options = OpenOptions::default();
    options.gguf = gguf.map(str::to_owned);
    options.ignore_config_fields = ignore_config_fields.to_vec();
    options.strict_config = strict_config;
    options.decoder = Some(Arc::new(PackedReader));
    let model = Model::open_with(locate_model(name)?, &options)?;
    for warning in model.warnings() {
        tell(format!("warning: {warning}"));
    }
    Ok(model)
}

/// In which precision linear maps are computed, as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ComputeDtype {
    /// Activations and weights as they are.
    #[default]
    Float32,
    /// Activations that enter a linear map, and weights that are not BF16 already, rounded to BF16.
    Bfloat16,
    /// `bfloat16` for a checkpoint in Hugging Face layout stored in BF16, else `float32`.
    Auto,
}

impl ComputeDtype {
    /// The model, computing so.
    pub fn applied(self, model: &Model) -> Model {
        let is_bf16 = model.gguf().is_none() && model.coding() == Coding::BF16;
        model.with_precision(match self {
            Self::Bfloat16 => Precision::Bfloat16,
            Self::Auto if is_bf16 => Precision::Bfloat16,
            Self::Float32 | Self::Auto => Precision::Float32,
        })
    }
}

/// The model with an adapter of PEFT (LoRA, DoRA), or with the tiles that `sw tune` wrote, in its weights, or with a soft prompt
/// of PEFT; and a digest of its files.
///
/// # Errors
/// A folder that is neither, or does not fit the model.
pub fn with_adapter(model: &Model, dir: &Path) -> Result<(Model, String)> {
    let change = Change::read(model, dir)?;
    let mut bytes = Vec::new();
    for name in Change::FILES {
        let path = dir.join(name);
        if path.is_file() {
            let read = files::read_at_most(&path, MOST_CHANGE);
            bytes.extend(read.with_context(|| path.display().to_string())?);
        }
    }
    Ok((change.merged(model)?, format!("{:016x}", fnv(bytes))))
}

/// Bytes of a file of an adapter or of tiles, at most.
const MOST_CHANGE: u64 = 64 << 30;

/// A number that tells contents apart that differ by accident (FNV-1a).
pub(crate) fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, add)
}

/// A prompt's tokens: with the beginning-of-sequence token where the tokenizer adds it, always (once), or never.
///
/// # Errors
/// A model without a tokenizer, a tokenizer without the token, a prompt without a token.
pub fn encode(model: &Model, text: &str, bos: Bos) -> Result<Vec<u32>> {
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer.encode_with(text, bos)?;
    ensure!(
        !tokens.is_empty(),
        "the prompt {text:?} encodes to no token; give a longer one"
    );
    Ok(tokens)
}

/// Where data sets are found: the folder given with `--data`, or the Hugging Face cache.
///
/// # Errors
/// A folder that is not there.
pub fn data_dir(given: Option<&Path>) -> Result<DataDir> {
    match given {
        Some(dir) if dir.is_dir() => Ok(DataDir::folder(dir)),
        Some(dir)
            if files::is_there(dir).with_context(|| format!("--data {}", dir.display()))? =>
        {
            bail!("--data {}: expected a directory", dir.display())
        }
        Some(dir) => bail!("--data {}: no such directory", dir.display()),
        None => Ok(DataDir::Cache),
    }
}
