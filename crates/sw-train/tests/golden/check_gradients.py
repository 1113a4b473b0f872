"""Gradients of a real model against PyTorch's, matrix by matrix.

    python check_gradients.py MODEL [--data FILE] [--tokens 64] [--texts 2]

MODEL is a checkpoint in Hugging Face layout. Needs torch, transformers and safetensors. Runs the example `gradients` of
sw-train and prints, per kind of matrix, the largest relative difference in the Frobenius norm; it fails beyond 1e-3.
"""

import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 1e-3
TEXT = (
    "The harbour was quiet that morning. Two fishermen mended their nets beside the old wall, and a dog slept between "
    "them in the sun. Nobody had seen the letter yet, but everybody in the town already spoke of what it said. "
) * 40


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", help="a plain text whose first tokens are taken")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a text")
    parser.add_argument("--texts", type=int, default=2)
    parser.add_argument("--profile", default="release", help="of the build of the example")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    text = pathlib.Path(args.data).read_text() if args.data else TEXT
    ids = tokenizer(text, add_special_tokens=False).input_ids
    n = args.tokens
    texts = [ids[i * n : (i + 1) * n] for i in range(args.texts)]
    if len(texts[-1]) < n:
        sys.exit(f"the text has {len(ids)} tokens, expected {n * args.texts}")

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
    batch = torch.tensor(texts)
    loss = model(batch, labels=batch).loss
    loss.backward()

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "texts.json").write_text(json.dumps(texts))
        out = folder / "gradients.safetensors"
        command = ["cargo", "run", "--profile", args.profile, "-q", "-p", "sw-train", "--example", "gradients", "--"]
        run = subprocess.run(
            [*command, args.model, str(folder / "texts.json"), str(out)],
            cwd=pathlib.Path(__file__).parent,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(f"loss: {float(run.stdout):.6f}, PyTorch's {loss.item():.6f}")
        worst = collections.defaultdict(float)
        count = 0
        with safe_open(out, "pt") as ours:
            names = set(ours.keys())
            for name, weight in model.named_parameters():
                if name not in names:
                    sys.exit(f"{name}: no gradient was written")
                found = ours.get_tensor(name).reshape(weight.shape).double()
                difference = (found - weight.grad.double()).norm() / weight.grad.double().norm()
                kind = re.sub(r"\d+", "*", name)
                worst[kind] = max(worst[kind], difference.item())
                count += 1
    for kind, difference in worst.items():
        print(f"{difference:9.2e}  {kind}")
    highest = max(worst.values())
    print(f"{count} matrices and norms, the worst {highest:.2e} from PyTorch's gradient in relative Frobenius norm")
    if highest > LIMIT:
        sys.exit(f"more than {LIMIT}")


if __name__ == "__main__":
    main()
