"""One agent process: join, do its part, report, leave."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from difnet import agent
from difnet.algorithms import Info, State
from difnet.errors import DifnetError
from difnet.exchange.addresses import advertised
from difnet.exchange.links import Identity, Link, Patience
from difnet.exchange.registry import Control
from difnet.exchange.transport import Transport
from difnet.maths.mixing import column
from difnet.record.events import Edge, Evaluated, Event, Finished, NeighbourLost, Progress, Snapshot, TrainedAlone
from difnet.runtime.star import Call, Client, Hub
from difnet.system.machine import cpu_seconds, memory_peak, memory_pss
from difnet.topology import Topology
from difnet.workload import TaskStream, Workload, build
from difnet.workload.kernels import Steps, compile_steps, elsewhere, evaluated
from difnet.workload.local_training import train_alone

PROGRESS_S, MEMORY_S, AGREEMENT_S, LEAVE_S = 0.5, 5.0, 10.0, 10.0


@dataclass(frozen=True)
class Assignment:
    """Everything an agent process needs; a host makes it once and its agents inherit it by fork."""

    workload: Workload
    steps: Steps
    topology: Topology
    hashes: dict[str, str]  # "topology", "weights", "model"
    run: str
    registry: str
    token: str
    listen: str  # where to bind, "{agent}" standing for its number
    advertise: str = ""  # the name under which others find what was bound; "": as it was bound
    device: str = "cpu"  # of the steps; any other is first used after the fork, which it would not survive

    def on_device(self) -> Workload:
        """The workload where the run wants it to be computed."""
        if self.device == "cpu":
            return self.workload
        return build(self.workload.config.model_copy(update={"device": self.device}), self.topology.agents,
                     self.topology.hub)  # fmt: skip

    def settled(self) -> "Assignment":
        """For the process that computes it: with the steps of its device."""
        if self.device == "cpu":
            return self
        return replace(self, steps=elsewhere(compile_steps(self.on_device(), print), self.device))


class Reporter:
    """Watches the loop: reports progress now and then, evaluates on schedule, and ends the loop when asked to."""

    def __init__(self, k: int, assignment: Assignment, control: Control, transport: Transport) -> None:
        self._k, self._control, self._transport = k, control, transport
        self._workload, self._steps = assignment.workload, assignment.steps
        self._measure_every = assignment.workload.measure_every
        self._stopping = False
        self._until: int | None = None
        self._figures: dict[str, float] = {}  # sums since the last progress
        self._count = 0
        self._pss: int | None = None
        self._reported_at = self._weighed_at = 0.0
        self.hub: Hub | None = None  # if this agent is the one that serves
        self.steps = 0
        self.iteration, self.state = 0, assignment.workload.first_state(k)

    def observe(self, iteration: int, state: State, info: Info) -> bool:
        """After each iteration of an agent that holds a launch model of the network's; False ends the loop."""
        self.attend(iteration, state, info)
        config = self._workload.config
        if self._stopping and self._until is None:
            self._await_agreement()
        last = iteration in (config.iterations, self._until)
        if iteration % config.eval_every == 0 or last:
            self.evaluate(iteration, state)
        elif iteration % self._measure_every == 0:
            self.say(Snapshot(self._k, iteration), state.w)
        return not last and (self._until is None or iteration < self._until)

    def attend(self, iteration: int, state: State, info: Info) -> bool:
        """After each round of a client: its hub says when to end."""
        self.iteration, self.state = iteration, state
        self._count += 1
        if info:
            self.steps += self._workload.config.local_steps
        for name, figure in info.items():
            self._figures[name] = self._figures.get(name, 0.0) + float(figure)
        if time.monotonic() - self._reported_at > PROGRESS_S:
            self.progress()
        return True

    def evaluate(self, iteration: int, state: State) -> None:
        """Test the launch model on the network's validation tasks, and send both the figures and the model."""
        self.iteration, self.state = iteration, state
        losses, accuracies = evaluated(self._steps.evaluate(state.w), self._workload.config.eval_steps)
        before = losses.pop("0")
        c, hub = self._transport.counters, self.hub
        payload = c.payload_bytes + (c.heard_payload_bytes if hub else 0)
        steps = hub.answered * self._workload.config.local_steps if hub else self.steps
        uploads = hub.heard if hub else c.states
        self.say(Evaluated(self._k, iteration, before, losses, accuracies, payload, steps, uploads), state.w)

    def progress(self) -> None:
        """Send where this agent stands."""
        now = time.monotonic()
        if now - self._weighed_at > MEMORY_S:
            self._pss, self._weighed_at = memory_pss(), now
        c, hub = self._transport.counters, self.hub
        means = {name: figure / self._count for name, figure in self._figures.items()}
        self.say(Progress(self._k, self.iteration, means.pop("loss", None), cpu_seconds(), self._pss, self.steps, means,
                          memory_peak(), c.payload_bytes, c.wire_bytes, c.messages, 0 if hub else c.states, c.missed,
                          c.refused, c.late, hub.abandoned if hub else 0, c.heard_payload_bytes,
                          c.heard_wire_bytes))  # fmt: skip
        self._figures, self._count, self._reported_at = {}, 0, now

    def say(self, event: Event, *tensors: Tensor) -> bool:
        """Send an event up."""
        body = event.to_dict()
        return self._control.say(body.pop("event"), body, tuple(t.reshape(-1).numpy() for t in tensors))

    def leave(self, ended: str, reason: str = "") -> None:
        """Hand over how it ended and with which state, and wait, not for ever, until that is recorded."""
        self.progress()
        for neighbour, sent in self._transport.sent.items():
            self.say(Edge(self._k, neighbour, sent.payload_bytes, sent.wire_bytes, sent.messages))
        self.say(Finished(self._k, self.iteration, ended, reason), self.state.w, *self.state.slots)
        self._control.say("leave", {})
        try:
            self._control.expect("left", LEAVE_S)
        except DifnetError as error:
            print(f"agent {self._k}: {error}; its last state may not be recorded", flush=True)

    def read_control(self) -> None:
        """Answer the registry: a stop is agreed on, so that all agents end after the same iteration."""
        while heard := self._control.hear(0):
            kind, body = heard
            if kind == "stop":
                self._stopping = True
                self._control.say("at", {"agent": self._k, "iteration": self.iteration})
            elif kind == "until":
                self._until = max(int(body["iteration"]), self.iteration)

    def _await_agreement(self) -> None:
        """Between two iterations, after a stop: until the registry says which iteration is everybody's last."""
        deadline = time.monotonic() + AGREEMENT_S
        while self._until is None and time.monotonic() < deadline:
            self._transport.service(0.05)
        if self._until is None:
            self._until = self.iteration


