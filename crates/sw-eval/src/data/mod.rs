//! Benchmark files as the Hugging Face dataset repositories lay them out: `ORG/NAME[/CONFIG]/SPLIT-*.parquet`.

mod doc;
mod json;
mod parquet;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

pub use doc::Doc;

use crate::error::{Error, Result};

/// The part of a data set that documents come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training documents: the first choice for few-shot examples.
    Train,
    /// Validation documents.
    Validation,
    /// Test documents.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        })
    }
}

impl FromStr for Split {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "train" => Ok(Split::Train),
            "validation" => Ok(Split::Validation),
            "test" => Ok(Split::Test),
            _ => Err(Error::Options(format!(
                "split {s:?}: expected train, validation or test"
            ))),
        }
    }
}

/// Where a task's documents are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// `ORG/NAME`.
    pub path: &'static str,
    /// The configuration: a folder in the repository.
    pub config: Option<&'static str>,
    /// Only the first file of a split counts (C4: the protocol names one shard).
    pub first_file_only: bool,
}

impl Dataset {
    /// A data set of one configuration, or of none.
    pub const fn new(path: &'static str, config: Option<&'static str>) -> Self {
        Self {
            path,
            config,
            first_file_only: false,
        }
    }
}

/// Where data sets are found.
#[derive(Clone, Debug)]
pub enum DataDir {
    /// A folder that holds `ORG/NAME/...`.
    Folder(PathBuf),
    /// The Hugging Face cache.
    Cache,
}

impl DataDir {
    /// A folder that holds `ORG/NAME/...`.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self::Folder(path.into())
    }

    /// The files of each split of a data set; empty where the data set is not there.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn files(&self, dataset: &Dataset) -> Result<BTreeMap<Split, Vec<PathBuf>>> {
        let Some(repository) = self.repository(dataset) else {
            return Ok(BTreeMap::new());
        };
        for folder in dataset.config.into_iter().chain(["data", "default", ""]) {
            let splits = splits(&repository.join(folder), dataset.first_file_only)?;
            if !splits.is_empty() {
                return Ok(splits);
            }
        }
        Ok(BTreeMap::new())
    }

    /// Where a data set was looked for, and how to get it.
    pub fn missing(&self, dataset: &Dataset) -> String {
        let fetch = format!("hf download --repo-type dataset {}", dataset.path);
        match self {
            Self::Folder(root) => {
                let dir = root
                    .join(dataset.path)
                    .join(dataset.config.unwrap_or("data"));
                let target = root.join(dataset.path);
                format!(
                    "no parquet or json.gz files in {}; fetch them with: {fetch} --local-dir {}",
                    dir.display(),
                    target.display()
                )
            }
            Self::Cache => format!(
                "{} is not in the Hugging Face cache; fetch it with: {fetch}, or name a folder",
                dataset.path
            ),
        }
    }

    fn repository(&self, dataset: &Dataset) -> Option<PathBuf> {
        match self {
            Self::Folder(root) => Some(root.join(dataset.path)),
            Self::Cache => sw_model::locate_dataset(dataset.path),
        }
    }
}

fn splits(dir: &Path, first_file_only: bool) -> Result<BTreeMap<Split, Vec<PathBuf>>> {
    let mut found: BTreeMap<Split, Vec<PathBuf>> = BTreeMap::new();
    if !dir.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let readable = parquet::reads(&name) || json::reads(&name);
        let split = name
            .split(['-', '.', '_'])
            .find_map(|part| part.parse().ok());
        if let (true, Some(split)) = (readable, split) {
            found.entry(split).or_default().push(path);
        }
    }
    for files in found.values_mut() {
        files.sort();
        if first_file_only {
            files.truncate(1);
        }
    }
    Ok(found)
}

/// All rows of some files, in order.
///
/// # Errors
/// One line naming the file: empty, broken, or without rows.
pub fn read(files: &[PathBuf]) -> Result<Vec<Doc>> {
    let mut docs = Vec::new();
    for path in files {
        let size = std::fs::metadata(path)
            .map_err(|e| Error::io(path, e))?
            .len();
        if size == 0 {
            return Err(Error::data(
                path,
                "the file is empty (0 bytes); download it again",
            ));
        }
        let before = docs.len();
        let name = path.to_string_lossy();
        if parquet::reads(&name) {
            parquet::read(path, &mut docs)?;
        } else {
            json::read(path, &mut docs)?;
        }
        if docs.len() == before {
            return Err(Error::data(path, "no rows"));
        }
    }
    Ok(docs)
}

/// The `text` of a file's first rows: the reader of [`Applied`](sw_intervene::Applied).
///
/// # Errors
/// One line: a file that cannot be read, or a row without a `text`.
pub fn read_texts(file: &Path, rows: usize) -> Result<Vec<String>, String> {
    let docs = read(&[file.to_owned()]).map_err(|e| e.to_string())?;
    let text = |doc: &Doc| doc.text("text").map(str::to_owned);
    let texts: Result<_> = docs.iter().take(rows).map(text).collect();
    texts.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
