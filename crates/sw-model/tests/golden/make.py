#!/usr/bin/env python3
"""Golden values of every model family, from `transformers`, site by site.

    python make.py                 # all cases
    python make.py gemma2 mixtral  # some of them

For each case of `cases.py` this writes, into the folder of that name,

    config.json            as this version of transformers writes it
    config.published.json  the same model spelled as published checkpoints spell it
    model*.safetensors     random weights under the published tensor names
    golden.safetensors     what transformers computes in float32 with eager attention

The names of the sites are those of `sw_model::Site` in lower snake case, see README.md.
"""

import importlib
import json
import logging
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.activations import ACT2FN
from transformers.utils import logging as hf_logging

from cases import CASES

HERE = Path(__file__).resolve().parent
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LONG = [1, 17, 5, 90, 33, 2, 64, 8, 41, 77, 3, 52, 29]
SHORT = [88, 4, 4, 61]
# What the short sequence keeps: it is there for what depends on the length.
SHORT_SITES = ("rot_query", "resid_post", "logits")


def randomize(model, dtype):
    """Weights that make mistakes visible: no norm weight is 1, no bias 0, the softmax is far from uniform."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape)
            if p.ndim == 1:
                r = 0.3 * r if "bias" in name or "gemma" in model.config.model_type else 1 + 0.3 * r
            elif "embed" in name or "wte" in name or "wpe" in name:
                r = 0.7 * r
            else:
                conv1d = model.config.model_type == "gpt2"
                fan_in = p.shape[-2] if conv1d else p.shape[-1]
                r = r * (1.5 / fan_in**0.5)
            p.copy_(r.to(dtype).float())
    model.tie_weights()


class Recorder:
    """Forward hooks on one model; `run` returns the sites of one token sequence as `{name: [tokens, channels]}`."""

    def __init__(self, model):
        self.model, self.sites = model, {}
        self.wrap_attention(importlib.import_module(type(model).__module__))
        base = model.base_model
        layers = base.h if hasattr(base, "h") else base.layers
        self.input(layers[0], "embed")
        for l, layer in enumerate(layers):
            self.layer(l, layer)
        self.output(part(base, "norm", "final_layer_norm", "ln_f"), "final_norm")

    def keep(self, name, x):
        x = x.detach()
        self.sites[name] = x.reshape(-1, x.shape[-1]).clone()

    def keep_heads(self, name, x):
        """[1, heads, tokens, head_dim] -> [tokens, heads * head_dim]"""
        self.keep(name, x.transpose(1, 2).flatten(2))

    def input(self, module, name):
        module.register_forward_pre_hook(lambda m, a, k: self.keep(name, first(a, k)), with_kwargs=True)

    def output(self, module, name):
        module.register_forward_hook(lambda m, a, out: self.keep(name, out[0] if isinstance(out, tuple) else out))

    def wrap_attention(self, modeling):
        """What enters and leaves the rotation are locals of the attention module: record them in the functions that
        get them. `query`, `key` and `value` are outputs of projections; where those are fused, they are seen here."""
        attend = original(modeling, "eager_attention_forward")
        rotate = original(modeling, "apply_rotary_pos_emb")

        def keep_fused(name, x):
            if self.fused:
                self.keep_heads(f"{name}.{self.current}", x)

        def recording_attend(module, query, key, value, *args, **kwargs):
            self.keep_heads(f"rot_query.{self.current}", query)
            self.keep_heads(f"rot_key.{self.current}", key)
            keep_fused("value", value)
            if not rotate:
                keep_fused("query", query)
                keep_fused("key", key)
            return attend(module, query, key, value, *args, **kwargs)

        def recording_rotate(q, k, *args, **kwargs):
            keep_fused("query", q)
            keep_fused("key", k)
            return rotate(q, k, *args, **kwargs)

        replace(modeling, "eager_attention_forward", recording_attend, attend)
        if rotate:
            replace(modeling, "apply_rotary_pos_emb", recording_rotate, rotate)

    def layer(self, l, layer):
        """Register the hooks of one decoder layer, whatever its family calls its parts."""

        def enter(*_):
            self.current = l

        layer.register_forward_pre_hook(enter)
        self.input(layer, f"resid_pre.{l}")
        self.output(layer, f"resid_post.{l}")
        attn, mlp = part(layer, "self_attn", "attention", "attn"), layer.mlp
        self.input(attn, f"attn_in.{l}")
        self.fused = not hasattr(attn, "q_proj")
        if not self.fused:
            for name, proj in (("query", attn.q_proj), ("key", attn.k_proj), ("value", attn.v_proj)):
                self.output(proj, f"{name}.{l}")
        o_proj = part(attn, "o_proj", "dense", "c_proj")
        self.input(o_proj, f"o_in.{l}")
        self.output(o_proj, f"attn_out.{l}")
        if not getattr(layer, "use_parallel_residual", False):
            if self.model.config.model_type == "olmo2":  # no norm before the MLP, which reads the residual stream
                self.input(mlp, f"resid_mid.{l}")
            else:
                norm = part(layer, "pre_feedforward_layernorm", "post_attention_layernorm", "ln_2")
                self.input(norm, f"resid_mid.{l}")
        self.input(mlp, f"mlp_in.{l}")
        self.output(mlp, f"down_out.{l}")
        if hasattr(mlp, "experts"):
            mlp.gate.register_forward_hook(lambda m, a, out: check_no_tie(out, m.top_k))
            mlp.experts.register_forward_hook(lambda m, a, out: self.experts(l, m, a, out))
        else:
            self.input(part(mlp, "down_proj", "dense_4h_to_h", "c_proj"), f"down_in.{l}")

    def experts(self, l, module, args, out):
        """Recompute each expert from the block's own inputs and weights; the weighted sum must give its output."""
        x, index, weight = args
        act, total = ACT2FN[self.model.config.hidden_act], torch.zeros_like(x)
        for e in range(module.num_experts):
            rows, rank = torch.where(index == e)
            if len(rows) == 0:
                continue
            gate, up = (x[rows] @ module.gate_up_proj[e].T).chunk(2, dim=-1)
            down_in = act(gate) * up
            down_out = down_in @ module.down_proj[e].T
            total.index_add_(0, rows, down_out * weight[rows, rank, None])
            self.keep(f"expert_down_in.{l}.{e}", down_in)
            self.keep(f"expert_down_out.{l}.{e}", down_out)
            self.sites[f"expert_rows.{l}.{e}"] = rows.to(torch.int32)
        torch.testing.assert_close(total, out, atol=1e-5, rtol=1e-5)

    def run(self, tokens):
        self.sites = {}
        with torch.no_grad():
            self.keep("logits", self.model(input_ids=torch.tensor([tokens]), use_cache=False).logits)
        return self.sites


