//! The `*.safetensors` files of one directory, or a GGUF file, mapped into memory.

mod file;
mod gguf;
mod index;
mod map;
#[cfg(unix)]
mod shortened;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::mat::Blocks;
use crate::{Dtype, Error, Mat};
pub(crate) use file::File;
#[cfg(unix)]
pub use shortened::report_shortened_files;

/// A directory of safetensors files, mapped and not copied.
///
/// `model.safetensors.index.json` decides where it is present: only the shards and tensors it names count. Else
/// `model.safetensors` is taken, else every `*.safetensors` file but `consolidated*`. Opening reads headers only and
/// checks every length in them against the files; element types matter only when a tensor is asked for.
///
/// A GGUF file becomes one through [`Checkpoint::from_gguf`].
///
/// The files must not change while the checkpoint, or a [`Mat`] of it, is alive.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<File>,
    tensors: BTreeMap<String, Tensor>,
}

/// A tensor, and how it is read where it is not stored as its rows are.
#[derive(Debug)]
struct Tensor {
    info: TensorInfo,
    view: Option<View>,
}

/// A tensor of a GGUF file.
#[derive(Debug)]
struct View {
    blocks: Blocks,
    plus: f32,
}

/// What a header says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Element type, or the name of one that has no kernel.
    pub dtype: Result<Dtype, String>,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
    /// Index into [`Checkpoint::files`].
    pub file: usize,
    /// Byte offset of the first element in that file.
    pub offset: usize,
    /// Bytes of data, as [`Checkpoint::bytes`] gives them.
    pub len: usize,
}

/// What identifies one file of a checkpoint, for fingerprints.
#[derive(Debug, Clone, Copy)]
pub struct FileInfo<'a> {
    /// Path as opened.
    pub path: &'a Path,
    /// All bytes of the file, mapped: reading them touches the disk.
    pub bytes: &'a [u8],
    /// The JSON header, as stored.
    pub header: &'a [u8],
}

impl Checkpoint {
    /// Opens the safetensors files of `dir`.
    ///
    /// # Errors
    /// No such directory or no such files, an index that cannot be followed, a file that is truncated or whose header
    /// does not hold together: one variant of [`Error`] each.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint, Error> {
        let dir = dir.as_ref().to_path_buf();
        let mut checkpoint = Checkpoint {
            dir,
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        match index::Index::read(&checkpoint.dir)? {
            Some(index) => checkpoint.add_shards(&index)?,
            None => {
                for path in index::files_without_index(&checkpoint.dir)? {
                    checkpoint.add_file(path)?;
                }
            }
        }
        Ok(checkpoint)
    }

    fn add_shards(&mut self, index: &index::Index) -> Result<(), Error> {
        for (shard, names) in &index.shards {
            let file = self.files.len();
            let (opened, mut tensors) = File::open(self.dir.join(shard), file)?;
            self.files.push(opened);
            for name in names {
                let info = tensors.remove(name).ok_or_else(|| Error::NotInShard {
                    index: index.path.clone(),
                    tensor: name.clone(),
                    shard: shard.clone(),
                })?;
                self.tensors.insert(name.clone(), Tensor::plain(info));
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), Error> {
        let file = self.files.len();
        let (opened, tensors) = File::open(path, file)?;
        self.files.push(opened);
        for (name, info) in tensors {
            if let Some(other) = self.tensors.get(&name) {
                return Err(Error::DuplicateTensor {
                    tensor: name,
                    first: self.files[other.info.file].path.clone(),
                    second: self.files[file].path.clone(),
                });
            }
            self.tensors.insert(name, Tensor::plain(info));
        }
        Ok(())
    }

    /// The directory it was opened from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the header says about one tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|tensor| &tensor.info)
    }

    /// The bytes of one tensor, row by row: mapped where it is stored so (reading them touches the disk), else widened to
    /// F32.
    pub fn bytes(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let tensor = self.tensors.get(name)?;
        let info = &tensor.info;
        if tensor.view.is_some() {
            return Some(self.widened(tensor)?.into());
        }
        let file = self.files[info.file].info().bytes;
        Some(file.get(info.offset..)?.get(..info.len)?.into())
    }

    /// The files, in the order of [`TensorInfo::file`].
    pub fn files(&self) -> impl ExactSizeIterator<Item = FileInfo<'_>> {
        self.files.iter().map(File::info)
    }

