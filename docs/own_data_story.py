"""Is it worth it? Three hospitals' tables, one launch model, a fourth hospital with few rows: docs/own-data-story.md.

`python docs/own_data_story.py FOLDER` (scikit-learn and matplotlib needed) cuts the diabetes data that scikit-learn
ships into owners, writes their tables as three hospitals would, has three hosts learn a launch model with the commands
that a user types, fits it to 5, 10 and 20 rows of owners of a fourth hospital, and does on the same rows what else one
could. It prints a table and draws FOLDER/own-data-story.png. `--seeds`, `--iterations`, `--draws` make it shorter.
"""

import argparse
import csv
import json
import os
import re
import socket
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from difnet.after_training.personalisation import fit
from difnet.after_training.prediction import predict
from difnet.data.one_table import OneTable, with_targets
from difnet.data.schema import Schema, read
from difnet.launch_models import LaunchModel
from difnet.launch_models import read as read_model
from difnet.maths.scaling import constants, in_unit, inputs, scaled
from difnet.tasks.table_ import layout

ROWS = (5, 10, 20)  # of a new owner, to fit to; the others test
STEPS, RATE, OUTER = 5, 0.01, 0.01  # inner steps and their rate, in training and in fitting; rate of the outer step
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
    group = np.searchsorted(np.quantile(X[:, 0], [0.25, 0.5, 0.75]), X[:, 0])
    dealt = [0] * 4  # of each group, so that all hospitals have as many of it
    owners: dict[str, list[dict[str, object]]] = {}
    for n in rng.permutation(len(X)):
        born = TODAY - timedelta(days=int(365.25 * X[n, 0]) + int(rng.integers(365)))
        row = {"born": born, "sex": "ab"[int(X[n, 1]) - 1], **dict(zip(NUMBERS, X[n, 2:].tolist(), strict=True)),
               "progression": float(y[n])}  # fmt: skip
        if rng.random() < 0.1:
            row["glucose"] = None
        hospital = [*HOSPITALS][dealt[group[n]] % len(HOSPITALS)]
        dealt[group[n]] += 1
        owners.setdefault(f"{hospital}-{group[n] + 1}", []).append(row)
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
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["launch", "--topology", "cycle_graph(n=12)", "--task", "table", "--schema", "schema.toml", "--seed",
             str(seed), "--inner-lr", str(RATE), "--inner-steps", str(STEPS), "--outer-lr", str(OUTER),
             "--model", "mlp", "--set", "model.hidden=[]", "--set", "task.support=0.3", "--iterations",
             str(iterations), "--eval-every", str(iterations), "--engine", "traced", "--hosts-expected", "3",
             "--registry", f"tcp://127.0.0.1:{port}", "--name", "hospitals"]  # fmt: skip
    launcher = subprocess.Popen([sys.executable, "-m", "difnet", *words], cwd=folder, stderr=subprocess.PIPE,
                                stdout=subprocess.DEVNULL, text=True)  # fmt: skip
    hosts = []
    try:
        assert launcher.stderr
        said = ""
        while "difnet host" not in (line := launcher.stderr.readline()):
            said += line
            if not line:
                raise SystemExit(f"the launcher ended: {said}")
        endpoint, token = (re.search(rf"{word}[= ](\S+)", line)[1]  # type: ignore[index]
                           for word in ("--registry", "DIFNET_TOKEN"))  # fmt: skip
        for n, name in enumerate(names):
            hosts.append(subprocess.Popen([sys.executable, "-m", "difnet", "host", "--agents", f"{4 * n}-{4 * n + 3}",
                                           "--registry", endpoint, "--data", name], cwd=folder,
                                          env={**os.environ, "DIFNET_TOKEN": token},
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))  # fmt: skip
        said += launcher.communicate(timeout=1200)[1]
        if launcher.returncode:
            raise SystemExit(f"the launcher ended with status {launcher.returncode}: {said}")
    finally:
        for process in (launcher, *hosts):
            if process.poll() is None:
                process.terminate()
            process.wait(60)
    return folder / "runs" / "hospitals"


class Set(NamedTuple):
    """Rows and targets of somebody."""

    raw: Tensor  # (n, columns)
    y: Tensor  # (n, 1)


def scaled_by(own: Set, by: Set, schema: Schema) -> tuple[Tensor, Tensor]:
    """A linear model's inputs and targets, scaled by the figures of other rows."""
    return inputs(own.raw, constants(by.raw), layout(schema)), scaled(own.y, constants(by.y))


def trained(x: Tensor, y: Tensor, begun: nn.Linear | None = None, steps: int = 0) -> nn.Linear:
    """The linear model of these rows with least squares and a ridge of 1; or `begun` after so many steps on them."""
    line = nn.Linear(x.shape[1], 1)
    if begun is None:
        z = torch.cat([x, torch.ones(len(x), 1)], 1).double()
        ridge = torch.eye(z.shape[1], dtype=torch.float64)
        ridge[-1, -1] = 0  # not of the constant
        w = torch.linalg.solve(z.T @ z + ridge + 1e-9 * torch.eye(len(ridge)), z.T @ y.double()).float()
        line.weight.data, line.bias.data = w[:-1].T.contiguous(), w[-1]
        return line
    line.load_state_dict(begun.state_dict())
    for _ in range(steps):
        gradients = torch.autograd.grad(nn.functional.mse_loss(line(x), y), [line.weight, line.bias])
        for parameter, gradient in zip((line.weight, line.bias), gradients, strict=True):
            parameter.data -= RATE * gradient
    return line


