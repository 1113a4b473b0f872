#!/usr/bin/env python3
"""How transformers (5.24) lays out checkpoints that it writes as it holds them in memory, and what a false tie flag does.

    python layouts.py

Writes layouts.json: under `saved`, names and shapes of what `save_pretrained(..., save_original_format=False)` writes for
the mixtures of this folder and for a Gemma 3 with a vision tower (whose own tensors are left out); under `published`, those
of the same Gemma 3 in the layout of published checkpoints; under `untied`, logits of the Mistral of this folder, whose head
and embedding differ, under a config that ties them.
"""

import json
import logging
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig
from transformers.utils import logging as hf_logging

HERE = Path(__file__).resolve().parent
TOKENS = [1, 17, 5, 90]


def saved(model, original):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_original_format=original)
        names = {}
        for path in Path(folder).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                names |= {key: file.get_slice(key).get_shape() for key in file.keys()}
    return {key: names[key] for key in sorted(names) if "vision" not in key and "multi_modal" not in key}


def gemma3():
    text = json.loads((HERE / "gemma3_text/config.json").read_text())
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8, "patch_size": 4}
    config = Gemma3Config(text_config=Gemma3TextConfig(**text), vision_config=vision, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config)


def untied():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = json.loads((HERE / "mistral/config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
        (folder / "model.safetensors").write_bytes((HERE / "mistral/model.safetensors").read_bytes())
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            return model(torch.tensor([TOKENS])).logits[0].tolist()


if __name__ == "__main__":
    hf_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    mixtures = {name: AutoModelForCausalLM.from_pretrained(HERE / name) for name in ["mixtral", "olmoe", "qwen3_moe"]}
    vision = gemma3()
    found = {
        "saved": {name: saved(model, False) for name, model in {**mixtures, "gemma3_text": vision}.items()},
        "published": {"gemma3_text": saved(vision, True)},
        "tokens": TOKENS,
        "untied": untied(),
    }
    (HERE / "layouts.json").write_text(json.dumps(found) + "\n")
    print({kind: {name: len(all) for name, all in found[kind].items()} for kind in ["saved", "published"]})
