"""Events -> the run's folder, as plain files; and on to whoever listens (a screen, a test).

A record is one `os.write` to a file opened for appending, so that a killed process loses none that was made.
"""

import json
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from difnet.config import RunConfig
from difnet.energy import Meter
from difnet.errors import ConfigError
from difnet.events import (
    AgentLost,
    Evaluated,
    Event,
    Finished,
    NeighbourLost,
    Note,
    Progress,
    Ready,
    RunEnded,
    RunStarted,
    Snapshot,
)  # fmt: skip
from difnet.gathering import Gathering
from difnet.topology import Topology

SCHEMA = 1


class Recorder:
    """Writes one run. Its folder is complete after `finish`, and readable at any time before."""

    def __init__(self, config: RunConfig, topology: Topology, command: str, listen: Callable[[Event], None]) -> None:
        self.config, self.topology, self.command, self._listen = config, topology, command, listen
        self.gathering = Gathering(topology.agents)
        self.began, self.started_at = time.monotonic(), datetime.now(UTC)
        self.ready_s: float | None = None
        self.engine: str | None = None
        self.flops: int | None = None  # of one adapt step of one agent
        self._states: dict[int, np.ndarray] = {}
        self._meter = Meter()
        self.folder = make_folder(config, self.started_at)
        self._write_description()

    def start(self) -> None:
        """Say what is about to run."""
        c, t = self.config, self.topology
        self.emit(RunStarted(
            self.folder.name, self.command, str(self.folder), t.name, t.agents, len(t.edges), t.mixing_rate,
            t.doubly_stochastic, c.strategy, c.algorithm.name, c.task.name, c.model.name if c.model else "",
            c.iterations, c.outer_lr, c.seed, self.started_at.isoformat(timespec="seconds"),
        ))  # fmt: skip

    def emit(self, event: Event) -> None:
        """Record a network-level event, and pass it on."""
        append(self.folder / "events.jsonl", event.to_dict())
        self._listen(event)

    def note(self, text: str) -> None:
        """Record something that a person wants to know."""
        self.emit(Note(text, self.seconds()))

    def seconds(self) -> float:
        """Since the first iteration, or since the command began while there was none."""
        return time.monotonic() - self.began - (self.ready_s or 0.0)

    def ready(self, engine: str, parameters: int, flops: int | None, environment: dict[str, Any]) -> None:
        """Every agent is about to begin its first iteration."""
        self.engine, self.flops = engine, flops
        (self.folder / "environment.json").write_text(json.dumps(environment, indent=2))
        self.ready_s = time.monotonic() - self.began
        self.emit(Ready(self.ready_s, engine, parameters))

    def pulse(self) -> None:
        """Record how the network is doing."""
        self.emit(self.gathering.pulse(self.seconds()))

    def record(self, event: Event, tensors: Sequence[np.ndarray] = ()) -> None:
        """Take in what one agent said."""
        g = self.gathering
        if isinstance(event, Progress):
            g.progress[event.agent] = event
            append(self.agent_folder(event.agent) / "metrics.jsonl", event.to_dict())
        elif isinstance(event, Snapshot):
            if isinstance(event, Evaluated):
                append(self.agent_folder(event.agent) / "metrics.jsonl", event.to_dict())
            for measured in g.measured(event, tensors[0], self.seconds()):
                self.emit(measured)
        elif isinstance(event, NeighbourLost):
            g.broken.append(event)
            self.emit(event)
        elif isinstance(event, Finished):
            g.finished[event.agent] = event
            self._save_state(event, tensors)

    def lose(self, agent: int, status: str, log_tail: str) -> None:
        """An agent's process ended before the run did."""
        g = self.gathering
        g.lost.add(agent)
        iteration = g.progress[agent].iteration if agent in g.progress else 0
        self.emit(AgentLost(agent, status, iteration, log_tail))
        for measured in g.settle(self.seconds()):
            self.emit(measured)

    def finish(self, state: str, reason: str = "") -> dict[str, Any]:
        """Write what the run ended with. Returns the summary.

        Args: `state` is "done", "stopped" or "failed".
        """
        validations = self.gathering.validations
        seconds = validations[-1].seconds if validations and state == "done" else self.seconds()
        self.pulse()
        self._save_launch_model()
        summary = self.summary(state, seconds) | ({"reason": reason} if reason else {})
        summary = known(summary)
        (self.folder / "run.json").write_text(json.dumps(summary, indent=2, allow_nan=False))
        self.emit(RunEnded(state, summary))
        return summary

    def summary(self, state: str, seconds: float) -> dict[str, Any]:
        """The figures of a run under the names that scripts may rely on; what is unknown is None."""
        g, c, t = self.gathering, self.config, self.topology
        cpu_s = sum(p.cpu_s for p in g.progress.values())
        steps = sum(p.iteration for p in g.progress.values()) * c.local_steps
        agent_rounds = steps / c.local_steps
        first, last = (g.validations[0], g.validations[-1]) if g.validations else (None, None)
        pulse = g.pulse(seconds)
        return {
            "schema": SCHEMA, "run": self.folder.name, "command": self.command, "algorithm": c.algorithm.name,
            "strategy": c.strategy, "task": c.task.name, "topology": t.name, "weights": t.rule, "agents": t.agents,
            "seed": c.seed, "place": c.place if self.command == "launch" else None, "engine": self.engine,
            "iterations": g.iteration, "state": state, "seconds": seconds, "ready_s": self.ready_s,
            "rounds_per_s": g.iteration / seconds if seconds > 0 else None,
            "cpu_s_per_agent_round": cpu_s / agent_rounds if agent_rounds else None,
            "pss_mb_per_agent": pulse.pss_mb, "mixing_rate": t.mixing_rate, "doubly_stochastic": t.doubly_stochastic,
            "consensus_error": last.disagreement if last else None,
            "loss": {"before": last.before if last else None, "after": last.after if last else {},
                     "first": {"before": first.before, "after": first.after} if first else None},
            "accuracy": None,
            "bytes": {"payload": pulse.payload_bytes, "messages": pulse.messages,
                      "wire": pulse.wire_bytes if self.command == "launch" else None},
            "flops": self.flops * steps if self.flops else None,
            "energy": self._meter.read(cpu_s),
            "communication": {"seconds": None, "joules": None, "quality": "modelled"},
            "missed_exchanges": pulse.missed, "one_sided_exchanges": g.one_sided_exchanges(),
            "lost_agents": sorted(g.lost), "folder": str(self.folder),
        }  # fmt: skip

    def agent_folder(self, agent: int) -> Path:
        """Where one agent's files lie."""
        return self.folder / "agents" / f"{agent:03d}"

    def _save_state(self, event: Finished, tensors: Sequence[np.ndarray]) -> None:
        w, *slots = tensors
        self._states[event.agent] = w
        named = {"w": w, **{f"optimizer.{n}": slot for n, slot in enumerate(slots)}}
        save(self.agent_folder(event.agent) / f"state-{event.iteration:06d}.safetensors", named,
             {"iteration": str(event.iteration), "state": event.state})  # fmt: skip

    def _save_launch_model(self) -> None:
        """The centroid of the final launch models of the agents that ended well."""
        ended = [self._states[k] for k in sorted(self._states) if self.gathering.finished[k].state != "failed"]
        if ended:
            centroid = np.mean(np.stack(ended), axis=0, dtype=np.float64).astype(ended[0].dtype)
            model = self.config.model.model_dump_json() if self.config.model else ""
            save(self.folder / "launch-model.safetensors", {"w": centroid},
                 {"task": self.config.task.model_dump_json(), "model": model, "agents": str(len(ended))})  # fmt: skip

    def _write_description(self) -> None:
        for k in range(self.topology.agents):
            self.agent_folder(k).mkdir(parents=True, exist_ok=True)
        (self.folder / "config.toml").write_text(self.config.to_toml())
        (self.folder / "topology.json").write_text(json.dumps(self.topology.to_dict()))


