"""What does a run folder hold? Reads it, finds it by a word, follows it while it grows, compares two of them.

A folder is read as it lies, wherever it was copied to; JSON's null means unknown and becomes None or NaN.
"""

import csv
import json
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from difnet.errors import RunFolderError, did_you_mean
from difnet.record.events import (
    Evaluated,
    Event,
    Measured,
    Progress,
    Ready,
    RunEnded,
    RunStarted,
    Tested,
    Validated,
    from_dict,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch.nn import Module

Columns = dict[str, np.ndarray]


class Score(NamedTuple):
    """A row of test.csv: how a model, fitted by so many inner steps, did on one test task or client."""

    model: str  # LAUNCH_MODEL or LOCAL_AVERAGE
    task: str
    samples: int  # query samples
    steps: str
    loss: float  # NaN where the folder has no finite one
    accuracy: float  # NaN where the task family has none


@dataclass(frozen=True)
class Run:
    """One run as its folder tells it; what the folder lacks is empty."""

    folder: Path
    summary: dict[str, Any]  # {} as long as the run has not ended
    config: dict[str, Any]
    topology: dict[str, Any]
    environment: dict[str, Any]
    events: list[Event]

    @property
    def started(self) -> RunStarted | None:
        """The event that says what was about to run."""
        return next((e for e in self.events if isinstance(e, RunStarted)), None)

    @property
    def ready(self) -> Ready | None:
        """The event with which the first iteration began."""
        return next((e for e in self.events if isinstance(e, Ready)), None)

    @property
    def served(self) -> bool:
        """Whether a hub served: then there is one launch model, the hub's, and nothing to agree about."""
        return bool(self.summary.get("server")) or (self.ready is not None and self.ready.server is not None)

    @property
    def mixing_rate(self) -> float | None:
        """λ₂ of the exchange as it was: 0 with a server; that of the topology where the run never began."""
        if self.ready:
            return self.ready.mixing_rate
        known = (self.started.mixing_rate if self.started else None, self.topology.get("mixing_rate"))
        return next((rate for rate in (self.summary.get("mixing_rate"), *known) if rate is not None), None)

    @property
    def validations(self) -> list[Validated]:
        """Every validation, in order."""
        return [e for e in self.events if isinstance(e, Validated)]

    @property
    def tests(self) -> dict[str, Any]:
        """What each model scored on the test tasks: {model: {iteration, tasks, loss, accuracy}}; {} if none was."""
        told = {e.model: {k: v for k, v in e.to_dict().items() if k not in ("event", "model")}
                for e in self.events if isinstance(e, Tested)}  # fmt: skip
        return self.summary.get("test") or told

    @property
    def state(self) -> str:
        """How it ended: "done", "stopped", "failed"; "unfinished" where nothing says so."""
        return str(self.summary.get("state") or "unfinished")

    @property
    def plot(self) -> "Plots":
        """Pictures of this run: `run.plot.consensus()`, `run.plot.loss()`, `run.plot.network()`."""
        return Plots(self)

    def launch_model(self) -> "Module":
        """The trained launch model as a network, ready to be fitted or to predict.

        Raises: RunFolderError, if the folder has none; ConfigError, if it is of a module that is not here.
        """
        from difnet.launch_models import read

        return read(self.folder).module()

    def fact(self, name: str) -> Any:
        """A fact such as "topology" or "seed": from the summary, else the first event, else the config; or None."""
        for source in (self.summary, self.started.to_dict() if self.started else {}, self.config):
            if (value := source.get(name)) is not None:
                return value.get("name") if isinstance(value, Mapping) else value
        return self.folder.name if name == "run" else None

    def metrics(self) -> Columns:
        """A column per figure, a row per validation: iteration, seconds, disagreement, before_mean, after_1_worst, …,
        accuracy_1_mean, …, spent_payload_bytes, spent_flops, …

        What is unknown is NaN.
        """
        return _columns([_flat_validation(e) for e in self.validations])

    def consensus(self) -> Columns:
        """The columns iteration, seconds and disagreement, a row per measurement: more of them than validations."""
        names = ("iteration", "seconds", "disagreement")
        return _columns([{n: getattr(e, n) for n in names} for e in self.events if isinstance(e, Measured)])

    @cached_property
    def scores(self) -> list[Score]:
        """The rows of test.csv, in order; none where the run was not tested.

        Raises: RunFolderError, if the file is damaged.
        """
        path = self.folder / "test.csv"
        return _read_scores(path) if path.is_file() else []

    def agent_metrics(self, k: int) -> Columns:
        """What agent k told about itself, in columns: iteration, loss, cpu_s, … as it went along and what else its
        algorithm reports, and of its tests evaluated_iteration, before, after_1, …, accuracy_1, …

        Raises: RunFolderError, if the folder has nothing of agent k.
        """
        path = self.folder / "agents" / f"{k:03d}" / "metrics.jsonl"
        if not path.is_file():
            raise RunFolderError(f"{self.folder} has no figures of agent {k}: no file {path.relative_to(self.folder)}")
        told = read_events(path)
        other = ("event", "agent", "figures")
        own = [{n: x for n, x in e.to_dict().items() if n not in other} | e.figures
               for e in told if isinstance(e, Progress)]  # fmt: skip
        tests = [
            {"evaluated_iteration": e.iteration, "before": e.before, **{f"after_{n}": x for n, x in e.after.items()},
             **{f"accuracy_{n}": x for n, x in e.accuracy.items()}}
            for e in told if isinstance(e, Evaluated)
        ]  # fmt: skip
        return _columns(own) | _columns(tests)


@dataclass(frozen=True)
class Plots:
    """Pictures of one run: matplotlib figures that a notebook shows; with `ax`, drawn into axes of your own."""

    run: Run

    def consensus(self, ax: "Axes | None" = None) -> "Figure":
        """Consensus error over the iterations, with what the theory promises."""
        from difnet.report import plots

        return plots.consensus([self.run], ax)

    def loss(self, ax: "Axes | None" = None) -> "Figure":
        """Validation loss over the iterations, before and after adaptation."""
        from difnet.report import plots

        return plots.loss(self.run, ax)

    def network(self, ax: "Axes | None" = None) -> "Figure":
        """The graph, each agent coloured by its distance from the centroid."""
        from difnet.report import plots

        return plots.network(self.run, ax)


def _flat_validation(event: Validated) -> dict[str, float | None]:
    row: dict[str, float | None] = {
        "iteration": event.iteration, "seconds": event.seconds, "disagreement": event.disagreement,
    }  # fmt: skip
    after = {f"after_{n}": s for n, s in event.after.items()}
    accuracy = {f"accuracy_{n}": s for n, s in event.accuracy.items()}
    told: dict[str, Mapping[str, float | None]] = {"before": event.before, **after, **accuracy, "spent": event.spent}
    for prefix, figures in told.items():
        row |= {f"{prefix}_{name}": value for name, value in figures.items()}
    return row


def _columns(rows: list[dict[str, Any]]) -> Columns:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {n: np.array([np.nan if row.get(n) is None else row[n] for row in rows], dtype=float) for n in names}


# Reading


def load(path: str | Path) -> Run:
    """The run in a folder; also of one that is still on its way or was torn off, whose last line may be half written.

    Raises: RunFolderError, if it is no run folder or one of its files is damaged.
    """
    folder = Path(path)
    if not is_run(folder):
        raise RunFolderError(_no_run(folder))
    events = read_events(folder / "events.jsonl") if (folder / "events.jsonl").is_file() else []
    summary = _read_json(folder / "run.json")
    if not summary and (ended := next((e for e in events if isinstance(e, RunEnded)), None)):
        summary = ended.summary
    return Run(
        folder, summary, _read_config(folder / "config.toml"), _read_json(folder / "topology.json"),
        _read_json(folder / "environment.json"), events,
    )  # fmt: skip


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (folder / "run.json").is_file() or (folder / "events.jsonl").is_file()


def _no_run(folder: Path) -> str:
    if not folder.exists():
        return f"there is no folder {folder}; `difnet launch` makes one, and prints where"
    return f"{folder} is no run folder: it holds neither run.json nor events.jsonl"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict):
        raise RunFolderError(f"{path} is damaged: expected an object, got {type(document).__name__}")
    return document


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error


