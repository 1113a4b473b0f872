"""The models whose golden values are committed: small, and odd wherever a mistake could hide behind a round number."""

import torch

# Grouped heads; 4 * 10 != 24, so that hidden size and attention width differ where the family allows it.
BASE = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=99,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)


def llama(rope=None, **more):
    return dict(BASE, head_dim=10, rope_parameters=rope or {"rope_type": "default", "rope_theta": 7000.0}, **more)


def small_llama(rope, **more):
    return llama(rope) | dict(hidden_size=16, intermediate_size=12, num_attention_heads=2, num_key_value_heads=1,
                              head_dim=8) | more


def f32_norms(tensors):
    """Norm weights in float32 beside 16-bit matrices, as some published shards have them."""
    return {k: v.float() if "norm" in k else v for k, v in tensors.items()}


def gpt2_original(tensors):
    """openai-community/gpt2: no `transformer.` prefix, and the causal mask saved as a tensor."""
    out = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    for l in range(2):
        out[f"h.{l}.attn.bias"] = torch.ones(64, 64, dtype=torch.bool).tril().view(1, 1, 64, 64).float()
    return out


def pythia_buffers(tensors):
    """EleutherAI/pythia: `embed_out`, and buffers that carry no weights."""
    out = {k.replace("lm_head", "embed_out"): v for k, v in tensors.items()}
    for l in range(2):
        out[f"gpt_neox.layers.{l}.attention.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
        out[f"gpt_neox.layers.{l}.attention.masked_bias"] = torch.tensor(-1e9).half()
        out[f"gpt_neox.layers.{l}.attention.rotary_emb.inv_freq"] = torch.ones(2)
    return out


NEOX = dict(
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    vocab_size=99,
    max_position_embeddings=64,
    bos_token_id=0,
    eos_token_id=0,
)

CASES = {
    "llama": dict(
        model_type="llama",
        dtype="bfloat16",
        config=llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-3),
    ),
    "llama-llama3": dict(
        model_type="llama",
        dtype="bfloat16",
        config=small_llama({"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
                            "high_freq_factor": 4.0, "original_max_position_embeddings": 48}),
    ),
    "llama-linear": dict(
        model_type="llama",
        dtype="float16",
        config=small_llama({"rope_type": "linear", "rope_theta": 7000.0, "factor": 3.0}),
        rope_key="type",
    ),
    "llama-dynamic": dict(
        model_type="llama",
        dtype="bfloat16",
        config=small_llama({"rope_type": "dynamic", "rope_theta": 7000.0, "factor": 3.0}, max_position_embeddings=8),
        rope_key="type",
    ),
    "llama-yarn": dict(
        model_type="llama",
        dtype="bfloat16",
        config=small_llama({"rope_type": "yarn", "rope_theta": 7000.0, "factor": 4.0, "beta_fast": 16.0,
                            "beta_slow": 2.0, "original_max_position_embeddings": 512},
                           max_position_embeddings=2048, head_dim=12),
    ),
    "mistral": dict(
        model_type="mistral",
        dtype="bfloat16",
        config=llama(sliding_window=5),
        rewrite=f32_norms,
    ),
    "olmo": dict(
        model_type="olmo",
        dtype="bfloat16",
        config=dict(BASE, clip_qkv=0.8, rope_parameters={"rope_type": "default", "rope_theta": 7000.0}),
    ),
    "olmo2": dict(
        model_type="olmo2",
        dtype="bfloat16",
        config=dict(BASE, rope_parameters={"rope_type": "default", "rope_theta": 7000.0}),
    ),
    "phi3": dict(
        model_type="phi3",
        dtype="bfloat16",
        config=dict(BASE, hidden_size=32, sliding_window=5,
                    rope_parameters={"rope_type": "default", "rope_theta": 7000.0, "partial_rotary_factor": 0.75}),
    ),
    "phi3-longrope": dict(
        model_type="phi3",
        dtype="bfloat16",
        config=dict(BASE, hidden_size=32, original_max_position_embeddings=8,
                    rope_parameters={"rope_type": "longrope", "rope_theta": 7000.0,
                                     "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.2, 1.9, 4.5, 9.0]}),
        rope_key="type",
    ),
    "qwen2": dict(
        model_type="qwen2",
        dtype="bfloat16",
        config=dict(BASE, use_sliding_window=True, sliding_window=5, max_window_layers=1, tie_word_embeddings=True,
                    rope_parameters={"rope_type": "default", "rope_theta": 7000.0}),
    ),
    "qwen3": dict(
        model_type="qwen3",
        dtype="bfloat16",
        config=llama(),
    ),
    "gemma": dict(
        model_type="gemma",
        dtype="bfloat16",
        config=llama() | dict(num_key_value_heads=1),
        published={"hidden_act": "gelu"},  # as released; it always meant the tanh approximation
    ),
    "gemma2": dict(
        model_type="gemma2",
        dtype="bfloat16",
        config=llama(sliding_window=5, query_pre_attn_scalar=17, attn_logit_softcapping=2.0,
                     final_logit_softcapping=5.0),
    ),
    "gemma3_text": dict(
        model_type="gemma3_text",
        dtype="bfloat16",
        config=llama({"full_attention": {"rope_type": "linear", "rope_theta": 9000.0, "factor": 3.0},
                      "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}},
                     sliding_window=5, query_pre_attn_scalar=17,
                     layer_types=["sliding_attention", "full_attention"]),
    ),
    "gpt2": dict(
        model_type="gpt2",
        dtype="float32",
        config=dict(vocab_size=99, n_positions=64, n_embd=24, n_layer=2, n_head=3, bos_token_id=1, eos_token_id=2),
        rewrite=gpt2_original,
    ),
    "gpt2-scaled": dict(
        model_type="gpt2",
        dtype="bfloat16",
        config=dict(vocab_size=99, n_positions=64, n_embd=24, n_layer=2, n_head=4, n_inner=44, bos_token_id=1,
                    eos_token_id=2, scale_attn_by_inverse_layer_idx=True),
    ),
    "gpt_neox": dict(
        model_type="gpt_neox",
        dtype="float16",
        config=dict(NEOX, rope_parameters={"rope_type": "default", "rope_theta": 7000.0,
                                           "partial_rotary_factor": 0.5}),
        rewrite=pythia_buffers,
    ),
    "gpt_neox-sequential": dict(
        model_type="gpt_neox",
        dtype="bfloat16",
        config=dict(NEOX, use_parallel_residual=False, hidden_act="gelu_fast",
                    rope_parameters={"rope_type": "default", "rope_theta": 7000.0, "partial_rotary_factor": 1.0}),
    ),
    "mixtral": dict(
        model_type="mixtral",
        dtype="bfloat16",
        config=llama(num_local_experts=5, num_experts_per_tok=2),
        save=dict(max_shard_size="30KB"),
    ),
    "olmoe": dict(
        model_type="olmoe",
        dtype="bfloat16",
        config=dict(BASE, num_experts=6, num_experts_per_tok=3, clip_qkv=0.8, norm_topk_prob=False,
                    rope_parameters={"rope_type": "default", "rope_theta": 7000.0}),
    ),
    "qwen3_moe": dict(
        model_type="qwen3_moe",
        dtype="bfloat16",
        config=llama(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=14, decoder_sparse_step=2,
                     norm_topk_prob=True),
        published={"num_experts": 6, "num_local_experts": "absent"},
        seed=1,
    ),
}
