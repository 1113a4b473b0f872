#!/usr/bin/env python3
"""Compares `sw eval` with lm-evaluation-harness (transformers, float32) on the same files.

    lm_eval_compare.py all  SW MODEL DATA OUT [--limit 200] [--windows N] [--bos on,off] [--num-fewshot N] [--tasks a,b]
    lm_eval_compare.py data DATA OUT
    lm_eval_compare.py run  MODEL DATA OUT.json --tasks a,b [--limit N] [--bos auto|on|off] [--num-fewshot N]
    lm_eval_compare.py diff OUT.json DIR
    lm_eval_compare.py perplexity MODEL DATA OUT.json [--tasks wikitext2,c4,c4_new] [--limit N] [--bos auto|on|off]
    lm_eval_compare.py table DIR

`all` does everything below for every task, with BOS on and off, and writes OUT/record.md; SW is the built `sw`. Started
again, it goes on where it stopped. `data` makes a data folder in which boolq and openbookqa exist too, made up from SciQ
and ARC. `run` scores with lm-eval and writes its results and samples. `diff` compares them, request by request and metric
by metric, with what `sw eval ... --log-samples --output-path DIR` wrote. `perplexity` is the GPTQ protocol in torch,
written independently of both. `table` lets lm-eval print `sw`'s results. Needs torch, transformers, datasets and lm-eval
0.4.13 from PyPI; not part of `cargo test`.
"""

import argparse
import glob
import gzip
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

FOLDERS = {
    "arc_challenge": ("allenai/ai2_arc/ARC-Challenge", "test"),
    "arc_easy": ("allenai/ai2_arc/ARC-Easy", "test"),
    "hellaswag": ("Rowan/hellaswag/data", "validation"),
    "lambada_openai": ("EleutherAI/lambada_openai/default", "test"),
    "piqa": ("baber/piqa/data", "validation"),
    "sciq": ("allenai/sciq/data", "test"),
    "winogrande": ("allenai/winogrande/winogrande_xl", "validation"),
    "boolq": ("aps/super_glue/boolq", "validation"),
    "openbookqa": ("allenai/openbookqa/main", "test"),
    "wikitext": ("Salesforce/wikitext/wikitext-2-raw-v1", "test"),
}
BY_LENGTH = ["arc_challenge", "arc_easy", "hellaswag", "piqa", "sciq", "openbookqa"]  # lengths of choices count, too
WINDOWED = ["wikitext2", "c4", "c4_new"]
TOLERANCE = 2e-3  # nats per request
TOLERANCE_WINDOWS = 1e-4  # of a perplexity by windows, relative


def rows(path):
    import pyarrow.parquet as parquet

    return parquet.read_table(path).to_pylist()