def part(module, *names):
    """The submodule that has one of these names; the first that exists wins."""
    return next(getattr(module, n) for n in names if hasattr(module, n))


def original(modeling, name):
    """The function of that name as transformers defines it, also when an earlier model wrapped it; None if absent."""
    function = getattr(modeling, name, None)
    return getattr(function, "wraps", function)


def replace(modeling, name, function, wraps):
    function.wraps = wraps
    setattr(modeling, name, function)


def check_no_tie(router, top_k):
    """The choice of experts must not hang on rounding."""
    p = router[0].softmax(-1).sort(-1, descending=True).values
    assert (p[:, top_k - 1] - p[:, top_k]).min() > 1e-4


def first(args, kwargs):
    """The tensor a module was called with, positional or not."""
    return args[0] if args else kwargs["hidden_states"]


def published_config(config, case):
    """`config.json` in the spelling of checkpoints written before transformers 5."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.40.0"
    config.pop("layer_types", None)
    config.pop("_sliding_window_pattern", None)
    if rope and "full_attention" in rope:  # Gemma 3
        full, sliding = rope["full_attention"], rope["sliding_attention"]
        config["rope_theta"] = full.pop("rope_theta")
        config["rope_local_base_freq"] = sliding["rope_theta"]
        config["rope_scaling"] = full if full["rope_type"] != "default" else None
        config["sliding_window_pattern"] = 2
    elif rope and config["model_type"] == "gpt_neox":
        config["rotary_emb_base"] = rope["rope_theta"]
        config["rotary_pct"] = rope["partial_rotary_factor"]
    elif rope:
        config["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        kind = rope.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else {case.get("rope_key", "rope_type"): kind, **rope}
        if config["model_type"] == "phi3" and kind == "longrope":
            config["original_max_position_embeddings"] = config["rope_scaling"].pop("original_max_position_embeddings")
    config.update(case.get("published", {}))
    return {k: v for k, v in sorted(config.items()) if v != "absent"}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def run(model, tokens):
    """Sites of `tokens` under a fresh copy of the module: a dynamic rope remembers the longest sequence it has seen."""
    fresh = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager").float().eval()
    fresh.load_state_dict(model.state_dict())
    fresh.config._experts_implementation = "eager"
    return Recorder(fresh).run(tokens)


def make(name, case):
    torch.manual_seed(zlib.crc32(name.encode()) + case.get("seed", 0))
    dtype = DTYPES[case["dtype"]]
    config = AutoConfig.for_model(case["model_type"], **case["config"])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomize(model, dtype)

    golden = {}
    for label, tokens in (("long", LONG), ("short", SHORT)):
        golden[f"{label}.tokens"] = torch.tensor(tokens, dtype=torch.int32)
        for site, value in run(model, tokens).items():
            assert value.isfinite().all(), (name, site)
            if label == "long" or site.startswith(SHORT_SITES):
                golden[f"{label}.{site}"] = value.contiguous()

    out = HERE / name
    out.mkdir(exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    with tempfile.TemporaryDirectory() as tmp:
        model.to(dtype).save_pretrained(tmp, **case.get("save", {}))
        for path in Path(tmp).iterdir():
            if path.name.startswith("model"):
                shutil.copy(path, out / path.name)
        written = json.loads((Path(tmp) / "config.json").read_text())
    if "rewrite" in case:
        path = out / "model.safetensors"
        save_file(case["rewrite"](load_file(path)), path, metadata={"format": "pt"})
    write_json(out / "config.json", written)
    write_json(out / "config.published.json", published_config(json.loads(json.dumps(written)), case))
    save_file(golden, out / "golden.safetensors")
    for spelling in ("config.json", "config.published.json"):
        check_reload(out, spelling, golden)
    size = sum(p.stat().st_size for p in out.iterdir())
    print(f"{name:20} {size / 1e3:6.1f} kB  {len(golden)} tensors")
    assert size < 300_000


def check_reload(folder, spelling, golden):
    """transformers itself reads the written files back to the same logits, under either spelling of the config."""
    with tempfile.TemporaryDirectory() as tmp:
        for path in folder.glob("model*"):
            shutil.copy(path, tmp)
        shutil.copy(folder / spelling, Path(tmp) / "config.json")
        model, info = AutoModelForCausalLM.from_pretrained(
            tmp, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        assert not info["missing_keys"] and not info["mismatched_keys"], info
        for label in ("long", "short"):
            logits = run(model, golden[f"{label}.tokens"].tolist())["logits"]
            torch.testing.assert_close(logits, golden[f"{label}.logits"], atol=1e-6, rtol=1e-6)


if __name__ == "__main__":
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        make(name, CASES[name])
