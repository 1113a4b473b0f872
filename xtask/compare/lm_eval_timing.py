#!/usr/bin/env python3
"""Times `sw eval` against lm-evaluation-harness on the same documents, and prints a record in Markdown.

    lm_eval_timing.py SW MODEL DATA [--tasks hellaswag,arc_easy] [--docs 12,30] [--dtypes float32,bfloat16] [--rounds 3]
                      [--batch-sizes 1,8,32] [--threads 2]

Documents are spread evenly over each task's split. For each dtype, which is the one of both, lm-eval gets the batch size that
is fastest on a third of them (all times tried are printed). Then both take turns, `rounds` times; medians count. To lm-eval's
advantage its time is that of `simple_evaluate` alone, with the model loaded and warm, the data read and its index of tasks
built; `sw`'s is the whole process. Its start (imports, loading the model in the first dtype) is told beside.

The last lines are the tasks together: the sums of their seconds, round by round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

START = time.time()
import lm_eval_compare as compare


def cpu():
    with open("/proc/cpuinfo") as f:
        lines = dict(line.split(":", 1) for line in f.read().split("\n\n")[0].splitlines() if ":" in line)
    fields = {k.strip(): v.strip() for k, v in lines.items()}
    flags = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if f in fields.get("flags", "")]
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) // 2**20
    return f"{os.cpu_count()} cores of {fields.get('model name', 'an unknown processor')} ({', '.join(flags)}), {memory} GiB"


def theirs(task, lm, docs, batch, manager):
    from lm_eval import simple_evaluate

    lm.batch_size_per_gpu = batch
    start = time.time()
    result = simple_evaluate(model=lm, tasks=[task], samples={task.config.task: docs}, task_manager=manager, log_samples=True)
    return time.time() - start, result["results"][task.config.task]["acc,none"]


def ours(args, name, step, dtype):
    time.sleep(0.2)  # PyTorch's threads wait for more work for a while, each on a core
    with tempfile.TemporaryDirectory() as out:
        command = [args.sw, "eval", args.model, "--data", args.data, "--tasks", name, "--threads", str(args.threads)]
        command += ["--dtype", dtype]
        command += ["--output-path", out] + (["--shard", f"1/{step}"] if step > 1 else [])
        start = time.time()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        seconds = time.time() - start
        (path,) = [f"{out}/{f}" for f in os.listdir(out)]
        with open(path) as f:
            run = json.load(f)
        if step == 1:
            return seconds, run["results"][name]["acc,none"], run["super_weight"]["kernel"]
        samples = run["tasks"][0]["samples"]
        return seconds, sum(s["metrics"]["acc"] for s in samples) / len(samples), run["model"]["kernel"]


def row(cells, pairs):
    """A line of the table: what was run, then medians of `pairs`, seconds of lm-eval and of sw for each round."""
    lms, mine = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratios = [a / b for a, b in pairs]
    spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
    cells[4:4] = [f"{lms:.2f}", f"{mine:.2f}", f"{statistics.median(ratios):.2f}", spread]
    print("| " + " | ".join(map(str, cells)) + " |", file=sys.stderr)
    return "| " + " | ".join(map(str, cells)) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument in ("sw", "model", "data"):
        parser.add_argument(argument)
    parser.add_argument("--tasks", default="hellaswag,arc_easy")
    parser.add_argument("--docs", default="12,30")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", default="1,8,32")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(args.threads)
    dtypes, sizes = args.dtypes.split(","), [int(b) for b in args.batch_sizes.split(",")]
    models, start = {}, 0
    for dtype in dtypes:
        models[dtype] = HFLM(pretrained=args.model, dtype=dtype, device="cpu", batch_size=1)
        start = start or time.time() - START
    lines, tried, kernel, manager = [], [], "", TaskManager()
    together = {dtype: [] for dtype in dtypes}
    load = os.getloadavg()[0]
    for name, wanted in zip(args.tasks.split(","), map(int, args.docs.split(","))):
        task = compare.build_task(name, args.data, manager, None)
        total = len(task.eval_docs)
        step = max(1, total // wanted)
        docs = list(range(0, total, step))
        for dtype, lm in models.items():
            theirs(task, lm, docs[:1], 1, manager)  # warm
            seconds = {size: theirs(task, lm, docs[::3], size, manager)[0] for size in sizes}
            size = min(seconds, key=seconds.get)
            tried.append(f"{name}, {dtype}, {len(docs[::3])} documents: " + ", ".join(f"{b}: {t:.2f}" for b, t in seconds.items()))
            pairs = []
            for _ in range(args.rounds):
                a, b = theirs(task, lm, docs, size, manager), ours(args, name, step, dtype)
                pairs.append((a[0], b[0]))
                kernel, values = b[2], (a[1], b[1])
            accuracy = f"{values[0]:.4f}, {values[1]:.4f}"
            lines.append(row([name, len(docs), dtype, size, accuracy], pairs))
            together[dtype].append((len(docs), pairs))
    for dtype, tasks in together.items():
        if len(tasks) > 1:
            rounds = zip(*(pairs for _, pairs in tasks))
            sums = [[sum(seconds) for seconds in zip(*one)] for one in rounds]
            lines.append(row(["all", sum(n for n, _ in tasks), dtype, "", ""], sums))
    print(f"Machine: {cpu()}; load {load:.1f} to {os.getloadavg()[0]:.1f}. {compare.versions().strip()}.")
    print(f"Model: {os.path.basename(args.model.rstrip('/'))}; {args.threads} threads; kernel of sw: {kernel}.")
    print(f"lm-eval's imports and loading, not counted: {start:.1f} s. Rounds: {args.rounds}.")
    print("Seconds of lm-eval by batch size: " + "; ".join(tried) + ".\n")
    print("| task | documents | dtype | lm-eval's best batch | lm-eval, s | sw, whole process, s | ratio, median | ratios | acc: lm-eval, sw |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
