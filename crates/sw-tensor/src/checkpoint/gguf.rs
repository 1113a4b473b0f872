//! A GGUF file in the shape of a checkpoint: other names, and what its maker changed undone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Checkpoint, Tensor, TensorInfo, View};
use crate::mat::Blocks;
use crate::{Coding, Dtype, Error, Gguf, GgufTensor, TensorView};

impl Checkpoint {
    /// Tensors of a GGUF file under the names of a checkpoint, without a copy. Those that are stored as they are presented,
    /// as F32, F16 or BF16, are like those of safetensors; the others have the dtype F32, as which they are widened.
    ///
    /// `dir`: the directory that the checkpoint is said to be. A view of a whole tensor takes it: there can be no other of it.
    ///
    /// # Errors
    /// [`Error::BadGguf`] where a view does not fit its tensor, or there is no such tensor, or none any more.
    pub fn from_gguf(
        dir: impl Into<PathBuf>,
        mut gguf: Gguf,
        views: impl IntoIterator<Item = (String, TensorView)>,
    ) -> Result<Checkpoint, Error> {
        let mut tensors = BTreeMap::new();
        for (name, view) in views {
            // What is described here is forgotten there: opening should not take twice the memory.
            let stored = match view.part {
                Some(_) => gguf.tensors.get(&view.tensor).cloned(),
                None => gguf.tensors.remove(&view.tensor),
            };
            let tensor = stored.ok_or_else(|| "no such tensor".into());
            let tensor = tensor.and_then(|stored| presented(stored, &view));
            let tensor = tensor.map_err(|found| Error::BadGguf {
                path: gguf.files[0].path.clone(),
                found: format!("tensor {:?}: {found}", view.tensor),
            })?;
            tensors.insert(name, tensor);
        }
        Ok(Checkpoint {
            dir: dir.into(),
            files: gguf.files,
            tensors,
            index: None,
        })
    }

    /// All values of a tensor that is read through a view, as bytes of F32.
    pub(super) fn widened(&self, tensor: &Tensor) -> Option<Vec<u8>> {
        let dtype = tensor.info.dtype.as_ref().ok()?;
        let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Some(match *tensor.info.shape {
            [rows, cols] => {
                let mat = self.part(tensor, *dtype, 0, [rows, cols]);
                let values = mat.to_f32_vec();
                bytes(&values)
            }
            [len] => bytes(&self.row(tensor, *dtype, len)),
            _ => return None,
        })
    }
}

/// A tensor as a view presents it.
fn presented(stored: GgufTensor, view: &TensorView) -> Result<Tensor, String> {
    let GgufTensor {
        coding,
        mut shape,
        file,
        mut offset,
        mut len,
    } = stored;
    if let Some([i, n]) = view.part {
        if shape.first() != Some(&n) || i >= n {
            return Err(format!("expected {n} parts, found shape {shape:?}"));
        }
        shape.remove(0);
        len /= n;
        offset += i * len;
    }
    let is_as_stored = view.rows.is_none() && !view.transposed && view.plus == 0.0;
    let plain = |dtype, shape| {
        Tensor::plain(TensorInfo {
            dtype,
            shape,
            file,
            offset,
            len,
        })
    };
    let coding = match (coding, is_as_stored) {
        (Ok(Coding::F32), true) => return Ok(plain(Ok(Dtype::F32), shape)),
        (Ok(Coding::F16), true) => return Ok(plain(Ok(Dtype::F16), shape)),
        (Ok(Coding::BF16), true) => return Ok(plain(Ok(Dtype::BF16), shape)),
        (Ok(coding), _) => coding,
        (Err(name), _) => return Ok(plain(Err(name), shape)),
    };
    let (rows, cols) = match *shape {
        [len] if view.rows.is_some() => (len, 1),
        [len] => (1, len),
        [rows, cols] => (rows, cols),
        _ => {
            return Err(format!(
                "expected a vector or a matrix, found shape {shape:?}"
            ));
        }
    };
    let row_bytes = coding
        .row_bytes(cols)
        .ok_or("its rows are not whole blocks")?;
    if let Some(order) = &view.rows
        && !rows.is_multiple_of(order.period())
    {
        return Err(format!(
            "expected a multiple of {} rows, found shape {shape:?}",
            order.period()
        ));
    }
    if view.transposed {
        shape.reverse();
    }
    let weights = rows.checked_mul(cols).and_then(|n| n.checked_mul(4));
    let info = TensorInfo {
        dtype: Ok(Dtype::F32),
        shape,
        file,
        offset,
        len: weights.ok_or("beyond all memory")?,
    };
    let blocks = Blocks::new(coding, row_bytes, view.rows, view.transposed);
    let view = View {
        blocks,
        plus: view.plus,
    };
    Ok(Tensor {
        info,
        view: Some(view),
    })
}
