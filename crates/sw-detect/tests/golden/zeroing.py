#!/usr/bin/env python3
"""Zeroes weights of a small checkpoint with transformers and measures what that does to the loss.

An experiment independent of the Rust code, whose results `tests/it/tinystories.rs` compares with:
    python zeroing.py MODEL_DIR > tinystories.json
Needs torch and transformers. Float32, one thread, the checkpoint's own tokenizer.
"""

import contextlib
import json
import math
import re
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "Apple Inc. is a worldwide tech company."
# The texts of `PROOF_TEXTS` in src/prompt.rs; the test checks that the tokens agree.
TEXTS = [
    "Tom had a red ball. He took the ball to the park and played with his friend Sara until it was dark.",
    "It was raining all day. Anna sat by the window and read a book about a ship that was lost at sea.",
    "The old man has a garden behind his house. Every morning he gives the flowers water and talks to the birds.",
    "A little dog ran down the road. It was looking for its mother, and it was very hungry.",
    "They wanted to make a cake, but there was no sugar in the kitchen. So they went to the shop and bought some.",
    "The train leaves at nine. If you are late, you must wait two hours for the next one.",
    "Ben was afraid of the big tree, because at night its branches made a strange sound in the wind.",
    "In the summer the children swim in the lake, and in the winter they walk across the ice.",
]
NEAREST = 8  # random controls are replaced by all of the nearest in magnitude


def main(path):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = [tokenizer(t).input_ids for t in TEXTS]
    downs = [layer.mlp.down_proj for layer in model.model.layers]
    weights = [d.weight.detach() for d in downs]

    @torch.no_grad()
    def nll():
        out = []
        for ids in texts:
            logp = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
            out += (-logp[range(len(ids) - 1), ids[1:]]).tolist()
        return torch.tensor(out, dtype=torch.float64)

    @contextlib.contextmanager
    def edited(edits):
        """Edits: (layer, row, col, factor); a row or col of None is a whole column or row."""
        saved = [w.clone() for w in weights]
        for layer, row, col, factor in edits:
            r = slice(None) if row is None else row
            c = slice(None) if col is None else col
            weights[layer][r, c] *= factor
        yield
        for w, s in zip(weights, saved):
            w.copy_(s)

    base = nll()

    def effect(edits, before=None):
        with edited(edits):
            d = nll() - (base if before is None else before)
        half = 1.959963984540054 * d.std().item() / math.sqrt(len(d))
        return {"nll": d.mean().item(), "low": d.mean().item() - half, "high": d.mean().item() + half}

    # The search, by hand: the largest input and output of each down_proj, zero the largest contribution, again.
    @torch.no_grad()
    def spikes():
        seen, hooks = {}, []
        for l, d in enumerate(downs):
            hooks.append(d.register_forward_hook(lambda m, i, o, l=l: seen.update({l: (i[0][0], o[0])})))
        model(torch.tensor([tokenizer(PROMPT).input_ids]))
        for h in hooks:
            h.remove()
        out = []
        for l, (x, y) in sorted(seen.items()):
            token, row = divmod(y.abs().argmax().item(), y.shape[1])
            parts = x[token] * weights[l][row] / y[token, row]
            col = parts.argmax().item()
            ratio = lambda a: (a.abs().max() / a.abs().max(0).values.median()).item()
            out.append(dict(layer=l, row=row, col=col, token=token, down_in=x[token, col].item(),
                            down_out=y[token, row].item(), value=weights[l][row, col].item(),
                            share=parts[col].item(), in_ratio=ratio(x), out_ratio=ratio(y)))
        return out

    # Layer 0 first; what remains of its row after that is the same row again, so layer 1 is next.
    first = spikes()[0]
    with edited([(first["layer"], first["row"], first["col"], 0.0)]):
        second = spikes()[1]
    candidates = [first, second]
    at = [(c["layer"], c["row"], c["col"]) for c in candidates]
    joint = [(*c, 0.0) for c in at]
    with edited(joint):
        joint_nll = nll()
    for i, (c, (l, row, col)) in enumerate(zip(candidates, at)):
        others = [e for j, e in enumerate(joint) if j != i]
        w = weights[l].abs().clone()
        w[row, :] = float("inf")
        w[:, col] = float("inf")
        nearest = (w - abs(c["value"])).abs().flatten().topk(NEAREST, largest=False).indices.tolist()
        controls = [divmod(n, w.shape[1]) for n in nearest]
        w = weights[l].abs().clone()
        w[row, col] = 0
        largest = divmod(w.argmax().item(), w.shape[1])
        with edited(others):
            others_nll = nll()
        d = joint_nll - others_nll
        c["effects"] = {
            "zero": effect([(l, row, col, 0.0)]),
            "flip": effect([(l, row, col, -1.0)]),
            "row": effect([(l, row, None, 0.0)]),
            "neuron": effect([(l, None, col, 0.0)]),
            "leave_one_out": effect(others),
            "added_last": {"nll": d.mean().item()},
            "largest": {"row": largest[0], "col": largest[1], "effect": effect([(l, *largest, 0.0)])},
            "same_row": effect([(l, row, w[row].argmax().item(), 0.0)]),
            "same_col": effect([(l, w[:, col].argmax().item(), col, 0.0)]),
            "matched": [effect([(l, *k, 0.0)])["nll"] for k in controls],
        }
    text = json.dumps({"texts": texts, "prompt": tokenizer(PROMPT).input_ids, "nll": base.mean().item(),
                       "scored": len(base), "joint": effect(joint), "candidates": candidates}, indent=1)
    print(re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + " ".join(m.group(1).split()) + "]", text))


main(sys.argv[1])
