"""What the logs of LW2G's release say: is the angle of every decision that of a random direction to spaces of the logged ranks?

LW2G (arXiv 2409.18860) decides by an angle between the new task's gradient and the space of old features. Its release logs
that angle at every decision (between the gradient and its part inside the space: 90 degrees minus the hindrance of the
paper), and after every task the ranks of the spaces of the five layers with prompts. The part of a random direction inside
a random space of rank r in d channels is sqrt(r / d) of its length on average, so ranks alone predict the angle
arccos(mean over layers of sqrt(r / 768)).

    git clone https://github.com/RAIAN08/LW2G
    python xtask/compare/lw2g_logs.py LW2G

prints a row for each run with the method: decisions, the mean and the largest difference between the logged and the predicted angle
of the newest set, their correlation, decisions that the predictions make alike (a set is reused where its angle is the larger
one), sets at the end, and the angle's threshold. It needs nothing but Python.
"""

import argparse
import math
import pathlib
import re

CHANNELS = 768


def decisions(text):
    """Of every decision: the ranks of each set there, the logged angle of each, the threshold, whether a set was added, sets then."""
    ranks, found = {}, []
    for number, task in enumerate(text.split(">>> processing on task: ")[1:]):
        angles = re.search(r"angle list all: \{(.*?)\}", task)
        if angles:
            angles = {int(k): float(v) for k, v in re.findall(r"(\d+): ([\d.]+)", angles[1])}
            threshold = float(re.search(r"angle_epsilon: +([\d.]+)", task)[1])
            before, after = (
                set(re.findall(r": (\d+)", re.search(name + r" modify: \{(.*?)\}", task)[1])) for name in ("before", "after")
            )
            found.append((ranks.copy(), angles, threshold, len(after) > len(before), len(after)))
        # A set has the number of the task that used it last, after which its spaces' ranks are printed, a line for each layer.
        ranks[number] = [int(r) for r in re.findall(rf"Gradient Constraints Summary \({CHANNELS}, (\d+)\)", task)][-5:]
    return found


def predicted(ranks):
    return math.degrees(math.acos(sum(math.sqrt(r / CHANNELS) for r in ranks) / len(ranks)))


def correlation(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b))
    return covariance / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("release", type=pathlib.Path)
release = parser.parse_args().release
logs = sorted(p for p in release.rglob("output.log") if "baseline" not in str(p) and "angle list all" in p.read_text(errors="replace"))
if not logs:
    raise SystemExit(f"{release}: no output.log with a decision in it; expected a clone of RAIAN08/LW2G")
total, alike = 0, 0
print("run\tdecisions\tmean\tlargest\tcorrelation\talike\tsets\tthreshold")
for path in logs:
    rows = decisions(path.read_text(errors="replace"))
    pairs = [(predicted(ranks[max(angles)]), angles[max(angles)]) for ranks, angles, *_ in rows]
    differences = [abs(p - a) for p, a in pairs]
    same = sum((max(predicted(ranks[k]) for k in angles) <= threshold) == grew for ranks, angles, threshold, grew, _ in rows)
    total, alike = total + len(rows), alike + same
    print(
        f"{path.parent.parent.name} {path.parent.parent.parent.name}\t{len(rows)}\t{sum(differences) / len(rows):.2f}\t{max(differences):.2f}"
        f"\t{correlation(*map(list, zip(*pairs))):.3f}\t{same}\t{rows[-1][4]}\t{min(r[2] for r in rows):.1f} to {max(r[2] for r in rows):.1f}"
    )
print(f"all\t{total}\t\t\t\t{alike}")
