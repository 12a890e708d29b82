"""One agent process: join, do its part, report, leave."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from difnet import agent
from difnet.algorithms import State
from difnet.errors import DifnetError
from difnet.exchange.addresses import advertised
from difnet.exchange.control import Control
from difnet.exchange.links import Identity, Link, Patience, links_of
from difnet.exchange.transport import Return, Transport
from difnet.maths.combine import column
from difnet.maths.robust import rule
from difnet.record.checkpoints import Checkpoint, Manifest, Shelf, shelf_of
from difnet.record.events import AgentReturned, LinkHealed, NeighbourBack, NeighbourLost, TrainedAlone
from difnet.runtime.among_equals import AmongEquals, mean_of
from difnet.runtime.judge import Judge, run_held_out
from difnet.runtime.reporter import Reporter, state_of
from difnet.runtime.saving import Saving, kept
from difnet.runtime.star import Call, Client, Hub
from difnet.topology import Topology
from difnet.workload import TaskStream, Workload
from difnet.workload.building import Own, build
from difnet.workload.kernels import Kernels, compile_kernels, on_device
from difnet.workload.local_training import train_alone

JUDGE_S = 0.25  # how often a client that waits for its call looks whether it is to test a launch model
CATCH_UP = 1000  # rounds that a neighbour is waited for, beyond those that a wide graph may lie between two in step

@dataclass(frozen=True)
class Assignment:
    """Everything an agent process needs; a host makes it once and its agents inherit it by fork."""

    workload: Workload
    kernels: Kernels
    topology: Topology
    hashes: dict[str, str]  # "topology", "weights", "model"
    run: str
    life: str  # which beginning of it; see `vocabulary.Known`
    registry: str
    token: str
    listen: str  # where to bind, "{agent}" standing for its number
    advertise: str = ""  # the name under which others find what was bound; "": as it was bound
    leave_s: float = float("inf")  # how long an agent waits at its end for a silent launcher; for ever under a host
    device: str = "cpu"  # of the steps; any other is first used after the fork, which it would not survive
    manifest: Manifest | None = None  # what an agent's checkpoints must fit, but for its number; None: nobody has any
    incarnations: Mapping[int, int] = field(default_factory=dict)  # agent -> its processes at hosts before this one
    spokesman: int = -1  # the agent of this host that says what is wrong with its disk
    shelves: Path = Path()  # where this machine keeps them
    own: Own | None = None  # what is here of data that stays with its owners

    def shelf(self, k: int) -> Shelf | None:
        """Agent k's checkpoints, if it carries anything from one iteration to the next and the run keeps it."""
        if self.manifest is None or not self.workload.carries(k):
            return None
        return shelf_of(self.shelves, self.manifest._replace(agent=k))

    def saved(self, k: int, iteration: int) -> Checkpoint | None:
        """Agent k's checkpoint after so many iterations, if it has one; its newer ones go, since they are done again.

        Raises: CheckpointError, if it cannot be used.
        """
        if (shelf := self.shelf(k)) is None:
            return None
        shelf.keep(i for i in shelf.iterations() if i <= iteration)  # else they would outlast the new ones
        return shelf.read(iteration) if iteration in shelf.iterations() else None

    def newest(self, k: int) -> int:
        """After how many iterations agent k wrote its newest checkpoint that can be used; 0: it has none."""
        shelf = self.shelf(k)
        return max(shelf.usable()[0], default=0) if shelf else 0

    def on_device(self) -> Workload:
        """The workload where the run wants it to be computed."""
        if self.device == "cpu":
            return self.workload
        return build(self.workload.config.model_copy(update={"device": self.device}), self.topology.agents,
                     self.topology.hub, self.topology.owners, self.own)  # fmt: skip

    def settled(self) -> "Assignment":
        """For the process that computes it: with the steps of its device."""
        if self.device == "cpu":
            return self
        return replace(self, kernels=on_device(compile_kernels(self.on_device(), print), self.device))


