//! GGUF files, mapped: metadata as typed values, tensors as ranges of the map that stay coded until a kernel widens a panel.

mod coding;
mod decode;
mod read;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::File;
use crate::{Error, FileInfo};
pub use coding::Coding;
pub(crate) use decode::decode;
pub use value::GgufValue;

/// A GGUF file of version 2 or 3 (little endian), or the files it is split into, mapped and not copied.
///
/// Opening reads the header and checks every length in it against the file. The file must not change while this, or a
/// [`Mat`](crate::Mat) of it, is alive.
#[derive(Debug)]
pub struct Gguf {
    pub(crate) files: Vec<File>,
    metadata: BTreeMap<String, GgufValue>,
    pub(crate) tensors: BTreeMap<String, GgufTensor>,
}

/// What a GGUF file says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufTensor {
    /// How it is coded, or the name of a type that is not read.
    pub coding: Result<Coding, String>,
    /// Sizes, slowest first (the file has the fastest first).
    pub shape: Vec<usize>,
    /// Which of the files holds it.
    pub file: usize,
    /// Byte offset of its first block in that file.
    pub offset: usize,
    /// Bytes of data; 0 where the type is not read.
    pub len: usize,
}

impl Gguf {
    /// Opens a file; of a split one (`NAME-00001-of-00003.gguf`), any part stands for all, which lie beside it.
    ///
    /// # Errors
    /// [`Error::Io`], also where a part beside the one that is named is a link out of its folder; [`Error::BadGguf`].
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        let paths = parts(path.as_ref())?;
        let mut gguf = Gguf {
            files: Vec::new(),
            metadata: BTreeMap::new(),
            tensors: BTreeMap::new(),
        };
        for path in &paths {
            gguf.add(path, paths.len())?;
        }
        Ok(gguf)
    }

    fn add(&mut self, path: &Path, parts: usize) -> Result<(), Error> {
        let bad = |found: String| Error::BadGguf {
            path: path.into(),
            found,
        };
        if path.is_dir() {
            return Err(bad("expected a file, found a directory".into()));
        }
        let (number, map) = (self.files.len(), File::map(path)?);
        let read::Header {
            metadata,
            tensors,
            len,
        } = read::header(&map).map_err(bad)?;
        let says = |key| metadata.get(key).and_then(GgufValue::as_u64);
        let (no, count) = (
            says("split.no").unwrap_or(0),
            says("split.count").unwrap_or(1),
        );
        if count.max(1) != parts as u64 || (count > 1 && no != number as u64) {
            return Err(bad(format!(
                "says that it is part {} of {count}, but its name says part {} of {parts}; parts are named NAME-00001-of-0000N.gguf",
                no.saturating_add(1),
                number + 1
            )));
        }
        for (name, mut tensor) in tensors {
            tensor.file = number;
            if let Some(other) = self.tensors.get(&name) {
                return Err(Error::DuplicateTensor {
                    tensor: name,
                    first: self.files[other.file].path.clone(),
                    second: path.into(),
                });
            }
            self.tensors.insert(name, tensor);
        }
        if number == 0 {
            self.metadata = metadata;
        }
        self.files.push(File::new(path.into(), map, 0..len));
        Ok(())
    }

    /// The files, in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = FileInfo<'_>> {
        self.files.iter().map(File::info)
    }

    /// All metadata, of the first file where it is split.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// The values of a tensor of one dimension that is stored as F32; `None` where there is none of that name.
    pub fn vector(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.tensors.get(name)?;
        if tensor.coding != Ok(Coding::F32) || tensor.shape.len() != 1 {
            return None;
        }
        let bytes = self.files[tensor.file].info().bytes;
        let bytes = bytes.get(tensor.offset..)?.get(..tensor.len)?;
        Some(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        )
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }
}

/// The number of a part and of parts, and what stands before them, in `NAME-00001-of-00003.gguf`.
fn part_of(name: &str) -> Option<(&str, u32, u32)> {
    let name = name.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        let plain = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|&n: &u32| plain && n > 0)
    };
    Some((stem, number(no)?, number(count)?))
}

/// All parts of the file that `path` names.
fn parts(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some((stem, _, count)) = name.and_then(part_of) else {
        return Ok(vec![path.into()]);
    };
    let part = |no: u32| {
        let part = path.with_file_name(format!("{stem}-{no:05}-of-{count:05}.gguf"));
        if !part.is_file() {
            return Err(Error::BadGguf {
                path: path.into(),
                found: format!(
                    "it is one of {count} parts, and {} is missing; download it",
                    part.display()
                ),
            });
        }
        // Whoever named the file chose where it leads. The others were only found beside it.
        let inside = match part == path {
            true => Ok(()),
            false => crate::files::check_inside(&part),
        };
        inside.map_err(|source| Error::Io {
            path: part.clone(),
            action: "open",
            source,
        })?;
        Ok(part)
    };
    (1..=count).map(part).collect()
}

/// The file that stands for a GGUF checkpoint among names of files: the first part where one is split, and whether the name
/// is that.
pub fn is_first_part(name: &str) -> bool {
    name.ends_with(".gguf") && part_of(name).is_none_or(|(_, no, _)| no == 1)
}

/// An order of rows that differs from the file's. Rows that are counted as `[.., outer, inner, together]` are stored as
/// `[.., inner, outer, together]`: two dimensions have changed places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowOrder {
    outer: usize,
    inner: usize,
    together: usize,
}

impl RowOrder {
    /// `None` where a size is 0, or there are more rows than can be counted.
    pub fn new(outer: usize, inner: usize, together: usize) -> Option<RowOrder> {
        let rows = outer.checked_mul(inner)?.checked_mul(together)?;
        (rows > 0).then_some(RowOrder {
            outer,
            inner,
            together,
        })
    }

    /// After so many rows the order begins again: rows exchange places within that many only.
    pub fn period(&self) -> usize {
        self.outer * self.inner * self.together
    }

    /// The row of the file that holds a row.
    pub fn stored(&self, row: usize) -> usize {
        let first = row - row % self.period();
        let (unit, rest) = (row % self.period() / self.together, row % self.together);
        let (outer, inner) = (unit / self.inner, unit % self.inner);
        first + (inner * self.outer + outer) * self.together + rest
    }
}

/// How a tensor of a GGUF file is presented under another name: as the checkpoint has it that the file was made from.
#[derive(Debug, Clone, Default)]
pub struct TensorView {
    /// Its name in the file.
    pub tensor: String,
    /// One of so many equal parts along the slowest dimension, counted from 0 (an expert, say), and that dimension dropped.
    pub part: Option<[usize; 2]>,
    /// The order of its rows, where it is not the file's.
    pub rows: Option<RowOrder>,
    /// Whether rows and columns are exchanged (after their order).
    pub transposed: bool,
    /// Added to every value of a vector.
    pub plus: f32,
}
