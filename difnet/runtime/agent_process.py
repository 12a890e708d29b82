"""One agent process: join, do its part, report, leave."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from difnet import agent
from difnet.algorithms import State
from difnet.errors import DifnetError
from difnet.exchange.addresses import advertised
from difnet.exchange.control import Control
from difnet.exchange.links import Identity, Link, Patience, links_of
from difnet.exchange.transport import Transport
from difnet.maths.combine import column
from difnet.maths.robust import rule
from difnet.record.events import NeighbourLost, TrainedAlone
from difnet.runtime.reporter import Reporter
from difnet.runtime.star import Call, Client, Hub
from difnet.topology import Topology
from difnet.workload import TaskStream, Workload
from difnet.workload.building import build
from difnet.workload.kernels import Kernels, compile_kernels, on_device
from difnet.workload.local_training import train_alone


@dataclass(frozen=True)
class Assignment:
    """Everything an agent process needs; a host makes it once and its agents inherit it by fork."""

    workload: Workload
    kernels: Kernels
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
                     self.topology.hub, self.topology.owners)  # fmt: skip

    def settled(self) -> "Assignment":
        """For the process that computes it: with the steps of its device."""
        if self.device == "cpu":
            return self
        return replace(self, kernels=on_device(compile_kernels(self.on_device(), print), self.device))


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
            reporter = Reporter(k, workload, assignment.kernels, control, transport)
            try:
                _meet(identity, assignment, control, transport)
                transport.watch(control.socket, reporter.read_control)
                part = _answer_calls if is_client else _diffuse if workload.hub is None else _serve
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

    def exchange(i: int, phi: np.ndarray) -> dict[int, np.ndarray]:
        heard = transport.exchange(first + i, phi)
        reporter.watch(i + 1, phi, heard)
        return heard

    share = agent.sharing(k, weights, exchange, rule(config.combine))
    state = _start(k, assignment, reporter)
    if first:
        state = workload.algorithm.combine(state, share(-1, state.phi))
    reporter.evaluate(0, state)
    agent.run(
        assignment.kernels.adapt, workload.algorithm.combine, state, TaskStream(workload, k), share,
        iterations=range(config.iterations), local_steps=config.local_steps, combine_first=config.strategy == "cta",
        observe=reporter.observe,
    )  # fmt: skip


def _serve(k: int, assignment: Assignment, transport: Transport, reporter: Reporter) -> None:
    """The hub of a star."""
    workload, server = assignment.workload, assignment.workload.algorithm.server
    assert server is not None, "build lets nobody serve without a server step"
    first = int(workload.offline_steps > 0)
    hub = reporter.hub = Hub(workload.server_rounds, transport, first)
    state = server.init(hub.open() if first else workload.first_state(k).w)
    reporter.evaluate(0, state)
    agent.serve(server, state, hub.ask, iterations=workload.config.iterations, observe=reporter.observe)
    hub.dismiss(reporter.iteration, reporter.state.w)


def _answer_calls(k: int, assignment: Assignment, transport: Transport, reporter: Reporter) -> None:
    """A client on the rim of a served star: the ordinary loop, in the rounds that the hub calls for."""
    workload, first = assignment.workload, int(assignment.workload.offline_steps > 0)
    begin = workload.algorithm.begin
    state = _start(k, assignment, reporter)
    if first:
        transport.tell(0, state.phi.numpy())
    client = Client(_wait_for_calls(workload.hub, transport), transport.tell, first)
    state = agent.run(
        assignment.kernels.adapt, begin, begin(state, client.w), TaskStream(workload, k),
        client.share, iterations=client.rounds(), local_steps=workload.config.local_steps, combine_first=False,
        observe=reporter.after_round,
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
    workload, kernels = assignment.workload, assignment.kernels
    if kernels.train_alone is None:
        return workload.first_state(k)
    local = train_alone(workload, kernels, k)
    reporter.say(TrainedAlone(k, local.steps, local.loss, local.gradient_norm))
    return workload.algorithm.init(local.w)


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
