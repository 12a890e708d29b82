"""One agent process: join, run the loop, report, leave."""

import os
import time
from dataclasses import dataclass

from torch import Tensor

from difnet import agent
from difnet.algorithms import State
from difnet.errors import DifnetError
from difnet.events import Evaluated, Event, Finished, NeighbourLost, Progress, Snapshot
from difnet.links import Link
from difnet.machine import cpu_seconds, memory_pss
from difnet.mixing import column
from difnet.registry import Control
from difnet.topology import Topology
from difnet.transport import Identity, Patience, Transport
from difnet.workload import Steps, TaskStream, Workload

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


class Reporter:
    """Watches the loop: reports progress now and then, evaluates on schedule, and ends the loop when asked to."""

    def __init__(self, k: int, assignment: Assignment, control: Control, transport: Transport) -> None:
        self._k, self._control, self._transport = k, control, transport
        self._workload, self._steps = assignment.workload, assignment.steps
        self._validation = assignment.workload.validation_tasks()
        self._measure_every = assignment.workload.measure_every
        self._stopping = False
        self._until: int | None = None
        self._losses, self._count = 0.0, 0
        self._pss: int | None = None
        self._reported_at = self._weighed_at = 0.0
        self.iteration, self.state = 0, assignment.workload.first_state(k)

    def __call__(self, iteration: int, state: State, loss: Tensor) -> bool:
        """After each iteration; False ends the loop."""
        self.iteration, self.state = iteration, state
        self._losses, self._count = self._losses + float(loss), self._count + 1
        config = self._workload.config
        if self._stopping and self._until is None:
            self._await_agreement()
        last = iteration in (config.iterations, self._until)
        if iteration % config.eval_every == 0 or last:
            self.evaluate(iteration, state)
        elif iteration % self._measure_every == 0:
            self.say(Snapshot(self._k, iteration), state.w)
        if time.monotonic() - self._reported_at > PROGRESS_S or last:
            self.progress()
        return not last and (self._until is None or iteration < self._until)

    def evaluate(self, iteration: int, state: State) -> None:
        """Test the launch model on the network's validation tasks, and send both the losses and the model."""
        before, *after = self._steps.evaluate(state.w, self._validation).tolist()
        steps = (str(n) for n in self._workload.config.eval_steps)
        self.say(Evaluated(self._k, iteration, before, dict(zip(steps, after, strict=True))), state.w)

    def progress(self) -> None:
        """Send where this agent stands."""
        now = time.monotonic()
        if now - self._weighed_at > MEMORY_S:
            self._pss, self._weighed_at = memory_pss(), now
        c = self._transport.counters
        mean = self._losses / self._count if self._count else None
        self.say(Progress(self._k, self.iteration, mean, cpu_seconds(), self._pss, c.payload_bytes, c.wire_bytes,
                          c.messages, c.missed, c.refused))  # fmt: skip
        self._losses, self._count, self._reported_at = 0.0, 0, now

    def say(self, event: Event, *tensors: Tensor) -> bool:
        """Send an event up."""
        body = event.to_dict()
        return self._control.say(body.pop("event"), body, tuple(t.reshape(-1).numpy() for t in tensors))

    def leave(self, ended: str, reason: str = "") -> None:
        """Hand over how it ended and with which state, and wait, not for ever, until that is recorded."""
        self.progress()
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
    workload, topology, config = assignment.workload, assignment.topology, assignment.workload.config
    with Control(assignment.registry, assignment.token) as control:
        identity = Identity(k, incarnation, assignment.run, **assignment.hashes, dtype=config.dtype,
                            length=workload.model.size)  # fmt: skip

        def lost(link: Link, reason: str) -> None:
            reporter.say(NeighbourLost(k, link.neighbour, reporter.iteration, link.used, reason))

        patience = Patience(config.silence_s, config.step_timeout_s)
        lag = config.staleness if config.mode == "async" else None
        with Transport(identity, links_of(k, topology), patience=patience, lag=lag, lost=lost) as transport:
            reporter = Reporter(k, assignment, control, transport)
            try:
                _meet(identity, assignment, control, transport)
                transport.watch(control.socket, reporter.read_control)
                reporter.evaluate(0, reporter.state)
                agent.run(
                    assignment.steps.adapt, workload.algorithm.combine, reporter.state, TaskStream(workload, k),
                    agent.sharing(k, column(topology.A, k), transport.exchange),
                    iterations=config.iterations, local_steps=config.local_steps,
                    combine_first=config.strategy == "cta", observe=reporter,
                )  # fmt: skip
                transport.farewell()
            except (DifnetError, ArithmeticError) as error:
                transport.farewell(f"it failed: {error}"[:200])
                print(f"agent {k}: {error}", flush=True)
                reporter.leave("failed", str(error))
                return 1
            reporter.leave("done" if reporter.iteration == config.iterations else "stopped")
    return 0


def links_of(k: int, topology: Topology) -> list[Link]:
    """Agent k's links: of two neighbours the rim dials the hub, else the higher number dials the lower."""
    hears, tells = set(topology.hears(k)), set(topology.tells(k))

    def dials(l: int) -> bool:
        return l == topology.hub or (k != topology.hub and k > l)

    return [Link(l, dials(l), l in hears, l in tells) for l in sorted(hears | tells)]


def _meet(me: Identity, assignment: Assignment, control: Control, transport: Transport) -> None:
    """Register, join the neighbours, and wait for the start; every wait looks after the links."""
    k = me.agent
    timeout_s = assignment.workload.config.ready_timeout_s
    endpoint = transport.bind(assignment.listen.format(agent=k))
    control.say("register", {"agent": k, "incarnation": me.incarnation, "endpoint": endpoint, "pid": os.getpid()})
    peers = control.expect("peers", timeout_s)["endpoints"]
    transport.join({int(l): endpoint for l, endpoint in peers.items()}, timeout_s)
    control.say("joined", {"agent": k})
    deadline = time.monotonic() + timeout_s
    while (heard := control.hear(0)) is None or heard[0] != "go":
        if time.monotonic() > deadline:
            raise DifnetError(f"agent {k} waited {timeout_s:.0f} s in vain for the start: some agent did not join")
        control.socket.poll(50)
        transport.service(0.0)
