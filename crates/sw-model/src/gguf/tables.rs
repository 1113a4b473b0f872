//! Which architecture of GGUF is which family, and which tensor is which: tables.

/// What has to be undone to a tensor to have it as the checkpoint had it that the file was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    /// Nothing.
    Same,
    /// In each query head, channels that are rotated together were made neighbours.
    Queries,
    /// In each key head.
    Keys,
    /// Query, key and value of each head were gathered to all queries, all keys, all values.
    Heads,
    /// Rows and columns were exchanged.
    Transposed,
    /// One was added.
    PlusOne,
    /// All experts are one tensor; `{}` in the name stands for the expert.
    Experts,
}
use Undo::*;

/// A module of GGUF, the module of the checkpoint, and what is undone.
pub(super) type Module = (&'static str, &'static str, Undo);

/// One architecture.
pub(super) struct Arch {
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// `model_type` of the config.
    pub(super) model_type: &'static str,
    /// The class of transformers, for configs that are written.
    pub(super) class: &'static str,
    /// Modules outside layers.
    pub(super) whole: &'static [Module],
    /// What every tensor of a layer begins with, and `{}` for its number.
    pub(super) layer: &'static str,
    /// Modules of a layer (`blk.N.`).
    pub(super) modules: &'static [&'static [Module]],
}

const WHOLE: &[Module] = &[
    ("token_embd", "model.embed_tokens", Same),
    ("output_norm", "model.norm", Same),
    ("output", "lm_head", Same),
];
const NORMS: &[Module] = &[
    ("attn_norm", "input_layernorm", Same),
    ("ffn_norm", "post_attention_layernorm", Same),
];
const HEAD_NORMS: &[Module] = &[
    ("attn_q_norm", "self_attn.q_norm", Same),
    ("attn_k_norm", "self_attn.k_norm", Same),
];
const TURNED: &[Module] = &[
    ("attn_q", "self_attn.q_proj", Queries),
    ("attn_k", "self_attn.k_proj", Keys),
];
const STRAIGHT: &[Module] = &[
    ("attn_q", "self_attn.q_proj", Same),
    ("attn_k", "self_attn.k_proj", Same),
];
const BLOCK: &[Module] = &[
    ("attn_v", "self_attn.v_proj", Same),
    ("attn_output", "self_attn.o_proj", Same),
    ("ffn_gate", "mlp.gate_proj", Same),
    ("ffn_up", "mlp.up_proj", Same),
    ("ffn_down", "mlp.down_proj", Same),
];
const GEMMA_WHOLE: &[Module] = &[
    ("token_embd", "model.embed_tokens", Same),
    ("output_norm", "model.norm", PlusOne),
    ("output", "lm_head", Same),
];
const GEMMA_NORMS: &[Module] = &[
    ("attn_norm", "input_layernorm", PlusOne),
    ("ffn_norm", "post_attention_layernorm", PlusOne),
];
const GEMMA_2_NORMS: &[Module] = &[
    ("attn_norm", "input_layernorm", PlusOne),
    ("post_attention_norm", "post_attention_layernorm", PlusOne),
    ("ffn_norm", "pre_feedforward_layernorm", PlusOne),
    ("post_ffw_norm", "post_feedforward_layernorm", PlusOne),
];
const GEMMA_3_NORMS: &[Module] = &[
    ("attn_q_norm", "self_attn.q_norm", PlusOne),
    ("attn_k_norm", "self_attn.k_norm", PlusOne),
];

const LAYER: &str = "model.layers.{}.";

