//! `pack-quantized` of compressed-tensors: per module `weight_packed`, `weight_scale`, `weight_zero_point` and
//! `weight_shape` instead of `weight`, and a `quantization_config`.
//!
//! Codes are one dense stream per row, least significant bit first, each row padded to 32 bits. A code carries
//! `2^(bits-1)` more than the signed integer the format speaks of, as sw-quant's symmetric codes do; an asymmetric code
//! and its zero-point carry the same. Scales have the type of the weight, and codes are those under the rounded scale.
//! Zero-points are packed down the columns, those of a whole tensor are one signed byte.

use half::{bf16, f16};
use safetensors::Dtype as FileDtype;
use serde_json::{Value, json};
use sw_quant::{Arithmetic, Grouping, Levels, Offsets, Quantized, Real, View, ZeroPoint};
use sw_tensor::Dtype;

use super::{
    encode::typed,
    plan::{Job, NewTensor, NewTensorKind, TensorPlan, file_dtype},
};

/// What shares a scale, in the format's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strategy {
    Tensor,
    Channel,
    Group(usize),
}

impl Strategy {
    fn of(job: &Job) -> Result<Self, String> {
        let cols = job.shape[1];
        let within_rows = |group: usize| match group {
            _ if cols.is_multiple_of(group) => Ok(Self::Group(group)), // one group is a group, too
            // Whole rows share a scale, which is then written for each of them.
            _ if group.is_multiple_of(cols) => Ok(Self::Channel),
            _ => Err(format!(
                "blocks of {group} elements that lie across the ends of rows of {cols}"
            )),
        };
        match job.rule.scheme.grouping {
            Grouping::Tensor => Ok(Self::Tensor),
            Grouping::Row => Ok(Self::Channel),
            Grouping::Flat { len, .. } => within_rows(len),
            Grouping::Tile { rows: 1, cols, .. } if cols <= job.shape[1] => within_rows(cols),
            other => Err(format!("{other:?} as a grouping")),
        }
    }

    /// Scales of a row; a tensor has one altogether.
    fn per_row(self, cols: usize) -> usize {
        match self {
            Self::Group(group) => cols / group,
            _ => 1,
        }
    }
}

/// Whether zero-points are written.
fn asymmetric(job: &Job) -> Result<bool, String> {
    match job.rule.scheme.levels {
        Levels::Symmetric { .. } => Ok(false),
        Levels::Asymmetric {
            zero: ZeroPoint::Integer,
            ..
        } => Ok(true),
        other => Err(format!(
            "levels {other:?} (symmetric ones or an integer zero-point are)"
        )),
    }
}

/// The tensors that a weight becomes.
///
/// # Errors
/// What the format has no words for.
pub(super) fn parts(name: &str, job: &Job) -> Result<Vec<NewTensor>, String> {
    let module = name
        .strip_suffix(".weight")
        .ok_or("a name that does not end in .weight")?;
    if job.rule.scheme.arithmetic != Arithmetic::F32 {
        return Err("arithmetic in fp16".into());
    }
    let ([rows, cols], bits) = (job.shape, usize::from(job.rule.scheme.levels.bits()));
    let strategy = Strategy::of(job)?;
    let groups = strategy.per_row(cols);
    let part = |end: &str, dtype: FileDtype, shape: Vec<usize>, size: usize, kind| NewTensor {
        name: format!("{module}.{end}"),
        dtype,
        len: size * shape.iter().product::<usize>(),
        shape,
        kind,
    };
    let words = |codes: usize| (codes * bits).div_ceil(32);
    let scales = match strategy {
        Strategy::Tensor => vec![1],
        _ => vec![rows, groups],
    };
    let codes = vec![rows, words(cols)];
    let mut parts = vec![
        part(
            "weight_packed",
            FileDtype::I32,
            codes,
            4,
            NewTensorKind::Codes,
        ),
        part(
            "weight_scale",
            file_dtype(job.dtype),
            scales,
            job.dtype.size(),
            NewTensorKind::Scales,
        ),
        part(
            "weight_shape",
            FileDtype::I64,
            vec![2],
            8,
            NewTensorKind::Shape,
        ),
    ];
    if asymmetric(job)? {
        let (dtype, shape, size) = match strategy {
            Strategy::Tensor => (FileDtype::I8, vec![1], 1),
            _ => (FileDtype::I32, vec![words(rows), groups], 4),
        };
        parts.push(part(
            "weight_zero_point",
            dtype,
            shape,
            size,
            NewTensorKind::Zeros,
        ));
    }
    Ok(parts)
}

/// The bytes of `weight_shape`.
pub(super) fn shape(job: &Job) -> Vec<u8> {
    job.shape
        .iter()
        .flat_map(|&n| (n as i64).to_le_bytes())
        .collect()
}

/// The bytes of a part that needs codes.
pub(super) fn bytes(job: &Job, q: &Quantized, kind: NewTensorKind) -> Vec<u8> {
    let (view, [rows, cols]) = (q.view(), job.shape);
    let strategy = Strategy::of(job).unwrap_or(Strategy::Tensor);
    let groups = strategy.per_row(cols);
    // The block of a row's group.
    let block = |row: usize, group: usize| view.blocks.of(row, group * (cols / groups));
    match kind {
        NewTensorKind::Scales => typed!(job.dtype, T => {
            let scale = |block: usize| <T as Real>::from_f32(view.scales[block]).to_le_bytes();
            match strategy {
                Strategy::Tensor => scale(0).to_vec(),
                _ => (0..rows)
                    .flat_map(|row| (0..groups).flat_map(move |group| scale(block(row, group))))
                    .collect(),
            }
        }),
        NewTensorKind::Zeros => {
            let Offsets::Integer(zeros) = view.offsets else {
                return Vec::new();
            };
            if strategy == Strategy::Tensor {
                let half = 1u8 << (view.bits - 1);
                return vec![zeros[0].wrapping_sub(half)];
            }
            // Packed down the rows, one stream per column.
            let columns: Vec<Vec<u8>> = (0..groups)
                .map(|group| packed((0..rows).map(|row| zeros[block(row, group)]), view.bits))
                .collect();
            let words = columns.first().map_or(0, |column| column.len() / 4);
            (0..words)
                .flat_map(|w| {
                    columns
                        .iter()
                        .flat_map(move |c| c[4 * w..4 * w + 4].to_vec())
                })
                .collect()
        }
        _ => codes(q, &view, [rows, cols]),
    }
}

