//! Going on: everything that a training needs, in one file.

use std::path::Path;

use ndarray::Array2;
use safetensors::tensor::Dtype;

use super::trainer::Trainer;
use crate::checkpoint::{Precision, read_tensors, write_tensors};
use crate::error::{Error, Result};

impl Trainer {
    /// Writes what is trained, its moments and the number of steps to a file, which is there whole or as it was.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_state(&self, path: &Path) -> Result<()> {
        let tensor = |(name, values): (String, Array2<f32>)| {
            let bytes = Precision::F32.bytes(values.iter().copied());
            (name, values.shape().to_vec(), Dtype::F32, bytes)
        };
        let mut tensors: Vec<_> = self.state()?.into_iter().map(tensor).collect();
        let steps = (self.steps() as i64).to_le_bytes().to_vec();
        tensors.push(("steps".into(), vec![1], Dtype::I64, steps));
        write_tensors(path, tensors)
    }

    /// Goes on from what [`save_state`](Self::save_state) wrote in a training of the same model, made in the same way: bit for
    /// bit as if it had not been interrupted.
    ///
    /// # Errors
    /// If the file cannot be read, or belongs to another training.
    pub fn load_state(&mut self, path: &Path) -> Result<()> {
        read_tensors(path, |file| {
            let steps = usize::try_from(file.number("steps")?);
            let steps = steps.map_err(|_| Error::content(path, "a negative number of steps"))?;
            self.restore(steps, |name, values| file.read(name, values))
        })
    }
}
