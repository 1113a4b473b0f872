//! What an export will write: every tensor, its type and its size, before a byte is read.

use std::{collections::BTreeMap, sync::Arc};

use safetensors::Dtype as FileDtype;
use serde::Serialize;
use serde_json::Value;
use sw_model::{LinearAt, Model, Spec};
use sw_quant::Clip;
use sw_tensor::{Checkpoint, Dtype};

use super::{Export, Format, Rule, compressed, packed};
use crate::error::{Error, Result};

/// One tensor of the new checkpoint; an original tensor becomes one or several.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NewTensor {
    pub(super) name: String,
    pub(super) dtype: FileDtype,
    pub(super) shape: Vec<usize>,
    pub(super) len: usize,
    pub(super) kind: NewTensorKind,
}

/// What of the original tensor it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewTensorKind {
    Copy,
    Fake,
    /// Codes, alone or with all that belongs to them.
    Codes,
    Scales,
    Zeros,
    Shape,
    HeldAt,
    Held,
}

/// A matrix to be quantized.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) rule: Rule,
    /// `[output channels, input channels]`.
    pub(crate) shape: [usize; 2],
    /// Whether it is stored the other way round.
    pub(super) transposed: bool,
    pub(super) dtype: Dtype,
    /// (row, column), sorted.
    pub(crate) held: Vec<(usize, usize)>,
    /// How much an error counts in each input channel, where it is known.
    pub(super) importance: Option<Arc<[f32]>>,
    /// Whether it is a map of an expert.
    pub(super) is_expert: bool,
}

/// A tensor of the original and what becomes of it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Elements.
    pub weights: usize,
    /// Bits of a code; `None` where it is copied.
    pub bits: Option<u8>,
    /// Held weights in it.
    pub held: usize,
    /// Bytes now.
    pub bytes_before: usize,
    /// Bytes afterwards, scales and all.
    pub bytes: usize,
    /// Bits per weight afterwards.
    pub bits_per_weight: f64,
    /// Whether it is an expert's matrix and stays as it is.
    #[serde(skip)]
    pub(super) is_kept_expert: bool,
    #[serde(skip)]
    pub(super) job: Option<Job>,
    #[serde(skip)]
    pub(super) parts: Vec<NewTensor>,
}

/// What an export will write.
pub struct Plan {
    pub(super) export: Export,
    pub(super) model: Model,
    pub(super) checkpoint: Checkpoint,
    /// What other loaders need to know, in the format's words.
    pub(super) quantization: Option<Value>,
    tensors: Vec<TensorPlan>,
}

impl Plan {
    /// Decides what becomes of every tensor; reads headers only.
    ///
    /// # Errors
    /// A held coordinate or a pattern that meets no matrix, a scheme that does not fit a matrix or cannot be said in the
    /// format, naming the tensor.
    pub fn new(model: &Model, export: &Export) -> Result<Self> {
        for &coord in &export.hold {
            model.value(coord)?;
        }
        let spec = model.spec();
        let checkpoint = model.checkpoint()?;
        let matrices: BTreeMap<String, LinearAt> = model
            .linears()
            .filter_map(|at| Some((spec.tensor_name_at(at)?, at)))
            .collect();
        for o in &export.overrides {
            if !matrices.keys().any(|name| matches(&o.pattern, name)) {
                let example = matrices.keys().next().map_or("", String::as_str);
                return Err(Error::Options(format!(
                    "override {:?}: matches no matrix of the layers; they are named like {example}",
                    o.pattern
                )));
            }
        }
        if export.format == Format::Packed && spec.names.transposed {
            return Err(refused(format!(
                "matrices of {} are stored [input, output]",
                spec.family
            )));
        }
        let mut tensors = Vec::new();
        for name in checkpoint.names() {
            let at = matrices.get(name);
            let job = at.and_then(|&at| job(model, export, name, at));
            let is_kept_expert = at.is_some_and(|at| at.expert.is_some()) && job.is_none();
            tensors.push(TensorPlan {
                is_kept_expert,
                ..tensor(&checkpoint, export, name, job)?
            });
        }
        let quantization = match export.format {
            Format::Fake => None,
            Format::Packed => {
                let ignored = ignored(spec, &checkpoint, &matrices, &tensors);
                let names = |module: &str| modules(spec, module);
                Some(compressed::config(&tensors, ignored, names).map_err(refused)?)
            }
            Format::PackedSw => Some(packed::config(export)),
        };
        Ok(Self {
            export: export.clone(),
            model: model.clone(),
            checkpoint,
            quantization,
            tensors,
        })
    }

