//! The families of models: each a table from config keys and tensor names to a [`Spec`]. No arithmetic lives here.

mod llama;
mod mistral;

use std::path::Path;

use serde_json::Value;

use crate::{
    config::{Fields, config_error},
    error::Result,
    spec::Spec,
};

/// A family: the `model_type` of its configs, and how such a config is read.
struct Family {
    model_type: &'static str,
    read: fn(&Fields<'_>) -> Result<Spec>,
    /// Keys of this family's configs that do not matter to a forward pass.
    inert: &'static [&'static str],
}

const FAMILIES: &[Family] = &[llama::FAMILY, mistral::FAMILY];

/// The `model_type`s that are implemented.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|f| f.model_type)
}

/// Reads a config. `tensors`: how many tensors the checkpoint holds, a bound on the layers a config may claim.
pub(crate) fn spec(path: &Path, config: &Value, tensors: usize, ignore: &[String]) -> Result<Spec> {
    let fields = Fields::new(path, config, tensors)?;
    let known = || names().collect::<Vec<_>>().join(", ");
    let model_type = fields.opt_str("model_type")?.ok_or_else(|| {
        config_error(
            path,
            "model_type",
            format!("required, but missing; one of {}", known()),
        )
    })?;
    let family = FAMILIES
        .iter()
        .find(|f| f.model_type == model_type)
        .ok_or_else(|| {
            config_error(
                path,
                "model_type",
                format!(
                    "{model_type} is not implemented; expected one of {}",
                    known()
                ),
            )
        })?;
    let spec = (family.read)(&fields)?;
    fields.finish(family.inert, ignore)?;
    Ok(spec)
}