/// The architectures that are read. `mixtral` is `llama` with experts.
pub(super) const ARCHS: &[Arch] = &[
    Arch {
        name: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        whole: WHOLE,
        layer: LAYER,
        modules: &[NORMS, TURNED, BLOCK],
    },
    Arch {
        name: "mistral",
        model_type: "mistral",
        class: "MistralForCausalLM",
        whole: WHOLE,
        layer: LAYER,
        modules: &[NORMS, TURNED, BLOCK],
    },
    Arch {
        name: "mixtral",
        model_type: "mixtral",
        class: "MixtralForCausalLM",
        whole: WHOLE,
        layer: LAYER,
        modules: &[
            NORMS,
            TURNED,
            BLOCK,
            &[
                ("ffn_gate_inp", "block_sparse_moe.gate", Same),
                ("ffn_gate_exps", "block_sparse_moe.experts.{}.w1", Experts),
                ("ffn_up_exps", "block_sparse_moe.experts.{}.w3", Experts),
                ("ffn_down_exps", "block_sparse_moe.experts.{}.w2", Experts),
            ],
        ],
    },
    Arch {
        name: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        whole: WHOLE,
        layer: LAYER,
        modules: &[NORMS, STRAIGHT, BLOCK],
    },
    Arch {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        whole: WHOLE,
        layer: LAYER,
        modules: &[NORMS, HEAD_NORMS, STRAIGHT, BLOCK],
    },
    Arch {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        whole: WHOLE,
        layer: LAYER,
        modules: &[
            NORMS,
            HEAD_NORMS,
            STRAIGHT,
            BLOCK,
            &[
                ("ffn_gate_inp", "mlp.gate", Same),
                ("ffn_gate_exps", "mlp.experts.{}.gate_proj", Experts),
                ("ffn_up_exps", "mlp.experts.{}.up_proj", Experts),
                ("ffn_down_exps", "mlp.experts.{}.down_proj", Experts),
            ],
        ],
    },
    Arch {
        name: "gemma",
        model_type: "gemma",
        class: "GemmaForCausalLM",
        whole: GEMMA_WHOLE,
        layer: LAYER,
        modules: &[GEMMA_NORMS, STRAIGHT, BLOCK],
    },
    Arch {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        whole: GEMMA_WHOLE,
        layer: LAYER,
        modules: &[GEMMA_2_NORMS, STRAIGHT, BLOCK],
    },
    Arch {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        whole: GEMMA_WHOLE,
        layer: LAYER,
        modules: &[GEMMA_2_NORMS, GEMMA_3_NORMS, STRAIGHT, BLOCK],
    },
    Arch {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        whole: WHOLE,
        layer: LAYER,
        modules: &[
            NORMS,
            &[
                ("attn_qkv", "self_attn.qkv_proj", Same),
                ("attn_output", "self_attn.o_proj", Same),
                ("ffn_up", "mlp.gate_up_proj", Same),
                ("ffn_down", "mlp.down_proj", Same),
            ],
        ],
    },
    Arch {
        name: "olmo2",
        model_type: "olmo2",
        class: "Olmo2ForCausalLM",
        whole: WHOLE,
        layer: LAYER,
        modules: &[
            HEAD_NORMS,
            STRAIGHT,
            BLOCK,
            &[
                ("post_attention_norm", "post_attention_layernorm", Same),
                ("post_ffw_norm", "post_feedforward_layernorm", Same),
            ],
        ],
    },
    Arch {
        name: "gpt2",
        model_type: "gpt2",
        class: "GPT2LMHeadModel",
        whole: &[
            ("token_embd", "transformer.wte", Same),
            ("position_embd", "transformer.wpe", Same),
            ("output_norm", "transformer.ln_f", Same),
            ("output", "lm_head", Same),
        ],
        layer: "transformer.h.{}.",
        modules: &[&[
            ("attn_norm", "ln_1", Same),
            ("ffn_norm", "ln_2", Same),
            ("attn_qkv", "attn.c_attn", Transposed),
            ("attn_output", "attn.c_proj", Transposed),
            ("ffn_up", "mlp.c_fc", Transposed),
            ("ffn_down", "mlp.c_proj", Transposed),
        ]],
    },
    Arch {
        name: "gptneox",
        model_type: "gpt_neox",
        class: "GPTNeoXForCausalLM",
        whole: &[
            ("token_embd", "gpt_neox.embed_in", Same),
            ("output_norm", "gpt_neox.final_layer_norm", Same),
            ("output", "embed_out", Same),
        ],
        layer: "gpt_neox.layers.{}.",
        modules: &[&[
            ("attn_norm", "input_layernorm", Same),
            ("ffn_norm", "post_attention_layernorm", Same),
            ("attn_qkv", "attention.query_key_value", Heads),
            ("attn_output", "attention.dense", Same),
            ("ffn_up", "mlp.dense_h_to_4h", Same),
            ("ffn_down", "mlp.dense_4h_to_h", Same),
        ]],
    },
];

impl Arch {
    /// The module of that name in GGUF, in a layer or outside.
    pub(super) fn module(&self, name: &str, in_layer: bool) -> Option<Module> {
        let mut all = self.modules.iter().copied().flatten();
        let find = |&&(gguf, _, _): &&Module| gguf == name;
        match in_layer {
            true => all.find(find).copied(),
            false => self.whole.iter().find(find).copied(),
        }
    }
}
