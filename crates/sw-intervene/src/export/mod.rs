//! A quantized checkpoint on disk: streamed from the original, one matrix in memory at a time.
//!
//! ```text
//! Model + Export --plan--> which tensors become which, their sizes --write--> beside DIR, renamed when whole
//! ```
//!
//! It stands beside the intervention that quantizes in memory because both map a model's matrices to `sw-quant`, which
//! knows no files, while `sw-model` knows no quantizer; and their values are the same.

mod compressed;
mod encode;
mod packed;
mod plan;
mod write;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use sw_model::WeightCoord;
use sw_quant::Scheme;

pub use packed::PackedReader;
pub(crate) use plan::Job;
pub use plan::{Plan, TensorPlan};

/// How one matrix is quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The quantizer.
    pub scheme: Scheme,
    /// Whether the z of least weight error is searched for this matrix and replaces the scheme's clip rule.
    #[serde(default)]
    pub search: bool,
}

/// Another rule for some matrices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Which: the tensor's name with `*` for any characters and `?` for one.
    pub pattern: String,
    /// The rule; `None` leaves the matrix as it is.
    pub rule: Option<Rule>,
}

/// How quantized matrices are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// As the values that codes stand for, in the type of the original: loads anywhere, saves nothing.
    #[default]
    Fake,
    /// `pack-quantized` of compressed-tensors, which other loaders read. A matrix with held weights stays as it is.
    Packed,
    /// `sw-quant`'s packed layout with held weights in tensors beside it; any scheme (`docs/formats.md`).
    PackedSw,
}

/// A quantized checkpoint to be written. All linear maps of the layers are quantized; embeddings, norms, routers and the
/// head are copied.
///
/// ```
/// use sw_intervene::Export;
/// let export: Export = serde_json::from_str(r#"{
///     "format": "packed-sw",
///     "rule": {"scheme": {"grouping": {"kind": "flat", "len": 128}}, "search": true},
///     "overrides": [{"pattern": "*.down_proj.weight", "rule": null}]
/// }"#)?;
/// assert_eq!(export.rule.scheme.levels, sw_quant::Levels::asymmetric(4));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Export {
    /// How matrices are quantized.
    pub rule: Rule,
    /// Other rules by name; the last pattern that matches counts.
    pub overrides: Vec<Override>,
    /// Weights that keep their values.
    pub hold: Vec<WeightCoord>,
    /// How they are stored.
    pub format: Format,
    /// Bytes of a file, at most, unless one tensor has more.
    pub shard_bytes: u64,
    /// How much an error counts in each input channel, by the names of matrices: what
    /// [`Clip::LeastError`](sw_quant::Clip::LeastError) needs, as [`calibrate`](crate::calibrate) measures it. It is not
    /// among what is serialized: with the same texts it is the same.
    #[serde(skip)]
    pub importance: BTreeMap<String, Arc<[f32]>>,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            rule: Rule::default(),
            overrides: Vec::new(),
            hold: Vec::new(),
            format: Format::default(),
            shard_bytes: 5_000_000_000,
            importance: BTreeMap::new(),
        }
    }
}

/// How far writing is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Exporting {
    /// Bytes written.
    pub done: u64,
    /// Bytes of all tensors.
    pub total: u64,
}

/// What one matrix became.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The z that was searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub z: Option<f32>,
    /// Values that were clipped; only [`Format::Fake`] counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clipped: Option<usize>,
}
