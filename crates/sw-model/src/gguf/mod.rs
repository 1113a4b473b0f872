//! GGUF as a source: metadata become the config and the tokenizer, tensors the names, of the checkpoint that the file was
//! made from.

mod config;
mod find;
mod keys;
mod meta;
mod split;
mod tables;
mod tensors;
mod tokenizer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sw_tensor::{Checkpoint, Gguf};

use crate::{
    error::{Error, Result},
    family,
    spec::Spec,
    tokenizer::{Files, Tokenizer},
};
pub(crate) use find::find;
use meta::{Meta, Read};

/// The GGUF file that a model was read from.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct GgufFile {
    /// The file; of a split one, the first part.
    pub file: PathBuf,
    /// The type of most of its weights, such as `Q4_K`.
    #[serde(rename = "type")]
    pub main_type: String,
    /// How many tensors are of which type.
    pub types: BTreeMap<String, usize>,
}

/// What a GGUF file becomes.
pub(crate) struct Opened {
    pub(crate) file: GgufFile,
    pub(crate) spec: Spec,
    pub(crate) checkpoint: Checkpoint,
    /// Metadata keys that nothing here reads.
    pub(crate) unknown: Vec<String>,
    /// An error is kept: a model without a tokenizer still runs on token ids.
    pub(crate) tokenizer: Result<Tokenizer, (PathBuf, String)>,
}

/// Opens a GGUF file as a checkpoint.
pub(crate) fn open(path: &Path, ignore: &[String]) -> Result<Opened> {
    let gguf = Gguf::open(path)?;
    let read = Read::default();
    let meta = Meta::new(path, &gguf, &read)?;
    let arch = config::arch(meta)?;
    let config = config::config(meta, arch)?;
    keys::refuse(meta, ignore)?;
    let views = tensors::views(meta, arch, &config)?;
    // The config is made here from the metadata, so it has no field that no model knows.
    let (spec, _) = family::spec(path, &config, [views.len(); 2], ignore)?;
    if let Some(tensor) = tensors::unread(&spec, &views) {
        let problem = format!(
            "a tensor that a {} of this config does not have",
            spec.family
        );
        return Err(meta.error(tensor, problem));
    }
    let tokenizer = tokenizer::parts(meta)
        .map_err(|e| (path.to_path_buf(), e.to_string()))
        .and_then(|[file, settings]| Tokenizer::new(path, Files::of_gguf(file, settings)));
    let mut unknown = keys::unknown(meta, ignore);
    if tokenizer.is_err() {
        // Its keys may not have been read.
        unknown.retain(|key| !key.starts_with("tokenizer."));
    }
    let file = about(path, &gguf);
    let checkpoint = Checkpoint::from_gguf(folder(path), gguf, views)?;
    Ok(Opened {
        file,
        spec,
        checkpoint,
        unknown,
        tokenizer,
    })
}

/// The tensors of a GGUF file as those of a checkpoint.
pub(crate) fn checkpoint(path: &Path) -> Result<Checkpoint> {
    let gguf = Gguf::open(path)?;
    let read = Read::default();
    let meta = Meta::new(path, &gguf, &read)?;
    let arch = config::arch(meta)?;
    let views = tensors::views(meta, arch, &config::config(meta, arch)?)?;
    Ok(Checkpoint::from_gguf(folder(path), gguf, views)?)
}

/// A file of the checkpoint that a GGUF file was made from, as far as its metadata say it.
pub(crate) fn beside(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let gguf = Gguf::open(path)?;
    let read = Read::default();
    let meta = Meta::new(path, &gguf, &read)?;
    let text = |value: &Value| Some(format!("{value:#}\n").into_bytes());
    Ok(match name {
        "config.json" => text(&config::config(meta, config::arch(meta)?)?),
        "generation_config.json" => {
            let id = |name| meta.size(&format!("tokenizer.ggml.{name}_token_id"));
            let ids = [("bos_token_id", id("bos")?), ("eos_token_id", id("eos")?)];
            let ids = ids.into_iter().filter_map(|(key, id)| Some((key, id?)));
            text(&json!(ids.collect::<BTreeMap<_, _>>()))
        }
        "tokenizer.json" | "tokenizer_config.json" => match tokenizer::parts(meta) {
            Ok([file, _]) if name == "tokenizer.json" => Some(format!("{file}\n").into_bytes()),
            Ok([_, settings]) => text(&settings),
            Err(_) => None,
        },
        _ => None,
    })
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

fn about(path: &Path, gguf: &Gguf) -> GgufFile {
    let (mut types, mut bytes) = (BTreeMap::new(), BTreeMap::new());
    for tensor in gguf.tensors().values() {
        let name = match &tensor.coding {
            Ok(coding) => coding.to_string(),
            Err(name) => name.clone(),
        };
        *types.entry(name.clone()).or_default() += 1;
        // The embedding may be coded better than the rest, and be large.
        let weights: usize = tensor.shape.iter().product();
        *bytes.entry(name).or_insert(0) += weights;
    }
    let main = bytes.into_iter().max_by_key(|(_, weights)| *weights);
    GgufFile {
        file: gguf.files().next().map_or(path, |file| file.path).into(),
        main_type: main.map_or_else(String::new, |(name, _)| name),
        types,
    }
}

impl Error {
    fn several(dir: &Path, names: &[String]) -> Error {
        Error::SeveralGguf {
            dir: dir.into(),
            names: names.to_vec(),
        }
    }
}
