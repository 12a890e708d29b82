"""How soon are forty agent processes ready, and how long would fresh interpreters take?

`difnet launch` prepares one process and forks its agents from it. The alternative is estimated: fresh interpreters that
import torch, and such that also trace the workload and load its kernel from the cache; three in a row, times forty.
"""

import argparse
import os
import statistics
import sys

import figures
from figures import figure, launched, ratio, say

AGENTS = 40
WORKLOAD = """
from difnet.config import load
from difnet.system.machine import torch_settings
from difnet.workload.kernels import compile_kernels
from difnet.workload.building import build
with torch_settings():
    compile_kernels(build(load(), 40), lambda text: None)
"""
WEIGH = """
import json, time
from pathlib import Path
fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
print(json.dumps({"cpu_s": time.process_time(), "anonymous_mb": int(fields["Pss_Anon"].split()[0]) / 1024}))
"""


def measure(words: argparse.Namespace) -> figures.Document:
    """Launches and fresh interpreters in turn."""
    launched(AGENTS, 1)  # compiles what is not in the cache
    ready: list[float] = []
    pss: list[float] = []
    programs = {"torch imported": "import torch\n", "workload ready": WORKLOAD}
    fresh: dict[str, list[dict]] = {name: [] for name in programs}
    for n in range(1 if words.quick else 5):
        summary = launched(AGENTS, 1)
        ready.append(summary["ready_s"])
        pss.append(summary["pss_mb_per_agent"])
        for name, program in programs.items():
            fresh[name].append(mean([figures.command(["-c", program + WEIGH], 300) for _ in range(3)]))
        say(f"startup: run {n + 1}: {AGENTS} agents ready after {ready[-1]:.1f} s; fresh interpreters use "
            f"{' and '.join(str(round(some[-1]['cpu_s'], 1)) for some in fresh.values())} s each")  # fmt: skip
    rows: list[figures.Row] = [
        {"what": f"difnet launch, {AGENTS} agents ready", "seconds": figure(ready), "MiB per agent": figure(pss)}
    ]
    ratios = {}
    for name, some in fresh.items():
        estimate = [AGENTS * one["cpu_s"] / (os.cpu_count() or 1) for one in some]
        memory = figure([one["anonymous_mb"] for one in some])
        one_s = figure([one["cpu_s"] for one in some])
        rows.append({"what": f"one fresh interpreter, {name} (CPU)", "seconds": one_s, "MiB per agent": memory})
        rows.append({"what": f"{AGENTS} of them (estimate)", "seconds": figure(estimate), "MiB per agent": memory})
        ratios[f"{AGENTS} fresh interpreters, {name} (estimate) to difnet launch"] = ratio(estimate, ready)
    notes = [f"An estimate is {AGENTS} times the processor time of one fresh interpreter over the number of cores; "
             "joining the neighbours is in the launch's time and not in the estimates.",
             "Memory: proportional set size of a launched agent, which has its share of what all share; of a fresh "
             "interpreter its anonymous memory alone, which it shares with nobody."]  # fmt: skip
    return figures.document(rows, ratios, notes)


def mean(reports: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure of several reports."""
    return {name: statistics.fmean(report[name] for report in reports) for name in reports[0]}


if __name__ == "__main__":
    assert sys.platform == "linux", "reads /proc"
    figures.main(measure)