    /// The value of `key` in the `__metadata__` of the first file that has one.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.files
            .iter()
            .find_map(|file| file.metadata.get(key))
            .map(String::as_str)
    }

    /// The tensor `name`, which must have the shape `[rows, cols]`, without a copy.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::WrongShape`] or [`Error::UnsupportedDtype`].
    pub fn mat(&self, name: &str, rows: usize, cols: usize) -> Result<Mat, Error> {
        let (tensor, dtype) = self.expect(name, &[rows, cols])?;
        Ok(self.part(tensor, dtype, 0, [rows, cols]))
    }

    /// The tensor `name`, which must have the shape `[n, rows, cols]`, as `n` matrices without a copy.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::WrongShape`] or [`Error::UnsupportedDtype`].
    pub fn mats(&self, name: &str, n: usize, rows: usize, cols: usize) -> Result<Vec<Mat>, Error> {
        let (tensor, dtype) = self.expect(name, &[n, rows, cols])?;
        let part = |i| self.part(tensor, dtype, i, [rows, cols]);
        Ok((0..n).map(part).collect())
    }

    /// The tensor `name`, which must have the shape `[len]`, widened to f32.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::WrongShape`] or [`Error::UnsupportedDtype`].
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let (tensor, dtype) = self.expect(name, &[len])?;
        Ok(self.row(tensor, dtype, len))
    }

    /// Matrix `i` of those that lie one after the other in a tensor.
    fn part(&self, tensor: &Tensor, dtype: Dtype, i: usize, [rows, cols]: [usize; 2]) -> Mat {
        let (info, bytes) = (&tensor.info, self.files[tensor.info.file].bytes());
        match &tensor.view {
            Some(view) => Mat::from_blocks(bytes, info.offset, view.blocks.clone(), rows, cols),
            None => {
                let offset = info.offset + i * rows * cols * dtype.size();
                Mat::from_bytes(bytes, offset, dtype, rows, cols)
            }
        }
    }

    /// A vector as f32.
    fn row(&self, tensor: &Tensor, dtype: Dtype, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        match &tensor.view {
            // Its elements are rows of one column where they have an order of their own.
            Some(view) => {
                let shape = if view.blocks.has_order() {
                    [len, 1]
                } else {
                    [1, len]
                };
                let mat = self.part(tensor, dtype, 0, shape);
                mat.widen(0..shape[0], 0..shape[1], &mut out);
                if view.plus != 0.0 {
                    out.iter_mut().for_each(|x| *x += view.plus);
                }
            }
            None => self.part(tensor, dtype, 0, [1, len]).row_into(0, &mut out),
        }
        out
    }

    /// A tensor of that name, that shape and a dtype with a kernel.
    fn expect(&self, name: &str, shape: &[usize]) -> Result<(&Tensor, Dtype), Error> {
        let tensor = self.tensors.get(name).ok_or_else(|| Error::MissingTensor {
            dir: self.dir.clone(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
            files: self.files.len(),
        })?;
        let info = &tensor.info;
        let file = || self.files[info.file].path.clone();
        if info.shape != shape {
            return Err(Error::WrongShape {
                file: file(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        match &info.dtype {
            Ok(dtype) => Ok((tensor, *dtype)),
            Err(found) => Err(Error::UnsupportedDtype {
                file: file(),
                tensor: name.to_owned(),
                found: found.clone(),
            }),
        }
    }
}

impl Tensor {
    /// One that is stored row by row.
    fn plain(info: TensorInfo) -> Tensor {
        Tensor { info, view: None }
    }
}