def run_agent(k: int, assignment: Assignment, incarnation: int = 0) -> int:
    """Be agent k until the run is over. Returns the process's exit status."""
    assignment = assignment.settled()
    workload, topology, config = assignment.workload, assignment.topology, assignment.workload.config
    is_client = workload.hub is not None and k != workload.hub
    with Control(assignment.registry, assignment.token, assignment.run) as control:
        identity = Identity(k, incarnation, assignment.run, **assignment.hashes, dtype=config.dtype,
                            length=workload.length)  # fmt: skip

        def lost(link: Link, reason: str) -> None:
            reporter.say(NeighbourLost(k, link.neighbour, reporter.iteration, link.used, reason))

        patience = Patience(config.silence_s, config.step_timeout_s)
        lag = 0 if is_client else config.staleness if config.mode == "async" else None
        with Transport(identity, links_of(k, topology, workload.hub), patience=patience, lag=lag,
                       must=config.mode == "sync", lost=lost) as transport:  # fmt: skip
            reporter = Reporter(k, assignment, control, transport)
            try:
                _meet(identity, assignment, control, transport)
                transport.watch(control.socket, reporter.read_control)
                part = _attend if is_client else _diffuse if workload.hub is None else _serve
                part(k, assignment, transport, reporter)
                transport.farewell()
            except (DifnetError, ArithmeticError) as error:
                transport.farewell(f"it failed: {error}"[:200])
                print(f"agent {k}: {error}", flush=True)
                reporter.leave("failed", str(error))
                return 1
            reporter.leave("done" if reporter.iteration == config.iterations else "stopped")
    return 0


def _diffuse(k: int, assignment: Assignment, transport: Transport, reporter: Reporter) -> None:
    """One agent among equals."""
    workload, config = assignment.workload, assignment.workload.config
    first = int(workload.offline_steps > 0)
    weights = column(assignment.topology.A, k)
    share = agent.sharing(k, weights, lambda i, phi: transport.exchange(first + i, phi))
    state = _start(k, assignment, reporter)
    if first:
        state = workload.algorithm.combine(state, share(-1, state.phi))
    reporter.evaluate(0, state)
    agent.run(
        assignment.steps.adapt, workload.algorithm.combine, state, TaskStream(workload, k), share,
        iterations=range(config.iterations), local_steps=config.local_steps, combine_first=config.strategy == "cta",
        observe=reporter.observe,
    )  # fmt: skip