def made_up_data(data, out):
    """A data folder with everything in DATA, and boolq and openbookqa in their schema, made from SciQ and ARC."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    os.makedirs(out, exist_ok=True)
    folders = [f"{data}/{org}/{name}" for org in os.listdir(data) if os.path.isdir(f"{data}/{org}") for name in os.listdir(f"{data}/{org}")]
    for folder in filter(os.path.isdir, folders):
        link = os.path.join(out, os.path.relpath(folder, data))
        os.makedirs(os.path.dirname(link), exist_ok=True)
        if not os.path.lexists(link):
            os.symlink(os.path.abspath(folder), link)

    def write(folder, name, table):
        os.makedirs(f"{out}/{folder}", exist_ok=True)
        parquet.write_table(arrow.Table.from_pylist(table), f"{out}/{folder}/{name}-00000-of-00001.parquet")

    sciq = rows(sorted(glob.glob(f"{data}/allenai/sciq/data/*.parquet"))[0])
    boolq = [
        dict(question=r["question"].rstrip("?").lower(), passage=r["support"], idx=i, label=i * 7 // 3 % 2)
        for i, r in enumerate(r for r in sciq if r["support"])
    ]
    write("aps/super_glue/boolq", "validation", boolq)
    arc = rows(sorted(glob.glob(f"{data}/allenai/ai2_arc/ARC-Easy/*.parquet"))[0])
    book = [dict(id=r["id"], question_stem=r["question"], choices=r["choices"], answerKey=r["answerKey"]) for r in arc]
    write("allenai/openbookqa/main", "test", [r for r in book if len(r["choices"]["text"]) == 4])


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
        fewshot_split="test" if split == "test" and name not in ("lambada_openai", "wikitext") else None,
    )
    if name in BY_LENGTH:  # lm-eval knows acc_bytes, but these tasks do not ask for it
        overrides["metric_list"] = [dict(metric=m, aggregation="mean", higher_is_better=True) for m in ("acc", "acc_norm", "acc_bytes")]
    return manager._factory.build(manager._index[name], overrides=overrides, registry=manager._index)


def scorable(task, lm, limit, num_fewshot):
    """The first documents that lm-eval can score: it stops where a continuation has no token of its own. With worked
    examples only those before the first such document, since its draw of examples would shift."""

    def possible(doc):
        text = task.doc_to_text(doc)
        if not isinstance(text, str) or not text:
            return True
        choices = task.config.doc_to_choice is not None and task.doc_to_choice(doc)
        ends = [" " + c for c in choices] if choices else [task.doc_to_target(doc)]
        return all(lm._encode_pair(text, end)[1] for end in ends)

    docs = (i for i in range(len(task.eval_docs)) if possible(task.eval_docs[i]))
    docs = list(itertools.islice(docs, limit))
    return [d for i, d in enumerate(docs) if d == i] if num_fewshot else docs


def open_model(args):
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(args.threads)
    bos = {"auto": None, "on": True, "off": False}[args.bos]
    return HFLM(pretrained=args.model, dtype="float32", device="cpu", batch_size=args.batch_size, add_bos_token=bos)


def known(path):
    """What an earlier run wrote: it is gone on with."""
    if os.path.exists(path):
        with open(path) as f:
            return json.load(f)


class Windows:
    """What lm-eval sends to the model for its rolling requests: every window with its answer. lm-eval adds up a window's
    tokens in float32, and the windows of a page as Python floats."""

    def __init__(self, lm):
        self.lm, self.found, self.original = lm, [], lm._loglikelihood_tokens
        lm._loglikelihood_tokens = self.score

    def score(self, requests, **kwargs):
        answers = self.original(requests, **kwargs)
        self.found += [(context, ids, answer[0]) for (text, context, ids), answer in zip(requests, answers) if text is None]
        return answers

    def take(self):
        """All windows since the last call: lm-eval's answer, the sum of the same model's float32 log-probabilities in
        float64, and what the model gives in float64 (with transformers' norms and rotary angles in float32)."""
        import copy

        import torch

        found, self.found = self.found, []
        wide = copy.deepcopy(self.lm.model).double() if found else None

        def total(model, context, ids):
            tokens = torch.tensor([(context + ids)[-(self.lm.max_length + 1) :][:-1]])
            with torch.no_grad():
                logits = model(tokens).logits[0, -len(ids) :]
            own = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])
            return own.double().sum().item()

        for context, ids, answer in found:
            yield [answer, *(total(model, context, ids) for model in (self.lm.model, wide))]


def run(args):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    lm, manager = open_model(args), TaskManager()
    windows = Windows(lm)
    out = known(args.out) or dict(tasks={}, bos=args.bos)
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.tasks.split(","):
            if name in out["tasks"]:
                continue
            start = time.time()
            task = build_task(name, args.data, manager, scratch)
            docs = scorable(task, lm, args.limit, args.num_fewshot)
            result = simple_evaluate(
                model=lm,
                tasks=[task],
                samples={name: docs},
                task_manager=manager,
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
                    keys=sorted(s),
                )
                for s in result["samples"][name]
            }
            seconds = time.time() - start
            found = dict(results=result["results"][name], samples=samples, docs=docs, seconds=seconds)
            out["tasks"][name] = found | dict(windows=list(windows.take()))
            print(f"{name}: {len(docs)} documents, {seconds:.1f} s", file=sys.stderr, flush=True)
            with open(args.out, "w") as f:
                json.dump(out, f, default=str)