def alone(few: Set, test: Set, schema: Schema) -> np.ndarray:
    """What these rows say by themselves: ridge regression, its penalty chosen by leaving one out."""
    from sklearn.linear_model import RidgeCV

    x, y = scaled_by(few, few, schema)
    line = RidgeCV(alphas=np.logspace(-1, 3, 9)).fit(x.numpy(), y[:, 0].numpy())
    said = line.predict(scaled_by(test, few, schema)[0].numpy())
    return in_unit(torch.from_numpy(said)[:, None].float(), constants(few.y))[:, 0].numpy()


def said_by(line: nn.Linear, own: Set, by: Set, schema: Schema) -> np.ndarray:
    """What a linear model says of rows, in the target's own unit."""
    with torch.no_grad():
        return in_unit(line(scaled_by(own, by, schema)[0]), constants(by.y))[:, 0].numpy()


def ways(schema: Schema, owners: list[Set], few: Set, test: Set) -> dict[str, np.ndarray]:
    """What else one could do with an owner's few rows: its test rows predicted."""
    pool = Set(torch.cat([own.raw for own in owners]), torch.cat([own.y for own in owners]))
    one = trained(*scaled_by(pool, pool, schema))
    each = [scaled_by(own, own, schema) for own in owners]
    apart = trained(torch.cat([x for x, _ in each]), torch.cat([y for _, y in each]))
    return {
        "mean of its rows": np.full(len(test.y), few.y.mean().item()),
        "alone": alone(few, test, schema),
        "pooled": said_by(one, test, pool, schema),
        "pooled, adapted": said_by(trained(*scaled_by(few, pool, schema), one, STEPS), test, pool, schema),
        "pooled, scaled owner by owner": said_by(apart, test, few, schema),
    }


def compare(
    folder: Path, run: Path, owners: dict[str, list[dict[str, object]]], draws: int, rng: np.random.Generator
) -> dict[str, dict[int, float]]:
    """The mean absolute error of every way, after each number of rows: over the test rows of the new hospital's owners.

    Args: `draws`, how often each owner's rows are drawn anew: some to fit to, all but the most of these to test.
    """
    schema, learnt = read(folder / "schema.toml"), read_model(run)
    theirs = [_set(with_targets(path, schema)) for name in ("north", "south", "west")
              for path in sorted((folder / name).iterdir())]  # fmt: skip
    errors: dict[str, dict[int, list[float]]] = {}
    everybody = [(owner, draw) for owner in sorted(owners) if owner.startswith("new") for draw in range(draws)]
    for owner, draw in everybody:
        rows, habit = [owners[owner][n] for n in rng.permutation(len(owners[owner]))], HOSPITALS["new"]
        test = write_table(folder / "test" / f"{owner}-{draw}.csv", rows[max(ROWS):], habit)
        for n in ROWS:
            few = write_table(folder / "few" / f"{owner}-{draw}-{n}.csv", rows[:n], habit)
            wanted = _set(with_targets(test, schema))
            said = ways(schema, theirs, _set(with_targets(few, schema)), wanted) | {
                "difnet, not adapted": _difnet(learnt, few, test, 0),
                "difnet": _difnet(learnt, few, test, STEPS)}  # fmt: skip
            for way, values in said.items():
                off = np.abs(values - wanted.y[:, 0].numpy()).tolist()
                errors.setdefault(way, {}).setdefault(n, []).extend(off)
    return {way: {n: float(np.mean(off)) for n, off in by.items()} for way, by in errors.items()}


def _difnet(learnt: LaunchModel, few: Path, test: Path, steps: int) -> np.ndarray:
    """`difnet fit` and `difnet predict`."""
    fitted = fit(learnt, few, steps=steps, held_back=0.0).learnt
    return np.array(predict(fitted, test).columns["predicted progression"])


def _set(own: OneTable) -> Set:
    return Set(torch.from_numpy(own.rows), torch.from_numpy(own.targets)[:, None])


def draw(seeds: list[dict[str, dict[int, float]]], path: Path) -> None:
    """The errors over the number of rows: means over seeds, and their spread."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for way in seeds[0]:
        values = np.array([[seed[way][n] for n in ROWS] for seed in seeds])
        style = {"linewidth": 2.5} if way.startswith("difnet") else {"linestyle": "--"}
        axes.errorbar(ROWS, values.mean(0), values.std(0), label=way, capsize=2, **style)  # type: ignore[arg-type]
    axes.set(xlabel="rows of the new owner that are fitted to", ylabel="mean absolute error", xticks=ROWS)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Every seed cuts the data anew, trains and compares; then the table and the picture."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--iterations", type=int, default=100)
    words.add_argument("--draws", type=int, default=20)
    asked = words.parse_args()
    found = []
    for seed in range(1, asked.seeds + 1):  # rates and lengths were tried with 0
        folder = asked.folder / f"seed-{seed}"
        if folder.exists():
            raise SystemExit(f"{folder} is there already, with another run's files; give another folder")
        rng = np.random.default_rng(seed)
        owners = patients(rng)
        for owner, rows in owners.items():
            hospital = owner.partition("-")[0]
            if hospital != "new":
                write_table(folder / hospital / f"{owner}.csv", rows, HOSPITALS[hospital])
        found.append(compare(folder, learn(folder, seed, asked.iterations), owners, asked.draws, rng))
        print(f"seed {seed}: {json.dumps(found[-1])}", file=sys.stderr)
    print("| | " + " | ".join(f"{n} rows" for n in ROWS) + " |\n|---|" + "---|" * len(ROWS))
    for way in found[0]:
        cells = [[seed[way][n] for seed in found] for n in ROWS]
        print(f"| {way} | " + " | ".join(f"{np.mean(cell):.1f} ± {np.std(cell):.1f}" for cell in cells) + " |")
    draw(found, asked.folder / "own-data-story.png")


if __name__ == "__main__":
    main()