    /// What is to be done with the matrix of this name.
    pub(crate) fn job(&self, name: &str) -> Option<&Job> {
        let found = self.tensors.iter().find(|t| t.name == name);
        found?.job.as_ref()
    }

    /// Every tensor of the original, by name.
    pub fn tensors(&self) -> &[TensorPlan] {
        &self.tensors
    }

    /// Bytes of all tensors: before and afterwards.
    pub fn bytes(&self) -> [u64; 2] {
        let sum = |of: fn(&TensorPlan) -> usize| self.tensors.iter().map(|t| of(t) as u64).sum();
        [sum(|t| t.bytes_before), sum(|t| t.bytes)]
    }

    /// Bits per weight: of the matrices that are quantized, and of all tensors.
    pub fn bits_per_weight(&self) -> [f64; 2] {
        let of = |count: fn(&TensorPlan) -> bool| {
            let chosen = self.tensors.iter().filter(|t| count(t));
            let (bytes, weights) = chosen.fold((0, 0), |(b, n), t| (b + t.bytes, n + t.weights));
            8.0 * bytes as f64 / (weights as f64).max(1.0)
        };
        [of(|t| t.job.is_some()), of(|_| true)]
    }
}

/// The names of a module: in the checkpoint, and in transformers where that has another.
fn modules(spec: &Spec, module: &str) -> Vec<String> {
    let names = &spec.names;
    let [base, head] = names.modules;
    let other = if module == names.head.trim_end_matches(".weight") {
        Some(head.trim_end_matches(".weight").to_owned())
    } else {
        let rest = module.strip_prefix(names.base);
        rest.map(|rest| format!("{base}{rest}"))
    };
    let mut all = vec![module.to_owned()];
    all.extend(other.filter(|other| other != module));
    all
}

/// Modules that are not quantized, by all their names: other loaders must not take them for quantized.
fn ignored(
    spec: &Spec,
    checkpoint: &Checkpoint,
    matrices: &BTreeMap<String, LinearAt>,
    tensors: &[TensorPlan],
) -> Vec<String> {
    let names = &spec.names;
    let mut ignored = modules(spec, names.head.trim_end_matches(".weight"));
    let kept = tensors.iter().filter(|t| t.job.is_none());
    let kept = kept.filter(|t| matrices.contains_key(&t.name));
    let kept: Vec<&str> = kept.map(|t| t.name.trim_end_matches(".weight")).collect();
    ignored.extend(kept.into_iter().flat_map(|module| modules(spec, module)));
    for name in checkpoint.names() {
        if let Some(layer) = name.strip_suffix(names.router) {
            for router in [names.router, "mlp.gate.weight"] {
                let module = format!("{layer}{}", router.trim_end_matches(".weight"));
                ignored.extend(modules(spec, &module));
            }
        }
        // What lies beside the language model: a vision tower, whose modules have other names in transformers.
        let beside = !name.starts_with(names.base) && name != names.head;
        let part = name
            .strip_prefix("model.")
            .unwrap_or(name)
            .split('.')
            .next();
        if let (true, Some(part)) = (beside, part) {
            ignored.push(format!("re:.*{part}.*"));
        }
    }
    ignored
}

