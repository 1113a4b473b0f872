"""Whether checkpoints of `sw quantize --format packed` load in transformers, and give the logits of their own values.

    python xtask/compare/exports.py SW [CASE ...]

For every small model of crates/sw-model/tests/golden (and a Gemma 3 with a vision tower, in both layouts that it is
published in) and several rules, SW (the program) writes a packed checkpoint. It is loaded by AutoModel... with nothing but its
folder, and beside it the original, in which each quantized matrix is replaced by its values (code - zero) * scale as
docs/formats.md describes them, rounded to the type of the weights where transformers widens them as it loads them. The largest difference of a logit is shown relative to the largest logit. What `sw` refuses is
shown with its words. The exit code is 1 where a difference is above 1e-5, or not a number.

Needs transformers, compressed-tensors, torch and safetensors.
"""

import json
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Gemma3Config
from transformers import Gemma3ForConditionalGeneration, Gemma3TextConfig
from transformers.utils import logging as hf_logging

GOLDEN = Path(__file__).resolve().parents[2] / "crates/sw-model/tests/golden"
TOKENS = torch.tensor([[1, 17, 5, 90, 33, 2, 64, 8]])
RULES = {
    "symmetric, groups": ["--bits", "4", "--group", "4"],
    "symmetric, rows": ["--bits", "8", "--group", "row"],
    "zero-points": ["--bits", "4", "--group", "row", "--levels", "integer"],
    "as wide as a matrix": ["--bits", "4", "--group", "24", "--override", "*down_proj*=keep", "--override", "*o_proj*=keep"],
    "one matrix kept": ["--bits", "4", "--group", "4", "--override", "*layers.1.*=keep"],
    "two rules": ["--bits", "4", "--group", "4", "--override", "*layers.0.*=bits=8,group=row"],
    "experts by another": ["--bits", "4", "--group", "4", "--override", "*experts*=bits=8,group=row"],
    "experts kept": ["--bits", "4", "--group", "4", "--override", "*experts*=keep"],
}
PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def codes(words, bits, count):
    """The stream of each row: [rows, words] of 32 bits -> [rows, count] signed codes."""
    bit = (words.long() & 0xFFFFFFFF).unsqueeze(-1) >> torch.arange(32) & 1
    bit = bit.flatten(1)[:, : count * bits].reshape(len(words), count, bits)
    return (bit << torch.arange(bits)).sum(-1) - 2 ** (bits - 1)


def plain(folder, out):
    """The same checkpoint with values instead of codes."""
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config")
    packed = tensors(folder)
    all_bits = {group["weights"]["num_bits"] for group in quantization["config_groups"].values()}
    values = {}
    for name, tensor in packed.items():
        module, _, part = name.rpartition(".")
        if part not in PARTS:
            values[name] = tensor.float()
        elif part == "weight_packed":
            rows, cols = packed[f"{module}.weight_shape"].tolist()
            [bits] = [b for b in all_bits if -(-cols * b // 32) == tensor.shape[1]]
            q = codes(tensor, bits, cols)
            scale = packed[f"{module}.weight_scale"].float().reshape(-1, packed[f"{module}.weight_scale"].shape[-1])
            each = cols // scale.shape[1]
            zero = packed.get(f"{module}.weight_zero_point")
            if zero is not None:
                zero = codes(zero.T, bits, rows).T.repeat_interleave(each, 1)
            value = (q - (0 if zero is None else zero)) * scale.repeat_interleave(each, 1)
            # Where transformers widens weights as it loads them, it rounds them to the type of the scales.
            rounded = packed[f"{module}.weight_scale"].dtype if quantization.get("dequantize") else torch.float32
            values[f"{module}.weight"] = value.to(rounded).float()
    out.mkdir()
    (out / "config.json").write_text(json.dumps(config))
    save_file({name: t.contiguous() for name, t in values.items()}, out / "model.safetensors", metadata={"format": "pt"})


def logits(folder):
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    auto = AutoModelForImageTextToText if kind == "gemma3" else AutoModelForCausalLM
    # Experts that transformers widens have the type of their scales, so that a mixture runs in that type altogether.
    is_mixture = kind in ["mixtral", "olmoe", "qwen3_moe"]
    dtype, experts = (torch.bfloat16, {"experts_implementation": "eager"}) if is_mixture else (torch.float32, {})
    model = auto.from_pretrained(folder, dtype=dtype, attn_implementation="eager", **experts)
    with torch.no_grad():
        return model(TOKENS).logits[0].float()


def gemma3(out, original):
    text = json.loads((GOLDEN / "gemma3_text/config.json").read_text())
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    config = Gemma3Config(text_config=Gemma3TextConfig(**text), vision_config=vision, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(out, save_original_format=original)
    (out / "preprocessor_config.json").write_text("{}")


def check(sw, source, rule, scratch):
    out, expected = scratch / "packed", scratch / "plain"
    command = [sw, "quantize", source, "--out", out, "--format", "packed", "--hold", "none", *RULES[rule]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip().splitlines()[-1].replace(str(source), "MODEL")[:150]
    plain(out, expected)
    found, right = logits(out), logits(expected)
    for name in ["preprocessor_config.json"]:
        assert (source / name).exists() == (out / name).exists(), name
    for folder in [out, expected]:
        shutil.rmtree(folder)
    return ((found - right).abs().max() / right.abs().max()).item(), ""


def main():
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    sw, chosen = Path(sys.argv[1]).resolve(), sys.argv[2:]
    cases = {path.parent.name: path.parent for path in sorted(GOLDEN.glob("*/config.json"))}
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for name, original in [("gemma3, published", True), ("gemma3, of transformers", False)]:
            cases[name] = scratch / name
            gemma3(cases[name], original)
        for name, source in cases.items():
            if chosen and name not in chosen:
                continue
            is_mixture = "moe" in name or name == "mixtral"
            for rule in RULES:
                if rule.startswith("experts") and not is_mixture:
                    continue
                try:
                    difference, words = check(sw, source, rule, scratch)
                except Exception as error:  # what transformers says to a user
                    difference, words = float("nan"), f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                    for folder in ["packed", "plain"]:
                        shutil.rmtree(scratch / folder, ignore_errors=True)
                shown = "refused" if difference is None else f"{difference:.1e}"
                print(f"{name:24} {rule:22} {shown:10} {words}", flush=True)
                if difference is not None and worst == worst and not difference <= worst:
                    worst = difference  # not a number stays so
    print(f"largest: {worst:.1e}")
    return 0 if worst <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
