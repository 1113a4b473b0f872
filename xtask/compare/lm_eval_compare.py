#!/usr/bin/env python3
"""Compares `sw eval` with lm-evaluation-harness (transformers, float32) on the same files.

    lm_eval_compare.py run  MODEL DATA OUT.json --tasks a,b [--limit N] [--bos auto|on|off] [--num-fewshot N]
                            [--batch-size N] [--threads N]
    lm_eval_compare.py diff OUT.json DIR
    lm_eval_compare.py perplexity MODEL DATA [--tasks wikitext2,c4,c4_new] [--limit N] [--bos auto|on|off]

`run` scores with lm-eval 0.4.13 and writes its results, samples and times. `diff` compares them, request by request and
metric by metric, with what `sw eval ... --log-samples --output-path DIR` wrote. `perplexity` is the GPTQ protocol in
torch, written independently of both. Needs torch, transformers, datasets and lm-eval from PyPI; not part of `cargo test`.
"""

import argparse
import glob
import gzip
import json
import math
import os
import random
import re
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

FOLDERS = {
    "arc_easy": ("allenai/ai2_arc/ARC-Easy", "test"),
    "arc_challenge": ("allenai/ai2_arc/ARC-Challenge", "test"),
    "hellaswag": ("Rowan/hellaswag/data", "validation"),
    "piqa": ("baber/piqa/data", "validation"),
    "winogrande": ("allenai/winogrande/winogrande_xl", "validation"),
    "sciq": ("allenai/sciq/data", "test"),
    "lambada_openai": ("EleutherAI/lambada_openai/default", "test"),
    "boolq": ("aps/super_glue/boolq", "validation"),
    "openbookqa": ("allenai/openbookqa/main", "test"),
    "wikitext": ("Salesforce/wikitext/wikitext-2-raw-v1", "test"),
}


def rows(path):
    import pyarrow.parquet as parquet

    return parquet.read_table(path).to_pylist()


