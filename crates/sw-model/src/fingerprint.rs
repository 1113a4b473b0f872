//! Which checkpoint was it? A digest that does not read 13 GB.

use std::{
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use sw_tensor::files;

use crate::{
    config::{self, MAX_FILE},
    error::{Error, Result},
};

/// SHA-256, in hexadecimal, over config, tokenizer, safetensors headers, sizes and sampled blocks.
///
/// Modification times and names of directories do not enter it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

const BLOCK: u64 = 4096;
const SAMPLES: u64 = 64;
const MAX_HEADER: u64 = 100_000_000; // the format's own limit

impl Fingerprint {
    /// The fingerprint of a checkpoint directory.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn of(dir: &Path) -> Result<Self> {
        let mut hash = Sha256::new();
        let settings = dir.join("tokenizer_config.json");
        let is_whole = settings.is_file()
            && config::read_json(&settings)
                .is_ok_and(|settings| settings["added_tokens_decoder"].is_object());
        // A tokenizer is read from these two only where its settings do not list the added tokens.
        let older = ["special_tokens_map.json", "added_tokens.json"];
        let older = older.into_iter().filter(|_| !is_whole);
        let names = ["config.json", "tokenizer.json", "tokenizer_config.json"];
        for name in names.into_iter().chain(older) {
            let path = dir.join(name);
            if files::is_there(&path).map_err(|e| Error::io(&path, e))? {
                let bytes = files::read_inside(&path, MAX_FILE).map_err(|e| Error::io(&path, e))?;
                hash.update(name);
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
        }
        let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        let mut shards: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        shards.sort();
        for path in shards {
            hash_shard(&path, &mut hash).map_err(|e| Error::io(&path, e))?;
        }
        Ok(Self(
            hash.finalize().iter().map(|b| format!("{b:02x}")).collect(),
        ))
    }

    /// The fingerprint of a GGUF file, or of all parts of one that is split: headers, sizes and sampled blocks, whatever they are called.
    ///
    /// # Errors
    /// When a file cannot be read, or is no GGUF file.
    pub fn of_gguf(path: &Path) -> Result<Self> {
        let gguf = sw_tensor::Gguf::open(path)?;
        let mut hash = Sha256::new();
        for part in gguf.files() {
            hash.update((part.bytes.len() as u64).to_le_bytes());
            hash.update(part.header);
            let mut file = files::open_regular(part.path).map_err(|e| Error::io(part.path, e))?;
            let span = [part.header.len() as u64, part.bytes.len() as u64];
            hash_samples(&mut file, span, &mut hash).map_err(|e| Error::io(part.path, e))?;
        }
        Ok(Self(
            hash.finalize().iter().map(|b| format!("{b:02x}")).collect(),
        ))
    }

    /// The digest in hexadecimal.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn hash_shard(path: &Path, hash: &mut Sha256) -> std::io::Result<()> {
    let mut file = files::open_inside(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let header = u64::from_le_bytes(length).min(MAX_HEADER);
    hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    hash.update(size.to_le_bytes());
    let mut bytes = Vec::new();
    (&mut file).take(header).read_to_end(&mut bytes)?;
    hash.update(&bytes);
    let data = 8 + bytes.len() as u64;
    hash_samples(&mut file, [data, size], hash)
}

/// Blocks of a file, evenly from where its data begin to its end.
fn hash_samples(file: &mut File, [data, size]: [u64; 2], hash: &mut Sha256) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let last = size.saturating_sub(BLOCK).max(data);
    for i in 0..SAMPLES {
        file.seek(SeekFrom::Start(data + (last - data) * i / (SAMPLES - 1)))?;
        bytes.clear();
        (&mut *file).take(BLOCK).read_to_end(&mut bytes)?;
        hash.update(&bytes);
    }
    Ok(())
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