def read_events(path: Path) -> list[Event]:
    """Every event in a JSON-lines file; a last line without its newline is still being written and left out.

    Raises: RunFolderError, naming the damaged line.
    """
    *lines, _unfinished = path.read_bytes().split(b"\n")
    return [_event(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _event(path: Path, number: int, line: bytes) -> Event:
    try:
        return from_dict(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"unknown kind of event {error}" if isinstance(error, KeyError) else error
        raise RunFolderError(
            f"{path}, line {number}: {reason}. Either the file is damaged or a newer difnet wrote it."
        ) from error


def _read_scores(path: Path) -> list[Score]:
    def number(text: str) -> float:
        return float(text) if text else float("nan")

    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Score(row["model"], row["task"], int(row["samples"]), row["steps"], number(row["loss"]),
                      number(row["accuracy"]))
                for row in csv.DictReader(file)
            ]  # fmt: skip
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else error
        raise RunFolderError(f"{path} is damaged: {reason}; expected the columns {', '.join(Score._fields)}") from error


# Finding


def resolve(word: str, runs: str | Path = "runs") -> Path:
    """The run folder a word means: a path, a name inside `runs`, "latest", or the beginning of just one name.

    Raises: RunFolderError, with the names that come near.
    """
    if is_run(Path(word)):
        return Path(word).resolve() if Path(word).is_symlink() else Path(word)
    home = Path(runs)
    if is_run(home / word):
        return (home / word).resolve() if (home / word).is_symlink() else home / word
    if Path(word).exists():
        raise RunFolderError(_no_run(Path(word)))
    names = sorted(p.name for p in home.iterdir() if is_run(p) and not p.is_symlink()) if home.is_dir() else []
    match [name for name in names if word and name.startswith(word)]:
        case [name]:
            return home / name
        case [_, _, *_] as several:
            shown = ", ".join(several[:5]) + (", …" if len(several) > 5 else "")
            raise RunFolderError(f"{word!r} is the beginning of {len(several)} runs: {shown}; give more of the name")
    if not names:
        raise RunFolderError(f"no run called {word!r}: there is no run in {home}/; start one with `difnet launch`")
    hint = did_you_mean(word, [*names, "latest"]) or f"; the newest is {max(names)!r}"
    raise RunFolderError(f"no run called {word!r} in {home}/{hint} A path or the beginning of a name will do too.")


# Following


def follow(path: str | Path, poll_s: float = 0.25) -> Iterator[Event | None]:
    """The events of a run as they are written, from the first on; None whenever nothing new has come.

    Ends after RunEnded; how long to be patient with a silent run is for the caller to decide.
    """
    file_path = Path(path) / "events.jsonl"
    while not file_path.is_file():
        yield None
        time.sleep(poll_s)
    begun = b""
    with file_path.open("rb") as file:
        number = 0
        while True:
            begun += file.readline()
            if not begun.endswith(b"\n"):
                yield None
                time.sleep(poll_s)
                continue
            line, begun, number = begun, b"", number + 1
            event = _event(file_path, number, line)
            yield event
            if isinstance(event, RunEnded):
                return


# Comparing


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table as one level of dotted names.

    >>> flatten({"loss": {"after": {"1": 0.5}}, "seed": 0})
    {'loss.after.1': 0.5, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted names whose values differ, with both values; None where one side has none.

    >>> differences({"seed": 0, "task": {"name": "sinusoid"}}, {"seed": 1, "task": {"name": "sinusoid"}})
    {'seed': (0, 1)}
    """
    left, right = flatten(a), flatten(b)
    return {n: (left.get(n), right.get(n)) for n in dict.fromkeys([*left, *right]) if left.get(n) != right.get(n)}


def same_bits(a: Run, b: Run) -> bool | None:
    """Whether two runs ended in the same launch model, bit for bit; None where a folder has none."""
    from safetensors.numpy import load_file

    paths = [run.folder / "launch-model.safetensors" for run in (a, b)]
    if not all(path.is_file() for path in paths):
        return None
    left, right = (load_file(path) for path in paths)
    return left.keys() == right.keys() and all(
        x.dtype == right[n].dtype and x.shape == right[n].shape and x.tobytes() == right[n].tobytes()
        for n, x in left.items()
    )
