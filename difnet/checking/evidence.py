"""What do the records of a run say, as far as they can be read? For whoever judges them: damage is told, not raised."""

import csv
import io
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from difnet.errors import RunFolderError
from difnet.record.checkpoints import IDENTITY
from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Event,
    NeighbourBack,
    NeighbourLost,
    Note,
    Progress,
    Ready,
    Resumed,
    RunStarted,
    TrainedAlone,
    standing,
)  # fmt: skip
from difnet.record.files import folder_of, parse_event, read_config, read_json, read_tensors
from difnet.system.holding import is_held
from difnet.system.texts import read_text

Kind = TypeVar("Kind", bound=Event)


class EdgeEnd(NamedTuple):
    """A row of edges.csv: what one end has sent over an edge, and used of it; None where the record does not say."""

    payload_bytes: int
    messages: int
    combined: int | None
    epoch: int | None
    used: int | None
    resent: int  # states that are counted twice among the bytes


@dataclass(frozen=True)
class Evidence:
    """A run's records as they lie, with what could not be read of them."""

    folder: Path
    events: list[Event]  # all that could be read, also of what was undone and done again
    own: dict[int, list[Event]]  # agent -> what it told of itself, as far as it counts
    edges: dict[tuple[int, int], EdgeEnd]  # (who, its neighbour)
    summary: dict[str, Any]
    config: dict[str, Any]
    topology: dict[str, Any]
    identity: dict[str, Any]
    goes_on: bool  # somebody holds the folder
    state_bytes: int = 0  # of a state that travels; 0: no agent's last state is there that would tell
    chaos: list[tuple[float, str]] = field(default_factory=list)  # (seconds since the epoch, "begun" | "ended")
    damaged: list[tuple[str, str]] = field(default_factory=list)  # (where, what is wrong)

    @cached_property
    def standing(self) -> list[Event]:
        """The events that count."""
        return standing(self.events)

    @cached_property
    def lives(self) -> list[list[Event]]:
        """The events from the start, and from each resumption on: in each life edges begin with their first epoch."""
        found: list[list[Event]] = [[]]
        for event in self.events:
            if isinstance(event, Resumed):
                found.append([])
            found[-1].append(event)
        return found

    def of(self, kind: type[Kind], events: Iterable[Event] | None = None) -> list[Kind]:
        """The events of one kind: of those that count, or of these."""
        return [e for e in (self.standing if events is None else events) if isinstance(e, kind)]

    @property
    def has_ended(self) -> bool:
        """Whether the run says that it is over."""
        return bool(self.summary)

    @property
    def is_launched(self) -> bool:
        """Whether agents were processes with edges between them, and not simulated."""
        return next((e.command for e in self.of(RunStarted)), self.summary.get("command")) != "simulate"

    @cached_property
    def served(self) -> bool:
        """Whether a hub served: its clients are in the rounds that it calls them for."""
        return bool(self.summary.get("server")) or any(e.server is not None for e in self.of(Ready))

    @property
    def in_step(self) -> bool:
        """Whether agents among equals did the same rounds, each with the states of that very round."""
        return self.config.get("mode", "sync") == "sync" and not self.served

    @property
    def agents(self) -> int:
        """K."""
        t = self.topology
        return int(t.get("agents") or len(t.get("nodes", ())) or self.summary.get("agents") or 0)

    @cached_property
    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The entries of A that are not 0: (l, k, a_lk); None where the folder has none that can be read."""
        A = self.topology.get("A")
        try:
            if isinstance(A, dict):
                return np.array(A["l"], int), np.array(A["k"], int), np.array(A["weight"], float)
            matrix = np.array(A, dtype=float)
            l, k = np.nonzero(matrix)
            return l, k, matrix[l, k]
        except (KeyError, TypeError, ValueError):
            return None

    @cached_property
    def heard_by(self) -> dict[int, set[int]]:
        """Agent -> the neighbours whose states it combines; of a served star the hub and everybody."""
        found: dict[int, set[int]] = {k: set() for k in range(self.agents)}
        if self.weights is not None:
            for l, k in zip(self.weights[0].tolist(), self.weights[1].tolist(), strict=True):
                if l != k:
                    found.setdefault(k, set()).add(l)
        return found

    def replaced(self, events: Iterable[Event] | None = None) -> set[int]:
        """The agents of whom some process ended before the run did, in all lives or among these events."""
        told = self.events if events is None else list(events)
        return {e.agent for e in told if isinstance(e, AgentLost) or (isinstance(e, AgentReturned) and e.incarnation)}

    @cached_property
    def faults(self) -> list[int]:
        """The iterations at which somebody was lost to somebody."""
        return [e.iteration for e in self.events if isinstance(e, AgentLost | NeighbourLost)]

    @cached_property
    def heals(self) -> list[int]:
        """The iterations from which on somebody was back, or the run went on."""
        first = [e.first for e in self.events if isinstance(e, NeighbourBack)]
        return first + [e.iteration for e in self.events if isinstance(e, AgentReturned | Resumed)]

    @cached_property
    def gaps(self) -> int:
        """Records that are known to be missing."""
        noted = sum("events are missing here" in e.text for e in self.events if isinstance(e, Note))
        return int(self.summary.get("lost_records") or 0) + noted + len(self.damaged)

    def last_word(self, k: int) -> Progress | None:
        """What agent k has told last of its counters."""
        told = [e for e in self.own.get(k, ()) if isinstance(e, Progress)]
        return told[-1] if told else None

    def first_round(self, life: list[Event]) -> int:
        """The number of the first round of a life; local models that are exchanged are round 0, and shift the rest."""
        resumed = [e.iteration for e in life if isinstance(e, Resumed)]
        return resumed[0] + self.is_offline if resumed and resumed[0] else 0

    @cached_property
    def is_offline(self) -> bool:
        """Whether agents trained alone first, and exchanged what came of it in a round of its own."""
        return any(isinstance(e, TrainedAlone) for told in self.own.values() for e in told)


def gather(folder: Path) -> Evidence:
    """All that a run folder says; what cannot be read is in `damaged`.

    Raises: RunFolderError, if that it is in use cannot be told.
    """
    damaged: list[tuple[str, str]] = []
    goes_on = is_held(folder)

    def read(name: str, reader: Any) -> dict[str, Any]:
        try:
            return reader(folder / name)
        except RunFolderError as error:
            damaged.append((name, str(error)))
            return {}

    events = _lines(folder, "events.jsonl", damaged)
    topology = read("topology.json", read_json)
    own = {}
    for path in sorted((folder / "agents").glob("*/metrics.jsonl")):
        if path.parent.name.isdecimal():
            k = int(path.parent.name)
            own[k] = standing(_lines(folder, f"{folder_of(k)}/metrics.jsonl", damaged))
    edges, chaos = _edges(folder / "edges.csv", damaged), _chaos(folder, damaged)
    return Evidence(folder, events, own, edges, read("run.json", read_json), read("config.toml", read_config), topology,
                    read(IDENTITY, read_json), goes_on, _state_bytes(folder), chaos, damaged)  # fmt: skip


def _lines(folder: Path, name: str, damaged: list[tuple[str, str]]) -> list[Event]:
    """The events of a JSON-lines file; a last line without its newline is still being written, or was torn off."""
    path, found = folder / name, list[Event]()
    if not path.is_file():
        return found
    *lines, _unfinished = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(parse_event(path, number, line))
            except RunFolderError as error:
                damaged.append((f"{name}, line {number}", str(error)))
    return found


def _chaos(folder: Path, damaged: list[tuple[str, str]]) -> list[tuple[float, str]]:
    """When faults that somebody made on purpose began and ended, where chaos.jsonl tells of them."""
    path, found = folder / "chaos.jsonl", list[tuple[float, str]]()
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), start=1):
        try:
            told = json.loads(line)
            if told.get("phase") in ("begun", "ended"):
                found.append((float(told["at"]), told["phase"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            damaged.append((f"{path.name}, line {number}", f"it is damaged: {error}"))
    return found


def _state_bytes(folder: Path) -> int:
    for path in sorted((folder / "agents").glob("*/state-*.safetensors")):
        with suppress(RunFolderError, KeyError):
            return int(read_tensors(path)["w"].nbytes)
    return 0


def _edges(path: Path, damaged: list[tuple[str, str]]) -> dict[tuple[int, int], EdgeEnd]:
    def number(text: str | None) -> int | None:
        return int(text) if text else None

    if not path.is_file():
        return {}
    try:
        return {(int(row["from"]), int(row["to"])): EdgeEnd(
                    int(row["payload_bytes"]), int(row["messages"]), number(row.get("combined")),
                    number(row.get("epoch")), number(row.get("used")), number(row.get("resent")) or 0)
                for row in csv.DictReader(io.StringIO(read_text(path), newline=""))}  # fmt: skip
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        damaged.append((path.name, f"it is damaged: {error}"))
        return {}
