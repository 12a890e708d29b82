"""What does a run folder tell? One run as a value, read as it lies, wherever it was copied to."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from difnet.errors import RunFolderError
from difnet.record.events import Evaluated, Event, Judged, Measured, Progress, Ready, RunStarted, Tested, Validated
from difnet.record.files import TaskScore, read_events, read_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch.nn import Module

Columns = dict[str, np.ndarray]


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
    def combine(self) -> str:
        """The rule by which the agents combined."""
        return str(self.config.get("combine", "mean"))

    @property
    def validations(self) -> list[Validated]:
        """Every validation, in order."""
        return [e for e in self.events if isinstance(e, Validated)]

    @property
    def tests(self) -> dict[str, Any]:
        """What each model scored on the test tasks: {model: {iteration, tasks, loss, accuracy}}; {} if none was.

        Of the agents' own models, which are tested where they differ, also how many: agents.
        """
        told = {e.model: {k: v for k, v in e.to_dict().items() if k not in ("event", "model") and v is not None}
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
        """A fact such as "topology" or "seed": from the summary, else the first event, else the config; or None.

        What older runs call centralised, with as many agents as ever, is "fully-connected".
        """
        if name == "strategy" and self.topology.get("rule") == "centralised" and self.topology.get("agents", 1) > 1:
            return "fully-connected"
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
    def scores(self) -> list[TaskScore]:
        """The rows of test.csv, in order; none where the run was not tested.

        Raises: RunFolderError, if the file is damaged.
        """
        path = self.folder / "test.csv"
        return read_scores(path) if path.is_file() else []

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
            for e in told if isinstance(e, Evaluated | Judged)
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

    def away(self) -> "Figure":
        """Who was away when, below what it did to consensus error and loss.

        Raises: RunFolderError, if nobody was.
        """
        from difnet.report.away import away

        return away(self.run)


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


# Finding


# Following


# Comparing


