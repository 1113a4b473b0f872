"""What zeroing single weights costs, measured with transformers in float32; beside what a census says of them, if one is given.

usage: make_truth.py MODEL_DIR OUT.json --text FILE [--text FILE] [--tokens 64] [--report REPORT.json] [LAYER:MAP:ROW:COL ...]

MODEL_DIR is any checkpoint that transformers opens and whose layers are model.layers. MAP is a module such as mlp.down_proj or
self_attn.v_proj. A text is a plain file, or a parquet file whose `text` rows are joined by empty lines; its first tokens are
scored, without any that the tokenizer would add. Effects are means over all scored tokens, in nats.

REPORT.json is the output of `sw detect MODEL_DIR --text ... --tokens-per-text 64 --json` on the same texts: every weight whose
effect it has on the whole texts (not those that it left after a part of them) is measured too, and the two are printed side by side.
"""
import argparse
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def text_of(path):
    if path.endswith(".parquet"):
        import pyarrow.parquet as pq

        return "\n\n".join(pq.read_table(path, columns=["text"])["text"].to_pylist())
    return open(path, encoding="utf-8").read()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("out")
    args.add_argument("--text", action="append", required=True)
    args.add_argument("--tokens", type=int, default=64)
    args.add_argument("--report")
    args.add_argument("weights", nargs="*")
    args = args.parse_intermixed_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    # The beginning of a text is enough: a token is no longer than 64 characters.
    texts = [text_of(path)[: 64 * args.tokens] for path in args.text]
    ids = [torch.tensor([tokenizer(t, add_special_tokens=False).input_ids[: args.tokens]]) for t in texts]

    @torch.no_grad()
    def nll():
        losses = []
        for x in ids:
            logits = model(x).logits[0, :-1].double().log_softmax(-1)
            losses.append(-logits.gather(1, x[0, 1:, None])[:, 0])
        return torch.cat(losses).mean().item()

    weights, told = [], {}
    for given in args.weights:
        layer, linear, row, col = given.split(":")
        weights.append((f"model.layers.{layer}.{linear}.weight", int(row), int(col)))
    if args.report:
        report = json.load(open(args.report, encoding="utf-8"))
        for c in report["super_weights"] + report["inert"] + report["cancellers"]:
            if "effects" in c and c["effects"]["zero"]["tokens"] == report["proof"]["scored"]:
                told[c["tensor"], c["row"], c["col"]] = c["effects"]["zero"]["nll"]
        weights += [w for w in told if w not in weights]

    base, effects = nll(), []
    for name, row, col in weights:
        w, at = model.get_parameter(name), (row, col)
        value = w.data[at].item()
        w.data[at] = 0.0
        effect = nll() - base
        w.data[at] = value
        effects.append({"tensor": name, "row": at[0], "col": at[1], "value": value, "effect": round(effect, 5)})
    effects.sort(key=lambda e: -e["effect"])
    with open(args.out, "w", encoding="utf-8") as f:
        json.dump({"texts": args.text, "tokens": args.tokens, "base": base, "effects": effects}, f, indent=1)
    for e in effects if told else []:
        name, row, col = e["tensor"], e["row"], e["col"]
        ours = told.get((name, row, col))
        beside = "not measured" if ours is None else f"{ours:9.5f} in the census, {100 * (ours / e['effect'] - 1):+.2f} %"
        print(f"{name}[{row}, {col}]: {e['effect']:9.5f} in transformers, {beside}")


main()
