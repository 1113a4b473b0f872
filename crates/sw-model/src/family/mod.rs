//! The families of models: each a table from config keys and tensor names to a [`Spec`]. No arithmetic lives here.

mod gemma;
mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod olmo;
mod phi3;
mod pr_moe;
#[cfg(test)]
mod published;
mod qwen;

use std::path::Path;

use serde_json::Value;

use crate::{
    config::{Fields, config_error},
    error::Result,
    spec::{Activation, Experts, Spec},
};

/// A family: the `model_type` of its configs, and how such a config is read.
struct Family {
    model_type: &'static str,
    read: fn(&Fields<'_>) -> Result<Spec>,
    /// Keys of this family's configs that do not matter to a forward pass.
    inert: &'static [&'static str],
}

const FAMILIES: &[Family] = &[
    llama::FAMILY,
    mistral::MISTRAL,
    mistral::MIXTRAL,
    olmo::OLMO,
    olmo::OLMO2,
    olmo::OLMOE,
    phi3::FAMILY,
    pr_moe::FAMILY,
    qwen::QWEN2,
    qwen::QWEN3,
    qwen::QWEN3_MOE,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3,
    gemma::GEMMA3_VISION,
    gpt2::FAMILY,
    gpt_neox::FAMILY,
];

/// What only training reads of a mixture's config.
const MOE_INERT: &[&str] = &[
    "output_router_logits",
    "router_aux_loss_coef",
    "router_jitter_noise",
];

/// The `model_type`s that are implemented.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|f| f.model_type)
}

/// Reads a config: the spec, and the fields that were passed over because no model is known to read them.
///
/// `stored`: bounds on the layers, and on the experts of a layer, that a config may claim of this checkpoint. `ignore`: fields that are
/// passed over without a word.
pub(crate) fn spec(
    path: &Path,
    config: &Value,
    stored: [usize; 2],
    ignore: &[String],
) -> Result<(Spec, Vec<String>)> {
    let fields = Fields::new(path, config, stored, ignore)?;
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
    fields.expect("is_causal", true)?;
    let spec = (family.read)(&fields)?;
    Ok((spec, fields.finish_file(family.inert)?))
}

/// The activation that a key names, under the names of transformers.
fn activation(f: &Fields<'_>, key: &'static str, default: &'static str) -> Result<Activation> {
    Ok(match f.opt_str(key)?.unwrap_or(default) {
        "silu" | "swish" => Activation::Silu,
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        other => {
            let problem = format!("expected silu, gelu, gelu_new or a synonym, found {other}");
            return Err(f.error(key, problem));
        }
    })
}

/// A mixture; `count` and `per_token` are what omitted keys stand for.
fn experts(
    f: &Fields<'_>,
    count: usize,
    per_token: usize,
    normalize: bool,
    intermediate_size: usize,
) -> Result<Experts> {
    // transformers 5 writes one name for all mixtures; checkpoints of before have either.
    let given = |key| {
        let experts = f.get(key).map(|given| f.experts(key, given));
        experts.transpose()
    };
    let local = given("num_local_experts")?;
    let given = given("num_experts")?.or(local);
    let (count, key) = (given.unwrap_or(count), "num_experts_per_tok");
    let per_token = f.opt_size(key)?.unwrap_or(per_token);
    if per_token > count {
        return Err(f.error(key, format!("{per_token} of only {count} experts")));
    }
    Ok(Experts {
        count,
        per_token,
        normalize,
        intermediate_size,
        residual: false,
    })
}

/// A sliding window: null is none, and an omitted key the library's default of 4096.
fn window(f: &Fields<'_>) -> Result<Option<usize>> {
    let given = f.opt_size("sliding_window")?;
    let default = (!f.is_null("sliding_window")).then_some(4096);
    Ok(given.or(default))
}

/// Which layers have a sliding window: `layer_types`, else a rule.
fn sliding_layers(
    f: &Fields<'_>,
    layers: usize,
    rule: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let key = "layer_types";
    let Some(types) = f.opt_list(key)? else {
        return Ok((0..layers).map(rule).collect());
    };
    if types.len() != layers {
        let problem = format!("{} entries for {layers} layers", types.len());
        return Err(f.error(key, problem));
    }
    let sliding = |t: &Value| match t.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(f.wrong(key, "full_attention or sliding_attention", t)),
    };
    types.iter().map(sliding).collect()
}
