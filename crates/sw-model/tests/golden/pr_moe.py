#!/usr/bin/env python3
"""Golden values of the family `pr_moe`, which transformers does not have: a Llama of transformers, two of whose three MLPs have experts
beside them by the few lines below.

    python pr_moe.py

Writes the folder `pr_moe` as make.py writes the others.
"""

import logging

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as hf_logging

from cases import llama
from make import HERE, LONG, SHORT, SHORT_SITES, Recorder, randomize, write_json

COUNTS = [3, 1, 4]


class Mlp(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def inner(self, x):
        return nn.functional.silu(self.gate_proj(x)) * self.up_proj(x)

    def forward(self, x):
        return self.down_proj(self.inner(x))


class Residual(Mlp):
    """An MLP, and the most probable of some experts with its probability; a two-way softmax mixes both."""

    def __init__(self, hidden, inner, count):
        super().__init__(hidden, inner)
        self.gate = nn.Linear(hidden, count, bias=False)
        self.coefficient = nn.Linear(hidden, 2)
        # Under another name than `experts`, by which make.py knows the modules of transformers.
        self.many = nn.ModuleList(Mlp(hidden, inner) for _ in range(count))

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        p = self.gate(rows).softmax(-1)
        ordered = p.sort(-1, descending=True).values
        assert (ordered[:, 0] - ordered[:, 1]).min() > 1e-4, "the choice must not hang on rounding"
        share, chosen = p.max(-1)
        out = torch.zeros_like(rows)
        self.seen = {}
        for e, expert in enumerate(self.many):
            taken = torch.where(chosen == e)[0]
            if len(taken) > 0:
                down_in = expert.inner(rows[taken])
                down_out = expert.down_proj(down_in)
                out[taken] = share[taken, None] * down_out
                self.seen[e] = (taken, down_in, down_out)
        self.beside = super().forward(rows)
        mix = self.coefficient(rows).softmax(-1)
        return (mix[:, :1] * out + mix[:, 1:] * self.beside).reshape(x.shape)


class WithExperts(Recorder):
    def layer(self, l, layer):
        super().layer(l, layer)
        if isinstance(layer.mlp, Residual):
            layer.mlp.register_forward_hook(lambda m, a, out: self.beside(l, m))

    def beside(self, l, mlp):
        self.keep(f"down_out.{l}", mlp.beside)
        for e, (rows, down_in, down_out) in mlp.seen.items():
            self.keep(f"expert_down_in.{l}.{e}", down_in)
            self.keep(f"expert_down_out.{l}.{e}", down_out)
            self.sites[f"expert_rows.{l}.{e}"] = rows.to(torch.int32)


def main():
    torch.manual_seed(5)
    config = LlamaConfig(**{**llama(), "num_hidden_layers": len(COUNTS)}, attn_implementation="eager")
    model = LlamaForCausalLM(config).float().eval()
    for layer, count in zip(model.model.layers, COUNTS, strict=True):
        if count > 1:
            layer.mlp = Residual(config.hidden_size, config.intermediate_size, count)
    randomize(model, torch.bfloat16)
    recorder, golden = WithExperts(model), {}
    for label, tokens in (("long", LONG), ("short", SHORT)):
        golden[f"{label}.tokens"] = torch.tensor(tokens, dtype=torch.int32)
        for site, value in recorder.run(tokens).items():
            if label == "long" or site.startswith(SHORT_SITES):
                golden[f"{label}.{site}"] = value.contiguous()
    out = HERE / "pr_moe"
    out.mkdir(exist_ok=True)
    weights = {name.replace(".many.", ".experts."): w.to(torch.bfloat16) for name, w in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    save_file(golden, out / "golden.safetensors")
    written = dict(
        architectures=["PrMoeForCausalLM"],
        model_type="pr_moe",
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=len(COUNTS),
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_parameters["rope_theta"],
        hidden_act="silu",
        tie_word_embeddings=False,
        num_experts=COUNTS,
        num_experts_per_tok=1,
        norm_topk_prob=False,
        use_residual=True,
        torch_dtype="bfloat16",
    )
    # The family is this workspace's own, and has one spelling.
    for name in ("config.json", "config.published.json"):
        write_json(out / name, written)


if __name__ == "__main__":
    hf_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    main()
