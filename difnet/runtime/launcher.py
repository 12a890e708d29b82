"""From a RunConfig to a finished run: a registry, a place where hosts run, and a recorder, in one loop."""

import hashlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from difnet import __version__, catalog
from difnet.config import RunConfig
from difnet.errors import AgentLost, DifnetError
from difnet.exchange.registry import HOST_SILENCE_S, Registry
from difnet.places import Contract, Place, agents_text
from difnet.record import events
from difnet.record.events import Event
from difnet.record.recorder import Recorder
from difnet.record.tally import ScoredModel
from difnet.system.lifetime import raise_file_limit, say_alive, stop_signals
from difnet.topology import Topology
from difnet.topology.networks import of_run

PULSE_S, SAY_S, LAST_WORDS_S = 1.0, 0.5, 1.0


def launch(config: RunConfig, listen: Callable[[Event], None] = lambda event: None) -> dict[str, Any]:
    """Run a network of agent processes until it is done; returns its summary.

    Args: `listen` hears every network-level event.
    Raises: DifnetError, if it cannot start.
    """
    topology, place = _planned(config)
    raise_file_limit()
    token = os.environ.get("DIFNET_TOKEN") or secrets.token_hex(16)
    neighbours = {k: sorted({*topology.hears(k), *topology.tells(k)}) for k in range(topology.agents)}
    with stop_signals() as stop, place as hosts, Registry(hosts.meeting, token, neighbours) as registry:
        recorder = Recorder(config, topology, "launch", listen)  # its folder is made when a run can begin
        registry.run = {
            "run": recorder.folder.name, "version": __version__, "config": config.model_dump(exclude_none=True),
            "topology": topology.to_dict(), "hashes": hashes(topology),
        }  # fmt: skip
        recorder.start()
        for line in hosts.start(Contract(recorder.folder.name, registry.endpoint, token)).splitlines():
            recorder.note(line)
        return Launch(config, recorder, registry, hosts, stop).until_done()


def plan(config: RunConfig) -> str:
    """What `launch` would start, in the words of the place; nothing is begun, and no folder is made."""
    return _planned(config)[1].plan()


def _planned(config: RunConfig) -> tuple[Topology, Place]:
    topology = of_run(config)
    return topology, catalog.load("places", config.place)(config, topology.agents)


