//! A tuned model as a checkpoint of its own.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype as FileDtype, View};
use sw_model::{BESIDE, Dtype, Model, TensorAt};
use sw_tensor::Checkpoint;

use crate::error::{Error, Result};

/// Writes a checkpoint in Hugging Face layout into the folder `dir`: that of `base`, with the tensors `changed` as `tuned` has them,
/// rounded to the types they are stored in. One tensor is in memory at a time.
///
/// # Errors
/// If a file cannot be read or written, or a tensor is stored in a type that has no numbers.
pub fn write_checkpoint(
    base: &Model,
    tuned: &Model,
    changed: &[TensorAt],
    dir: &Path,
) -> Result<()> {
    let stored = base.checkpoint()?;
    let spec = base.spec();
    let mut places: BTreeMap<String, TensorAt> = BTreeMap::new();
    for &at in changed {
        let name = spec.name_of(at);
        let name = name.filter(|name| stored.info(name).is_some());
        // A tied checkpoint may keep its one matrix under the head's name.
        let name = name.or_else(|| {
            let head = spec.names.head.to_owned();
            (at == TensorAt::Embedding && spec.tied).then_some(head)
        });
        let name = name.ok_or_else(|| Error::Shape(format!("the checkpoint has no {at}")))?;
        places.insert(name, at);
    }
    let failure = RefCell::new(None);
    let mut views = Vec::new();
    for name in stored.names() {
        let info = stored.info(name).ok_or_else(|| lost(name))?;
        let dtype = info.dtype.clone();
        let dtype = dtype.map_err(|kind| {
            Error::content(
                stored.dir(),
                format!("{name} is {kind}, which has no numbers to train"),
            )
        })?;
        views.push((
            name,
            Tensor {
                stored: &stored,
                tuned,
                name,
                at: places.get(name).copied(),
                dtype,
                shape: &info.shape,
                len: info.len,
                failure: &failure,
            },
        ));
    }
    let path = dir.join("model.safetensors");
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let written = safetensors::serialize_to_file(views, Some(metadata), &path);
    if let Some(failure) = failure.into_inner() {
        return Err(failure);
    }
    written.map_err(|e| Error::content(&path, e))?;
    for name in ["config.json"].into_iter().chain(BESIDE) {
        if let Some(content) = base.file(name)? {
            let path = dir.join(name);
            std::fs::write(&path, content).map_err(Error::file(&path))?;
        }
    }
    Ok(())
}

fn lost(name: &str) -> Error {
    Error::Shape(format!("{name}: no such tensor any more"))
}

/// A tensor of the new file, made when it is written.
struct Tensor<'a> {
    stored: &'a Checkpoint,
    tuned: &'a Model,
    name: &'a str,
    at: Option<TensorAt>,
    dtype: Dtype,
    shape: &'a [usize],
    len: usize,
    /// A view cannot fail, so the first error waits here.
    failure: &'a RefCell<Option<Error>>,
}

impl Tensor<'_> {
    fn bytes(&self) -> Option<Cow<'_, [u8]>> {
        let mut bytes = self.stored.bytes(self.name)?;
        if let Some(at) = self.at {
            let values = self.tuned.tensor(at)?;
            let size = self.dtype.size();
            // Rows beyond the vocabulary stay as they are.
            let into = bytes.to_mut().chunks_exact_mut(size);
            for (into, value) in into.zip(values) {
                match self.dtype {
                    Dtype::F32 => into.copy_from_slice(&value.to_le_bytes()),
                    Dtype::F16 => into.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                    Dtype::BF16 => into.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                }
            }
        }
        (bytes.len() == self.len).then_some(bytes)
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> FileDtype {
        match self.dtype {
            Dtype::F32 => FileDtype::F32,
            Dtype::F16 => FileDtype::F16,
            Dtype::BF16 => FileDtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data_len(&self) -> usize {
        self.len
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes().unwrap_or_else(|| {
            *self.failure.borrow_mut() = Some(lost(self.name));
            Cow::default()
        })
    }
}
