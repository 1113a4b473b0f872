#!/usr/bin/env python3
"""Golden values of the real checkpoint and the real tokenizers in the shared folder.

    python shared.py SHARED_DIR

Writes tinystories.safetensors (one prompt: tokens, the sites around the first down_proj, logits) and tokenizers.json.
"""

import json
import logging
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

HERE = Path(__file__).resolve().parent
PROMPT = "Once upon a time, there was a little girl named Lily."
FOLDERS = ["models/tinystories-656k", "tokenizers/mistral-v0.1-32k", "tokenizers/gpt-neox-20b"]
TEXTS = [
    "",
    " ",
    "Apple Inc. is a worldwide tech company.",
    " leading",
    "trailing ",
    "trailing  \n",
    "two  spaces,   three",
    "\n",
    "line\n\nline\r\n\tindented",
    "New York",
    "New",
    " York",
    "don't can't I'll",
    "12345 3.14 1,000",
    "naïve café: e\u0301 vs é",
    "漢字とかな 한글 עברית",
    "👩‍👩‍👧 🙂",
    "x<|im_end|>y <s>z</s>",
    "<|endoftext|> after",
    "a\u00a0b\u200bc\u0000d",
]


def tinystories(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPT).input_ids
    golden = {"tokens": torch.tensor(tokens, dtype=torch.int32)}
    down = model.model.layers[0].mlp.down_proj

    def record(module, args, out):
        golden["down_in.0"], golden["down_out.0"] = args[0][0].clone(), out[0].clone()

    down.register_forward_hook(record)
    with torch.no_grad():
        golden["logits"] = model(input_ids=torch.tensor([tokens])).logits[0].clone()
    save_file(golden, HERE / "tinystories.safetensors")


def ids(folder):
    """Ids under `tokenizer.json`, its template overruled by an explicit `add_bos_token`; beside them what this version
    of AutoTokenizer gives where that differs."""
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = folder / "tokenizer_config.json"
    auto = AutoTokenizer.from_pretrained(folder) if config.exists() else None
    add_bos = json.loads(config.read_text()).get("add_bos_token") if config.exists() else None
    rows = []
    for text in TEXTS:
        plain = raw.encode(text, add_special_tokens=False).ids
        special = raw.encode(text).ids if add_bos is None else [auto.bos_token_id] * add_bos + plain
        row = {"text": text, "plain": plain, "special": special}
        if auto is not None:
            other = auto(text, add_special_tokens=False).input_ids
            assert (auto(text).input_ids == other) == (special == plain), text
            if other != plain:
                row["rebuilt"] = other
        rows.append(row)
    return rows


if __name__ == "__main__":
    hf_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    shared = Path(sys.argv[1])
    tinystories(shared / FOLDERS[0])
    text = json.dumps({name: ids(shared / name) for name in FOLDERS}, ensure_ascii=True, indent=None)
    (HERE / "tokenizers.json").write_text(text.replace('{"text"', '\n{"text"') + "\n")
