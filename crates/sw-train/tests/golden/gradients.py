"""Writes gradients.safetensors: a small random Llama, one batch, its loss and all gradients, by transformers in f64.

    python gradients.py        (torch, transformers and safetensors installed)
"""
import pathlib

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(vocab_size=19, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=4, max_position_embeddings=16, rope_theta=100.0,
                     rms_norm_eps=1e-5, tie_word_embeddings=False, attn_implementation="eager")
model = LlamaForCausalLM(config).double().train()
with torch.no_grad():
    for name, p in model.named_parameters():
        p.copy_((torch.randn_like(p) * 0.3 + ("norm" in name)).float().double())
inputs = torch.randint(0, 19, (3, 7))
targets = torch.randint(0, 19, (3, 7))
logits = model(inputs).logits
loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
loss.backward()
out = {name: p.detach().float().contiguous() for name, p in model.named_parameters()}
out |= {"grad." + name: p.grad.float().contiguous() for name, p in model.named_parameters()}
out |= {"inputs": inputs, "targets": targets, "logits": logits.detach().float(), "loss": loss.detach().float()[None]}
save_file(out, pathlib.Path(__file__).with_name("gradients.safetensors"))
