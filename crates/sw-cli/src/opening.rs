//! How the programs of this workspace open models and data, and turn a prompt into tokens.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use sw_eval::{Bos, DataDir};
use sw_intervene::PackedReader;
use sw_model::{Model, OpenOptions, locate_model};

/// Opens a model: a directory in Hugging Face layout, or `ORG/NAME` or `ORG/NAME@REVISION` in the Hugging Face cache;
/// what `sw quantize --format packed-sw` wrote opens, too. Unknown config fields are passed over where they are named.
///
/// # Errors
/// A model that is not there, or that is not supported.
pub fn open_model(name: &str, ignore_config_fields: &[String]) -> Result<Model> {
    let mut options = OpenOptions::default();
    options.ignore_config_fields = ignore_config_fields.to_vec();
    options.decoder = Some(Arc::new(PackedReader));
    let model = Model::open_with(locate_model(name)?, &options)?;
    if let Ok(tokenizer) = model.tokenizer() {
        let (known, vocab) = (tokenizer.vocab_size(), model.spec().vocab_size);
        if known > vocab {
            eprintln!(
                "warning: the tokenizer knows {known} tokens, the model {vocab}: a text that needs the others is refused"
            );
        }
    }
    Ok(model)
}

/// A prompt's tokens: with the beginning-of-sequence token where the tokenizer adds it, always (once), or never.
///
/// # Errors
/// A model without a tokenizer, a tokenizer without the token, a prompt without a token.
pub fn encode(model: &Model, text: &str, bos: Bos) -> Result<Vec<u32>> {
    let tokenizer = model.tokenizer()?;
    let mut tokens = tokenizer.encode(text, bos == Bos::Auto)?;
    if bos == Bos::On {
        let bos = tokenizer.bos().with_context(|| {
            format!(
                "--bos on: the tokenizer of {} has no BOS token",
                model.dir().display()
            )
        })?;
        if tokens.first() != Some(&bos) {
            tokens.insert(0, bos);
        }
    }
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
        Some(dir) => bail!("--data {}: no such directory", dir.display()),
        None => Ok(DataDir::Cache),
    }
}
