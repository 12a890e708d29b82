"""Events -> the run's folder, as plain files; and on to whoever listens (a screen, a test)."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from difnet.config import RunConfig
from difnet.errors import ConfigError
from difnet.record.checkpoints import IDENTITY, identify
from difnet.record.costs import Target, spent
from difnet.record.disk import Disk
from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Checkpointed,
    Edge,
    Evaluated,
    Event,
    Finished,
    Judged,
    LinkHealed,
    Measured,
    NeighbourBack,
    NeighbourLost,
    Note,
    Progress,
    Ready,
    Resumed,
    RunEnded,
    RunStarted,
    Saved,
    Snapshot,
    Tested,
    TrainedAlone,
    Validated,
)  # fmt: skip
from difnet.record.files import csv_text, finite_or_none, folder_of, json_line, make_folder
from difnet.record.final_scores import ScoredModel, told_of
from difnet.record.inheritance import Recorded, recall
from difnet.record.models import Models
from difnet.record.past import Past, identity_text, restored
from difnet.record.prints import Prints
from difnet.record.summary import Facts, busiest, summarise
from difnet.record.tally import Tally
from difnet.system.energy import Meters, together, unknown
from difnet.topology import UNUSED_WEIGHTS, Topology


class Recorder:
    """Writes one run. Its folder is complete after `finish`, and readable at any time before.

    A disk that takes nothing any more ends no run: the summary tells what is not there.
    """

    def __init__(
        self, config: RunConfig, topology: Topology, command: str, listen: Callable[[Event], None],
        past: Past | None = None,
    ) -> None:  # fmt: skip
        self.config, self.topology, self.command, self._listen = config, topology, command, listen
        self.tally = Tally(topology.agents)
        self.began, self.started_at = time.monotonic(), datetime.now(UTC)
        self.facts: Facts | None = None  # known when the agents are ready
        self._target = Target.parse(config.target) if config.target else None
        self._at_target: dict[str, Any] | None = None
        self._tested: list[Tested] = []
        self.meters = Meters()
        self.rounds_per_s = 0.0  # lately
        self.checkpointed: Checkpointed | None = None  # the newest that everybody has
        self.refused_control = 0  # messages to the launcher that were dropped
        self._preparation_joules: float | None = None
        self._told_before: list[Progress] = []  # by the agents of a run that goes on
        self._gap = 0  # events that are missing since the last one in events.jsonl
        self.past, self._lived_s, self._spent_before = past, 0.0, dict[str, Any]()
        self.folder = past.folder if past else make_folder(config, self.started_at)
        self.disk = Disk(self.folder, self.note)
        self.prints = Prints(self.disk, self.note)
        self.models = Models(config, self.tally, self.disk)
        if past is None:
            self._write_description()
        self.id = identify(self.folder)
        self._recorded = Recorded()  # by a launcher before this one, in the life of the same processes
        self.has_begun = past is None  # from then on the folder is not what it was

    def start(self) -> None:
        """Say what is about to run."""
        if self.past:
            return self._listen(self.past.started)
        c, t = self.config, self.topology
        self.emit(RunStarted(
            self.folder.name, self.command, str(self.folder), t.name, t.agents, len(t.edges), t.mixing_rate,
            t.doubly_stochastic, c.strategy, c.algorithm.name, c.task.name, c.model.name if c.model else "",
            c.iterations, c.outer_lr, c.seed, self.started_at.isoformat(timespec="seconds"), c.combine,
        ))  # fmt: skip
        if t.unused_weights:
            self.note(UNUSED_WEIGHTS)

    def resume(self, first: int) -> None:
        """A run goes on after so many iterations: what was recorded of later ones stands no more."""
        past, g = self.past, self.tally
        assert past is not None, "only a run with a past goes on"
        self.has_begun = True
        g.validations, g.returned, self._lived_s = restored(past, first)
        self._spent_before = next((e.energy for e in past.of(Checkpointed) if e.iteration == first),
                                  unknown("what it took before it was resumed is not known"))  # fmt: skip
        event = Resumed(first, self.config.iterations, self.seconds(), max(0, past.reached - first))
        for k in range(self.topology.agents):
            told = [*past.of_agent(k)]
            g.alone |= {e.agent: e for e in told if isinstance(e, TrainedAlone)}
            self._told_before += [e for e in told if isinstance(e, Progress) and e.iteration <= first]
            self._keep(k, "metrics.jsonl", json_line(event.to_dict()))
        g.resumed_at = first
        self.models.recall()
        for stale in ("run.json", "test.csv", "test-agents.csv", "test-owners.csv"):
            (self.folder / stale).unlink(missing_ok=True)
        self.disk.write("config.toml", self.config.to_toml())
        self.emit(event)

    def take_over(self, facts: dict[str, Any], silent_s: float) -> dict[int, int]:
        """Go on with the record of a launcher that died, whose agents never stopped.

        Args: `silent_s`, for how long nothing was recorded.
        Returns: of each agent, how many of its processes are known to have ended.
        """
        past, g = self.past, self.tally
        assert past is not None, "only a run with a past goes on"
        self.has_begun, known = True, recall(past, g)
        self._recorded, self.checkpointed = known, known.checkpointed
        self.facts = self.models.facts = Facts(**facts, ready_s=known.ready_s)
        g.server, g.verdicts.judges = self.facts.server, self.facts.judges.get("validation", ())
        if g.server is not None:
            self.topology = self.topology.served()
        self._lived_s = known.seconds + silent_s + known.ready_s - (time.monotonic() - self.began)
        self._spent_before = unknown("what it took before its launcher was replaced is not known")
        self.models.recall(g.finished)
        for reached in past.of(Validated):
            self._aim(reached)
        for told in (past.of(Ready)[-1:], past.of(Resumed)[-1:]):
            for event in told:
                self._listen(event)
        self.note(f"another launcher takes over: for {silent_s:.1f} s nobody listened; agents went on, and tell "
                  f"again what may be missing")  # fmt: skip
        return known.deaths

    def emit(self, event: Event, kept: Event | None = None) -> None:
        """Record a network-level event, and pass it on; with a note before it where others are missing.

        Args: `kept`, what is recorded in its place; None: itself.
        """
        missing, first = self._gap, list[Event]()
        if missing:
            first = [Note(f"{missing} events are missing here: {self.disk.why}", self.seconds())]
        if self.disk.append("events.jsonl", "".join(json_line(e.to_dict()) for e in [*first, kept or event])):
            self._gap -= missing
        else:
            self._gap, first = self._gap + 1, []
        for each in [*first, event]:
            self._listen(each)

    def note(self, text: str, secret: str = "") -> None:
        """Record something that a person wants to know.

        Args: `secret`, a part of it that is told to those who listen, and kept off the record.
        """
        told = Note(text, self.seconds())
        self.emit(told, replace(told, text=text.replace(secret, "…")) if secret else None)

    def hear_only(self, text: str) -> None:
        """Tell those who listen, and keep it off the record: it may yet turn out that nothing is to be recorded."""
        self._listen(Note(text, self.seconds()))

    def has_noted(self, text: str) -> bool:
        """Whether a launcher before this one has recorded that an agent or a host said this."""
        return text in self._recorded.notes

    @property
    def ready_s(self) -> float | None:
        """How long the agents took to be ready; None as long as they are not."""
        return self.facts.ready_s if self.facts else None

    def seconds(self) -> float:
        """Since the first iteration, or since the command began while there was none; of a run that was resumed, beside
        what it had taken until then."""
        return self._lived_s + time.monotonic() - self.began - (self.ready_s or 0.0)

    def ready(self, prepared: Mapping[str, Any]) -> None:
        """Every agent is about to begin its first iteration.

        Args: `prepared`, the fields of Facts that are known by then: all but how long it took.
        """
        f = self.facts = self.models.facts = Facts(**prepared, ready_s=time.monotonic() - self.began)
        self._preparation_joules = self.meters.begin()  # compiling kernels, reading data: told apart
        self.tally.server, self.tally.verdicts.judges = f.server, f.judges.get("validation", ())
        self.tally.goes_on(self._told_before, f.carriers)
        if f.server is not None:
            self.topology = self.topology.served()
            self.disk.write("topology.json", json.dumps(self.topology.to_dict()))
        for name, document in (("environment", f.environment), ("partition", f.manifest)):
            if document is not None:
                self.disk.write(f"{name}.json", json.dumps(document, indent=2))
        self.emit(Ready(f.ready_s, f.engine, f.parameters, f.server, self.topology.mixing_rate))

    def pulse(self) -> None:
        """Record how the network is doing."""
        self._energy()  # a meter must be read before its counter wraps
        told = self.tally.pulse(self.seconds())
        self.rounds_per_s = told.rounds_per_s
        self.emit(told)
        for fallen in self.tally.fallen(lambda: self.topology.edges, told.seconds):
            self.emit(fallen)
        self.models.keep()

    def record(self, event: Event, tensors: Sequence[np.ndarray] = ()) -> None:
        """Take in what one agent said."""
        g = self.tally
        if self._recorded.holds(event):
            return
        if isinstance(event, Progress):
            g.progressed(event)
            self._keep(event.agent, "metrics.jsonl", json_line(event.to_dict()))
        elif isinstance(event, Snapshot):
            if isinstance(event, Evaluated) and not self._recorded.has_words(event):
                self._keep(event.agent, "metrics.jsonl", json_line(event.to_dict()))
            self._measured(g.measured(event, tensors[0], self.seconds()))
        elif isinstance(event, Judged):
            if not self._recorded.has_words(event):
                self._keep(event.agent, "metrics.jsonl", json_line(event.to_dict()))
            g.verdicts.hear(event)
            self._measured(g.judged())
        elif isinstance(event, NeighbourLost):
            g.left(event)
            self.emit(event)
        elif isinstance(event, NeighbourBack):
            g.joined(event)
            self.emit(event)
        elif isinstance(event, LinkHealed):
            g.healed += 1
            g.resent += event.resent
            self.emit(event)
        elif isinstance(event, AgentReturned):
            g.came_back(event)
            self.emit(event)
            self._measured(g.settle(self.seconds()))
        elif isinstance(event, TrainedAlone):
            g.alone[event.agent] = event
            self._keep(event.agent, "metrics.jsonl", json_line(event.to_dict()))
        elif isinstance(event, Saved):
            self._saved(event)
        elif isinstance(event, Edge):
            g.edges.append(event)
            self._keep(event.agent, "metrics.jsonl", json_line(event.to_dict()))
        elif isinstance(event, Finished):
            g.finished[event.agent] = event
            self.models.take(event, tensors)  # first: whoever finds the word of it finds the state
            self._keep(event.agent, "metrics.jsonl", json_line(event.to_dict()))

    def _saved(self, event: Saved) -> None:
        """One agent has a checkpoint; perhaps it was the last one that lacked it."""
        if of_all := self.tally.kept(event, self.facts.carriers if self.facts else ()):
            slowest, size = max(e.seconds for e in of_all), sum(e.file_bytes for e in of_all)
            self.checkpointed = Checkpointed(event.iteration, self.seconds(), slowest, size, self._energy())
            self.emit(self.checkpointed)

    def lose(self, agents: Sequence[int], status: str, log_tail: str = "", incarnation: int | None = None) -> None:
        """The processes of some agents, together, ended before the run did; successors may have been heard of already.

        Args: `incarnation`, of the processes; None: nobody will succeed them.
        """
        g = self.tally
        lost = [AgentLost(k, status, g.reached(k), log_tail) for k in agents]
        for event in lost:
            g.died(event, incarnation)
        for event in lost:
            self.emit(event)
        self._measured(g.settle(self.seconds()))

    @property
    def target_reached(self) -> bool:
        """Whether a validation has met --target."""
        return self._at_target is not None

    def score(self, scored: Sequence[ScoredModel]) -> None:
        """Record what the test tasks say of the `models_to_test`; see `final_scores.told_of`."""
        events, tables = told_of(scored)
        for event in events:
            self._tested.append(event)
            self.emit(event)
        for name, (head, rows) in tables.items():
            self._write_table(name, head, rows)

    def wait_for_no_verdict(self) -> None:
        """Record what waits for owners that have not tested it yet, and say who they are."""
        g = self.tally
        if silent := ", ".join(map(str, g.verdicts.missing())):
            self.note(f"agents {silent} did not say how good the launch model is with their own data")
        self._measured(g.judged(at_once=True))

    def finish(self, state: str, reason: str = "", untested: str = "") -> dict[str, Any]:
        """Write what the run ended with. Returns the summary.

        Args: `state` is "done", "stopped" or "failed"; `reason`, and why what was learnt is `untested`, if so.
        """
        g = self.tally
        seconds = g.validations[-1].seconds if g.validations and state == "done" else self.seconds()
        self.pulse()
        self.wait_for_no_verdict()
        self.prints.finish()
        self.models.finish()
        self._write_edges()
        target = self._at_target or {"asked": str(self._target), "reached": False} if self._target else None
        about = {"run": self.folder.name, "command": self.command, "state": state, "seconds": seconds,
                 "folder": str(self.folder), "target": target, "refused_control": self.refused_control}  # fmt: skip
        told = summarise(about, self.config, self.topology, g, self.facts, self._tested,
                         self._energy() | {"preparation_joules": self._preparation_joules})  # fmt: skip
        why = {name: text for name, text in (("reason", reason), ("untested", untested)) if text}
        summary = finite_or_none(told | self.disk.told() | why)
        self.disk.write("run.json", json.dumps(summary, indent=2, allow_nan=False))
        self.emit(RunEnded(state, summary | self.disk.told()))
        return summary | self.disk.told()

    def _keep(self, agent: int, name: str, text: str) -> None:
        self.disk.append(f"{folder_of(agent)}/{name}", text)

    def _write_table(self, name: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        if text := csv_text(head, rows):
            self.disk.write(name, text)

    def _measured(self, measurements: Sequence[Measured]) -> None:
        for event in measurements:
            if isinstance(event, Validated):
                event = self._with_costs(event)
                self._aim(event)
            self.emit(event)
        self.models.keep_first()
        self.models.keep()

    def _aim(self, event: Validated) -> None:
        if self._target and not self._at_target and self._target.reached(event):
            self._at_target = {"asked": str(self._target), "reached": True, "iteration": event.iteration,
                               **event.spent}  # fmt: skip

    def _with_costs(self, event: Validated) -> Validated:
        """The same, with everything that was spent so far."""
        g, f = self.tally, self.facts
        told = {name: int(event.spent[name] or 0) for name in ("payload_bytes", "steps", "uploads")}
        everything = spent(
            **told, rounds=event.iteration + bool(g.alone), busiest=busiest(self.topology, g),
            is_served=g.server is not None, flops_per_step=f.flops if f else None, values=f.length if f else 0,
            channel=self.config.communication, energy=self._energy(), cpu_s=g.cpu_s, seconds=event.seconds,
        )  # fmt: skip
        return replace(event, spent=everything)

    def _energy(self) -> dict[str, Any]:
        """Of a run that was resumed, with what it took before; an estimate is of processor time, which counts on."""
        now = self.meters.so_far({k: p.cpu_s for k, p in self.tally.progress.items()})
        return together([self._spent_before, now]) if self._spent_before and now["quality"] != "estimated" else now

    def _write_description(self) -> None:
        try:
            for k in range(self.topology.agents + self.config.hold_out.count):
                (self.folder / folder_of(k)).mkdir(parents=True)
            self.disk.put("config.toml", self.config.to_toml())
            self.disk.put("topology.json", json.dumps(self.topology.to_dict()))
            self.disk.put(IDENTITY, identity_text(self.topology))
        except OSError as error:
            raise ConfigError(f"cannot write the run to {self.folder}: {error.strerror}; nothing was started. Make "
                              f"room there, or give another --runs") from error  # fmt: skip

    def _write_edges(self) -> None:
        """What travelled over each edge, either way, and was used of it; wire bytes only where there was a wire."""
        on_wire = self.command == "launch"
        rows = sorted((e.agent, e.neighbour, e.payload_bytes, e.wire_bytes if on_wire else "", e.messages,
                       *("" if n is None else n for n in (e.combined, e.epoch, e.used, e.resent)))
                      for e in self.tally.edges)  # fmt: skip
        names = ("from", "to", "payload_bytes", "wire_bytes", "messages", "combined", "epoch", "used", "resent")
        self._write_table("edges.csv", names, rows)

