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
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::mat::Blocks;
use crate::{Dtype, Error, Mat};
pub(crate) use file::File;
#[cfg(unix)]
pub use shortened::report_shortened_files;

/// A directory of safetensors files, mapped and not copied.
///
/// `model.safetensors.index.json` decides where it is present: the shards that it names are read. A tensor that it names and no
/// shard holds is missed when it is asked for; one that it does not name is there all the same. Without an index
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
    index: Option<index::Index>,
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
            index: None,
        };
        match index::Index::read(&checkpoint.dir)? {
            Some(index) => {
                checkpoint.add_shards(&index)?;
                checkpoint.index = Some(index);
            }
            None => {
                for path in index::files_without_index(&checkpoint.dir)? {
                    checkpoint.add_file(path)?;
                }
            }
        }
        Ok(checkpoint)
    }

    fn add_shards(&mut self, index: &index::Index) -> Result<(), Error> {
        let named: HashMap<&str, &str> = index
            .shards
            .iter()
            .flat_map(|(shard, names)| names.iter().map(|name| (&name[..], &shard[..])))
            .collect();
        for shard in index.shards.keys() {
            let file = self.files.len();
            let (opened, tensors) = File::open(self.dir.join(shard), file)?;
            self.files.push(opened);
            for (name, info) in tensors {
                let there = self.tensors.get(&name);
                match (named.get(&name[..]), there) {
                    (Some(other), Some(_)) if other != shard => continue,
                    (None, Some(other)) => return Err(self.duplicate(name, other, file)),
                    _ => self.tensors.insert(name, Tensor::plain(info)),
                };
            }
        }
        Ok(())
    }

    fn duplicate(&self, tensor: String, first: &Tensor, second: usize) -> Error {
        Error::DuplicateTensor {
            tensor,
            first: self.files[first.info.file].path.clone(),
            second: self.files[second].path.clone(),
        }
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), Error> {
        let file = self.files.len();
        let (opened, tensors) = File::open(path, file)?;
        self.files.push(opened);
        for (name, info) in tensors {
            if let Some(other) = self.tensors.get(&name) {
                return Err(self.duplicate(name, other, file));
            }
            self.tensors.insert(name, Tensor::plain(info));
        }
        Ok(())
    }

    /// Gives a tensor another name, where it is there and none has that name.
    pub fn rename(&mut self, from: &str, to: &str) {
        if !self.tensors.contains_key(to)
            && let Some(tensor) = self.tensors.remove(from)
        {
            self.tensors.insert(to.to_owned(), tensor);
        }
    }

    /// Puts the matrices that lie one after the other in the tensor `name`, which must have this shape, in its place: `parts`
    /// are their names and shapes, in the order in which they lie.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]; [`Error::WrongShape`], also where the parts are not the whole, or the tensor is one of a GGUF
    /// file that is not read as it is stored.
    pub fn split(
        &mut self,
        name: &str,
        shape: &[usize],
        parts: impl IntoIterator<Item = (String, [usize; 2])>,
    ) -> Result<(), Error> {
        let whole = self.expect_shape(name, shape)?;
        let info = whole.info.clone();
        let wrong = || Error::WrongShape {
            file: self.files[info.file].path.clone(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
            found: info.shape.clone(),
        };
        // The shape was checked against the file, so that its elements can be counted.
        let size = info.len.checked_div(shape.iter().product());
        let size = size.filter(|size| size * shape.iter().product::<usize>() == info.len);
        let size = size.filter(|_| whole.view.is_none()).ok_or_else(wrong)?;
        let (mut made, mut at) = (Vec::new(), 0);
        for (part, [rows, cols]) in parts {
            let elements = rows.checked_mul(cols).and_then(|n| n.checked_mul(size));
            let len = elements
                .filter(|len| *len <= info.len - at)
                .ok_or_else(wrong)?;
            let info = TensorInfo {
                shape: vec![rows, cols],
                offset: info.offset + at,
                len,
                ..info.clone()
            };
            at += len;
            made.push((part, Tensor::plain(info)));
        }
        if at != info.len {
            return Err(wrong());
        }
        self.tensors.remove(name);
        self.tensors.extend(made);
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
        let tensor = self.expect_shape(name, shape)?;
        match &tensor.info.dtype {
            Ok(dtype) => Ok((tensor, *dtype)),
            Err(found) => Err(Error::UnsupportedDtype {
                file: self.files[tensor.info.file].path.clone(),
                tensor: name.to_owned(),
                found: found.clone(),
            }),
        }
    }

    /// A tensor of that name and that shape.
    fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<&Tensor, Error> {
        let tensor = self.tensors.get(name);
        let tensor = tensor.ok_or_else(|| self.missing(name, shape))?;
        if tensor.info.shape != shape {
            return Err(Error::WrongShape {
                file: self.files[tensor.info.file].path.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.info.shape.clone(),
            });
        }
        Ok(tensor)
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Error {
        let tensor = name.to_owned();
        let index = self.index.as_ref();
        let named = index.and_then(|index| Some((index, index.shard_of(name)?)));
        match named {
            Some((index, shard)) => Error::NotInShard {
                index: index.path.clone(),
                tensor,
                shard: shard.to_owned(),
            },
            None => Error::MissingTensor {
                dir: self.dir.clone(),
                tensor,
                expected: shape.to_vec(),
                files: self.files.len(),
            },
        }
    }
}

impl Tensor {
    /// One that is stored row by row.
    fn plain(info: TensorInfo) -> Tensor {
        Tensor { info, view: None }
    }
}
