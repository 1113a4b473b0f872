//! Benchmark files as the Hugging Face dataset repositories lay them out: `ORG/NAME[/CONFIG]/SPLIT-*.parquet`.

mod doc;
mod json;
mod pages;
mod parquet;
mod rows;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use sw_tensor::files;

pub use doc::Doc;
pub(crate) use rows::{Rows, Wanted};

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
            "validation" | "valid" | "val" | "dev" => Ok(Split::Validation),
            "test" => Ok(Split::Test),
            _ => Err(Error::Options(format!(
                "split {s:?}: expected train, validation (valid, val, dev) or test"
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

    /// Where a data set was looked for, what lies there instead, and how to get it.
    pub fn missing(&self, dataset: &Dataset) -> String {
        let fetch = format!("hf download --repo-type dataset {}", dataset.path);
        match (self, self.repository(dataset)) {
            (Self::Folder(_), Some(target)) => {
                let found = lies_there(&target, dataset);
                format!(
                    "{found}; fetch it with: {fetch} --local-dir {}",
                    target.display()
                )
            }
            (_, Some(target)) => {
                format!(
                    "{}; fetch it with: {fetch}, or name a folder",
                    lies_there(&target, dataset)
                )
            }
            (_, None) => format!(
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

/// The files of each split in a folder: `SPLIT-00000-of-00001.parquet`, or `SPLIT/0000.parquet`.
fn splits(dir: &Path, first_file_only: bool) -> Result<BTreeMap<Split, Vec<PathBuf>>> {
    let mut found: BTreeMap<Split, Vec<PathBuf>> = BTreeMap::new();
    if !dir.is_dir() {
        return Ok(found);
    }
    for (name, path) in entries(dir)? {
        if readable(&name) {
            let mut parts = name.split(['-', '.', '_']);
            if let Some(split) = parts.find_map(|part| part.parse().ok()) {
                files::check_inside(&path).map_err(|e| Error::io(&path, e))?;
                found.entry(split).or_default().push(path);
            }
        }
    }
    if found.is_empty() {
        for (name, path) in entries(dir)? {
            if let (Ok(split), true) = (name.parse(), path.is_dir()) {
                for (_, path) in entries(&path)?
                    .into_iter()
                    .filter(|(name, _)| readable(name))
                {
                    files::check_inside(&path).map_err(|e| Error::io(&path, e))?;
                    found.entry(split).or_default().push(path);
                }
            }
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

fn readable(name: &str) -> bool {
    parquet::reads(name) || json::reads(name)
}

/// What lies in a folder, by name.
fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let named = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        Ok((name, entry.path()))
    };
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let mut all = entries.map(named).collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

/// Where a data set should be, and what is there instead.
fn lies_there(repository: &Path, dataset: &Dataset) -> String {
    let folders = dataset.config.into_iter().chain(["data", "default", ""]);
    let mut folders = folders.map(|folder| repository.join(folder));
    let expected = repository.join(dataset.config.unwrap_or("data"));
    let Some(dir) = folders.find(|dir| dir.is_dir()) else {
        return format!("{}: there is no such folder", expected.display());
    };
    let names = entries(&dir).unwrap_or_default();
    let mut list: Vec<String> = names
        .iter()
        .take(5)
        .map(|(name, _)| format!("{name:?}"))
        .collect();
    match names.len() {
        0 => list.push("nothing".into()),
        6.. => list.push(format!("{} more", names.len() - 5)),
        _ => {}
    }
    format!(
        "no parquet or json.gz files of a split (train, validation, test) in {}: found {}",
        dir.display(),
        list.join(", ")
    )
}

/// All rows of some files, in order.
///
/// # Errors
/// One line naming the file: empty, broken, without rows, or beyond the bounds that `docs/evaluation.md` states.
pub fn read(files: &[PathBuf]) -> Result<Vec<Doc>> {
    let rows = read_some(files, Wanted::all())?;
    Ok(rows.docs.into_iter().map(|(_, doc)| doc).collect())
}

/// Some rows of some files, in order; the others are counted and become no documents.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_some(files: &[PathBuf], wanted: Wanted) -> Result<Rows> {
    let mut rows = Rows::new(wanted);
    for path in files {
        let file = files::open_regular(path).map_err(|e| Error::io(path, e))?;
        let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
        if size == 0 {
            return Err(Error::data(
                path,
                "the file is empty (0 bytes); download it again",
            ));
        }
        let before = rows.total;
        rows.of(path);
        let name = path.to_string_lossy();
        if parquet::reads(&name) {
            parquet::read(path, &mut rows)?;
        } else {
            json::read(path, &mut rows)?;
        }
        if rows.total == before {
            return Err(Error::data(path, "no rows"));
        }
    }
    Ok(rows)
}

/// The `text` of a file's first rows: the reader of [`Applied`](sw_intervene::Applied).
///
/// # Errors
/// One line: a file that cannot be read, or a row without a `text`.
pub fn read_texts(file: &Path, rows: usize) -> Result<Vec<String>, String> {
    let wanted = Wanted {
        limit: rows,
        ..Wanted::all()
    };
    let rows = read_some(&[file.to_owned()], wanted).map_err(|e| e.to_string())?;
    let text = |(_, doc): &(usize, Doc)| doc.text("text").map(str::to_owned);
    let texts: Result<_> = rows.docs.iter().map(text).collect();
    texts.map_err(|e| e.to_string())
}

/// Some columns of all rows of a file; nothing where a row has no such column, or something else than text in it.
///
/// # Errors
/// One line naming the file: empty, broken, without rows, or beyond the bounds that `docs/evaluation.md` states.
pub fn read_columns<const N: usize>(
    file: &Path,
    columns: &[&str; N],
) -> Result<Vec<[Option<String>; N]>> {
    let docs = read(&[file.to_owned()])?;
    let row = |doc: &Doc| columns.map(|column| doc.text(column).ok().map(str::to_owned));
    Ok(docs.iter().map(row).collect())
}

#[cfg(test)]
mod tests;