def mean(x):
    return sum(x) / len(x)


def stderr(x):
    m = mean(x)
    return math.sqrt(sum((v - m) ** 2 for v in x) / (len(x) - 1) / len(x))


def ours_in(folder):
    """The newest results file in a folder, and a function that reads a task's samples by document."""
    path = sorted(glob.glob(f"{folder}/results_*.json"))[-1]

    def samples(task):
        with open(sorted(glob.glob(f"{folder}/samples_{task}_*.jsonl"))[-1], encoding="utf-8") as f:
            return {s["doc_id"]: s for s in map(json.loads, f)}

    with open(path, encoding="utf-8") as f:
        return json.load(f), samples


def compare_metrics(task, ours, samples):
    """Each of lm-eval's numbers beside ours: (key, theirs, ours, whether they agree)."""
    partial = len(task["docs"]) != ours["sample_len"]  # lm-eval cannot score some documents: compare on the others
    for key, theirs in task["results"].items():
        metric = key.split(",")[0]
        if not isinstance(theirs, float) or "," not in key:
            continue
        mine = ours.get(key)
        if partial:
            base = metric.removesuffix("_stderr")
            values = [samples[d][base] for d in task["docs"]]
            if base != "perplexity":
                mine = mean(values) if metric == base else stderr(values)
            elif metric == base:
                mine = math.exp(-mean(values))
            else:
                continue  # the bootstrap over other documents draws others
        if metric.startswith("acc"):
            same = f"{mine:.4f}" == f"{theirs:.4f}"
        else:  # of the size of e^15 on a small model: relative
            same = abs(mine - theirs) <= (1e-3 if "perplexity" == metric.removesuffix("_stderr") else 1e-4) * abs(theirs)
        yield key, theirs, mine, same


def compare_task(name, task, ours, samples):
    """One task's record: how far the requests are apart, and every metric."""
    found = dict(task=name, documents=len(task["docs"]), requests=0, prompts=0, hashes=0, greedy=0, missing=0, worst=0.0)
    windows, pages = iter(task.get("windows", [])), []
    for doc, sample in task["samples"].items():
        mine = samples.get(int(doc))
        if mine is None:
            found["missing"] += 1
            continue
        found["hashes"] += [mine[k] for k in ("doc_hash", "prompt_hash", "target_hash")] != sample["hashes"]
        found["keys"] = sorted(set(sample["keys"]) - set(mine))
        for i, (arguments, resp) in enumerate(zip(sample["args"], sample["resps"])):
            found["requests"] += 1
            found["prompts"] += list(mine["arguments"][f"gen_args_{i}"].values()) != arguments
            answer = mine["filtered_resps"][i]
            if isinstance(resp, list):
                found["worst"] = max(found["worst"], abs(float(answer[0]) - resp[0]))
                found["greedy"] += (answer[1] == "True") != resp[1]
            else:  # rolling: what lm-eval sends to the model is a page's windows, one by one
                theirs = list(itertools.islice(windows, len(mine["windows"])))
                page = [sum(column) for column in zip(*theirs)]
                assert page[0] == resp, "these windows are not the page's"
                found["worst"] = max([found["worst"], *(abs(own - t[0]) for own, t in zip(mine["windows"], theirs))])
                pages.append((float(answer), *page))
    found["metrics"] = list(compare_metrics(task, ours, samples))
    differ = any(found[k] for k in ("prompts", "hashes", "greedy", "missing", "keys"))
    found["ok"] = not differ and found["worst"] <= TOLERANCE and all(same for *_, same in found["metrics"])
    if pages:
        furthest = lambda a, b: max(abs(page[a] - page[b]) for page in pages)
        found["pages"] = dict(nats=max(abs(page[0]) for page in pages), windows=len(task["windows"]))
        found["pages"]["mine"] = [furthest(0, i) for i in (1, 2, 3)]
        found["pages"]["theirs"] = [furthest(1, i) for i in (2, 3)]
        found["ok"] = found["ok"] and found["pages"]["mine"][1] <= TOLERANCE
    return found


