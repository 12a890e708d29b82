"""The same recursion for all k in one process: the oracle of the network, and the way to ten thousand agents and a GPU.

Two engines compute `adapt`; both share everything else, and `mixing.mix_all` gives the bits of `mixing.mix`.

- exact: agent after agent through the kernel that an agent process runs. On one machine the same seed ends in the same
  bits as the network.
- batched: many agents in one call of a kernel mapped over agents. The order of summation differs, so the last bits do.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from difnet.agent import owned
from difnet.algorithms import Info, State
from difnet.config import RunConfig
from difnet.errors import Diverged
from difnet.maths.federation import weighted_mean
from difnet.maths.mixing import Slots, column, mix, mix_all, slots
from difnet.maths.seeding import Purpose, generator
from difnet.meta import Tasks
from difnet.record.events import Edge, Evaluated, Event, Finished, Note, Progress, Snapshot, TrainedAlone
from difnet.record.recorder import Recorder
from difnet.runtime.testing import check_target, score
from difnet.system.lifetime import asked_to_stop
from difnet.system.machine import cores, cpu_seconds, environment, memory_peak, memory_pss, process_for_tensors
from difnet.system.progress import heard_by, spoken
from difnet.topology import Topology, load
from difnet.workload import TaskStream, Workload, build, engine, steps_of
from difnet.workload.kernels import Steps, compile_steps, describe, evaluated, flat_adapt, unflatten_step
from difnet.workload.local_training import train_alone

PROGRESS_S = 1.0
MOST_TOGETHER = 64  # agents in one call of the batched kernel on a CPU: more would leave the cache


# Here one State holds all agents with tasks, one after the other along the first axis: w (K, L), phi (K, L), slots
# (K, ...). A row r is agent workload.clients[r], which is agent r itself where nobody serves.
Adapt = Callable[[State, int, Sequence[int]], tuple[State, Info]]  # (states, step, rows that adapt) -> figures (rows,)
Mix = Callable[[int, Tensor], Tensor]  # (iteration, Phi) -> what each agent combines, (K, L)


def simulate(config: RunConfig, listen: Callable[[Event], None] = lambda event: None) -> dict[str, Any]:
    """Run a whole network in this process; returns its summary.

    Args: `listen` hears every network-level event.
    Raises: ConfigError, if something does not fit.
    """
    with process_for_tensors(cores() if config.simulator == "batched" else 1):
        return _simulate(config, listen)


def _simulate(config: RunConfig, listen: Callable[[Event], None]) -> dict[str, Any]:
    topology = load(config.topology, agents=config.agents, weights=config.weights).with_strategy(config.strategy)
    with heard_by(spoken(lambda text: listen(Note(text, 0.0)))):
        workload = build(config, topology.agents, topology.hub)
        check_target(workload)
        recorder = Recorder(config, topology, "simulate", listen)
        recorder.start()
        steps = compile_steps(workload, recorder.note)
    adapt = exact(workload, steps) if config.simulator == "exact" else batched(workload, recorder.note)
    recorder.ready({**describe(workload, steps), "environment": environment()})
    with asked_to_stop() as stop:
        simulation = Simulation(workload, steps, topology, recorder, stop)
        try:
            ended = simulation.diffuse(adapt) if workload.hub is None else simulation.serve(adapt)
        except Diverged as error:
            recorder.note(str(error))
            return recorder.finish("failed", str(error))
    if ended == "done":
        with heard_by(spoken(recorder.note)):
            recorder.score(score(workload, recorder.models_to_test()))
    return recorder.finish(ended, signal.Signals(stop[0]).name if ended == "stopped" else "")


class Simulation:
    """One run of the recursion, and what it reports."""

    def __init__(self, workload: Workload, steps: Steps, topology: Topology, recorder: Recorder, stop: list) -> None:
        self.workload, self.steps, self.topology, self.recorder, self._stop = workload, steps, topology, recorder, stop
        self.config, self.algorithm = workload.config, workload.algorithm
        self._combine = vmap(workload.algorithm.combine)
        self._degrees = [int(n) for n in np.count_nonzero(topology.A, axis=1) - (np.diagonal(topology.A) != 0)]
        self._state_bytes = workload.length * workload.dtype.itemsize
        self._progressed_at, self._cpu_from = time.monotonic(), cpu_seconds()
        self._opening = int(steps.alone is not None)  # exchanges before the first iteration
        self._uploads = np.zeros(topology.agents, dtype=np.int64)  # states sent, by agent; a hub's own not counted
        self._heard = np.zeros(topology.agents, dtype=np.int64)  # states heard, by agent
        self._steps_done = np.zeros(topology.agents, dtype=np.int64)
        self._abandoned = 0

    def diffuse(self, adapt: Adapt) -> str:
        """Adapt, exchange, combine, for all agents at once. Returns "done" or "stopped"."""
        config, mixed, state = self.config, mixing_of(self.config, self.topology), self._first_states()
        everybody = range(self.topology.agents)
        if self._opening:
            state = self._combine(state, mixed(-1, state.phi))
            self._exchanged()
        for k in everybody:
            self._evaluate(k, 0, state.w[k])
        i = 0
        for i in range(1, config.iterations + 1):
            if config.strategy == "cta":
                state = self._combine(state, mixed(i - 1, state.w))
            state, info = self._local_steps(adapt, state, i, everybody)
            state = self._combine(state, state.phi if config.strategy == "cta" else mixed(i - 1, state.phi))
            self._exchanged()
            if self._report(i, everybody, state.w, info, everybody):
                break
        return self._finish(i, {k: _row(state, k) for k in everybody})

    def serve(self, adapt: Adapt) -> str:
        """The rounds of a served star: call, adapt, answer, take the server's step. Returns "done" or "stopped"."""
        config, clients, hub, server = self.config, self.workload.clients, self.workload.hub, self.algorithm.server
        assert server is not None and hub is not None, "simulate asks for this where somebody serves"
        state = self._first_states()
        first = self.workload.first_state(hub).w
        if self._opening:
            local = {k: state.phi[r].cpu().numpy() for r, k in enumerate(clients)}
            first = owned(weighted_mean(local, dict.fromkeys(clients, 1.0))).to(config.device)
            self._answered(clients)
        state = self._combine(state, first.expand_as(state.w))
        served = server.init(first)
        self._evaluate(hub, 0, served.w)
        i = 0
        for i in range(1, config.iterations + 1):
            called = self.workload.rounds.called(i - 1)
            rows = [clients.index(k) for k in called]
            state = _with_rows(state, rows, self._combine(_rows(state, rows), served.w.expand(len(rows), -1)))
            state, info = self._local_steps(adapt, state, i, rows)
            self._heard[called] += 1
            self._answered(called)
            taken = list(zip(called, rows, strict=True))[: self.workload.rounds.wanted]  # nobody is late here
            mean = self.workload.rounds.mean({k: state.phi[r].cpu().numpy() for k, r in taken})
            self._abandoned += mean is None
            served = served if mean is None else server.step(served, owned(mean).to(config.device))
            if self._report(i, [hub], served.w[None], info, called):
                break
        state = self._combine(state, served.w.expand_as(state.w))
        self._heard[clients] += 1
        return self._finish(i, {hub: served, **{k: _row(state, r) for r, k in enumerate(clients)}})

    def _first_states(self) -> State:
        """What every agent with tasks starts from, stacked."""
        states = []
        for k in self.workload.clients:
            if self._opening:
                local = train_alone(self.workload, self.steps, k)
                self.recorder.record(TrainedAlone(k, local.steps, local.loss, local.gradient_norm))
                states.append(self.algorithm.init(local.w))
            else:
                states.append(self.workload.first_state(k))
        return stacked(states)

    def _local_steps(self, adapt: Adapt, state: State, i: int, rows: Sequence[int]) -> tuple[State, Info]:
        local_steps = self.config.local_steps
        for step in range((i - 1) * local_steps, i * local_steps):
            if step > (i - 1) * local_steps:
                state = state._replace(w=state.phi)
            state, info = adapt(state, step, rows)
        self._steps_done[[self.workload.clients[r] for r in rows]] += local_steps
        if not state.phi.isfinite().all():
            raise Diverged(f"iteration {i}: an intermediate state is no longer finite; a smaller --outer-lr or "
                           f"--inner-lr may help")  # fmt: skip
        return state, info

    def _exchanged(self) -> None:
        self._uploads += self._degrees
        self._heard += np.count_nonzero(self.topology.A, axis=0) - (np.diagonal(self.topology.A) != 0)

    def _answered(self, clients: Sequence[int]) -> None:
        self._uploads[clients] += 1

    def _report(self, i: int, holders: Sequence[int], w: Tensor, info: Info, adapted: Sequence[int]) -> bool:
        """What the recorder hears after an iteration; whether it was the last one."""
        if i % self.workload.measure_every == 0 and i % self.config.eval_every and i < self.config.iterations:
            for r, k in enumerate(holders):
                self.recorder.record(Snapshot(k, i), [w[r].cpu().numpy()])
        last = i == self.config.iterations or bool(self._stop)
        if time.monotonic() - self._progressed_at > PROGRESS_S or last or i % self.config.eval_every == 0:
            self._progress(i, info, adapted)
        if i % self.config.eval_every == 0 or last:
            for r, k in enumerate(holders):
                self._evaluate(k, i, w[r])
        return last or self.recorder.target_reached

    def _evaluate(self, k: int, i: int, w: Tensor) -> None:
        w = w.clone()
        losses, accuracies = evaluated(self.steps.evaluate(w), self.config.eval_steps)
        is_hub = k == self.workload.hub
        whose = slice(None) if is_hub else k
        uploads, steps = self._uploads[whose].sum(), self._steps_done[whose].sum()
        states = uploads + self._heard.sum() if is_hub else uploads
        event = Evaluated(k, i, losses.pop("0"), losses, accuracies, int(states) * self._state_bytes, int(steps),
                          int(uploads))  # fmt: skip
        self.recorder.record(event, [w.cpu().numpy()])

    def _progress(self, i: int, info: Info, adapted: Sequence[int]) -> None:
        self._progressed_at, agents = time.monotonic(), self.topology.agents
        cpu_s, pss = (cpu_seconds() - self._cpu_from) / agents, memory_pss()
        told = {name: dict(zip(adapted, figures.tolist(), strict=True)) for name, figures in info.items()}
        losses = told.pop("loss", {})
        hub, size = self.workload.hub, self._state_bytes
        calls = int(self._heard.sum())
        for k in range(agents):
            sent, heard = int(self._uploads[k]), int(self._heard[k])
            if k == hub:
                sent, heard = calls, int(self._uploads.sum())
            figures = {name: by_agent[k] for name, by_agent in told.items() if k in by_agent}
            self.recorder.record(Progress(
                k, i, losses.get(k), cpu_s, pss // agents if pss else None, int(self._steps_done[k]), figures,
                memory_peak() // agents, sent * size, 0, sent, int(self._uploads[k]), 0, 0,
                abandoned=self._abandoned if k == hub else 0, heard_payload_bytes=heard * size,
            ))  # fmt: skip
        self.recorder.pulse()

    def _finish(self, i: int, states: dict[int, State]) -> str:
        ended = "done" if i == self.config.iterations or self.recorder.target_reached else "stopped"
        self._progress(i, {}, [])
        for k, state in sorted(states.items()):
            for l, sent in self._edges(k):
                self.recorder.record(Edge(k, l, sent * self._state_bytes, 0, sent))
            tensors = [state.w, *state.slots]
            self.recorder.record(Finished(k, i, ended), [t.reshape(-1).cpu().numpy() for t in tensors])
        return ended

    def _edges(self, k: int) -> Iterator[tuple[int, int]]:
        """(neighbour, states sent to it) of agent k."""
        if k == self.workload.hub:
            yield from ((l, int(self._heard[l])) for l in self.workload.clients)
        elif self.workload.hub is not None:
            yield self.workload.hub, int(self._uploads[k])
        else:
            tells = self.topology.tells(k)
            yield from ((l, int(self._uploads[k]) // len(tells)) for l in tells)


def stacked(states: Sequence[State]) -> State:
    """One State of several agents, a row each."""
    return State(
        torch.stack([s.w for s in states]), torch.stack([s.phi for s in states]),
        tuple(torch.stack(slot) for slot in zip(*(s.slots for s in states), strict=True)),
    )  # fmt: skip


def _row(state: State, r: int) -> State:
    """One agent's state, in memory of its own, aligned as in an agent process."""
    return State(state.w[r].clone(), state.phi[r].clone(), tuple(slot[r].clone() for slot in state.slots))


def _rows(state: State, rows: Sequence[int]) -> State:
    chosen = list(rows)
    return State(state.w[chosen], state.phi[chosen], tuple(slot[chosen] for slot in state.slots))


def _with_rows(state: State, rows: Sequence[int], new: State) -> State:
    """The states with some rows replaced."""

    def put(old: Tensor, fresh: Tensor) -> Tensor:
        return old.index_copy(0, torch.as_tensor(list(rows), device=old.device), fresh)

    return State(put(state.w, new.w), put(state.phi, new.phi), tuple(map(put, state.slots, new.slots)))


def exact(workload: Workload, steps: Steps) -> Adapt:
    """Agent after agent, through the kernel that an agent process runs."""
    streams = [TaskStream(workload, k) for k in workload.clients]

    def adapt(state: State, step: int, rows: Sequence[int]) -> tuple[State, Info]:
        after, infos = zip(*(steps.adapt(_row(state, r), streams[r](step)) for r in rows), strict=True)
        new = stacked(after)
        state = new if len(rows) == len(state.w) else _with_rows(state, rows, new)
        return state, {name: torch.stack([info[name] for info in infos]) for name in infos[0]}

    return adapt


def batched(workload: Workload, say: engine.Say) -> Adapt:
    """Blocks of agents, each in one call of a kernel mapped over agents; the last block overlaps the one before.

    The kernel uses all threads that torch is given: its bits are its own anyway. A block of which nobody is called is
    left out.
    """
    K = len(workload.clients)
    size = K if workload.config.device != "cpu" else min(K, MOST_TOGETHER)
    blocks = [range(start, start + size) for start in [*range(0, K - size, size), K - size]]
    streams = [BlockStream(workload, [workload.clients[r] for r in block]) for block in blocks]
    one, example, names = flat_adapt(workload, workload.algorithm)
    over_agents = vmap(lambda *inputs: tuple(one(list(inputs))))
    kernel = engine.prepare(
        {f"the adapt step of {size} agents": (
            lambda inputs: list(over_agents(*inputs)), [torch.stack([t] * size) for t in example])},
        workload.engine, say, torch.get_num_threads(),
    ).popitem()[1]  # fmt: skip

    def adapt(state: State, step: int, rows: Sequence[int]) -> tuple[State, Info]:
        chosen = set(rows)
        kept = torch.clone if len(chosen) < K else torch.empty_like  # of those who do not adapt
        after = State(state.w, kept(state.phi), tuple(map(kept, state.slots)))
        figures = {name: torch.empty(K, dtype=state.w.dtype, device=state.w.device) for name in names}
        for block, stream in zip(blocks, streams, strict=True):
            mine = [r for r in block if r in chosen] if len(chosen) < K else list(block)
            if not mine:
                continue
            span, tasks = slice(block.start, block.stop), stream(step)
            before = State(state.w[span], state.phi[span], tuple(slot[span] for slot in state.slots))
            flat = kernel.run([before.w, *before.slots, *tasks.support, *tasks.query])
            new, info = unflatten_step(before, flat, names)
            here = slice(None) if len(mine) == size else [r - block.start for r in mine]
            there = span if len(mine) == size else mine
            after.phi[there] = new.phi[here]
            for slot, fresh in zip(after.slots, new.slots, strict=True):
                slot[there] = fresh[here]
            for name, values in info.items():
                figures[name][there] = values[here]
        return after, {name: values[list(rows)] for name, values in figures.items()}

    return adapt


class BlockStream:
    """The tasks of a block of agents for step 0, 1, 2, …: the same tasks that each agent draws alone, stacked."""

    def __init__(self, workload: Workload, agents: Sequence[int]) -> None:
        self._streams = [TaskStream(workload, k) for k in agents]
        self._length, self._number = workload.block, -1
        self._steps: list[Tasks] = []

    def __call__(self, step: int) -> Tasks:
        """Tensors of leading sizes (agents, tasks)."""
        number, place = divmod(step, self._length)
        if number != self._number:
            blocks = [stream.block(number) for stream in self._streams]
            stacked = [torch.stack(tensors, dim=1) for tensors in zip(*blocks, strict=True)]
            self._steps, self._number = steps_of(stacked), number
        return self._steps[place]


def mixing_of(config: RunConfig, topology: Topology) -> Mix:
    """How all agents combine: at once, or with the delays of asynchronous rounds."""
    if config.mode == "async":
        return delayed_mixing(config, topology)
    dtype = np.dtype(config.dtype)
    rows = slots(topology.A, dtype)
    if config.device == "cpu":
        return lambda i, phi: torch.from_numpy(mix_all(rows, phi.numpy()))
    there = Slots(*(torch.from_numpy(part).to(config.device) for part in rows))
    return lambda i, phi: mix_all(there, phi)


def delayed_mixing(config: RunConfig, topology: Topology) -> Mix:
    """Asynchronous rounds, modelled: what agent k combines of a neighbour is 0 to `staleness` rounds old.

    The ages are drawn evenly from the run's seed. A real asynchronous network has the delays its machine has, so the
    two do not agree in bits.
    """
    history: list[np.ndarray] = []
    columns = [column(topology.A, k) for k in range(topology.agents)]

    def mixed(i: int, phi: Tensor) -> Tensor:
        history.append(phi.cpu().numpy())
        del history[: -config.staleness - 1]
        rows = [mix(columns[k], k, history[-1][k], dict(heard(i, k))) for k in range(len(phi))]
        return torch.from_numpy(np.stack(rows)).to(phi.device)

    def heard(i: int, k: int) -> Iterator[tuple[int, np.ndarray]]:
        rng = generator(config.seed, Purpose.DELAY, k, i)
        for l in topology.hears(k):
            age = int(rng.integers(config.staleness + 1))
            if age < len(history):
                yield l, history[-1 - age][l]

    return mixed
