"""Which rates does each method like best? The searches behind docs/federated.md: as many settings for each.

`python docs/tuning.py federated` (or `mnist`, `dirichlet`; then perhaps some methods) runs every method with every
setting of its grid, seed 0, and prints a table of what the validation clients said: the best of the run's validations,
after the most inner steps. Three rates of the inner or fine-tuning step, the same for all, times three rates of
training for each method, around what is usual for it. Test clients are not looked at. Runs are kept in runs/tuning-*
and not repeated.
"""

import itertools
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from difnet import load, simulate
from difnet.record.finding import is_run

FEDAVG = {"algorithm": "fedavg", "optimizer": "sgd", "tasks": 1}
META_SGD = {"algorithm.inner": "meta-sgd"}
SMALL, ADAM = [1.0, 2.0, 4.0], [0.003, 0.01, 0.03]
OF_DIGITS = [0.1, 0.2, 0.5]
LONG = {"local_steps": 20, "iterations": 100, "eval_every": 20}  # a fifth of the rounds, five times the local steps
DIRICHLET = {"task.partition": "dirichlet", "task.alpha": 0.1, "iterations": 500, "eval_every": 100}

Search = tuple[dict[str, Any], list[float], list[float]]  # words, rates of the inner step, rates of training
SEARCHES: dict[str, tuple[str, dict[str, Any], dict[str, Search]]] = {
    "federated": ("federated", {"eval_every": 100}, {
        "maml": ({}, SMALL, ADAM),
        "meta-sgd": (META_SGD, SMALL, ADAM),
        "fedavg-20": (FEDAVG | LONG | {"queries": 10}, SMALL, [1.0, 2.0, 4.0]),
        "fedavg-4": (FEDAVG | {"local_steps": 4, "queries": 10}, SMALL, [1.0, 2.0, 4.0]),
        "per-fedavg": (LONG | {"algorithm": "per-fedavg", "tasks": 1, "shots": 10, "queries": 20}, SMALL,
                       [0.5, 1.0, 2.0]),
    }),
    "mnist": ("mnist", {"eval_every": 200}, {
        "maml": ({}, OF_DIGITS, [0.001, 0.003, 0.01]),
        "meta-sgd": (META_SGD | {"inner_steps": 1}, OF_DIGITS, [0.001, 0.003, 0.01]),
        "fedavg-2": (FEDAVG | {"local_steps": 2}, OF_DIGITS, [0.3, 1.0, 3.0]),
    }),
    "dirichlet": ("mnist", DIRICHLET, {
        "maml": ({}, OF_DIGITS, [0.001, 0.003, 0.01]),
        "meta-sgd": (META_SGD | {"inner_steps": 1}, OF_DIGITS, [0.001, 0.003, 0.01]),
        "fedavg-2": (FEDAVG | {"local_steps": 2}, OF_DIGITS, [0.3, 1.0, 3.0]),
        "fedavg-10": (FEDAVG | {"local_steps": 10}, OF_DIGITS, [0.1, 0.2, 0.5]),
    }),
}  # fmt: skip


def search(name: str, only: Sequence[str] = ()) -> None:
    """Run one search, of some methods or all, and print what every setting came to."""
    ready_made, common, methods = SEARCHES[name]
    words = flat(tomllib.loads(Path("launch", f"{ready_made}.toml").read_text()))
    print(f"| {name} | rate of the inner step | rate of training | validation accuracy |\n| :-- | --: | --: | --: |")
    for method in only or methods:
        own, inner, outer = methods[method]
        found = {}
        for rates in itertools.product(inner, outer):
            run = f"tuning-{name}-{method}-{rates[0]:g}-{rates[1]:g}"
            asked = words | common | own | {"inner_lr": rates[0], "outer_lr": rates[1], "test_tasks": 0}
            if "algorithm" in own:
                asked = {key: value for key, value in asked.items() if not key.startswith("algorithm.")}
            if not is_run(Path("runs", run)):
                simulate(asked.pop("topology"), **asked, name=run, engine="traced")
            validations = load(run).validations
            found[rates] = max(list(v.accuracy.values())[-1]["mean"] or 0.0 for v in validations)
        best = max(found, key=found.__getitem__)
        for rates, accuracy in found.items():
            mark = "**" if rates == best else ""
            print(f"| {method} | {rates[0]:g} | {rates[1]:g} | {mark}{100 * accuracy:.1f}{mark} |", flush=True)


def flat(table: dict[str, Any], before: str = "") -> dict[str, Any]:
    """A ready-made run as settings: {"algorithm": {"name": "fedmeta"}} as {"algorithm.name": "fedmeta"}."""
    settings: dict[str, Any] = {}
    for key, value in table.items():
        settings |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return settings


if __name__ == "__main__":
    search(sys.argv[1], sys.argv[2:])
