//! Llama 1, 2 and 3, and the table that its many relatives start from.

use super::{Family, activation};
use crate::{
    config::Fields,
    edit::Linear,
    error::Result,
    rope::{RopeKeys, RopeSpec},
    spec::{Attention, LayerNorms, LayerSpec, Names, Norm, QkvLayout, Slot, Spec},
};

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    read,
    inert: &["max_sequence_length"],
};

fn read(f: &Fields<'_>) -> Result<Spec> {
    f.expect("rope_interleaved", false)?;
    let attention_bias = f.bool_or("attention_bias", false)?;
    let defaults = LlamaLike {
        bias: [attention_bias; 4],
        mlp_bias: f.bool_or("mlp_bias", false)?,
        ..LlamaLike::new("llama")
    };
    defaults.read(f)
}

/// The Llama block (pre-norm RMSNorm, rotary grouped attention, SwiGLU), with what its relatives change: mostly the
/// values that omitted config keys stand for.
pub(super) struct LlamaLike {
    pub(super) family: &'static str,
    /// Whether the q, k, v and o projections have biases.
    pub(super) bias: [bool; 4],
    pub(super) mlp_bias: bool,
    /// `None`: required.
    pub(super) vocab_size: Option<usize>,
    pub(super) max_positions: usize,
    pub(super) eps: f32,
    pub(super) rope: RopeKeys,
    /// `None`: required.
    pub(super) heads: Option<usize>,
    /// `None`: as many as query heads.
    pub(super) kv_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    pub(super) activation: (&'static str, &'static str),
    pub(super) tied: bool,
}

impl LlamaLike {
    pub(super) fn new(family: &'static str) -> Self {
        Self {
            family,
            bias: [false; 4],
            mlp_bias: false,
            vocab_size: None,
            max_positions: 2048,
            eps: 1e-6,
            rope: RopeKeys::theta(10_000.0),
            heads: None,
            kv_heads: None,
            head_dim: None,
            activation: ("hidden_act", "silu"),
            tied: false,
        }
    }

    pub(super) fn read(&self, f: &Fields<'_>) -> Result<Spec> {
        let attention = self.attention(f)?;
        let max_positions = self.max_positions(f)?;
        let rope = RopeSpec::read(f, attention.head_dim, max_positions, &self.rope)?;
        self.read_with(f, attention, vec![rope])
    }

    pub(super) fn max_positions(&self, f: &Fields<'_>) -> Result<usize> {
        let given = f.opt_size("max_position_embeddings")?;
        Ok(given.unwrap_or(self.max_positions))
    }

    pub(super) fn read_with(
        &self,
        f: &Fields<'_>,
        attention: Attention,
        ropes: Vec<RopeSpec>,
    ) -> Result<Spec> {
        let (key, default) = self.activation;
        let slot = |module, bias| Slot { module, bias };
        let layers = f.layers("num_hidden_layers")?;
        Ok(Spec {
            family: self.family,
            vocab_size: f.size_or("vocab_size", self.vocab_size)?,
            hidden_size: f.size("hidden_size")?,
            intermediate_size: f.size("intermediate_size")?,
            max_positions: self.max_positions(f)?,
            layers: vec![LayerSpec::new(attention.head_dim); layers],
            norm: Norm::Rms {
                eps: f.f32_or("rms_norm_eps", self.eps)?,
                offset: 0.0,
            },
            attention,
            ropes,
            activation: activation(f, key, default)?,
            gated: true,
            parallel: false,
            embed_scale: None,
            logit_softcap: None,
            tied: f.bool_or("tie_word_embeddings", self.tied)?,
            names: Names {
                base: "model.",
                embed: "embed_tokens.weight",
                positions: None,
                head: "lm_head.weight",
                final_norm: "norm",
                layer: "layers.{}.",
                norms: LayerNorms {
                    attn_in: Some("input_layernorm"),
                    mlp_in: Some("post_attention_layernorm"),
                    ..LayerNorms::default()
                },
                linears: vec![
                    (Linear::Q, slot("self_attn.q_proj", self.bias[0])),
                    (Linear::K, slot("self_attn.k_proj", self.bias[1])),
                    (Linear::V, slot("self_attn.v_proj", self.bias[2])),
                    (Linear::O, slot("self_attn.o_proj", self.bias[3])),
                    (Linear::Gate, slot("mlp.gate_proj", self.mlp_bias)),
                    (Linear::Up, slot("mlp.up_proj", self.mlp_bias)),
                    (Linear::Down, slot("mlp.down_proj", self.mlp_bias)),
                ],
                router: "mlp.gate.weight",
                mix: "mlp.coefficient",
                expert_linears: vec![
                    (Linear::Gate, slot("mlp.experts.{}.gate_proj", false)),
                    (Linear::Up, slot("mlp.experts.{}.up_proj", false)),
                    (Linear::Down, slot("mlp.experts.{}.down_proj", false)),
                ],
                qkv_layout: QkvLayout::Blocks,
                transposed: false,
                modules: ["model.", "lm_head.weight"],
            },
        })
    }

    /// Reads heads, groups and head width, and checks that they fit together.
    pub(super) fn attention(&self, f: &Fields<'_>) -> Result<Attention> {
        let heads = f.size_or("num_attention_heads", self.heads)?;
        let kv_heads = match f.opt_size("num_key_value_heads")? {
            Some(given) => given,
            None if f.is_null("num_key_value_heads") => heads,
            None => self.kv_heads.unwrap_or(heads),
        };
        let default = self.head_dim.filter(|_| !f.is_null("head_dim"));
        let head_dim = f.opt_size("head_dim")?.or(default);
        attention(
            f,
            ["num_attention_heads", "hidden_size"],
            heads,
            kv_heads,
            head_dim,
        )
    }
}

/// Heads that fit together. `keys`: of the number of heads and of the hidden size.
pub(super) fn attention(
    f: &Fields<'_>,
    keys: [&'static str; 2],
    heads: usize,
    kv_heads: usize,
    head_dim: Option<usize>,
) -> Result<Attention> {
    let hidden_size = f.size(keys[1])?;
    let head_dim = match head_dim {
        Some(dim) => dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let problem = format!(
                "{heads} heads do not divide {} = {hidden_size}, and head_dim is not given",
                keys[1]
            );
            return Err(f.error(keys[0], problem));
        }
    };
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("{kv_heads} key-value heads do not divide {heads} attention heads");
        return Err(f.error("num_key_value_heads", problem));
    }
    if heads
        .checked_mul(head_dim)
        .is_none_or(|width| width > u32::MAX as usize)
    {
        let problem =
            format!("{heads} heads of {head_dim} channels are more than any tensor holds");
        return Err(f.error(keys[0], problem));
    }
    Ok(Attention {
        heads,
        kv_heads,
        head_dim,
        qk_norm: None,
        clip: None,
        softcap: None,
    })
}
