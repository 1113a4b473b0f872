"""GPTQ or AWQ as llm-compressor gives them on a CPU: the values that its 4-bit codes stand for, as safetensors.

    python xtask/compare/gptq.py MODEL OUT.safetensors --calib TEXT.txt --group 32 --method gptq

Symmetric 4 bits with one scale of 16 bits for each group, all linear maps of the layers. quality.py measures what it writes (`--also`).
Needs torch, transformers, datasets and llmcompressor (made with its version 0.14.0.1).
"""

import argparse
import pathlib

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--calib", required=True, help="plain text")
parser.add_argument("--group", type=int, default=32)
parser.add_argument("--windows", type=int, default=24)
parser.add_argument("--method", choices=["gptq", "awq"], default="gptq")
args = parser.parse_args()

model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(args.model)
ids = tokenizer(pathlib.Path(args.calib).read_text(), return_tensors="pt").input_ids[0, : args.windows * 512]
windows = [w.tolist() for w in ids.split(512) if len(w) == 512]
data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * 512] * len(windows)})
weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=args.group)
groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
if args.method == "gptq":
    recipe = [GPTQModifier(config_groups=groups, ignore=["lm_head"])]
else:
    from llmcompressor.modifiers.transform.awq import AWQModifier

    torch.Tensor.pin_memory = lambda self, *_: self  # it pins memory for a GPU that need not be there
    from llmcompressor.modifiers.quantization import QuantizationModifier

    recipe = [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=["lm_head"])]
oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=512, num_calibration_samples=len(windows))
values = {}
for name, module in model.named_modules():
    if isinstance(module, torch.nn.Linear) and name != "lm_head":
        w, scale = module.weight.detach().float(), module.weight_scale.detach().half().float()
        step = scale.repeat_interleave(args.group, dim=1)
        values[f"{name}.weight"] = ((w / step).round().clamp(-8, 7) * step).contiguous()
for name, value in model.named_parameters():
    if "norm" in name:  # AWQ moves scales into the norms before a map
        values[name] = value.detach().float().contiguous()
save_file(values, args.out)