def run_agent(k: int, assignment: Assignment, incarnation: int = 0) -> int:
    """Be agent k until the run is over. Returns the process's exit status.

    Args: `incarnation` counts the processes that were agent k before: from 1 on, the network is there already.
    """
    assignment = assignment.settled()
    workload, topology, config = assignment.workload, assignment.topology, assignment.workload.config
    is_client = workload.hub is not None and k != workload.hub
    largest = workload.length * workload.dtype.itemsize
    with Control(assignment.registry, assignment.token, assignment.life, f"agent {k}", largest) as control:
        if k >= workload.agents:
            judge, timeout_s = Judge(k, workload, assignment.kernels, control), config.ready_timeout_s
            return run_held_out(k, control, judge, incarnation, timeout_s, assignment.leave_s)
        identity = Identity(k, incarnation, assignment.run, **assignment.hashes, dtype=config.dtype,
                            length=workload.length)  # fmt: skip

        def lost(link: Link, reason: str) -> None:
            reporter.say(NeighbourLost(k, link.neighbour, reporter.iteration, link.used, reason, link.epoch))

        def back(link: Link) -> None:
            reporter.say(NeighbourBack(k, link.neighbour, reporter.iteration, link.first, link.epoch))

        def healed(link: Link, seconds: float, resent: int) -> None:
            reporter.say(LinkHealed(k, link.neighbour, reporter.iteration, link.epoch, seconds, resent))

        patience = Patience(config.silence_s, config.step_timeout_s)
        lag = 0 if is_client else config.staleness if config.mode == "async" else None
        with Transport(identity, links_of(k, topology, workload.hub), patience=patience, lag=lag,
                       must=config.mode == "sync", catch_up=CATCH_UP + 2 * topology.agents, lost=lost,
                       back=back, healed=healed) as transport:  # fmt: skip
            saving = Saving(
                assignment.shelf(k), config.checkpoint_every, kept(config, topology),
                lambda saved: reporter.say(saved), lambda text: _complain(control, k, assignment, text),
            )  # fmt: skip
            reporter = Reporter(k, workload, assignment.kernels, control, transport, saving, assignment.leave_s)
            try:
                start = _meet(identity, assignment, control, transport)
                transport.watch(reporter.read_control)
                part = _answer_calls if is_client else _diffuse if workload.hub is None else _serve
                part(identity, assignment, transport, reporter, start)
                transport.farewell()
            except (DifnetError, ArithmeticError) as error:
                transport.farewell(f"it failed: {error}"[:200])
                print(f"agent {k}: {error}", flush=True)
                reporter.leave("failed", str(error))
                return 1
            reporter.leave("done" if reporter.iteration == config.iterations else "stopped")
    return 0


def _complain(control: Control, k: int, assignment: Assignment, text: str) -> None:
    """Tell what is wrong with the disk of this host, where one of its agents speaks for all."""
    if k == assignment.spokesman:
        control.say("note", {"text": f"agent {k}: {text}"})


def _diffuse(me: Identity, assignment: Assignment, transport: Transport, reporter: Reporter, start: int) -> None:
    """One agent among equals; it has done `start` iterations before, if the run is one that goes on."""
    workload, config, k = assignment.workload, assignment.workload.config, me.agent
    first = int(workload.offline_steps > 0)
    weights = column(assignment.topology.A, k)

    def mixing(exchange: agent.Exchange) -> agent.Share:
        def watched(i: int, phi: np.ndarray) -> Mapping[int, np.ndarray]:
            heard = exchange(i, phi)
            reporter.watch(i + 1, phi, heard)
            return heard

        return agent.sharing(k, weights, watched, rule(config.combine))

    def tell(due: int, back: Return) -> None:
        model = f"the mean of agents {listed(back.states)}" if back.states else "its own model"
        reporter.say(AgentReturned(k, me.incarnation, back.round - first, back.round - first - due, model))

    equals = AmongEquals(transport, mixing, tell, first=first, patience_s=config.return_s)
    start, state = _beginning(me, assignment, transport, reporter, start, workload.algorithm.init)
    if state is None:
        state = _start(k, assignment, reporter)
        if first:
            state = workload.algorithm.combine(state, equals.share(-1, state.phi))
        reporter.evaluate(0, state)
    agent.run(
        assignment.kernels.adapt, workload.algorithm.combine, state, TaskStream(workload, k), equals.share,
        iterations=equals.iterations(start, config.iterations), local_steps=config.local_steps,
        combine_first=config.strategy == "cta", observe=reporter.observe,
    )  # fmt: skip


def _serve(me: Identity, assignment: Assignment, transport: Transport, reporter: Reporter, start: int) -> None:
    """The hub of a star."""
    workload, server = assignment.workload, assignment.workload.algorithm.server
    assert server is not None, "build lets nobody serve without a server step"
    first, config = int(workload.offline_steps > 0), workload.config
    hub = reporter.hub = Hub(workload.server_rounds, transport, first, config.return_s)
    start, state = _beginning(me, assignment, transport, reporter, start, server.init)
    if state is None:
        state = server.init(hub.open() if first else workload.first_state(me.agent).w)
        reporter.evaluate(start, state)
    agent.serve(server, state, hub.ask, iterations=range(start, config.iterations), observe=reporter.observe)
    hub.dismiss(reporter.iteration, reporter.state.w)


def _answer_calls(me: Identity, assignment: Assignment, transport: Transport, reporter: Reporter, start: int) -> None:
    """A client on the rim of a served star: the ordinary loop, in the rounds that the hub calls for."""
    workload, first = assignment.workload, int(assignment.workload.offline_steps > 0)
    begin, k = workload.algorithm.begin, me.agent
    goes_on = start > 0 and not me.incarnation
    start, state = _beginning(me, assignment, transport, reporter, start, None)
    if state is None:
        state = workload.first_state(k) if goes_on else _start(k, assignment, reporter)
    if first and not start:
        transport.tell(0, state.phi.numpy())
    client = Client(_wait_for_calls(k, workload, transport, reporter.judge), transport.tell, first, start,
                    partial(workload.samples_told, k))  # fmt: skip
    state = agent.run(
        assignment.kernels.adapt, begin, begin(state, client.w), TaskStream(workload, k),
        client.share, iterations=client.rounds(), local_steps=workload.config.local_steps, combine_first=False,
        observe=reporter.answered if workload.carries(k) else reporter.after_round,
    )  # fmt: skip
    reporter.iteration, reporter.state = client.iteration, state


