"""Writes vectors.json: the quantizers once more in numpy float32, straight from the formulas, on random matrices.

    python make.py > vectors.json

A block is a list of places; codes and values of the f32 arithmetic follow the operation order
`s = steps/(hi - lo); q = rint((w - lo)*s); step = (hi - lo)/steps; w^ = q*step + lo`, and the half-precision cases the
released code's `s = levels / (hi - lo); w^ = q/s + lo` as torch computes it on float16 tensors. numpy and torch are needed.
"""

import json
from statistics import NormalDist

import numpy as np
import torch

F = np.float32
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0]


def normal_map(levels):
    """QLoRA's construction of a normal float: quantiles of a normal distribution, one more above zero than below."""
    offset = 1 - (1 / (2 * (levels - 1)) + 1 / (2 * levels)) / 2
    quantiles = lambda n: [NormalDist().inv_cdf(float(p)) for p in np.linspace(offset, 0.5, n + 1)[:-1]]
    table = sorted(quantiles(levels // 2) + [0.0] + [-x for x in quantiles(levels // 2 - 1)])
    return [x / table[-1] for x in table]


NF3 = normal_map(8)
assert np.allclose(NF4, normal_map(16), rtol=0, atol=3e-5)  # QLoRA's table is rounded at places of its own


def blocks(shape, grouping):
    rows, cols = shape
    places = np.arange(rows * cols)
    kind = grouping["kind"]
    if kind == "tensor":
        return [places]
    if kind == "row":
        return list(places.reshape(rows, cols))
    if kind == "flat":
        return [places[i:i + grouping["len"]] for i in range(0, len(places), grouping["len"])]
    grid, r, c = places.reshape(rows, cols), grouping["rows"], grouping["cols"]
    return [grid[i:i + r, j:j + c].reshape(-1) for i in range(0, rows, r) for j in range(0, cols, c)]


def threshold(w, clip):
    if clip["kind"] == "none":
        return np.inf
    a = np.abs(w.astype(np.float64))
    if clip["kind"] == "z_score":
        return F(a.mean() + clip["z"] * a.std(ddof=1)) if len(a) > 1 else np.inf
    if clip["kind"] == "iqr":
        q1, q3 = np.quantile(a, [0.25, 0.75])
        return F(q3 + clip["factor"] * (q3 - q1))
    k = int(clip["fraction"] * len(a))
    return F(np.sort(a)[len(a) - 1 - k]) if k else np.inf


def quantize(w, levels, t):
    w = np.clip(w, F(-t), F(t))
    lo, hi = w.min(), w.max()
    kind, bits = levels["kind"], levels.get("bits", 4)
    if kind in ("nf4", "nf3"):
        table = np.array(NF4 if kind == "nf4" else NF3, F)
        step = (hi - lo) / F(2)
        mid = lo + step
        x = (w - mid) * (F(2) / (hi - lo))
        q = np.searchsorted((table[1:] + table[:-1]) / F(2), x, side="left")
        return q, table[q] * step + mid
    if kind == "symmetric":
        side, largest = F(2 ** (bits - 1) - 1), np.abs(w).max()
        q = np.rint(w * (side / largest))
        return q + 2 ** (bits - 1), q * (largest / side)
    steps = F(2 ** bits - 1 if levels["steps"] == "full" else 2 ** (bits - 1) - 1)
    if levels["zero"] == "integer":
        lo, hi = min(lo, F(0)), max(hi, F(0))
        s = steps / (hi - lo)
        zero = np.rint(-lo * s)
        q = np.clip(np.rint(w * s) + zero, 0, steps)
        return q, (q - zero) * ((hi - lo) / steps)
    s = steps / (hi - lo)
    q = np.rint((w - lo) * s)
    return q, q * ((hi - lo) / steps) + lo


def release(w, levels, clip):
    """The released code on a half-precision checkpoint."""
    w = torch.from_numpy(w).half()
    if clip["kind"] == "z_score":
        a = w.abs()
        t = a.mean() + clip["z"] * a.std()
        w = w.clamp(-t, t)
    lo, hi = w.min(), w.max()
    s = (2 ** levels["bits"] - 1) / (hi - lo)
    q = torch.round((w - lo) * s)
    return q.float().numpy(), (q / s + lo).float().numpy()


def matrix(rng, shape):
    w = (rng.standard_normal(shape[0] * shape[1]) * 0.02).astype(np.float16).astype(F)
    w[rng.integers(len(w))] = F(1.25)
    return w


def main():
    rng = np.random.default_rng(20241111)
    integer = lambda bits, steps="full", zero="float": {"kind": "asymmetric", "bits": bits, "steps": steps, "zero": zero}
    levels = [integer(b) for b in (2, 3, 4, 5, 8)] + [integer(4, "paper_printed"), integer(4, zero="integer"),
              integer(8, zero="integer")] + [{"kind": "symmetric", "bits": b} for b in (2, 4, 8)] + [
              {"kind": "nf4"}, {"kind": "nf3"}]
    groupings = [{"kind": "tensor"}, {"kind": "row"}, {"kind": "flat", "len": 12},
                 {"kind": "flat", "len": 7, "tail": "short"}, {"kind": "tile", "rows": 3, "cols": 4},
                 {"kind": "tile", "rows": 2, "cols": 5, "tail": "short"}]
    clips = [{"kind": "none"}, {"kind": "z_score", "z": 2.5}, {"kind": "iqr", "factor": 1.5},
             {"kind": "top_fraction", "fraction": 0.125}]
    shape, matrices, cases = (6, 12), [], []
    for i in range(4):
        matrices.append(matrix(rng, shape))
    for i, level in enumerate(levels):
        for j, grouping in enumerate(groupings):
            which, clip = (i + j) % len(matrices), clips[(i * 5 + j * 3) % len(clips)]
            w = matrices[which]
            codes, values = np.zeros(len(w), int), np.zeros(len(w), F)
            for b in blocks(shape, grouping):
                codes[b], values[b] = quantize(w[b], level, threshold(w[b], clip))
            cases.append({"matrix": which, "scheme": {"levels": level, "grouping": grouping, "clip": clip},
                          "codes": codes.tolist(), "values": [float(f"{v:.9g}") for v in values]})
    for bits in (3, 4, 8):
        for clip in clips[:2]:
            w = matrices[bits % 4]
            parts = [release(w[b], {"bits": bits}, clip) for b in blocks(shape, {"kind": "row"})]
            cases.append({"matrix": bits % 4, "codes": np.concatenate([q for q, _ in parts]).astype(int).tolist(),
                          "values": [float(f"{v:.9g}") for _, vs in parts for v in vs],
                          "scheme": {"levels": integer(bits), "grouping": {"kind": "row"}, "clip": clip,
                                     "arithmetic": "release_f16"}})
    text = json.dumps({"shape": shape, "matrices": [[float(f"{v:.9g}") for v in m] for m in matrices], "cases": cases},
                      separators=(",", ":"))
    print(text.replace('{"matrix"', '\n{"matrix"'))


main()
