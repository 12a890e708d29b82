"""What a checkpoint costs: on the disk, and of a network's rounds.

`python bench/checkpoints.py` writes checkpoints of a small and of a big model with Adam's state, and prints medians and
extremes; then it launches ring40 in turn without checkpoints, with one every so many iterations, and as by default, and
prints rounds/s, of which the ratios within a turn count.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from difnet.record.checkpoints import Manifest, Shelf

SIZES = {"sinusoid's network": 1761, "FEMNIST's network": 6_603_710}
TURNS, TIMES = 3, 15
WAYS = {"none": "0", "every 100": "100", "every 10": "10", "every 1": "1"}
RING40 = ["--topology", "ring40", "--iterations", "600", "--eval-every", "600", "--set", "test_tasks=0", "--json"]


def write(size: int) -> tuple[int, list[float]]:
    """The bytes of a checkpoint, and the seconds that each of several takes to write."""
    w = np.random.default_rng(0).normal(size=size).astype(np.float32)
    took = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        shelf = Shelf(Path(folder), Manifest("run", 0, 0, "settings", "topology", "weights", "model", {}))
        for i in range(TIMES):
            began = time.perf_counter()
            written = shelf.write(i, {}, w, (w, w, np.float32(i).reshape(())))
            shelf.keep([i - 1, i])
            took.append(time.perf_counter() - began)
    return written, took


def rounds_per_s(every: str) -> float:
    """Of one launch of ring40."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-m", "difnet", "launch", *RING40, "--checkpoint-every", every],
                              cwd=folder, check=True, capture_output=True, text=True)  # fmt: skip
    return float(json.loads(done.stdout)["rounds_per_s"])


def main() -> None:
    print("| a model of | values | bytes with Adam's state | ms, median (least–most) |\n|---|--:|--:|--:|")
    for name, size in SIZES.items():
        written, took = write(size)
        ms = [1000 * s for s in took]
        print(f"| {name} | {size} | {written} | {median(ms):.3g} ({min(ms):.3g}–{max(ms):.3g}) |")
    print(f"\n| ring40, rounds/s | {' | '.join(WAYS)} |\n|---|{'--:|' * len(WAYS)}")
    for turn in range(TURNS):
        told = [f"{rounds_per_s(every):.1f}" for every in WAYS.values()]
        print(f"| turn {turn + 1} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