def _serve(k: int, assignment: Assignment, transport: Transport, reporter: Reporter) -> None:
    """The hub of a star."""
    workload, server = assignment.workload, assignment.workload.algorithm.server
    assert server is not None, "build lets nobody serve without a server step"
    first = int(workload.offline_steps > 0)
    hub = reporter.hub = Hub(workload.rounds, transport, first)
    state = server.init(hub.open() if first else workload.first_state(k).w)
    reporter.evaluate(0, state)
    agent.serve(server, state, hub.ask, iterations=workload.config.iterations, observe=reporter.observe)
    hub.dismiss(reporter.iteration, reporter.state.w)


def _attend(k: int, assignment: Assignment, transport: Transport, reporter: Reporter) -> None:
    """A client on the rim of a served star: the ordinary loop, in the rounds that the hub calls for."""
    workload, first = assignment.workload, int(assignment.workload.offline_steps > 0)
    state = _start(k, assignment, reporter)
    if first:
        transport.tell(0, state.phi.numpy())
    client = Client(_wait_for_calls(workload.hub, transport), transport.tell, first)
    state = agent.run(
        assignment.steps.adapt, workload.algorithm.combine, workload.algorithm.combine(state, client.w),
        TaskStream(workload, k), client.share, iterations=client.rounds(), local_steps=workload.config.local_steps,
        combine_first=False, observe=reporter.attend,
    )  # fmt: skip
    reporter.iteration, reporter.state = client.iteration, state


def _wait_for_calls(hub: int | None, transport: Transport) -> Callable[[int], Call]:
    """How a client waits for the first call after a round."""

    def wait(after: int) -> Call:
        heard: dict[int, np.ndarray] = transport.hear(after + 1)
        if hub not in heard:
            raise DifnetError(f"the hub, agent {hub}, is gone; nobody is left to answer")
        return Call(transport.newest(hub)[0], heard[hub], transport.newest(hub)[1])

    return wait


def _start(k: int, assignment: Assignment, reporter: Reporter) -> State:
    """The state agent k begins with: the first launch model, or the local model it trains alone."""
    workload, steps = assignment.workload, assignment.steps
    if steps.alone is None:
        return workload.first_state(k)
    local = train_alone(workload, steps, k)
    reporter.say(TrainedAlone(k, local.steps, local.loss, local.gradient_norm))
    return workload.algorithm.init(local.w)


def links_of(k: int, topology: Topology, server: int | None = None) -> list[Link]:
    """Agent k's links: of two neighbours the rim dials the hub, else the higher number dials the lower.

    Where one serves, its links to the others are the only ones, and both ends hear and tell, whatever the weights are.
    """
    hears, tells = set(topology.hears(k)), set(topology.tells(k))
    if server is not None:
        hears = tells = {server} if k != server else set(range(topology.agents)) - {server}

    def dials(l: int) -> bool:
        return l == topology.hub or (k != topology.hub and k > l)

    return [Link(l, dials(l), l in hears, l in tells) for l in sorted(hears | tells)]


def _meet(me: Identity, assignment: Assignment, control: Control, transport: Transport) -> None:
    """Register, join the neighbours, and wait for the start; every wait looks after the links."""
    k = me.agent
    timeout_s = assignment.workload.config.ready_timeout_s
    endpoint = advertised(transport.bind(assignment.listen.format(agent=k)), assignment.advertise)
    control.say("register", {"agent": k, "incarnation": me.incarnation, "endpoint": endpoint, "pid": os.getpid()})
    peers = control.expect("peers", 10 * timeout_s)["endpoints"]  # the launcher gives up before
    transport.join({int(l): endpoint for l, endpoint in peers.items()}, timeout_s)
    control.say("joined", {"agent": k})
    deadline = time.monotonic() + timeout_s
    while (heard := control.hear(0)) is None or heard[0] != "go":
        if time.monotonic() > deadline:
            raise DifnetError(f"agent {k} waited {timeout_s:.0f} s in vain for the start: some agent did not join")
        control.socket.poll(50)
        transport.service(0.0)
