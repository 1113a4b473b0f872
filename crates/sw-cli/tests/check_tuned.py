"""Whether what `sw tune` wrote opens in transformers and peft as the model that sw saw: its held-out loss is computed again.

    sw tune MODEL --method lora --data stories.txt --out OUT
    sw tune MODEL --method lora --data stories.txt --out unused --dump dump.json
    python3 check_tuned.py MODEL OUT dump.json

OUT is an adapter, a soft prompt, or a checkpoint whose weights are rounded to the types of the original: then --loss is the held-out loss that
`sw tune OUT ...` tells before its first step. With --logits FILE, which the example `logits` of sw-train writes of an adapter or a
soft prompt, the logits of its texts are compared, too. Needs torch, transformers and peft. Exit status 1 where the losses differ
by more than 1e-5, or logits by more than 1e-3.
"""

import argparse
import json
import os
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("dump", help="what sw tune --dump wrote for the same arguments")
    parser.add_argument("--logits", help="what the example logits of sw-train wrote")
    parser.add_argument("--loss", type=float, help="instead of the last one of OUT/tune.json")
    args = parser.parse_args()
    if os.path.exists(os.path.join(args.out, "adapter_config.json")):
        from peft import PeftModel

        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, args.out)
    else:
        model = AutoModelForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    model.eval()
    texts = json.load(open(args.dump))["held_out"]
    saw = load_file(args.logits) if args.logits else {}
    total, count, apart = 0.0, 0, []
    with torch.no_grad():
        for i, text in enumerate(texts):
            ids = torch.tensor([text])
            # Of a soft prompt, the rows of its virtual tokens come first.
            logits = model(ids).logits[0, -len(text) :]
            if str(i) in saw:
                apart.append((logits - saw[str(i)]).abs().max().item())
            total += torch.nn.functional.cross_entropy(logits[:-1].double(), ids[0, 1:], reduction="sum").item()
            count += len(text) - 1
    here, there = total / count, args.loss
    if there is None:
        there = json.load(open(os.path.join(args.out, "tune.json")))["log"][-1]["held_out"]
    found = {"transformers": here, "sw": there, "difference": here - there}
    if saw:
        found["largest_difference_of_logits"] = max(apart)
    print(json.dumps(found))
    sys.exit(abs(here - there) > 1e-5 or max(apart, default=0.0) > 1e-3)


if __name__ == "__main__":
    main()
