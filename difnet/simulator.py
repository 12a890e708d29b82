"""The same recursion for all k in one process: the oracle of the network, and the way to ten thousand agents and a GPU.

Two engines compute `adapt`; both share everything else, and `mixing.mix_all` gives the bits of `mixing.mix`.

- exact: agent after agent through the kernel that an agent process runs. On one machine the same seed ends in the same
  bits as the network.
- batched: many agents in one call of a kernel mapped over agents. The order of summation differs, so the last bits do.
"""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difnet import engine
from difnet.algorithms import State
from difnet.config import RunConfig
from difnet.events import Evaluated, Event, Finished, Progress, Snapshot
from difnet.lifetime import asked_to_stop
from difnet.machine import cores, cpu_seconds, environment, memory_pss, process_for_tensors
from difnet.meta import Tasks
from difnet.mixing import Slots, column, mix, mix_all, slots
from difnet.recorder import Recorder
from difnet.seeding import Purpose, generator
from difnet.topology import Topology, load
from difnet.workload import Steps, TaskStream, Workload, build, compile_steps, flat_adapt, steps_of

PROGRESS_S = 1.0
MOST_TOGETHER = 64  # agents in one call of the batched kernel on a CPU: more would leave the cache


# Here one State holds all agents, one after the other along the first axis: w (K, M), phi (K, M), slots (K, …).
Adapt = Callable[[State, int], tuple[State, Tensor]]  # (states, step) -> (states, losses (K,))
Mix = Callable[[int, Tensor], Tensor]  # (iteration, Phi) -> what each agent combines, (K, M)


def simulate(config: RunConfig, listen: Callable[[Event], None] = lambda event: None) -> dict[str, Any]:
    """Run a whole network in this process; returns its summary.

    Args: `listen` hears every network-level event.
    Raises: ConfigError, if something does not fit.
    """
    with process_for_tensors(cores() if config.simulator == "batched" else 1):
        return _simulate(config, listen)


def _simulate(config: RunConfig, listen: Callable[[Event], None]) -> dict[str, Any]:
    topology = load(config.topology, agents=config.agents, weights=config.weights).with_strategy(config.strategy)
    recorder = Recorder(config, topology, "simulate", listen)
    recorder.start()
    workload = build(config, topology.agents)
    steps = compile_steps(workload, recorder.note)
    adapt = exact(workload, steps) if config.simulator == "exact" else batched(workload, recorder.note)
    recorder.ready(steps.engine, workload.model.size, steps.flops, environment())
    with asked_to_stop() as stop:
        ended = Simulation(workload, steps, topology, recorder, stop).run(adapt, mixing_of(config, topology))
    return recorder.finish(ended, signal.Signals(stop[0]).name if ended == "stopped" else "")


class Simulation:
    """One run of the recursion, and what it reports."""

    def __init__(self, workload: Workload, steps: Steps, topology: Topology, recorder: Recorder, stop: list) -> None:
        self.workload, self.steps, self.topology, self.recorder = workload, steps, topology, recorder
        self._stop, self._validation = stop, workload.validation_tasks()
        self._degrees = [int(n) for n in np.count_nonzero(topology.A, axis=1) - (np.diagonal(topology.A) != 0)]
        self._progressed_at, self._cpu_from = time.monotonic(), cpu_seconds()

    def run(self, adapt: Adapt, mixed: Mix) -> str:
        """Adapt, exchange, combine, for all agents at once. Returns "done" or "stopped"."""
        config, state = self.workload.config, first_states(self.workload)
        combine = torch.func.vmap(self.workload.algorithm.combine)
        self._evaluate(0, state)
        i = 0
        for i in range(1, config.iterations + 1):
            if config.strategy == "cta":
                state = combine(state, mixed(i - 1, state.w))
            for step in range((i - 1) * config.local_steps, i * config.local_steps):
                if step > (i - 1) * config.local_steps:
                    state = combine(state, state.phi)
                state, losses = adapt(state, step)
            state = combine(state, state.phi if config.strategy == "cta" else mixed(i - 1, state.phi))
            last = i == config.iterations or bool(self._stop)
            if i % config.eval_every == 0 or last:
                self._evaluate(i, state)
            elif i % self.workload.measure_every == 0:
                for k in range(self.topology.agents):
                    self.recorder.record(Snapshot(k, i), [state.w[k].cpu().numpy()])
            if time.monotonic() - self._progressed_at > PROGRESS_S or last:
                self._progress(i, losses)
            if last:
                break
        ended = "done" if i == config.iterations else "stopped"
        for k in range(self.topology.agents):
            tensors = [state.w[k], *(slot[k] for slot in state.slots)]
            self.recorder.record(Finished(k, i, ended), [t.reshape(-1).cpu().numpy() for t in tensors])
        return ended

    def _evaluate(self, i: int, state: State) -> None:
        names = [str(n) for n in self.workload.config.eval_steps]
        for k in range(self.topology.agents):
            w = state.w[k].clone()
            before, *after = self.steps.evaluate(w, self._validation).tolist()
            event = Evaluated(k, i, before, dict(zip(names, after, strict=True)))
            self.recorder.record(event, [w.cpu().numpy()])

    def _progress(self, i: int, losses: Tensor) -> None:
        self._progressed_at, agents = time.monotonic(), self.topology.agents
        cpu_s, pss = (cpu_seconds() - self._cpu_from) / agents, memory_pss()
        state_bytes = self.workload.model.size * self.workload.dtype.itemsize
        for k, loss in enumerate(losses.tolist()):
            told = self._degrees[k] * i
            self.recorder.record(Progress(k, i, loss, cpu_s, pss // agents if pss else None,
                                          told * state_bytes, 0, told, 0, 0))  # fmt: skip
        self.recorder.pulse()


