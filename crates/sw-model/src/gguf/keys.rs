//! Metadata keys: one is used; or it changes the arithmetic of some model and is an error unless its value is neutral; or it is
//! passed over and named.

use sw_tensor::GgufValue;

use super::meta::Meta;
use crate::error::Result;

/// Keys that say nothing about the arithmetic or about how a text is cut: what they begin with, and what they end with.
const INERT: [&[&str]; 2] = [
    &[
        "general.",
        "split.",
        "quantize.",
        "imatrix.",
        "tokenizer.chat_template",
        "tokenizer.huggingface.",
    ],
    &[
        ".vocab_size",
        ".tensor_data_layout",
        ".pooling_type",
        ".rope.scaling.finetuned",
        "_token_id",
        "_token_ids",
        "tokenizer.ggml.token_type_count",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.add_space_prefix",
    ],
];

/// Neutral is zero (false, an empty list), or one as well.
const OFF: &[f64] = &[0.0];
const ONE: &[f64] = &[0.0, 1.0];

/// Keys of an architecture that change the arithmetic where nothing here reads them, with their neutral values; a name that ends with a dot stands for all that begin with it. They are the keys of the `gguf`
/// package (0.19) for language models. One that an architecture reads is not judged for that architecture.
const ARITHMETIC: &[(&str, &[f64])] = &[
    ("activation_sparsity_scale", OFF),
    ("altup.", OFF),
    ("attention.causal", &[1.0]),
    ("attention.clamp_kqv", OFF),
    ("attention.decay_lora_rank", OFF),
    ("attention.gate_lora_rank", OFF),
    ("attention.group_norm_epsilon", OFF),
    ("attention.group_norm_groups", OFF),
    ("attention.iclr_lora_rank", OFF),
    ("attention.indexer.", OFF),
    ("attention.key_length_mla", OFF),
    ("attention.key_length_swa", OFF),
    ("attention.kv_lora_rank", OFF),
    ("attention.max_alibi_bias", OFF),
    ("attention.output_scale", ONE),
    ("attention.q_lora_rank", OFF),
    ("attention.relative_buckets_count", OFF),
    ("attention.scale", OFF),
    ("attention.shared_kv_layers", OFF),
    ("attention.sliding_window", OFF),
    ("attention.sliding_window_pattern", OFF),
    ("attention.temperature_length", OFF),
    ("attention.temperature_scale", OFF),
    ("attention.value_length_mla", OFF),
    ("attention.value_length_swa", OFF),
    ("attention.value_residual_mix_lora_rank", OFF),
    ("attn_logit_softcapping", OFF),
    ("decoder_block_count", OFF),
    ("embedding_length_out", OFF),
    ("embedding_length_per_layer_input", OFF),
    ("embedding_scale", ONE),
    ("expert_chunk_feed_forward_length", OFF),
    ("expert_count", OFF),
    ("expert_gating_func", ONE),
    ("expert_group_count", ONE),
    ("expert_group_scale", ONE),
    ("expert_group_used_count", ONE),
    ("expert_shared_count", OFF),
    ("expert_shared_feed_forward_length", OFF),
    ("expert_used_count", OFF),
    ("expert_weights_norm", ONE),
    ("expert_weights_scale", ONE),
    ("experts_per_group", OFF),
    ("final_logit_softcapping", OFF),
    ("full_attention_interval", OFF),
    ("interleave_moe_layer_step", ONE),
    ("kda.", OFF),
    ("leading_dense_block_count", OFF),
    ("logit_scale", ONE),
    ("moe_every_n_layers", ONE),
    ("moe_latent_size", OFF),
    ("n_deepstack_layers", OFF),
    ("nextn_predict_layers", OFF),
    ("rescale_every_n_layers", OFF),
    ("residual_scale", ONE),
    ("rope.dimension_count_swa", OFF),
    ("rope.dimension_sections", OFF),
    ("rope.freq_base_swa", OFF),
    ("rope.scale_linear", ONE),
    ("rope.scaling.alpha", ONE),
    ("rope.scaling.attn_factor", ONE),
    ("rope.scaling.factor", ONE),
    ("rope.scaling.type", OFF),
    ("rope.scaling.yarn_attn_factor", ONE),
    ("rope.scaling.yarn_ext_factor", &[0.0, -1.0, 1.0]),
    ("rope.scaling.yarn_log_multiplier", OFF),
    ("router_logit_softcapping", OFF),
    ("shortconv.", OFF),
    ("ssm.", OFF),
    ("swiglu_clamp_exp", OFF),
    ("swiglu_clamp_shexp", OFF),
    ("swin_norm", OFF),
    ("time_decay_extra_dim", OFF),
    ("time_mix_extra_dim", OFF),
    ("token_shift_count", OFF),
    ("use_parallel_residual", OFF),
    ("wkv.", OFF),
];

fn is_neutral(value: &GgufValue, neutral: &[f64]) -> bool {
    let fits = |x: f64| neutral.contains(&x);
    match value {
        GgufValue::Bool(b) => fits(f64::from(u8::from(*b))),
        GgufValue::Ints(list) => list.iter().all(|&n| fits(n as f64)),
        GgufValue::Floats(list) => list.iter().all(|&x| fits(x.into())),
        GgufValue::Texts(list) => list.is_empty(),
        // A kind of scaling that needs a factor, or tensors of factors.
        GgufValue::Text(text) => ["", "none", "linear", "longrope"].contains(&&**text),
        number => number.as_f64().is_some_and(fits),
    }
}

fn shown(value: &GgufValue) -> String {
    match (value, value.as_f64()) {
        (GgufValue::Bool(b), _) => format!("value {b}"),
        (_, Some(x)) => format!("value {x}"),
        (other, None) => other.kind().to_owned(),
    }
}

/// Once the config has been made: the first key that it does not hold although it changes the arithmetic is an error, unless
/// `ignore` names it.
pub(super) fn refuse(meta: Meta<'_>, ignore: &[String]) -> Result<()> {
    for (key, value) in meta.unread() {
        let Some(name) = key.strip_prefix(&meta.key("")) else {
            continue;
        };
        let is =
            |listed: &str| listed == name || (listed.ends_with('.') && name.starts_with(listed));
        let Some((_, neutral)) = ARITHMETIC.iter().find(|(listed, _)| is(listed)) else {
            continue;
        };
        if is_neutral(value, neutral) {
            meta.note(key);
        } else if !ignore.contains(key) {
            let value = shown(value);
            let problem = format!(
                "not implemented, and it changes the arithmetic ({value}); to open it all the same, pass --ignore-config-field {key}"
            );
            return Err(meta.error(key, problem));
        }
    }
    Ok(())
}

/// Once config and tokenizer have been made: the keys that nothing here reads and nothing here knows, but for those that
/// `ignore` names.
pub(super) fn unknown(meta: Meta<'_>, ignore: &[String]) -> Vec<String> {
    let [begins, ends] = INERT;
    let is_unknown = |key: &&String| {
        !ignore.contains(key)
            && !begins.iter().any(|begin| key.starts_with(begin))
            && !ends.iter().any(|end| key.ends_with(end))
    };
    let all = meta.unread().map(|(key, _)| key);
    all.filter(is_unknown).cloned().collect()
}