def _wait_for_calls(k: int, workload: Workload, transport: Transport, judge: Judge) -> Callable[[int], Call]:
    """How a client waits for the first call after a round; for a hub that is away, too."""
    hub, judges = workload.hub, k in workload.judges.get("validation", ())
    assert hub is not None, "who answers calls has a hub"

    def wait(after: int) -> Call:
        while hub not in (heard := transport.hear(after + 1, deadline_s=JUDGE_S if judges else None)):
            judge.work()  # who is not called often has time for it
            if not transport.await_return(workload.config.return_s):
                raise DifnetError(f"the hub, agent {hub}, is gone; nobody is left to answer")
        transport.offer(heard[hub])
        return Call(transport.newest(hub)[0], heard[hub], transport.newest(hub)[1])

    return wait


def _beginning(
    me: Identity, assignment: Assignment, transport: Transport, reporter: Reporter, start: int,
    init: Callable[[Tensor], State] | None,
) -> tuple[int, State | None]:  # fmt: skip
    """Where an agent goes on that was there before, and from which state; None: it was not, or has nothing.

    Args: `init` makes a state of a launch model; None: of a client, which has none from others.
    """
    if me.incarnation:
        start, state = _come_back(me, assignment, transport, reporter, init)
        if state is not None:  # which it ends with, if there is nothing left to do
            reporter.iteration, reporter.state = start, state
        return start, state
    if saved := assignment.saved(me.agent, start):
        return start, reporter.resume(saved)
    return start, None


def _come_back(
    me: Identity, assignment: Assignment, transport: Transport, reporter: Reporter,
    init: Callable[[Tensor], State] | None,
) -> tuple[int, State | None]:  # fmt: skip
    """Where a new process of an agent goes on, and from what: the mean of its neighbours' states, if they have begun.

    Or its own checkpoint, if that is as new, or there is nobody who could be asked; it says which.

    Raises: DifnetError, if nobody is there any more.
    """
    back = transport.returned(assignment.workload.config.return_s)
    if transport.lost and not transport.active:
        raise DifnetError(f"agent {me.agent} came back, and none of its neighbours is there any more")
    first, own = int(assignment.workload.offline_steps > 0), assignment.newest(me.agent)
    start = max(back.round - first if back else 0, own)
    state, model = None, "its first model"
    if init and back and back.states and own < start:
        state, model = init(mean_of(back.states)), f"the mean of agents {listed(back.states)}"
    elif saved := assignment.saved(me.agent, own):
        state, model = state_of(saved), f"its own checkpoint of iteration {own}"
    reporter.say(AgentReturned(me.agent, me.incarnation, start, None, model))
    if init and state is not None:
        transport.go_ahead(start + first, state.w.numpy())
    return start, state


def listed(agents: Iterable[int]) -> str:
    """Agents in words.

    >>> listed([4, 2])
    '2, 4'
    """
    return ", ".join(map(str, sorted(agents)))


def _start(k: int, assignment: Assignment, reporter: Reporter) -> State:
    """The state agent k begins with: the first launch model, or the local model it trains alone."""
    workload, kernels = assignment.workload, assignment.kernels
    if kernels.train_alone is None:
        return workload.first_state(k)
    local = train_alone(workload, kernels, k)
    reporter.say(TrainedAlone(k, local.steps, local.loss, local.gradient_norm))
    return workload.algorithm.init(local.w)


def _meet(me: Identity, assignment: Assignment, control: Control, transport: Transport) -> int:
    """Register, join the neighbours, and wait for the start; every wait looks after the links.

    Returns: how many iterations everybody has done before, in a run that goes on.
    """
    k, offline = me.agent, int(assignment.workload.offline_steps > 0)
    timeout_s = assignment.workload.config.ready_timeout_s
    endpoint = advertised(transport.bind(assignment.listen.format(agent=k)), assignment.advertise)
    registration = {"agent": k, "incarnation": me.incarnation, "endpoint": endpoint, "pid": os.getpid()}
    control.say("register", registration)
    control.introduction = lambda: ("register", registration)
    told = control.expect("peers", 10 * timeout_s)  # the launcher gives up before
    start = int(told["first"])
    transport.join({int(l): endpoint for l, endpoint in told["endpoints"].items()}, timeout_s,
                   first=start + offline if start and not me.incarnation else 0)  # fmt: skip
    if me.incarnation:
        return start
    control.say("joined", {"agent": k})
    deadline = time.monotonic() + timeout_s
    while (heard := control.hear(0)) is None or heard[0] != "go":
        if time.monotonic() > deadline:
            raise DifnetError(f"agent {k} waited {timeout_s:.0f} s in vain for the start: some agent did not join")
        control.socket.poll(50)
        transport.service(0.0)
    return start