def make_folder(config: RunConfig, now: datetime) -> Path:
    """A new folder for a run, and `latest` beside it pointing there.

    Raises: ConfigError, if it cannot be written.
    """
    stem = config.topology if config.topology.replace("-", "").isalnum() else Path(config.topology).stem.split("(")[0]
    name = config.name or f"{now:%Y-%m-%d_%H-%M-%S}_{stem}_{config.algorithm.name.rpartition(':')[2]}_s{config.seed}"
    runs = Path(config.runs)
    try:
        folder = runs / name
        if folder.exists():
            folder = runs / f"{name}_{secrets.token_hex(2)}"
        folder.mkdir(parents=True)
        latest = runs / f".latest-{secrets.token_hex(4)}"
        latest.symlink_to(folder.name)
        latest.replace(runs / "latest")
    except OSError as error:
        raise ConfigError(f"cannot write runs to {runs.resolve()}: {error.strerror}; give another --runs") from error
    return folder.resolve()


def known(value: Any) -> Any:
    """The same plain values, with None for every number that is not finite: JSON has no others, and unknown is null.

    >>> known({"loss": [1.0, float("inf")], "agents": 6})
    {'loss': [1.0, None], 'agents': 6}
    """
    if isinstance(value, dict):
        return {name: known(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [known(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line of JSON to a file, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(fd, (json.dumps(known(record), allow_nan=False) + "\n").encode())
    finally:
        os.close(fd)


def save(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write tensors so that a reader finds either the whole file or none, also after a crash."""
    scratch = path.with_name(f".{path.name}.part")
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, scratch, metadata)
    with open(scratch, "rb") as written:
        os.fsync(written.fileno())
    os.replace(scratch, path)