def compare_folder(theirs, folder):
    ours, samples = ours_in(folder)
    for name, task in theirs["tasks"].items():
        yield compare_task(name, task, ours["results"][name], samples(name))


def shown_pages(p):
    mine, theirs = [[f"{x:.1e}" for x in p[who]] for who in ("mine", "theirs")]
    line = f"{p['windows']} windows (the difference is theirs); pages of up to {p['nats']:.0f} nats: sw is off lm-eval by at most "
    line += f"{mine[0]}, off its tokens' sum in float64 by {mine[1]}, off the model in float64 by {mine[2]}; lm-eval by {theirs[0]} "
    return line + f"and {theirs[1]}"


def one_line(f):
    line = f"{'ok  ' if f['ok'] else 'FAIL'} {f['task']}: {f['documents']} documents, {f['requests']} requests, largest "
    line += f"|log-likelihood difference| {f['worst']:.1e}; differing: prompts {f['prompts']}, hashes {f['hashes']}, "
    line += f"greedy {f['greedy']}, missing {f['missing']}, sample keys {f['keys']}"
    shown = (f"; {k.split(',')[0]} {mine:.6g}{' = ' if same else ' != '}{theirs:.6g}" for k, theirs, mine, same in f["metrics"])
    return line + "".join(shown) + ("; " + shown_pages(f["pages"]) if "pages" in f else "")


def diff(args):
    with open(args.out) as f:
        found = list(compare_folder(json.load(f), args.dir))
    print("\n".join(map(one_line, found)))
    sys.exit(0 if all(f["ok"] for f in found) else 1)


def windows(name, data, encode, window):
    """The token windows of the GPTQ protocol."""
    if name == "wikitext2":
        text = "\n\n".join(r["text"] for r in rows(glob.glob(f"{data}/Salesforce/wikitext/wikitext-2-raw-v1/test-*.parquet")[0]))
        ids = encode(text)
        return [ids[i : i + window] for i in range(0, len(ids) // window * window, window)]
    path = sorted(glob.glob(f"{data}/allenai/c4/en/c4-validation.*.json.gz"))[0]
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
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
    rule = {} if args.bos == "auto" else dict(add_bos_token=args.bos == "on")
    tokenizer = AutoTokenizer.from_pretrained(args.model, **rule)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    encode = lambda text: tokenizer(text, add_special_tokens=args.bos != "off").input_ids
    window = min(2048, model.config.max_position_embeddings)
    out = known(args.out) or {}
    for name in filter(lambda name: name not in out, args.tasks.split(",")):
        total, count = 0.0, 0
        for ids in windows(name, args.data, encode, window)[: args.limit]:
            ids = torch.tensor([ids])
            with torch.no_grad():
                logits = model(ids).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:]).double().item()
            count += 1
        out[name] = dict(windows=count, window=window, perplexity=math.exp(total / count))
        print(f"{name}: {count} windows of {window}, perplexity {out[name]['perplexity']:.6f}", file=sys.stderr, flush=True)
        with open(args.out, "w") as f:
            json.dump(out, f)


def table(args):
    from lm_eval.utils import get_results_filenames, get_sample_results_filenames, make_table

    ours, _ = ours_in(args.dir)
    print(make_table(ours))
    names = glob.glob(f"{args.dir}/*")
    print(f"lm-eval sees {len(get_results_filenames(names))} results and {len(get_sample_results_filenames(names))} samples")


