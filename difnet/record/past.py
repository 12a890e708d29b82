"""What had a run come to that is to go on? Its identity, its record, and which checkpoints everybody had."""

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from difnet import catalog
from difnet.config import RunConfig, load
from difnet.errors import CheckpointError, RunFolderError
from difnet.record import succession
from difnet.record.checkpoints import IDENTITY
from difnet.record.events import (
    AgentReturned,
    Checkpointed,
    Event,
    Measured,
    RunStarted,
    Validated,
)
from difnet.record.files import folder_of, read_events, read_json
from difnet.record.succession import Succession
from difnet.system.holding import in_use, is_held
from difnet.topology import Topology

NO_CHECKPOINTS = "it was launched with checkpoint_every = 0, and has no checkpoints"
MOST_NAMED = 5  # agents in one sentence
Kind = TypeVar("Kind", bound=Event)


def identity_text(topology: Topology) -> str:
    """What a new run's folder says of its identity: an id that no other run has, and the network as it was launched."""
    return json.dumps({"id": secrets.token_hex(8), "topology": topology.to_dict()})


@dataclass(frozen=True)
class Past:
    """A run as its folder tells it, and the configuration under which it is to go on."""

    folder: Path
    id: str
    config: RunConfig
    topology: Topology
    events: list[Event]
    heir_to: Succession | None = None  # what its launcher left, if that was killed
    changed: tuple[str, ...] = ()  # the settings that are to be others than they were

    @property
    def started(self) -> RunStarted:
        """The event that it began with, as it is now."""
        told = next(e for e in self.events if isinstance(e, RunStarted))
        return replace(told, iterations=self.config.iterations)

    @property
    def reached(self) -> int:
        """The iterations that it was known to have done."""
        return max((e.iteration for e in self.events if isinstance(e, Measured | Checkpointed)), default=0)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Its events of a kind that still count."""
        return [e for e in self.events if isinstance(e, kind)]

    def of_agent(self, k: int) -> Iterator[Event]:
        """What one agent told of itself."""
        path = self.folder / folder_of(k) / "metrics.jsonl"
        if path.is_file():
            yield from read_events(path)

    def agree(self, found: Mapping[int, list[int]], asked: int | None) -> int:
        """After which iteration it goes on: the newest of which everybody has a checkpoint; 0, if there is none.

        Of several that all have, one that the record knew to be complete: then no measurement is missing before it.

        Args: `found`, by agent: the iterations of the checkpoints that can be used; `asked`, the only one that will do.
        Raises: CheckpointError, if somebody lacks that, or one that everybody had.
        """
        known = {e.iteration for e in self.of(Checkpointed)}
        common = set[int].intersection(*map(set, found.values())) if found else set[int]()
        if asked is not None:
            if asked and asked not in common:
                raise CheckpointError(f"{lacking(found, asked)} no checkpoint of iteration {asked} that can be used; "
                                      f"all have those of iterations {sorted(common)}")  # fmt: skip
            return asked
        first = max(common & known or common, default=0)
        if first < max(known, default=0):
            raise CheckpointError(f"everybody had a checkpoint of iteration {max(known)}, and now "
                                  f"{lacking(found, max(known))} none of it that can be used (why is said above, if it "
                                  f"is there); give DIFNET_CHECKPOINTS where they lie, or --from {first} to do the "
                                  f"iterations from there again")  # fmt: skip
        return first


def lacking(found: Mapping[int, list[int]], iteration: int) -> str:
    """Who has no checkpoint of an iteration, and a verb.

    >>> lacking({0: [10], 1: [], 2: [10, 20]}, 20)
    'agents 0, 1 have'
    """
    who = sorted(k for k, told in found.items() if iteration not in told)
    more = f" and {len(who) - MOST_NAMED} more" if len(who) > MOST_NAMED else ""
    return f"agent {who[0]} has" if len(who) == 1 else f"agents {', '.join(map(str, who[:MOST_NAMED]))}{more} have"


def read(folder: Path, changes: Mapping[str, Any]) -> Past:
    """The past of the run in a folder, which is to go on with some settings changed.

    Raises: RunFolderError, if it cannot go on: it still goes on, is no run of `difnet launch`, keeps no checkpoints, or
        has done all that it was to do; ConfigError for settings that cannot be.
    """
    if is_held(folder):
        raise RunFolderError(in_use(folder))
    events = read_events(folder / "events.jsonl") if (folder / "events.jsonl").is_file() else []
    started = next((e for e in events if isinstance(e, RunStarted)), None)
    told = read_json(folder / IDENTITY)
    command = started.command if started else "launch"
    if started is None or "id" not in told or command == "simulate":
        why = ("`difnet simulate` keeps no checkpoints" if command == "simulate"
               else f"it has no {IDENTITY}, as runs of an older difnet, or no beginning")  # fmt: skip
        raise RunFolderError(f"{folder} cannot be resumed: {why}; run it again: difnet {command} --config "
                             f"{folder / 'config.toml'}")  # fmt: skip
    config = load(folder / "config.toml", settings=changes)
    before = load(folder / "config.toml")
    heir_to = succession.read(folder)
    _check(folder, before, config, may_live=heir_to is not None)
    changed = tuple(name for name in changes if getattr(before, name) != getattr(config, name))
    return Past(folder.resolve(), str(told["id"]), config, Topology.from_dict(told["topology"]), events, heir_to,
                changed)  # fmt: skip


def _check(folder: Path, before: RunConfig, config: RunConfig, may_live: bool) -> None:
    """Raises: RunFolderError, if it cannot go on so."""
    summary = read_json(folder / "run.json")
    name, wrong = config.algorithm.name, ""
    if config.checkpoint_every == 0 and not may_live:
        wrong = NO_CHECKPOINTS
    elif config.iterations < before.iterations:
        wrong = f"it was to do {before.iterations} iterations; they may be raised, and {config.iterations} are fewer"
    elif config.iterations > before.iterations and catalog.taken("algorithms", name, {"iterations": 0}):
        wrong = f"{name} plans its steps by the number of iterations: more of them are another run"
    elif (summary.get("target") or {}).get("reached"):
        wrong = f"it has reached its target, {summary['target']['asked']}"
    elif summary.get("state") == "done" and config.iterations == before.iterations:
        wrong = f"it has done all its {before.iterations} iterations; give more of them with --iterations"
    if wrong:
        raise RunFolderError(f"{folder} cannot be resumed: {wrong}")


def restored(past: Past, first: int) -> tuple[list[Validated], set[int], float]:
    """What of the record still counts when it goes on after `first` iterations.

    Returns: the validations, the agents that had returned, and the seconds that it had taken by then.
    """
    before = [e for e in past.of(Measured) if e.iteration < first]
    at = [e.seconds for e in past.of(Checkpointed) if e.iteration == first] or [e.seconds for e in before[-1:]]
    return ([e for e in before if isinstance(e, Validated)], {e.agent for e in past.of(AgentReturned)},
            at[0] if at else 0.0)  # fmt: skip
