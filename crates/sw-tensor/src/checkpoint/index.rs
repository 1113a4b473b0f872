//! Which files make up a checkpoint.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::Error;

const INDEX: &str = "model.safetensors.index.json";
/// Most bytes of an index; those of the largest checkpoints take a tenth.
const MAX_INDEX: u64 = 100 << 20;
const SINGLE: &str = "model.safetensors";

/// `model.safetensors.index.json`: file name -> the tensors in it.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) path: PathBuf,
    pub(super) shards: BTreeMap<String, Vec<String>>,
}

impl Index {
    /// The file that it says holds a tensor.
    pub(super) fn shard_of(&self, tensor: &str) -> Option<&str> {
        let named = |names: &Vec<String>| names.iter().any(|name| name == tensor);
        let mut shards = self.shards.iter();
        shards.find_map(|(shard, names)| named(names).then_some(&shard[..]))
    }

    /// The index of `dir`, if it has one. Every shard it names is inside `dir` and exists.
    pub(super) fn read(dir: &Path) -> Result<Option<Index>, Error> {
        let path = dir.join(INDEX);
        let read = match crate::files::is_there(&path) {
            Ok(false) => return Ok(None),
            Ok(true) => crate::files::read_inside(&path, MAX_INDEX),
            Err(e) => Err(e),
        };
        let text = match read {
            Ok(text) => text,
            Err(source) => {
                return Err(Error::Io {
                    path,
                    action: "read",
                    source,
                });
            }
        };
        let bad = |found: &str| Error::BadIndex {
            path: path.clone(),
            found: found.to_owned(),
        };
        let json: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| bad(&format!("invalid JSON: {e}")))?;
        let map = json
            .get("weight_map")
            .ok_or_else(|| bad("no \"weight_map\""))?;
        let map = map
            .as_object()
            .ok_or_else(|| bad("a \"weight_map\" that is no object"))?;

        let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tensor, shard) in map {
            let shard = shard
                .as_str()
                .ok_or_else(|| bad(&format!("{shard} as the file of {tensor:?}")))?;
            shards
                .entry(shard.to_owned())
                .or_default()
                .push(tensor.clone());
        }
        for shard in shards.keys() {
            // A plain name: one component, neither "..", nor absolute, nor below a folder.
            let mut parts = Path::new(shard).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == shard.as_str())
            {
                return Err(Error::ShardOutside {
                    index: path,
                    shard: shard.clone(),
                });
            }
            if !dir.join(shard).is_file() {
                return Err(Error::MissingShard {
                    index: path,
                    shard: shard.clone(),
                });
            }
        }
        if shards.is_empty() {
            return Err(bad("an empty \"weight_map\""));
        }
        Ok(Some(Index { path, shards }))
    }
}

/// `model.safetensors`, or else every `*.safetensors` but `consolidated*` (the same weights under other names).
pub(super) fn files_without_index(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| Error::Io {
        path: dir.to_path_buf(),
        action: "list",
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == SINGLE {
            return Ok(vec![dir.join(name)]);
        }
        if name.ends_with(".safetensors") && !name.starts_with("consolidated") {
            files.push(dir.join(name));
        }
    }
    if files.is_empty() {
        return Err(Error::NoSafetensors {
            dir: dir.to_path_buf(),
        });
    }
    files.sort();
    Ok(files)
}