def first_states(workload: Workload) -> State:
    """The states that the agents start from."""
    states = [workload.first_state(k) for k in range(workload.agents)]
    return State(
        torch.stack([s.w for s in states]), torch.stack([s.phi for s in states]),
        tuple(torch.stack(slot) for slot in zip(*(s.slots for s in states), strict=True)),
    )  # fmt: skip


def exact(workload: Workload, steps: Steps) -> Adapt:
    """Agent after agent, through the kernel that an agent process runs."""
    streams = [TaskStream(workload, k) for k in range(workload.agents)]

    def adapt(state: State, step: int) -> tuple[State, Tensor]:
        phis, slot_rows, losses = [], [], []
        for k, stream in enumerate(streams):
            w = state.w[k].clone()  # aligned, as in an agent process
            after, loss = steps.adapt(State(w, w, tuple(slot[k].clone() for slot in state.slots)), stream(step))
            phis.append(after.phi)
            slot_rows.append(after.slots)
            losses.append(loss)
        new_slots = tuple(torch.stack(slot) for slot in zip(*slot_rows, strict=True))
        return State(state.w, torch.stack(phis), new_slots), torch.stack(losses)

    return adapt


def batched(workload: Workload, say: engine.Say) -> Adapt:
    """Blocks of agents, each in one call of a kernel mapped over agents; the last block overlaps the one before.

    The kernel uses all threads that torch is given: its bits are its own anyway.
    """
    K = workload.agents
    size = K if workload.config.device != "cpu" else min(K, MOST_TOGETHER)
    starts = [*range(0, K - size, size), K - size]
    streams = [BlockStream(workload, range(start, start + size)) for start in starts]
    one, example = flat_adapt(workload)
    over_agents = torch.func.vmap(lambda *inputs: tuple(one(list(inputs))))
    threads = torch.get_num_threads()
    kernel = engine.prepare(
        {f"the adapt step of {size} agents": (
            lambda inputs: list(over_agents(*inputs)), [torch.stack([t] * size) for t in example])},
        workload.config.engine, say, threads,
    ).popitem()[1]  # fmt: skip

    def adapt(state: State, step: int) -> tuple[State, Tensor]:
        phi, losses = torch.empty_like(state.phi), torch.empty(K, dtype=state.w.dtype, device=state.w.device)
        new_slots = tuple(torch.empty_like(slot) for slot in state.slots)
        for start, stream in zip(starts, streams, strict=True):
            rows = slice(start, start + size)
            tasks = stream(step)
            some_phi, *some_slots, some_losses = kernel.run(
                [state.w[rows], *(slot[rows] for slot in state.slots), *tasks.support, *tasks.query]
            )
            phi[rows], losses[rows] = some_phi, some_losses
            for slot, some in zip(new_slots, some_slots, strict=True):
                slot[rows] = some
        return State(state.w, phi, new_slots), losses

    return adapt


class BlockStream:
    """The tasks of a block of agents for step 0, 1, 2, …: the same tasks that each agent draws alone, stacked."""

    def __init__(self, workload: Workload, agents: range) -> None:
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