def everything(args):
    os.makedirs(args.out, exist_ok=True)
    data, lines, ok = f"{args.out}/data", [], True
    made_up_data(args.data, data)
    settings = ["--threads", args.threads, "--batch-size", args.batch_size]
    here = lambda *words: subprocess.run([sys.executable, __file__, *map(str, [*words, *settings])], check=True)
    limit = ["--limit", args.limit]
    few = ["--num-fewshot", args.num_fewshot]
    items = [t for t in args.tasks.split(",") if t in FOLDERS]
    windowed = [t for t in args.tasks.split(",") if t in WINDOWED]
    for bos in args.bos.split(","):
        folder = f"{args.out}/sw-{bos}"
        ours = [args.sw, "eval", args.model, "--data", data, "--bos", bos]
        if items:
            theirs, names = f"{args.out}/lm-eval-{bos}.json", ",".join(items)
            here("run", args.model, data, theirs, "--tasks", names, "--bos", bos, *limit, *few)
            with open(theirs) as f:
                theirs = json.load(f)
            most = max(task["docs"][-1] for task in theirs["tasks"].values()) + 1
            command = [*ours, "--tasks", names, "--log-samples", "--output-path", folder, "--limit", most, *few]
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
            found = list(compare_folder(theirs, folder))
            print("\n".join(map(one_line, found)), flush=True)
            ok = ok and all(f["ok"] for f in found)
            lines += ["", f"### Requests and metrics, BOS {bos}, {args.num_fewshot} worked examples", ""]
            lines += ["| task | documents | requests | largest difference (nats) | metric: lm-eval, sw |", "|---|---|---|---|---|"]
            for f in found:
                shown = "; ".join(f"{k.split(',')[0]} {t:.6g}, {m:.6g}{'' if s else ' DIFFERS'}" for k, t, m, s in f["metrics"])
                shown += "; " + shown_pages(f["pages"]) if "pages" in f else ""
                lines.append(f"| {f['task']} | {f['documents']} | {f['requests']} | {f['worst']:.1e} | {shown} |")
        if windowed:
            theirs, names = f"{args.out}/windows-{bos}.json", ",".join(windowed)
            cut = ["--limit", args.windows] if args.windows else []
            here("perplexity", args.model, data, theirs, "--tasks", names, "--bos", bos, *cut)
            command = [*ours, "--tasks", names, "--json", *cut]
            mine = json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE).stdout)["results"]
            lines += ["", f"### Perplexity by windows, BOS {bos}", ""]
            lines += ["| text | windows | tokens of each | transformers | sw | relative difference |", "|---|---|---|---|---|---|"]
            with open(theirs) as f:
                for name, t in json.load(f).items():
                    m = mine[name]["perplexity,none"]
                    off = abs(m / t["perplexity"] - 1)
                    same = off <= TOLERANCE_WINDOWS and mine[name]["sample_len"] == t["windows"]
                    ok = ok and same
                    line = f"| {name} | {t['windows']} | {t['window']} | {t['perplexity']:.6f} | {m:.6f} | {off:.1e}{'' if same else ' DIFFERS'} |"
                    lines.append(line)
                    print(line, flush=True)
    with open(f"{args.out}/record.md", "w") as f:
        f.write(versions() + "\n".join(lines) + "\n")
    sys.exit(0 if ok else 1)


def versions():
    from importlib.metadata import version

    names = ["lm_eval", "transformers", "torch", "tokenizers", "datasets"]
    return ", ".join(f"{n} {version(n)}" for n in names) + f", Python {sys.version.split()[0]}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(name, function, *positional):
        p = commands.add_parser(name)
        p.set_defaults(function=function)
        for argument in positional:
            p.add_argument(argument)
        return p

    command("data", lambda args: made_up_data(args.data, args.out), "data", "out")
    command("diff", diff, "out", "dir")
    command("table", table, "dir")
    scoring = [
        command("all", everything, "sw", "model", "data", "out"),
        command("run", run, "model", "data", "out"),
        command("perplexity", perplexity, "model", "data", "out"),
    ]
    for p, tasks, bos in zip(scoring, [[*FOLDERS, *WINDOWED], [*FOLDERS], WINDOWED], ["on,off", "auto", "auto"]):
        p.add_argument("--tasks", default=",".join(tasks))
        p.add_argument("--bos", default=bos)
        p.add_argument("--limit", type=int, default=200 if p is scoring[0] else None)
        p.add_argument("--threads", type=int, default=2)
        p.add_argument("--num-fewshot", type=int, default=0)
        p.add_argument("--batch-size", type=int, default=1)
        p.add_argument("--bootstrap-iters", type=int, default=100_000)
        p.add_argument("--windows", type=int)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
