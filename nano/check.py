#!/usr/bin/env python3
"""Loads the checkpoint in transformers, compares its logits with ours, and lets it write.

    python nano/check.py [MODEL]        from the root of the repository; needs torch and transformers
"""

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "Anna Baker has the red ball. Tom Cook is in the old barn. Anna Baker likes the red ball.",
    "Question: What do people use to cut the bread?\nAnswer: the knife",
    "To boil the water, Emma Stone uses the kettle. The key is kept in the office.",
]
BOUND = 1e-3


def ours(model, text):
    command = "cargo run -q -p sw-model --example logits --".split()
    lines = subprocess.run([*command, model, text], check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in lines.splitlines()]
    return [token for token, _ in rows], torch.tensor([logits for _, logits in rows])


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "nano/model"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    worst = 0.0
    for text in TEXTS:
        tokens, logits = ours(path, text)
        theirs = tokenizer(text).input_ids
        assert tokens == theirs, f"tokens differ: {tokens} and {theirs}"
        with torch.no_grad():
            difference = (model(torch.tensor([theirs])).logits[0] - logits).abs().max().item()
        worst = max(worst, difference)
        print(f"{len(tokens)} tokens, largest difference of logits {difference:.2e}")
    prompt = tokenizer("Anna Baker has the", return_tensors="pt")
    written = model.generate(input_ids=prompt.input_ids, max_new_tokens=40, do_sample=False)
    print(tokenizer.decode(written[0], skip_special_tokens=True))
    if worst > BOUND:
        sys.exit(f"logits differ by {worst:.2e}, more than {BOUND}")


main()