/// The codes, each row padded to whole words.
fn codes(q: &Quantized, view: &View<'_>, [rows, cols]: [usize; 2]) -> Vec<u8> {
    if (cols * usize::from(view.bits)).is_multiple_of(32) {
        return view.codes.to_vec(); // rows end on words as they are
    }
    let mut row = vec![0; cols];
    let mut out = Vec::new();
    for r in 0..rows {
        q.codes_into(r * cols, &mut row)
            .expect("a row lies inside its matrix");
        out.extend(packed(row.iter().copied(), view.bits));
    }
    out
}

/// Codes as one stream, least significant bit first, up to a whole word.
fn packed(codes: impl Iterator<Item = u8>, bits: u8) -> Vec<u8> {
    let (mut out, mut word, mut used) = (Vec::new(), 0u64, 0);
    for code in codes {
        word |= u64::from(code) << used;
        used += u32::from(bits);
        if used >= 32 {
            out.extend((word as u32).to_le_bytes());
            (word, used) = (word >> 32, used - 32);
        }
    }
    if used > 0 {
        out.extend((word as u32).to_le_bytes());
    }
    out
}

/// Which modules share a rule, in the format's words.
type Group<'a> = (Value, Vec<&'a TensorPlan>);

fn group<'a>(groups: &mut Vec<Group<'a>>, tensor: &'a TensorPlan, job: &Job) {
    let (strategy, group_size) = match Strategy::of(job) {
        Ok(Strategy::Group(size)) => ("group", json!(size)),
        Ok(Strategy::Channel) => ("channel", Value::Null),
        _ => ("tensor", Value::Null),
    };
    let weights = json!({
        "num_bits": job.rule.scheme.levels.bits(),
        "type": "int",
        "symmetric": asymmetric(job) == Ok(false),
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": false,
    });
    match groups.iter_mut().find(|(known, _)| *known == weights) {
        Some((_, tensors)) => tensors.push(tensor),
        None => groups.push((weights, vec![tensor])),
    }
}

/// The `quantization_config` for these tensors. `ignored` are modules that are not quantized; `names` are those of a module:
/// in the checkpoint and in transformers.
///
/// # Errors
/// What transformers would read as something else: it takes one rule for all experts and one for all other modules where it
/// has to widen the weights as it loads them, as it has to with experts and with zero-points; it knows no experts with
/// zero-points, and none that stay as they are.
pub(super) fn config(
    tensors: &[TensorPlan],
    mut ignored: Vec<String>,
    names: impl Fn(&str) -> Vec<String>,
) -> Result<Value, String> {
    let (mut experts, mut dense) = (Vec::new(), Vec::new());
    let mut zero_points = false;
    for tensor in tensors {
        let Some(job) = &tensor.job else { continue };
        let groups = if job.is_expert {
            &mut experts
        } else {
            &mut dense
        };
        group(groups, tensor, job);
        zero_points |= asymmetric(job)?;
    }
    let is_mixture = !experts.is_empty();
    let has_zero_points = |(weights, _): &Group<'_>| weights["symmetric"] == false;
    if experts.iter().any(has_zero_points) {
        return Err("experts with zero-points (symmetric levels have none)".into());
    }
    if experts.len() > 1 {
        return Err(format!("{} rules for experts", experts.len()));
    }
    if tensors.iter().any(|tensor| tensor.is_kept_expert) {
        return Err("experts that stay as they are (a held weight keeps its matrix)".into());
    }
    let dequantize = is_mixture || zero_points;
    if dequantize && dense.len() > 1 {
        let beside = if is_mixture { "experts" } else { "zero-points" };
        return Err(format!(
            "{} rules outside experts beside {beside}",
            dense.len()
        ));
    }
    let linear = || json!(["Linear"]);
    let groups: Vec<(Value, Value)> = match (&experts[..], &dense[..]) {
        ([(one, _)], [(other, _)]) if one != other => vec![
            (one.clone(), json!([r"re:.*\.experts\..*"])),
            (other.clone(), linear()),
        ],
        ([(one, _)], _) | ([], [(one, _)]) => vec![(one.clone(), linear())],
        _ => {
            let targets = |tensors: &[&TensorPlan]| -> Value {
                let modules = tensors.iter().map(|t| t.name.trim_end_matches(".weight"));
                modules.flat_map(&names).collect()
            };
            let groups = dense.iter();
            groups
                .map(|(weights, all)| (weights.clone(), targets(all)))
                .collect()
        }
    };
    let groups: serde_json::Map<String, Value> = groups
        .into_iter()
        .enumerate()
        .map(|(i, (weights, targets))| {
            let group = json!({
                "targets": targets,
                "weights": weights,
                "input_activations": null,
                "output_activations": null,
            });
            (format!("group_{i}"), group)
        })
        .collect();
    ignored.sort_unstable();
    ignored.dedup();
    let mut config = json!({
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignored,
        "kv_cache_scheme": null,
        "global_compression_ratio": null,
    });
    if dequantize {
        config["dequantize"] = true.into();
    }
    Ok(config)
}
