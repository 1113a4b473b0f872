//! PR-MoE (DeepSpeed-MoE, arXiv 2201.05596, section 4.1): the Llama block with experts whose number differs from layer to
//! layer, and with the MLP kept beside them.
//!
//! The name, its config keys and tensor names are this workspace's own: no released checkpoint and no version of transformers
//! has them. What sw-train writes and what Mixtral's layout cannot say has this `model_type`.

use serde_json::Value;

use super::{Family, MOE_INERT, llama::LlamaLike};
use crate::{
    config::Fields,
    error::Result,
    spec::{Experts, Spec},
};

pub(super) const FAMILY: Family = Family {
    model_type: "pr_moe",
    read,
    inert: MOE_INERT,
};

fn read(f: &Fields<'_>) -> Result<Spec> {
    let attention_bias = f.bool_or("attention_bias", false)?;
    let defaults = LlamaLike {
        bias: [attention_bias; 4],
        mlp_bias: f.bool_or("mlp_bias", false)?,
        ..LlamaLike::new("pr_moe")
    };
    let mut spec = defaults.read(f)?;
    let counts = counts(f, spec.layers.len())?;
    let per_token = f.opt_size("num_experts_per_tok")?.unwrap_or(1);
    let normalize = f.bool_or("norm_topk_prob", per_token > 1)?;
    let residual = f.bool_or("use_residual", false)?;
    let inner = f.opt_size("moe_intermediate_size")?;
    let intermediate_size = inner.unwrap_or(spec.intermediate_size);
    for (l, (layer, count)) in spec.layers.iter_mut().zip(counts).enumerate() {
        // One expert needs no router: that is a dense layer.
        if count == 1 {
            continue;
        }
        if per_token > count {
            let problem = format!("{per_token} of only {count} experts in layer {l}");
            return Err(f.error("num_experts_per_tok", problem));
        }
        layer.experts = Some(Experts {
            count,
            per_token,
            normalize,
            intermediate_size,
            residual,
        });
    }
    Ok(spec)
}

/// Experts of each layer: a list, or one number for all.
fn counts(f: &Fields<'_>, layers: usize) -> Result<Vec<usize>> {
    let key = "num_experts";
    let list = match f.get(key) {
        Some(Value::Array(list)) => list,
        Some(one) => return Ok(vec![f.experts(key, one)?; layers]),
        None => {
            return Err(f.error(
                key,
                "required, but missing: experts of each layer, in a list",
            ));
        }
    };
    if list.len() != layers {
        let problem = format!("{} entries for {layers} layers", list.len());
        return Err(f.error(key, problem));
    }
    list.iter().map(|count| f.experts(key, count)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use crate::{edit::Linear, error::Result, family::spec, spec::Spec};

    fn read(num_experts: serde_json::Value) -> Result<Spec> {
        let config = json!({
            "model_type": "pr_moe", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 4,
            "num_attention_heads": 2, "vocab_size": 9, "num_experts": num_experts, "use_residual": true,
        });
        spec(Path::new("config.json"), &config, [99, 99], &[]).map(|found| found.0)
    }

    #[test]
    fn every_layer_has_the_experts_that_the_list_says() {
        let spec = read(json!([4, 1, 2, 8])).unwrap();
        let counts = spec.layers.iter().map(|l| l.experts.map(|e| e.count));
        assert_eq!(
            counts.collect::<Vec<_>>(),
            [Some(4), None, Some(2), Some(8)]
        );
        for l in 0..4 {
            let down = spec
                .linears()
                .filter(|at| at.layer == l && at.linear == Linear::Down);
            let experts: Vec<_> = down.map(|at| at.expert).collect();
            let count = spec.layers[l].experts.map_or(0, |e| e.count);
            let expected: Vec<_> = std::iter::once(None).chain((0..count).map(Some)).collect();
            assert_eq!(experts, expected, "layer {l}");
        }
        assert_eq!(spec.linears().count(), 4 * 7 + 3 * (4 + 2 + 8));
    }

    #[test]
    fn a_list_that_does_not_fit_is_an_error_that_names_the_field() {
        for (list, words) in [
            (json!([4, 4, 8]), "3 entries for 4 layers"),
            (json!([4, 4, 8, 8, 8]), "5 entries for 4 layers"),
            (json!([4, 0, 8, 8]), "at least 1"),
            (json!([4, "x", 8, 8]), "at least 1"),
            (json!([4, 4, 8, 1000]), "holds only 99"),
            (json!(null), "missing"),
        ] {
            let error = read(list).unwrap_err().to_string();
            assert!(
                error.contains("num_experts") && error.contains(words),
                "{error}"
            );
        }
    }
}