class Launch:
    """The loop of one launch: listen, record, and notice who is gone."""

    def __init__(
        self, config: RunConfig, recorder: Recorder, registry: Registry, hosts: Place, stop: list[int]
    ) -> None:
        self.config, self.recorder, self.registry, self.hosts, self._stop = config, recorder, registry, hosts, stop
        self._exited: set[int] = set()
        self._prepared: dict[str, dict[str, Any]] = {}  # by host
        self._failure: DifnetError | None = None
        self._heard_at = time.monotonic()
        self._told_at: dict[int, float] = {}  # agent -> when it was last heard
        self._said_at, self._said = 0.0, ""
        self._scores: list[ScoredModel] = []
        self._all_scored = False

    def until_done(self) -> dict[str, Any]:
        """Serve the network until every agent has ended; returns the summary."""
        stopped, leaving_since, next_pulse = False, None, 0.0
        while len(self._exited) < self.recorder.topology.agents:
            for kind, body, tensors in self.registry.listen(0.1):
                if kind != "beat":  # which says that a host is there, and not that anything goes on
                    self._heard_at = time.monotonic()
                self._take(kind, body, tensors)
            say_alive()
            self._say_who_is_ready()
            now = time.monotonic()
            self._lose_silent_hosts(now)
            if self._stop and not stopped:
                stopped = True
                self.recorder.note("stopping: agents end after the same iteration; again to kill")
                if not self.registry.started:
                    break
            if stopped or self.recorder.target_reached:
                self.registry.stop()
            if len(self._stop) > 1:
                break
            if self.registry.started and now >= next_pulse:
                next_pulse = now + PULSE_S
                self.recorder.pulse()
            if self.hosts.poll() is not None:  # what it said last may still be on its way
                leaving_since = leaving_since or now
            if self._failure or (leaving_since and now - leaving_since > LAST_WORDS_S):
                break
            if reason := self._out_of_patience(now):
                self.recorder.note(reason)
                self._failure = None if self.registry.started else DifnetError(reason)
                break
        return self._end(signal.Signals(self._stop[0]).name if stopped else "")

    def _take(self, kind: str, body: dict[str, Any], tensors: list[Any]) -> None:
        if kind in events.KINDS:
            self._told_at[int(body["agent"])] = self._heard_at
            self.recorder.record(events.from_dict({"event": kind, **body}), tensors)
        elif kind == "note":
            self.recorder.note(str(body["text"]))
        elif kind == "beat":
            self.recorder.meters.heard(str(body["machine"]), body["agents"], body["energy"])
        elif kind == "log":
            self.recorder.log(int(body["agent"]), str(body["text"]))
        elif kind == "prepared":
            self._prepared[str(body["host"])] = body
        elif kind == "scored":
            self._scored(body, tensors)
        elif kind == "failed":
            host = f"host {body['host']}: " if self.config.place != "local" else ""
            self._failure = DifnetError(f"{host}{body['reason']}")
            self._failure.exit_code = int(body["exit_code"])
        elif kind == "exited":
            self._exit(int(body["agent"]), str(body["status"]), str(body["log_tail"]))

    def _exit(self, agent: int, status: str, log_tail: str) -> None:
        self._exited.add(agent)
        self.registry.forget(agent)
        if not self.registry.started:
            last = f":\n{log_tail}" if log_tail else ""
            self._failure = self._failure or AgentLost(f"agent {agent} ended before the start ({status}){last}")
            return
        finished = self.recorder.tally.finished.get(agent)
        if finished is None or finished.state == "failed":
            self.recorder.lose(agent, status, log_tail)

    def _say_who_is_ready(self) -> None:
        registry, recorder = self.registry, self.recorder
        if registry.started and recorder.ready_s is None:
            recorder.ready(facts(self._prepared))
        elif not registry.started and time.monotonic() - self._said_at > SAY_S:
            self._said_at = time.monotonic()
            wanted = self.config.hosts_expected
            hosts = f"{len(registry.hosts)}/{wanted} hosts, " if wanted else ""
            here = f"{hosts}{registry.registered}/{recorder.topology.agents} agents here, {registry.joined} connected"
            if here != self._said and (registry.hosts if wanted else registry.registered):
                self._said, self._heard_at = here, self._said_at
                recorder.note(here)

    def _lose_silent_hosts(self, now: float) -> None:
        """A host that was lost without a word takes its agents with it."""
        for host in [h for h in self.registry.hosts.values() if h.is_silent()]:
            left = [k for k in host.agents if k not in self._exited]
            if left and all(now - self._told_at.get(k, 0.0) > HOST_SILENCE_S for k in left):
                for k in left:
                    self._exit(k, f"its host {host.name} fell silent", "")

    def _out_of_patience(self, now: float) -> str | None:
        """Why we wait no longer, if so."""
        silent, left_behind = now - self._heard_at, self._left_behind(now)
        if left_behind:
            return f"gave up on {left_behind}: left behind by their neighbours and silent, and everybody else has ended"
        if not self.registry.started and silent > self.config.ready_timeout_s:
            return f"gave up: {self._said or 'no agent here'}, and nothing new for {silent:.0f} s"
        if silent > self.config.step_timeout_s + self.config.silence_s + 60:
            return f"gave up: no agent was heard for {silent:.0f} s"
        return None

    def _left_behind(self, now: float) -> list[int]:
        """The agents that are left when nobody but frozen ones is, given that their neighbours noticed it too."""
        unfinished = set(self.recorder.tally.alive) - self.recorder.tally.finished.keys() - self._exited
        frozen = {e.neighbour for e in self.recorder.tally.broken}
        quiet = all(now - self._told_at.get(k, 0.0) > self.config.silence_s + 2 for k in unfinished)
        return sorted(unfinished) if unfinished and unfinished <= frozen and quiet else []

    def _test(self) -> None:
        """Have a host score the models that came out, while it is still there, and record what it says."""
        models = self.recorder.models_to_test()
        asked = {name: held.iteration for name, held in models.items()}
        host = self.registry.score(asked, [held.w for held in models.values()]) if models else None
        if host is None:
            return
        patience_s, self._heard_at = self.config.step_timeout_s, time.monotonic()
        while not self._all_scored and not self._stop and self.hosts.poll() is None and not host.is_silent():
            say_alive()
            for kind, body, tensors in self.registry.listen(0.1):
                self._heard_at = time.monotonic()
                self._take(kind, body, tensors)
            if time.monotonic() - self._heard_at > patience_s:
                break
        if self._all_scored:
            self.recorder.score(self._scores)
        else:
            self.recorder.note("the launch model was not tested: the host that was to do it ended or took too long")

    def _scored(self, body: dict[str, Any], tensors: list[Any]) -> None:
        if not body["model"]:
            self._all_scored = True
            return
        figures, samples = tensors
        figures, iteration = figures.reshape(body["shape"]), int(body["iteration"])
        self._scores.append(ScoredModel(str(body["model"]), iteration, figures, samples))

    def _end(self, stopped_by: str) -> dict[str, Any]:
        if not stopped_by and not self._failure:
            self._test()
        if not self.registry.started and not self._failure:  # which says why
            for line in self.hosts.logs().splitlines():
                self.recorder.note(line)
        self.registry.end()
        self.hosts.stop()
        g = self.recorder.tally
        left_behind = {e.neighbour: f"left behind by its neighbours: {e.reason}" for e in g.broken}
        missing = [] if self._failure else sorted(set(g.alive) - g.finished.keys())
        for agent in missing:
            self.recorder.lose(agent, left_behind.get(agent, "ended with its host"), "")
        lost = len(g.lost)
        state = "stopped" if stopped_by else "failed" if lost > self.config.max_lost or not g.finished else "done"
        reason = str(self._failure) if self._failure else stopped_by
        summary = self.recorder.finish(state, reason)
        if self._failure:
            raise self._failure
        return summary


def hashes(topology: Topology) -> dict[str, str]:
    """What the launcher knows of what two neighbours must share: the graph and the weights."""
    graph = json.dumps([topology.agents, topology.directed, topology.edges])
    return {
        "topology": hashlib.sha256(graph.encode()).hexdigest()[:16],
        "weights": hashlib.sha256(topology.A.tobytes()).hexdigest()[:16],
    }


def facts(prepared: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What the hosts have told of the run: the facts of the one that holds agent 0, and the machine of each.

    Args: `prepared`, by host: agents, environment, facts.
    """
    first = next(told for told in prepared.values() if 0 in told["agents"])
    hosts = {name: {"agents": agents_text(told["agents"]), **told["environment"]} for name, told in prepared.items()}
    environment = first["environment"] | ({"hosts": hosts} if len(hosts) > 1 else {})
    return first["facts"] | {"environment": environment}
