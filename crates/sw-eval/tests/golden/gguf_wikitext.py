#!/usr/bin/env python3
"""WikiText-2 with the real GGUF file in the shared folder, as transformers reads it with `gguf_file=` (float32).

    python gguf_wikitext.py SHARED_DIR

Writes gguf_wikitext.json. `tokens`: for every 100 of the first 2,000 rows of the test split, how many tokens they have and a digest
of their ids. `perplexity`: of the first window of 2,048 tokens, of the first two, of the first three. The text is that of the GPTQ
protocol: all rows, joined by empty lines, in windows that do not overlap, each scored from its second token on.
"""

import json
import math
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WINDOW = 2048


def digest(ids):
    """FNV-1a of 64 bits over whole ids."""
    value = 0xCBF29CE484222325
    for token in ids:
        value = (value ^ token) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def main(shared):
    folder = shared / "models/smollm2-135m-instruct"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    parquet = next((shared / "data/Salesforce/wikitext/wikitext-2-raw-v1").glob("test-*.parquet"))
    rows = pq.read_table(parquet, columns=["text"])["text"].to_pylist()
    tokens = []
    for at in range(0, 2000, 100):
        ids = [token for row in rows[at : at + 100] for token in tokenizer(row).input_ids]
        tokens.append([len(ids), digest(ids)])

    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32).eval()
    ids = tokenizer("\n\n".join(rows), add_special_tokens=False, return_tensors="pt").input_ids[0]
    loss, count, perplexity = 0.0, 0, []
    for at in range(0, 3 * WINDOW, WINDOW):
        window = ids[None, at : at + WINDOW]
        with torch.no_grad():
            log_probs = model(input_ids=window).logits[0, :-1].log_softmax(-1)
        loss -= log_probs.gather(1, window[0, 1:, None]).double().sum().item()
        count += WINDOW - 1
        perplexity.append(round(math.exp(loss / count), 5))
        print(perplexity, flush=True)
    value = json.dumps({"tokens": tokens, "perplexity": perplexity}).replace("], [", "],\n[")
    (HERE / "gguf_wikitext.json").write_text(value + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
