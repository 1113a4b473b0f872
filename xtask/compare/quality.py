"""Quality at equal size: this workspace's quantizers beside llama.cpp's, on one Llama checkpoint.

Each variant is made from MODEL by its own program: llama.cpp's types by llama_model_quantize of libllama (with and without an
importance matrix, the mean squares of channels on CALIB), ours by `sw quantize`, others by theirs (`--also`, see gptq.py). All are then evaluated alike: their values are put into
the same transformers model in float32, which runs the first windows of a text. The embedding stays as it is in all, and bits are
those of the linear maps of the layers, everything counted: scales, minima, held values and their places.

    python xtask/compare/off_grid.py MODEL OFFGRID
    sw detect MODEL --json > held.json
    python xtask/compare/quality.py OFFGRID WORK --sw target/release/sw --text TEST.parquet --calib TRAIN.txt --hold held.json

Needs torch, transformers, gguf, pyarrow, cffi, and a package with libllama: llama-cpp-py-sync (built for this record with its
version 0.11739).
"""

import argparse
import functools
import json
import math
import pathlib
import re
import subprocess

import gguf
import numpy as np
import pyarrow.parquet
import torch
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("work", type=pathlib.Path)
parser.add_argument("--sw", required=True)
parser.add_argument("--text", required=True, help="parquet with a column `text`, or plain text")
parser.add_argument("--calib", required=True, help="plain text")
parser.add_argument("--hold", default="auto")
parser.add_argument("--also", action="append", default=[], metavar="NAME=BITS=FILE", help="values of another program, as safetensors")
parser.add_argument("--windows", type=int, default=3)
parser.add_argument("--length", type=int, default=1024)
parser.add_argument("--only", default="", help="a regular expression that the names of variants match from their beginning")
args = parser.parse_args()
args.work.mkdir(parents=True, exist_ok=True)

model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(args.model)
config = model.config
heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
original = {name: value.clone() for name, value in model.state_dict().items()}
linears = {f"{name}.weight": module for name, module in model.named_modules()
           if isinstance(module, torch.nn.Linear) and name != "lm_head"}
weights = sum(original[name].numel() for name in linears)

PARTS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
         "lm_head.weight": "output.weight"}


def gguf_name(name):
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{PARTS[part]}.weight"


def turned(name, w, back=False):
    """The rows of queries and keys in GGUF's order, or back from it."""
    n = heads if ".q_proj." in name else kv_heads if ".k_proj." in name else 0
    if not n:
        return w
    half = w.shape[0] // n // 2
    split = (n, half, 2) if back else (n, 2, half)
    return w.reshape(*split, -1).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)
    for name, value in original.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(turned(name, value.numpy())))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def from_gguf(path):
    """Values of the linear maps, and their bits per weight."""
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    values, bits, kinds = {}, 0, {}
    for name in linears:
        t = tensors[gguf_name(name)]
        w = gguf.quants.dequantize(t.data, t.tensor_type).reshape(original[name].shape)
        values[name] = torch.from_numpy(np.ascontiguousarray(turned(name, w, back=True)))
        bits += 8 * t.n_bytes
        kinds[t.tensor_type.name] = kinds.get(t.tensor_type.name, 0) + 1
    return values, bits / weights, ", ".join(f"{n} {k}" for k, n in sorted(kinds.items()))


def importance():
    """The mean square of each channel that a linear map reads, on the calibration text."""
    sums, count = {}, 0
    hooks = [module.register_forward_pre_hook(lambda _, x, name=name: sums.__setitem__(
        name, sums.get(name, 0) + x[0].double().square().sum((0, 1)))) for name, module in linears.items()]
    ids = tokenizer(pathlib.Path(args.calib).read_text(), return_tensors="pt").input_ids[:, : 24 * 512]
    with torch.no_grad():
        for window in ids.split(512, dim=1):
            model(window)
            count += window.shape[1]
    for hook in hooks:
        hook.remove()
    return {name: (s / count).float().numpy() for name, s in sums.items()}


def llama_cpp(ftype, source, out, moments=None):
    ffi, lib = get_ffi(), get_lib()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{ftype}")
    params.nthread = 2
    keep = []
    if moments:
        table = ffi.new("struct llama_model_imatrix_data[]", len(moments) + 1)
        for entry, (name, values) in zip(table, moments.items()):
            text, data = ffi.new("char[]", gguf_name(name).encode()), ffi.new("float[]", values.tolist())
            entry.name, entry.data, entry.size = text, data, len(values)
            keep += [text, data]
        keep.append(table)
        params.imatrix = table
    done = lib.llama_model_quantize(str(source).encode(), str(out).encode(), ffi.new("llama_model_quantize_params *", params))
    if done != 0:
        raise SystemExit(f"llama_model_quantize: {done}")
    return from_gguf(out)