/// What is to be done with a matrix; `None` where it stays as it is.
fn job(model: &Model, export: &Export, name: &str, at: LinearAt) -> Option<Job> {
    let chosen = export
        .overrides
        .iter()
        .rev()
        .find(|o| matches(&o.pattern, name));
    let rule = chosen.map_or(Some(export.rule), |o| o.rule)?;
    let w = model.weight_at(at)?;
    let mut held: Vec<_> = export
        .hold
        .iter()
        .filter(|c| c.at() == at)
        .map(|c| (c.row, c.col))
        .collect();
    held.sort_unstable();
    held.dedup();
    if export.format == Format::Packed && !held.is_empty() {
        return None;
    }
    Some(Job {
        rule,
        shape: [w.rows(), w.cols()],
        transposed: model.spec().names.transposed,
        dtype: w.dtype(),
        held,
        importance: export.importance.get(name).cloned(),
        is_expert: at.expert.is_some(),
    })
}

fn tensor(
    checkpoint: &Checkpoint,
    export: &Export,
    name: &str,
    job: Option<Job>,
) -> Result<TensorPlan> {
    let info = checkpoint
        .info(name)
        .ok_or_else(|| Error::Options(format!("{name}: no such tensor")))?;
    let whole = |kind, dtype| NewTensor {
        name: name.to_owned(),
        dtype,
        shape: info.shape.clone(),
        len: info.len,
        kind,
    };
    let dtype = match &info.dtype {
        Ok(dtype) => file_dtype(*dtype),
        // Copied as it is; what the header calls it is known to the format's own table.
        Err(other) => serde_json::from_value(other.clone().into())
            .map_err(|e| Error::Options(format!("{name}: {e}")))?,
    };
    let parts = match (&job, export.format) {
        (None, _) => vec![whole(NewTensorKind::Copy, dtype)],
        (Some(job), format) => {
            let here = |problem: String| Error::Options(format!("{name}: {problem}"));
            (job.rule.scheme.check(job.shape)).map_err(|e| here(e.to_string()))?;
            if job.rule.scheme.clip == Clip::LeastError && job.importance.is_none() {
                return Err(here("the clip least_error needs to know how much each input channel counts; let `sw quantize --calib` choose it".into()));
            }
            match format {
                Format::Fake => vec![whole(NewTensorKind::Fake, dtype)],
                Format::Packed => compressed::parts(name, job).map_err(|e| refused(here(e)))?,
                Format::PackedSw => packed::parts(name, job).map_err(here)?,
            }
        }
    };
    let weights: usize = info.shape.iter().product();
    let bytes = parts.iter().map(|p| p.len).sum();
    Ok(TensorPlan {
        name: name.to_owned(),
        weights,
        bits: job.as_ref().map(|job| job.rule.scheme.levels.bits()),
        held: job.as_ref().map_or(0, |job| job.held.len()),
        bytes_before: info.len,
        bytes,
        bits_per_weight: 8.0 * bytes as f64 / (weights as f64).max(1.0),
        is_kept_expert: false,
        job,
        parts,
    })
}

fn refused(problem: impl ToString) -> Error {
    Error::Options(format!(
        "{}: compressed-tensors' pack-quantized has no word for this; use packed-sw or fake",
        problem.to_string()
    ))
}

pub(super) fn file_dtype(dtype: Dtype) -> FileDtype {
    match dtype {
        Dtype::F32 => FileDtype::F32,
        Dtype::F16 => FileDtype::F16,
        Dtype::BF16 => FileDtype::BF16,
    }
}

/// Whether a name fits a pattern with `*` for any characters and `?` for one.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                // Let the last star take one more character.
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            (
                "*.down_proj.weight",
                "model.layers.2.mlp.down_proj.weight",
                true,
            ),
            ("*layers.2.*", "model.layers.2.mlp.down_proj.weight", true),
            ("*layers.2.*", "model.layers.12.mlp.down_proj.weight", false),
            ("*layers.?.*", "model.layers.12.mlp.down_proj.weight", false),
            ("*a*b", "aab", true),
            ("*a*b", "aabc", false),
            ("", "", true),
            ("**", "x", true),
            ("x", "", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
