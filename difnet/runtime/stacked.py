"""How do all agents adapt and combine in one process? One State holds them all, a row each.

`exact` runs agent after agent through the kernel that an agent process runs; `batched` many agents in one call of a
kernel mapped over agents. `mixing_of` gives the bits of `combine.mix`.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from difnet.algorithms import Info, State
from difnet.config import RunConfig
from difnet.maths.combine import PaddedWeights, column, mix_all, padded
from difnet.maths.robust import rule
from difnet.maths.seeding import Purpose, generator
from difnet.meta import Tasks
from difnet.topology import Topology
from difnet.workload import TaskStream, Workload, engine, steps_of
from difnet.workload.kernels import Kernels, flat_adapt, unflatten_step

MOST_TOGETHER = 64  # agents in one call of the batched kernel on a CPU: more would leave the cache

# Here one State holds all agents with tasks, one after the other along the first axis: w (K, L), phi (K, L), slots
# (K, ...). A row r is agent workload.clients[r], which is agent r itself where nobody serves.
Adapt = Callable[[State, int, Sequence[int]], tuple[State, Info]]  # (states, step, rows that adapt) -> figures (rows,)
Mix = Callable[[int, Tensor], Tensor]  # (iteration, Phi) -> what each agent combines, (K, L)


def stack_states(states: Sequence[State]) -> State:
    """One State of several agents, a row each."""
    return State(
        torch.stack([s.w for s in states]), torch.stack([s.phi for s in states]),
        tuple(torch.stack(slot) for slot in zip(*(s.slots for s in states), strict=True)),
    )  # fmt: skip


def row_of(state: State, r: int) -> State:
    """One agent's state, in memory of its own, aligned as in an agent process."""
    return State(state.w[r].clone(), state.phi[r].clone(), tuple(slot[r].clone() for slot in state.slots))


def rows_of(state: State, rows: Sequence[int]) -> State:
    """The states of some rows."""
    chosen = list(rows)
    return State(state.w[chosen], state.phi[chosen], tuple(slot[chosen] for slot in state.slots))


def with_rows(state: State, rows: Sequence[int], new: State) -> State:
    """The states with some rows replaced."""

    def put(old: Tensor, fresh: Tensor) -> Tensor:
        return old.index_copy(0, torch.as_tensor(list(rows), device=old.device), fresh)

    return State(put(state.w, new.w), put(state.phi, new.phi), tuple(map(put, state.slots, new.slots)))


def exact(workload: Workload, kernels: Kernels) -> Adapt:
    """Agent after agent, through the kernel that an agent process runs."""
    streams = [TaskStream(workload, k) for k in workload.clients]

    def adapt(state: State, step: int, rows: Sequence[int]) -> tuple[State, Info]:
        after, infos = zip(*(kernels.adapt(row_of(state, r), streams[r](step)) for r in rows), strict=True)
        new = stack_states(after)
        state = new if len(rows) == len(state.w) else with_rows(state, rows, new)
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
    """How all agents combine: at once, or agent after agent by another rule or with asynchronous delays."""
    if config.mode == "async":
        return delayed_mixing(config, topology)
    if config.combine != "mean":
        return mixing_by_agent(config, topology)
    dtype = np.dtype(config.dtype)
    rows = padded(topology.A, dtype)
    if config.device == "cpu":
        return lambda i, phi: torch.from_numpy(mix_all(rows, phi.numpy()))
    there = PaddedWeights(*(torch.from_numpy(part).to(config.device) for part in rows))
    return lambda i, phi: mix_all(there, phi)


def mixing_by_agent(config: RunConfig, topology: Topology) -> Mix:
    """The run's rule for agent after agent, everybody heard: on the CPU, wherever the states are."""
    combined = rule(config.combine)
    columns = [column(topology.A, k) for k in range(topology.agents)]

    def mixed(i: int, phi: Tensor) -> Tensor:
        states = phi.cpu().numpy()
        rows = [combined(columns[k], k, states[k], {l: states[l] for l in columns[k] if l != k})
                for k in range(len(states))]  # fmt: skip
        return torch.from_numpy(np.stack(rows)).to(phi.device)

    return mixed


def delayed_mixing(config: RunConfig, topology: Topology) -> Mix:
    """Asynchronous rounds, modelled: what agent k combines of a neighbour is 0 to `staleness` rounds old.

    The ages are drawn evenly from the run's seed. A real asynchronous network has the delays its machine has, so the
    two do not agree in bits.
    """
    history: list[np.ndarray] = []
    columns = [column(topology.A, k) for k in range(topology.agents)]
    combined = rule(config.combine)

    def mixed(i: int, phi: Tensor) -> Tensor:
        history.append(phi.cpu().numpy())
        del history[: -config.staleness - 1]
        rows = [combined(columns[k], k, history[-1][k], dict(heard(i, k))) for k in range(len(phi))]
        return torch.from_numpy(np.stack(rows)).to(phi.device)

    def heard(i: int, k: int) -> Iterator[tuple[int, np.ndarray]]:
        rng = generator(config.seed, Purpose.DELAY, k, i)
        for l in topology.hears(k):
            age = int(rng.integers(config.staleness + 1))
            if age < len(history):
                yield l, history[-1 - age][l]

    return mixed