def ours(flags):
    out = args.work / "ours"
    made = subprocess.run([args.sw, "quantize", args.model, "--out", out, "--force", "--json", *flags.split()],
                          capture_output=True, text=True)
    if made.returncode not in (0, 3):
        raise SystemExit(made.stderr)
    told = json.loads(made.stdout)
    # The same rules in the format that stores codes: its bits.
    packed = subprocess.run([args.sw, "quantize", args.model, "--out", out, "--force", "--json", "--dry-run", "--format", "packed-sw",
                             *flags.replace(f"--calib {args.calib}", "").split()], capture_output=True, text=True, check=True)
    calibration = told.get("calibration")
    note = "" if not calibration else "clip kept" if calibration["kept"] else "no clip kept"
    values = load_file(out / "model.safetensors")
    return {name: values[name].float() for name in linears}, json.loads(packed.stdout)["bits_per_weight"], note


if args.text.endswith(".txt"):
    text = pathlib.Path(args.text).read_text()
else:
    text = "\n\n".join(pyarrow.parquet.read_table(args.text).column("text").to_pylist()[:2000])
ids = tokenizer(text, return_tensors="pt").input_ids
parameters = dict(model.named_parameters())
windows = ids[:, : args.windows * args.length].split(args.length, dim=1)


def log_probs(values):
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(values.get(name, original[name]))
        return [model(window).logits[0, :-1].log_softmax(-1) for window in windows]


def perplexity(logs):
    nll = [-log.gather(1, window[0, 1:, None]).mean().item() for log, window in zip(logs, windows)]
    return math.exp(sum(nll) / len(nll))


before = log_probs(original)
base = perplexity(before)
print(f"{len(windows)} windows of {args.length} tokens; original {base:.4f}", flush=True)
print("| variant | bits per weight | perplexity | above the original | KL, nats a token | |\n|---|---|---|---|---|---|", flush=True)
source = args.work / "f32.gguf"
if not source.is_file():
    write_gguf(source)
measured = functools.cache(importance)
H = f"--hold {args.hold}"
N = "--hold none"
C = f"--calib {args.calib}"
variants = [(f"llama.cpp {t}", lambda t=t, m=m: llama_cpp(t, source, args.work / f"{t}.gguf", m and measured()), m)
            for t in ["Q4_0", "Q4_1", "Q4_K_M"] for m in [False, True]]
variants.append(("llama.cpp Q8_0", lambda: llama_cpp("Q8_0", source, args.work / "Q8_0.gguf"), False))
S = "--bits 4 --levels symmetric --group 32 --scale-bits 16"
for title, flags in [
    ("ours, symmetric, 32, 16-bit scales", f"{S} {N}"),
    ("ours, symmetric, 32, 16-bit scales, held, calibrated", f"{S} {H} {C}"),
    ("ours, 128, 16-bit scales, held", f"--bits 4 --group 128 --scale-bits 16 {H}"),
    ("ours, 128, 16-bit scales, held, calibrated", f"--bits 4 --group 128 --scale-bits 16 {H} {C}"),
    ("ours, 64, 16-bit scales, held, calibrated", f"--bits 4 --group 64 --scale-bits 16 {H} {C}"),
    ("ours, 64, 16-bit scales, calibrated", f"--bits 4 --group 64 --scale-bits 16 {N} {C}"),
    ("ours, 32, 16-bit scales, held, calibrated", f"--bits 4 --group 32 --scale-bits 16 {H} {C}"),
    ("ours, 128, held", f"--bits 4 --group 128 {H}"),
    ("ours, 128, held, calibrated", f"--bits 4 --group 128 {H} {C}"),
    ("ours, 5 bits, 64, 16-bit scales, held, calibrated", f"--bits 5 --group 64 --scale-bits 16 {H} {C}"),
    ("ours, 8 bits, symmetric, 32, 16-bit scales, held", f"--bits 8 --levels symmetric --group 32 --scale-bits 16 {H}"),
]:
    variants.append((title, lambda flags=flags: ours(flags), False))
for name, bits, file in (also.split("=") for also in args.also):
    variants.append((name, lambda file=file, bits=bits: (load_file(file), float(bits), ""), False))
for title, make, weighted in variants:
    title += ", importance matrix" if weighted else ""
    if not re.match(args.only, title):
        continue
    values, bits, note = make()
    after = log_probs(values)
    kl = [(b.exp() * (b - a)).sum(-1).mean().item() for a, b in zip(after, before)]
    found = perplexity(after)
    print(f"| {title} | {bits:.3f} | {found:.4f} | {found - base:.4f} | {sum(kl) / len(kl):.5f} | {note} |", flush=True)
