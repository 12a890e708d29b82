"""Is it worth it? Three hospitals' tables, one launch model, and a fourth hospital with few rows: docs/own-data-story.md.

`python docs/own_data_story.py FOLDER` (scikit-learn and matplotlib needed) cuts the diabetes data that scikit-learn ships
into owners, writes their tables as three hospitals would, has three hosts learn a launch model with the commands that a
user types, fits it to 5, 10 and 20 rows of owners of a fourth hospital, and does on the same rows what else one could.
It prints a table and draws docs/own-data-story.png. `--seeds N`, `--iterations N` make it shorter.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from difnet.after_training.personalisation import fit, write
from difnet.after_training.prediction import predict
from difnet.data.one_table import with_targets
from difnet.data.schema import Schema, read
from difnet.launch_models import read as read_model
from difnet.maths.scaling import Constants, constants, inputs
from difnet.tasks.table import layout

ROWS = (5, 10, 20)  # of a new owner, to fit to; the others test
STEPS, RATE = 5, 0.05  # inner steps of fitting, and their rate, in training too
TODAY = date(2026, 1, 1)
CHOLESTEROL, GLUCOSE, PRESSURE = 38.67, 18.02, 7.5006  # mg/dl in a mmol/l; mmHg in a kPa
NUMBERS = ("bmi", "pressure", "total", "ldl", "hdl", "ratio", "triglycerides", "glucose")


class Habit(NamedTuple):
    """How a hospital writes its tables, and in which units it measures."""

    separator: str
    comma: bool  # decimals
    bom: bool
    date: str
    gap: str
    blanks: bool  # around names of columns
    mmol: bool
    kpa: bool


HOSPITALS = {
    "north": Habit(",", False, False, "%Y-%m-%d", "NA", False, False, False),
    "south": Habit(";", True, True, "%d.%m.%Y", "-", False, True, False),
    "west": Habit("\t", False, False, "%Y/%m/%d", "?", True, True, True),
    "new": Habit(";", True, True, "%d.%m.%Y", "", True, False, True),
}  # fmt: skip


def patients(rng: np.random.Generator) -> dict[str, list[dict[str, object]]]:
    """Owner -> its patients: the data cut by age, so that owners differ in whom they see, and dealt to hospitals."""
    from sklearn.datasets import load_diabetes

    made = load_diabetes(scaled=False)
    X, y = made.data, made.target
    decade = np.searchsorted(np.quantile(X[:, 0], [0.25, 0.5, 0.75]), X[:, 0])
    hospital = rng.integers(len(HOSPITALS), size=len(X))
    owners: dict[str, list[dict[str, object]]] = {}
    for n in rng.permutation(len(X)):
        born = TODAY - timedelta(days=int(365.25 * X[n, 0]) + int(rng.integers(365)))
        row = {"born": born, "sex": "ab"[int(X[n, 1]) - 1], **dict(zip(NUMBERS, X[n, 2:].tolist(), strict=True)),
               "progression": float(y[n])}  # fmt: skip
        if rng.random() < 0.1:
            row["glucose"] = None
        owners.setdefault(f"{[*HOSPITALS][hospital[n]]}-{decade[n] + 1}", []).append(row)
    return owners


def write_table(path: Path, rows: list[dict[str, object]], habit: Habit) -> Path:
    """A table as this hospital writes it."""
    def cell(name: str, value: object) -> str:
        if value is None:
            return habit.gap
        if isinstance(value, date):
            return value.strftime(habit.date)
        if isinstance(value, float):
            by = {"total": CHOLESTEROL, "ldl": CHOLESTEROL, "hdl": CHOLESTEROL, "glucose": GLUCOSE}.get(name, 1.0)
            value = value / by if habit.mmol else value
            value = value / PRESSURE if habit.kpa and name == "pressure" else value
            return f"{value:.2f}".replace(".", ",") if habit.comma else f"{value:.2f}"
        return str(value)

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig" if habit.bom else "utf-8") as file:
        out = csv.writer(file, delimiter=habit.separator)
        out.writerow([f" {name} " if habit.blanks else name for name in rows[0]])
        out.writerows([[cell(*item) for item in row.items()] for row in rows])
    return path


def difnet(folder: Path, *words: str) -> str:
    """A command, typed in a folder; what it prints."""
    done = subprocess.run([sys.executable, "-m", "difnet", *words], cwd=folder, check=True, capture_output=True,
                          text=True, timeout=1200)  # fmt: skip
    return done.stdout


def learn(folder: Path, seed: int, iterations: int) -> Path:
    """A launch model of three hospitals, each with a host of its own that alone reads its tables."""
    names = ["north", "south", "west"]
    for name in names:
        (folder / f"{name}.toml").write_text(difnet(folder, "data", "describe", name, "--target", "progression",
                                                    "--kind", "regression"))  # fmt: skip
    (folder / "schema.toml").write_text(difnet(folder, "data", "describe", *(f"{name}.toml" for name in names)))
    words = ["launch", "--topology", "cycle_graph(n=12)", "--task", "table", "--schema", "schema.toml", "--seed",
             str(seed), "--inner-lr", str(RATE), "--inner-steps", str(STEPS), "--iterations", str(iterations),
             "--eval-every", str(iterations), "--hosts-expected", "3", "--registry", "tcp://127.0.0.1:*",
             "--name", "hospitals"]  # fmt: skip
    launcher = subprocess.Popen([sys.executable, "-m", "difnet", *words], cwd=folder, stderr=subprocess.PIPE,
                                stdout=subprocess.DEVNULL, text=True)  # fmt: skip
    hosts = []
    try:
        assert launcher.stderr
        command = next(line for line in launcher.stderr if "difnet host" in line)
        endpoint, token = (re.search(rf"{word}[= ](\S+)", command)[1]  # type: ignore[index]
                           for word in ("--registry", "DIFNET_TOKEN"))  # fmt: skip
        for n, name in enumerate(names):
            hosts.append(subprocess.Popen([sys.executable, "-m", "difnet", "host", "--agents", f"{4 * n}-{4 * n + 3}",
                                           "--registry", endpoint, "--data", name], cwd=folder,
                                          env={**os.environ, "DIFNET_TOKEN": token},
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))  # fmt: skip
        said = launcher.communicate(timeout=1200)[1]
        if launcher.returncode:
            raise SystemExit(f"the launcher ended with status {launcher.returncode}: {said}")
    finally:
        for process in (launcher, *hosts):
            process.terminate() if process.poll() is None else None
            process.wait(60)
    return folder / "runs" / "hospitals"
