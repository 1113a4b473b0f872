//! The `*.safetensors` files of one directory, mapped into memory.

mod file;
mod index;
mod map;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{Dtype, Error, Mat};
use file::File;

/// A directory of safetensors files, mapped and not copied.
///
/// `model.safetensors.index.json` decides where it is present: only the shards and tensors it names count. Else
/// `model.safetensors` is taken, else every `*.safetensors` file but `consolidated*`. Opening reads headers only and
/// checks every length in them against the files; element types matter only when a tensor is asked for.
///
/// The files must not change while the checkpoint, or a [`Mat`] of it, is alive.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<File>,
    tensors: BTreeMap<String, TensorInfo>,
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
    /// Bytes of data.
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
                self.tensors.insert(name.clone(), info);
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
                    first: self.files[other.file].path.clone(),
                    second: self.files[file].path.clone(),
                });
            }
            self.tensors.insert(name, info);
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
        self.tensors.get(name)
    }

    /// The stored bytes of one tensor, mapped: reading them touches the disk.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let info = self.tensors.get(name)?;
        let file = self.files[info.file].info().bytes;
        file.get(info.offset..)?.get(..info.len)
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
        let (info, dtype) = self.expect(name, &[rows, cols])?;
        Ok(Mat::from_bytes(
            self.files[info.file].bytes(),
            info.offset,
            dtype,
            rows,
            cols,
        ))
    }

    /// The tensor `name`, which must have the shape `[n, rows, cols]`, as `n` matrices without a copy.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::WrongShape`] or [`Error::UnsupportedDtype`].
    pub fn mats(&self, name: &str, n: usize, rows: usize, cols: usize) -> Result<Vec<Mat>, Error> {
        let (info, dtype) = self.expect(name, &[n, rows, cols])?;
        let step = info.len.checked_div(n).unwrap_or(0);
        let mat = |i| {
            Mat::from_bytes(
                self.files[info.file].bytes(),
                info.offset + i * step,
                dtype,
                rows,
                cols,
            )
        };
        Ok((0..n).map(mat).collect())
    }

    /// The tensor `name`, which must have the shape `[len]`, widened to f32.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::WrongShape`] or [`Error::UnsupportedDtype`].
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let (info, dtype) = self.expect(name, &[len])?;
        let mat = Mat::from_bytes(self.files[info.file].bytes(), info.offset, dtype, 1, len);
        let mut out = vec![0.0; len];
        mat.row_into(0, &mut out);
        Ok(out)
    }

    /// A tensor of that name, that shape and a dtype with a kernel.
    fn expect(&self, name: &str, shape: &[usize]) -> Result<(&TensorInfo, Dtype), Error> {
        let info = self.tensors.get(name).ok_or_else(|| Error::MissingTensor {
            dir: self.dir.clone(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
            files: self.files.len(),
        })?;
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
            Ok(dtype) => Ok((info, *dtype)),
            Err(found) => Err(Error::UnsupportedDtype {
                file: file(),
                tensor: name.to_owned(),
                found: found.clone(),
            }),
        }
    }
}
