#!/usr/bin/env python3
"""Loads a checkpoint in transformers, compares its logits with ours, and lets it write.

    python nano/check.py [MODEL [TEXT ...]]        from the root of the repository; needs torch and transformers

MODEL may be a mixture that `cargo xtask reproduce-pr-moe --out OUT` kept in OUT/mixtures. transformers does not know the family
`pr_moe`; there, a Llama of transformers has its MLPs replaced by the few lines below.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

TEXTS = [
    "Anna Baker has the red ball. Tom Cook is in the old barn. Anna Baker likes the red ball.",
    "Question: What do people use to cut the bread?\nAnswer: the knife",
    "To boil the water, Emma Stone uses the kettle. The key is kept in the office.",
]
BOUND = 1e-3


def ours(model, text):
    command = "cargo run -q -p sw-model --example logits --".split()
    lines = subprocess.run([*command, model, text], check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in lines.splitlines()]
    return [token for token, _ in rows], torch.tensor([logits for _, logits in rows])


class Mlp(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Mixture(Mlp):
    """Every token through its most probable experts, and where there is a mix, through the MLP too."""

    def __init__(self, hidden, inner, count, per_token, normalize, residual):
        super().__init__(hidden, inner)
        self.per_token, self.normalize, self.residual = per_token, normalize, residual
        self.gate = nn.Linear(hidden, count, bias=False)
        self.experts = nn.ModuleList(Mlp(hidden, inner) for _ in range(count))
        self.coefficient = nn.Linear(hidden, 2) if residual else None
        if not residual:
            del self.gate_proj, self.up_proj, self.down_proj

    def forward(self, x):
        shares, chosen = self.gate(x).softmax(-1).topk(self.per_token, -1)
        if self.normalize:
            shares = shares / shares.sum(-1, keepdim=True)
        each = torch.stack([expert(x) for expert in self.experts], -2)
        index = chosen.unsqueeze(-1).expand(*chosen.shape, x.shape[-1])
        out = (shares.unsqueeze(-1) * each.gather(-2, index)).sum(-2)
        if not self.residual:
            return out
        mix = self.coefficient(x).softmax(-1)
        return mix[..., :1] * out + mix[..., 1:] * super().forward(x)


def pr_moe(path, config):
    names = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
             "vocab_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"]
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    model = LlamaForCausalLM(LlamaConfig(rope_parameters=rope, **{name: config[name] for name in names}))
    for layer, count in zip(model.model.layers, config["num_experts"], strict=True):
        if count > 1:
            layer.mlp = Mixture(config["hidden_size"], config["intermediate_size"], count, config["num_experts_per_tok"],
                                config["norm_topk_prob"], config["use_residual"])
    weights = load_file(Path(path) / "model.safetensors")
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys, missing
    assert set(missing.missing_keys) <= {"lm_head.weight"}, missing
    model.tie_weights()
    return model


def open_model(path):
    config = json.loads((Path(path) / "config.json").read_text())
    if config["model_type"] == "pr_moe":
        return pr_moe(path, config)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "nano/model"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = open_model(path).eval()
    worst = 0.0
    for text in sys.argv[2:] or TEXTS:
        tokens, logits = ours(path, text)
        theirs = tokenizer(text).input_ids
        assert tokens == theirs, f"tokens differ: {tokens} and {theirs}"
        with torch.no_grad():
            difference = (model(torch.tensor([theirs])).logits[0] - logits).abs().max().item()
        worst = max(worst, difference)
        print(f"{len(tokens)} tokens, largest difference of logits {difference:.2e}")
    prompt = tokenizer("Anna Baker has the", return_tensors="pt")
    written = model.generate(input_ids=prompt.input_ids, max_new_tokens=40, do_sample=False)
    print(tokenizer.decode(written[0], skip_special_tokens=True))
    if worst > BOUND:
        sys.exit(f"logits differ by {worst:.2e}, more than {BOUND}")


main()
