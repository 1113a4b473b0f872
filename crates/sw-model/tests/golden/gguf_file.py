#!/usr/bin/env python3
"""Golden values of the real GGUF file in the shared folder, as transformers reads it with `gguf_file=`.

    python gguf_file.py SHARED_DIR

Writes gguf_file.json: ids of texts, also under other names of a pre-tokenizer and the same vocabulary; for one text the
log-probability of every token after the first, and a few logits of every row (float32).
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

HERE = Path(__file__).resolve().parent
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = [
    "Hello there",
    " Hello there",
    "  two",
    "text </s> more",
    "<s>x</s> y",
    "tab\tx",
    "\u2603 x",
    "0",
    "42",
    " 42",
    "  42",
    "12345 3.14 1,000",
    "x1y22z333",
    "a  1\n\n  2\r\n\t3",
    "don't can't I'LL WE'RE",
    "naïve café: e\u0301 vs é",
    "\u6f22\u5b57\u3068\u304b\u306a \ud55c\uae00 \u05e2\u05d1\u05e8\u05d9\u05ea \u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0391\u03b2\u03b3 \u0661\u0662\u0663",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f642",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<|endoftext|> after",
    "trailing  \n",
    "",
]
PRE = ["default", "gpt-2", "smollm", "starcoder", "command-r", "llama-bpe", "dbrx", "qwen2", "tekken", "gpt-4o"]
TEXT = "The tower is 324 metres tall, about the same height as an 81-storey building, and the tallest structure in Paris."
STEP = 4999


def main(shared):
    folder = shared / "models/smollm2-135m-instruct"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    tokens = [{"text": text, "ids": tokenizer(text).input_ids} for text in TEXTS]
    arch, parts, _ = get_gguf_tokenizer(str(folder / FILE))
    pre = {}
    for name in PRE:
        backend, _ = convert_gguf_tokenizer(arch, dict(parts, pre_tokenizer_type=name))
        pre[name] = [backend.encode(text, add_special_tokens=False).ids for text in TEXTS]
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32, attn_implementation="eager")
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits[0]
    log_probs = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    value = {
        "tokens": tokens,
        "pre": pre,
        "text": TEXT,
        "ids": ids[0].tolist(),
        "log_probs": [round(x, 5) for x in log_probs.tolist()],
        "step": STEP,
        "logits": [[round(x, 4) for x in row] for row in logits[:, ::STEP].tolist()],
    }
    out = json.dumps(value).replace('{"text"', '\n{"text"').replace(', "pre"', ',\n"pre"').replace("], [", "],\n[")
    (HERE / "gguf_file.json").write_text(out + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
