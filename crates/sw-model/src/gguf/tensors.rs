//! The tensors of a GGUF file under the names of the checkpoint that it was made from.

use std::collections::BTreeSet;

use serde_json::Value;
use sw_tensor::{RowOrder, TensorView};

use super::{
    meta::Meta,
    tables::{Arch, Undo},
};
use crate::{
    error::Result,
    spec::{Norm, Spec},
};

/// Tensors that are not weights: factors of the frequencies, which the config says.
const IN_CONFIG: &[&str] = &[
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// Every tensor of the file by its name in the checkpoint.
pub(super) fn views(
    meta: Meta<'_>,
    arch: &Arch,
    config: &Value,
) -> Result<Vec<(String, TensorView)>> {
    let count = |key: &str| config[key].as_u64().unwrap_or(0) as usize;
    let (heads, experts) = (
        count("num_attention_heads"),
        count("num_local_experts").max(count("num_experts")),
    );
    let kv_heads = count("num_key_value_heads");
    let mut views = Vec::with_capacity(meta.gguf.tensors().len());
    for (stored, tensor) in meta.gguf.tensors() {
        if IN_CONFIG.contains(&stored.as_str()) {
            continue;
        }
        let no_place = || {
            let problem = format!(
                "a tensor that models of the family {} have no place for",
                arch.model_type
            );
            meta.error(stored, problem)
        };
        let (layer, rest) = match stored.strip_prefix("blk.").and_then(|r| r.split_once('.')) {
            Some((layer, rest)) => (Some(layer), rest),
            None => (None, stored.as_str()),
        };
        let (name, end) = rest.rsplit_once('.').ok_or_else(no_place)?;
        let (_, module, undo) = arch.module(name, layer.is_some()).ok_or_else(no_place)?;
        let prefix = layer.map_or(String::new(), |layer| arch.layer.replacen("{}", layer, 1));
        let mut view = TensorView::default();
        view.tensor.clone_from(stored);
        let rows = tensor.shape.first().copied().unwrap_or(0);
        let ordered = |order: fn(usize, usize) -> Option<RowOrder>, heads: usize| {
            order(rows, heads).map(Some).ok_or_else(|| {
                let problem = format!("{rows} rows for {heads} heads do not fit together");
                meta.error(stored, problem)
            })
        };
        // A type that is not read has no data that its sizes were compared with, and is refused when it is asked for.
        match undo {
            Undo::Same => {}
            _ if tensor.coding.is_err() => {}
            Undo::Queries => view.rows = ordered(turned, heads)?,
            Undo::Keys => view.rows = ordered(turned, kv_heads)?,
            Undo::Heads => view.rows = ordered(gathered, heads)?,
            Undo::Transposed => view.transposed = tensor.shape.len() == 2,
            Undo::PlusOne => view.plus = -1.0,
            Undo::Experts => {
                if rows != experts {
                    let problem = format!("expected {experts} experts, found {rows}");
                    return Err(meta.error(stored, problem));
                }
                for expert in 0..experts {
                    let module = module.replacen("{}", &expert.to_string(), 1);
                    let mut view = view.clone();
                    view.part = Some([expert, experts]);
                    views.push((format!("{prefix}{module}.{end}"), view));
                }
                continue;
            }
        }
        views.push((format!("{prefix}{module}.{end}"), view));
    }
    Ok(views)
}

/// Channel `i` of the first half of a head is rotated with channel `i` of the second; they are stored as neighbours.
fn turned(rows: usize, heads: usize) -> Option<RowOrder> {
    let half = rows.checked_div(heads)? / 2;
    (heads * half * 2 == rows).then(|| RowOrder::new(2, half, 1))?
}

/// Query, key and value of a head are stored with those of the other heads.
fn gathered(rows: usize, heads: usize) -> Option<RowOrder> {
    let width = rows.checked_div(heads)? / 3;
    (heads * width * 3 == rows).then(|| RowOrder::new(heads, 3, width))?
}

/// The first tensor that the model does not read; one that is there changes the arithmetic elsewhere.
pub(super) fn unread<'a>(spec: &Spec, views: &'a [(String, TensorView)]) -> Option<&'a str> {
    let names = &spec.names;
    let mut left: BTreeSet<&str> = views.iter().map(|(name, _)| &name[..]).collect();
    let mut read = |name: String| left.remove(&name[..]);
    let mut norm = |name: String| {
        if let Norm::Rms { .. } | Norm::Layer { affine: true, .. } = spec.norm {
            read(format!("{name}.weight"));
        }
        if let Norm::Layer { affine: true, .. } = spec.norm {
            read(format!("{name}.bias"));
        }
    };
    norm(format!("{}{}", names.base, names.final_norm));
    for layer in 0..spec.layers.len() {
        let prefix = spec.layer_prefix(layer);
        let norms = names.norms.iter().flatten();
        norms.for_each(|name| norm(format!("{prefix}{name}")));
    }
    for layer in 0..spec.layers.len() {
        read(format!("{}{}", spec.layer_prefix(layer), names.router));
    }
    for at in spec.linears() {
        let (Some(name), Some(slot)) = (spec.module_name(at), spec.slot(at)) else {
            continue;
        };
        read(format!("{name}.weight"));
        if slot.bias {
            read(format!("{name}.bias"));
        }
    }
    for name in [Some(names.embed), names.positions].into_iter().flatten() {
        read(format!("{}{name}", names.base));
    }
    left.remove(names.head);
    let mut all = views.iter();
    all.find(|(name, _)| left.contains(&name[..]))
        .map(|(_, view)| view.tensor.as_str())
}