def wikitext_pages(files, folder):
    """The document-level data set that lm-eval downloads, rebuilt: a page begins at a line `= Title =`."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    lines = "".join(r["text"] or " \n" for f in files for r in rows(f)).split("\n")
    pages = [[]]
    for line in lines:
        squeezed = line.replace("= = =", "===").replace("= =", "==").strip()
        if squeezed.startswith("= ") and squeezed.endswith(" ="):
            pages.append([])
        pages[-1].append(line)
    texts = [t for t in ("\n".join(p) for p in pages) if t.strip()]
    path = os.path.join(folder, "pages.parquet")
    parquet.write_table(arrow.table({"page": texts}), path)
    return [path]


def build_task(name, data, manager, scratch):
    folder, split = FOLDERS[name]
    files = sorted(glob.glob(f"{data}/{folder}/*.parquet"))
    found = [f for f in files if os.path.basename(f).startswith(split)] or files
    if not found:
        sys.exit(f"{name}: no parquet files in {data}/{folder}")
    if name == "wikitext":
        found = wikitext_pages(found, scratch)
    overrides = dict(
        dataset_path="parquet",
        dataset_name=None,
        dataset_kwargs=dict(data_files={split: found}),
        training_split=None,
        validation_split=split if split == "validation" else None,
        test_split=split if split == "test" else None,
        fewshot_split=None,
    )
    return manager._factory.build(manager._index[name], overrides=overrides, registry=manager._index)


def scorable(task, lm, limit, num_fewshot):
    """Documents that lm-eval can score: it stops where a continuation has no token of its own. With worked examples only
    those before the first such document, since its draw of examples would shift."""
    count = len(task.eval_docs)

    def possible(doc):
        text = task.doc_to_text(doc)
        if not isinstance(text, str) or not text:
            return True
        choices = task.config.doc_to_choice is not None and task.doc_to_choice(doc)
        ends = [" " + c for c in choices] if choices else [task.doc_to_target(doc)]
        return all(lm._encode_pair(text, end)[1] for end in ends)

    docs = [i for i in range(min(limit or count, count)) if possible(task.eval_docs[i])]
    return [d for i, d in enumerate(docs) if d == i] if num_fewshot else docs


def run(args):
    import torch

    torch.set_num_threads(args.threads)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    bos = {"auto": None, "on": True, "off": False}[args.bos]
    lm = HFLM(pretrained=args.model, dtype="float32", device="cpu", batch_size=args.batch_size, add_bos_token=bos)
    manager = TaskManager()
    out = dict(tasks={}, bos=args.bos, batch_size=args.batch_size, threads=args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.tasks.split(","):
            start = time.time()
            task = build_task(name, args.data, manager, scratch)
            docs = scorable(task, lm, args.limit, args.num_fewshot)
            result = simple_evaluate(
                model=lm,
                tasks=[task],
                samples={name: docs},
                num_fewshot=args.num_fewshot,
                log_samples=True,
                bootstrap_iters=args.bootstrap_iters,
                fewshot_random_seed=1234,
            )
            samples = {
                s["doc_id"]: dict(
                    args=[list(a) for a in s["arguments"]],
                    resps=[r[0] for r in s["resps"]],
                    hashes=[s["doc_hash"], s["prompt_hash"], s["target_hash"]],
                )
                for s in result["samples"][name]
            }
            seconds = time.time() - start
            out["tasks"][name] = dict(results=result["results"][name], samples=samples, docs=docs, seconds=seconds)
            print(f"{name}: {len(docs)} documents, {seconds:.1f} s", file=sys.stderr, flush=True)
            with open(args.out, "w") as f:
                json.dump(out, f, default=str)


def pick(values, docs):
    return [values[d] for d in docs if d in values]


def mean(x):
    return sum(x) / len(x)


def stderr(x):
    m = mean(x)
    return math.sqrt(sum((v - m) ** 2 for v in x) / (len(x) - 1) / len(x))


def diff(args):
    theirs = json.load(open(args.out))
    ours = json.load(open(sorted(glob.glob(f"{args.dir}/results_*.json"))[-1]))
    failed = False
    for name, task in theirs["tasks"].items():
        path = sorted(glob.glob(f"{args.dir}/samples_{name}_*.jsonl"))[-1]
        samples = {s["doc_id"]: s for s in map(json.loads, open(path))}
        worst, greedy, prompts, hashes, requests, missing = 0.0, 0, 0, 0, 0, 0
        for doc, sample in task["samples"].items():
            mine = samples.get(int(doc))
            if mine is None:
                missing += 1
                continue
            if [mine[k] for k in ("doc_hash", "prompt_hash", "target_hash")] != sample["hashes"]:
                hashes += 1
            for i, (arguments, resp) in enumerate(zip(sample["args"], sample["resps"])):
                requests += 1
                prompts += list(mine["arguments"][f"gen_args_{i}"].values()) != arguments
                answer = mine["filtered_resps"][i]
                if isinstance(resp, list):
                    worst = max(worst, abs(float(answer[0]) - resp[0]))
                    greedy += (answer[1] == "True") != resp[1]
                else:  # rolling: a whole page, so relative to its length
                    worst = max(worst, abs(float(answer) - resp) / max(1, abs(resp) / 1000))
        line = f"{name}: {requests} requests, prompts differ {prompts}, hashes differ {hashes}, greedy differ {greedy}, "
        line += f"missing {missing}, largest |log-likelihood difference| {worst:.2e}"
        bad = prompts or greedy or missing or worst > 2e-3
        partial = len(task["docs"]) != ours["results"][name]["sample_len"]
        for key, value in task["results"].items():
            if not isinstance(value, float) or "," not in key:
                continue
            mine = ours["results"][name].get(key)
            metric = key.split(",")[0]
            if partial:  # lm-eval cannot score some documents: compare on the others
                base = metric.removesuffix("_stderr")
                values = pick({d: s[base] for d, s in samples.items()}, task["docs"])
                if base == "perplexity":
                    mine = None if metric != base else math.exp(-mean(values))
                else:
                    mine = mean(values) if metric == base else stderr(values)
            if mine is None:
                continue
            same = f"{mine:.4f}" == f"{value:.4f}" or abs(mine - value) <= 1e-4 * abs(value)
            if metric.startswith("perplexity"):  # of the size of e^15 on a tiny model: relative
                same = abs(mine - value) <= 1e-3 * abs(value)
            bad = bad or not same
            line += f"; {key} {mine:.6g}{' = ' if same else ' != '}{value:.6g}"
        print(("FAIL " if bad else "ok   ") + line)
        failed = failed or bad
    sys.exit(1 if failed else 0)


def windows(name, data, encode, window):
    """The token windows of the GPTQ protocol."""
    if name == "wikitext2":
        text = "\n\n".join(r["text"] for r in rows(glob.glob(f"{data}/Salesforce/wikitext/wikitext-2-raw-v1/test-*.parquet")[0]))
        ids = encode(text)
        return [ids[i : i + window] for i in range(0, len(ids) // window * window, window)]
    path = sorted(glob.glob(f"{data}/allenai/c4/en/c4-validation.*.json.gz"))[0]
    texts = [json.loads(line)["text"] for line in gzip.open(path, "rt", encoding="utf-8")]
    if name == "c4_new":
        ids = encode(" ".join(texts[:1100]))[: 256 * window]
        return [ids[i : i + window] for i in range(0, len(ids) // window * window, window)]
    random.seed(0)
    out = []
    for _ in range(256):
        while True:
            ids = encode(texts[random.randint(0, len(texts) - 1)])
            if len(ids) > window:
                break
        start = random.randint(0, len(ids) - window - 1)
        out.append(ids[start : start + window])
    return out


def perplexity(args):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    special = args.bos != "off"
    encode = lambda text: tokenizer(text, add_special_tokens=special).input_ids
    window = min(2048, model.config.max_position_embeddings)
    for name in args.tasks.split(","):
        total, count = 0.0, 0
        for ids in windows(name, args.data, encode, window)[: args.limit]:
            ids = torch.tensor([ids])
            with torch.no_grad():
                logits = model(ids).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:]).double().item()
            count += 1
        print(f"{name}: {count} windows of {window}, perplexity {math.exp(total / count):.6f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in [("run", run), ("perplexity", perplexity)]:
        p = commands.add_parser(name)
        p.set_defaults(function=function)
        p.add_argument("model")
        p.add_argument("data")
        if name == "run":
            p.add_argument("out")
            p.add_argument("--num-fewshot", type=int, default=0)
            p.add_argument("--batch-size", type=int, default=1)
            p.add_argument("--bootstrap-iters", type=int, default=1000)
        p.add_argument("--tasks", required=name == "run", default="wikitext2,c4,c4_new")
        p.add_argument("--limit", type=int)
        p.add_argument("--bos", choices=["auto", "on", "off"], default="auto")
        p.add_argument("--threads", type=int, default=2)
    p = commands.add_parser("diff")
    p.set_defaults(function=diff)
    p.add_argument("out")
    p.add_argument("dir")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
