"""Whether what `sw tune` wrote opens in transformers and peft as the model that sw saw: its held-out loss is computed again.

    sw tune MODEL --method lora --data stories.txt --out OUT
    sw tune MODEL --method lora --data stories.txt --out unused --dump dump.json
    python3 check_tuned.py MODEL OUT dump.json

OUT is an adapter or a checkpoint. Needs torch, transformers and peft. Exit status 1 where the losses differ by more than 1e-4.
"""

import argparse
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("dump", help="what sw tune --dump wrote for the same arguments")
    args = parser.parse_args()
    if os.path.exists(os.path.join(args.out, "adapter_config.json")):
        from peft import PeftModel

        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, args.out)
    else:
        model = AutoModelForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    model.eval()
    record = json.load(open(os.path.join(args.out, "tune.json")))
    texts = json.load(open(args.dump))["held_out"]
    total, count = 0.0, 0
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([text])
            logits = model(ids).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += len(text) - 1
    here, there = total / count, record["log"][-1]["held_out"]
    print(json.dumps({"transformers": here, "sw": there, "difference": here - there}))
    sys.exit(abs(here - there) > 1e-4)


if __name__ == "__main__":
    main()
