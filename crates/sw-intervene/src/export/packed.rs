//! `packed-sw`: any scheme, in sw-quant's packed layout, with held values in tensors beside it (`docs/formats.md`).

use half::{bf16, f16};
use safetensors::Dtype as FileDtype;
use serde_json::{Value, json};
use sw_model::Decoder;
use sw_quant::{Outlier, Quantized};
use sw_tensor::{Checkpoint, Mat};

use super::{
    Export,
    plan::{Job, NewTensor, NewTensorKind, file_dtype},
};

/// The `quant_method` of the config.
const METHOD: &str = "superweight";
/// What the names of the tensors beside a weight end in.
const HELD: &str = "_held";
const HELD_AT: &str = "_held_at";

/// The tensors that a weight becomes.
pub(super) fn parts(name: &str, job: &Job) -> Result<Vec<NewTensor>, String> {
    let len =
        sw_quant::packed::byte_len(job.shape, &job.rule.scheme, &[]).map_err(|e| e.to_string())?;
    let mut parts = vec![NewTensor {
        name: name.to_owned(),
        dtype: FileDtype::U8,
        shape: vec![len],
        len,
        kind: NewTensorKind::Codes,
    }];
    let held = job.held.len();
    if held > 0 {
        parts.push(NewTensor {
            name: format!("{name}{HELD_AT}"),
            dtype: FileDtype::I64,
            shape: vec![held, 2],
            len: 16 * held,
            kind: NewTensorKind::HeldAt,
        });
        parts.push(NewTensor {
            name: format!("{name}{HELD}"),
            dtype: file_dtype(job.dtype),
            shape: vec![held],
            len: job.dtype.size() * held,
            kind: NewTensorKind::Held,
        });
    }
    Ok(parts)
}

/// The `quantization_config`: other loaders refuse it by name, [`PackedReader`] reads it.
pub(super) fn config(export: &Export) -> Value {
    json!({"quant_method": METHOD, "format": "packed-sw", "version": 1, "export": export})
}

/// Reads checkpoints that [`Format::PackedSw`](super::Format::PackedSw) wrote: give it to
/// [`OpenOptions::decoder`](sw_model::OpenOptions::decoder), and they open like any other.
///
/// Matrices are decoded as the model is opened, and held in memory in the type of the original.
///
/// ```no_run
/// use std::sync::Arc;
/// let mut options = sw_model::OpenOptions::default();
/// options.decoder = Some(Arc::new(sw_intervene::PackedReader));
/// let model = sw_model::Model::open_with("models/quantized", &options)?;
/// # Ok::<(), sw_model::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct PackedReader;

impl Decoder for PackedReader {
    fn quant_method(&self) -> &str {
        METHOD
    }

    fn decode(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        [rows, cols]: [usize; 2],
    ) -> Result<Option<Mat>, String> {
        let packed = checkpoint.info(name).filter(|info| {
            info.shape.len() == 1 && info.dtype.as_ref().is_err_and(|other| other == "U8")
        });
        let Some(bytes) = packed.and_then(|_| checkpoint.bytes(name)) else {
            return Ok(None);
        };
        let mut q = Quantized::from_bytes(&bytes).map_err(|e| e.to_string())?;
        if q.shape() != [rows, cols] {
            return Err(format!(
                "expected the shape [{rows}, {cols}], found {:?} in its packed data",
                q.shape()
            ));
        }
        if checkpoint.info(&format!("{name}{HELD_AT}")).is_some() {
            q.set_outliers(held(checkpoint, name, [rows, cols])?)
                .map_err(|e| format!("{name}{HELD_AT}: {e}"))?;
        }
        Ok(Some(match q.dtype() {
            sw_quant::Dtype::F32 => Mat::from_f32(rows, cols, q.dequantize()),
            sw_quant::Dtype::F16 => Mat::from_f16(rows, cols, q.dequantize::<f16>()),
            sw_quant::Dtype::Bf16 => Mat::from_bf16(rows, cols, q.dequantize::<bf16>()),
        }))
    }
}

/// The held values of a matrix, in order of place.
fn held(
    checkpoint: &Checkpoint,
    name: &str,
    [rows, cols]: [usize; 2],
) -> Result<Vec<Outlier>, String> {
    let at = format!("{name}{HELD_AT}");
    let (Some(info), Some(bytes)) = (checkpoint.info(&at), checkpoint.bytes(&at)) else {
        return Err(format!("{at}: missing"));
    };
    let is_i64 = info.dtype.as_ref().is_err_and(|other| other == "I64");
    let (true, &[count, 2]) = (is_i64, &info.shape[..]) else {
        return Err(format!(
            "{at}: expected I64 of shape [n, 2], found {:?} of {:?}",
            info.dtype, info.shape
        ));
    };
    let values = checkpoint
        .vector(&format!("{name}{HELD}"), count)
        .map_err(|e| e.to_string())?;
    let numbers: Vec<i64> = (bytes.as_chunks::<8>().0.iter())
        .map(|b| i64::from_le_bytes(*b))
        .collect();
    let mut outliers = Vec::with_capacity(count);
    for (place, value) in numbers.chunks_exact(2).zip(values) {
        let inside = |n: i64, size: usize| usize::try_from(n).ok().filter(|n| *n < size);
        let (Some(row), Some(col)) = (inside(place[0], rows), inside(place[1], cols)) else {
            return Err(format!("{at}: {place:?} is outside [{rows}, {cols}]"));
        };
        let index = (row * cols + col) as u64;
        outliers.push(Outlier { index, value });
    }
    Ok(outliers)
}

/// The bytes of a part that needs no quantizing.
pub(super) fn held_at(job: &Job) -> Vec<u8> {
    let number = |n: usize| (n as i64).to_le_bytes();
    job.held
        .iter()
        .flat_map(|&(row, col)| [number(row), number(col)].concat())
        .collect()
}
