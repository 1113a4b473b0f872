"""A copy of a Llama checkpoint that computes the same function with weights off any quantization grid.

A checkpoint that was made from a file of 4-bit blocks looks lossless at 4 bits: its weights lie on that grid. Here norm gains
move into the columns of the matrices that read them; row k of up_proj is multiplied by s_k and column k of down_proj divided
by it; v_proj and o_proj likewise, a value channel and the columns of all query heads that read it. Each s is drawn from
[0.7, 1.4] with a seed. Weights are stored in float32, so that the function stays the same to rounding.

    python xtask/compare/off_grid.py MODEL OUT [--seed 0]

Needs numpy, torch and safetensors.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

config = json.loads((args.model / "config.json").read_text())
if config["model_type"] != "llama":
    raise SystemExit(f"model_type {config['model_type']}: expected llama")
heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
head_dim = config.get("head_dim") or config["hidden_size"] // heads

w = {}
for path in sorted(args.model.glob("*.safetensors")):
    with safe_open(path, framework="pt") as file:
        w.update({name: file.get_tensor(name).float() for name in file.keys()})

random = np.random.default_rng(args.seed)


def scales(n):
    return torch.from_numpy(random.uniform(0.7, 1.4, n).astype(np.float32))


for layer in range(config["num_hidden_layers"]):
    at = f"model.layers.{layer}."
    reads = {
        "input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
    }
    for norm, maps in reads.items():
        gain = w[f"{at}{norm}.weight"]
        for name in maps:
            w[f"{at}{name}.weight"] *= gain
        w[f"{at}{norm}.weight"] = torch.ones_like(gain)
    s = scales(config["intermediate_size"])
    w[f"{at}mlp.up_proj.weight"] *= s[:, None]
    w[f"{at}mlp.down_proj.weight"] /= s
    s = scales(kv_heads * head_dim)
    w[f"{at}self_attn.v_proj.weight"] *= s[:, None]
    read = s.reshape(kv_heads, 1, head_dim).expand(kv_heads, heads // kv_heads, head_dim)
    w[f"{at}self_attn.o_proj.weight"] /= read.reshape(-1)

args.out.mkdir(parents=True)
for path in args.model.iterdir():
    if path.suffix in {".json", ".jinja", ".txt", ".model"} and not path.name.endswith(".index.json"):
        shutil.copy(path, args.out)
config["torch_dtype"] = "float32"
config.pop("dtype", None)
(args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
save_file({name: t.contiguous() for name, t in w.items()}, args.out / "model.safetensors", metadata={"format": "pt"})
