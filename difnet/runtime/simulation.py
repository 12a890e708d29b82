"""The same recursion for all k in one process: the oracle of the network, and the way to ten thousand agents and a GPU.

Two engines compute `adapt`; both share everything else, and `mixing.mix_all` gives the bits of `mixing.mix`.

- exact: agent after agent through the kernel that an agent process runs. On one machine the same seed ends in the same
  bits as the network.
- batched: many agents in one call of a kernel mapped over agents. The order of summation differs, so the last bits do.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from difnet.agent import aligned
from difnet.algorithms import State
from difnet.config import RunConfig
from difnet.errors import Diverged
from difnet.exchange.links import Counters
from difnet.maths.federation import weighted_mean
from difnet.meta import Tasks
from difnet.record.events import Edge, Event, Finished, Note, Snapshot, TrainedAlone
from difnet.record.recorder import Recorder
from difnet.runtime.account import Account, Served, Usage, judged
from difnet.runtime.stacked import Adapt, batched, exact, mixing_of, row_of, rows_of, stack_states, with_rows
from difnet.runtime.testing import check_target, score_for_all
from difnet.system.holding import hold
from difnet.system.lifetime import stop_signals
from difnet.system.machine import cores, cpu_seconds, environment, memory_peak, memory_pss, torch_settings
from difnet.system.progress import as_lines, progress_to
from difnet.topology import Topology
from difnet.topology.networks import of_run
from difnet.workload import Workload
from difnet.workload.building import Own, build
from difnet.workload.kernels import Kernels, compile_kernels, describe
from difnet.workload.local_training import train_alone

PROGRESS_S = 1.0


def simulate(
    config: RunConfig, listen: Callable[[Event], None] = lambda event: None, data: Path | None = None
) -> dict[str, Any]:  # fmt: skip
    """Run a whole network in this process; returns its summary.

    Args: `listen` hears every network-level event; `data`, the files of all owners, where data stays with these.
    Raises: ConfigError, if something does not fit.
    """
    with torch_settings(cores() if config.simulator == "batched" else 1):
        return _simulate(config, listen, data)


def _simulate(config: RunConfig, listen: Callable[[Event], None], data: Path | None) -> dict[str, Any]:
    topology = of_run(config)
    with progress_to(as_lines(lambda text: listen(Note(text, 0.0)))):
        workload = build(config, topology.agents, topology.hub, topology.owners, Own(data))
        check_target(workload)
        recorder = Recorder(config, topology, "simulate", listen)
    with hold(recorder.folder, recorder.note):
        return _recorded(workload, topology, recorder)


def _recorded(workload: Workload, topology: Topology, recorder: Recorder) -> dict[str, Any]:
    config = workload.config
    recorder.start()
    with progress_to(as_lines(recorder.note)):
        kernels = compile_kernels(workload, recorder.note)
    adapt = exact(workload, kernels) if config.simulator == "exact" else batched(workload, recorder.note)
    recorder.ready({**describe(workload, kernels), "environment": environment()})
    with stop_signals() as stop:
        simulation = Simulation(workload, kernels, topology, recorder, stop)
        try:
            ended = simulation.diffuse(adapt) if workload.hub is None else simulation.serve(adapt)
        except Diverged as error:
            recorder.note(str(error))
            return recorder.finish("failed", str(error))
    if ended == "done":
        with progress_to(as_lines(recorder.note)):
            recorder.score(score_for_all(workload, recorder.models.to_test()))
    return recorder.finish(ended, signal.Signals(stop[0]).name if ended == "stopped" else "")


class Simulation:
    """One run of the recursion, and what it reports."""

    def __init__(
        self, workload: Workload, kernels: Kernels, topology: Topology, recorder: Recorder, stop: list[int]
    ) -> None:
        self.workload, self.kernels, self.topology, self.recorder = workload, kernels, topology, recorder
        self._stop = stop
        self.config, self.algorithm = workload.config, workload.algorithm
        self._combine = vmap(workload.algorithm.combine)
        self._degrees = [int(n) for n in np.count_nonzero(topology.A, axis=1) - (np.diagonal(topology.A) != 0)]
        self._state_bytes = workload.length * workload.dtype.itemsize
        self._progressed_at, self._cpu_from = time.monotonic(), cpu_seconds()
        self._opening = int(kernels.train_alone is not None)  # exchanges before the first iteration
        self._uploads = np.zeros(topology.agents, dtype=np.int64)  # states sent, by agent; a hub's own not counted
        self._heard = np.zeros(topology.agents, dtype=np.int64)  # states heard, by agent
        self._steps_done = np.zeros(topology.agents, dtype=np.int64)
        self._abandoned = self._taken = 0  # rounds, and answers that were
        self._sums: dict[str, Tensor] = {}  # of what the algorithm reports, by agent, since it was told last
        self._summed = np.zeros(topology.agents, dtype=np.int64)  # over so many iterations
        self._tasks: dict[int, Tasks | Sequence[Tasks]] = {}  # of a validation, by the owners whose they are

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
            state = self._local_steps(adapt, state, i, everybody)
            state = self._combine(state, state.phi if config.strategy == "cta" else mixed(i - 1, state.phi))
            self._exchanged()
            if self._report(i, everybody, state.w):
                break
        return self._finish(i, {k: row_of(state, k) for k in everybody})

    def serve(self, adapt: Adapt) -> str:
        """The rounds of a served star: call, adapt, answer, take the server's step. Returns "done" or "stopped"."""
        config, clients, hub, server = self.config, self.workload.clients, self.workload.hub, self.algorithm.server
        assert server is not None and hub is not None, "simulate asks for this where somebody serves"
        begin = vmap(self.algorithm.begin)
        state = self._first_states()
        first = self.workload.first_state(hub).w
        if self._opening:
            local = {k: state.phi[r].cpu().numpy() for r, k in enumerate(clients)}
            first = aligned(weighted_mean(local, dict.fromkeys(clients, 1.0))).to(config.device)
            self._answered(clients)
        state = begin(state, first.expand_as(state.w))
        served = server.init(first)
        self._evaluate(hub, 0, served.w)
        i = 0
        for i in range(1, config.iterations + 1):
            called = self.workload.server_rounds.called(i - 1)
            rows = [clients.index(k) for k in called]
            state = with_rows(state, rows, begin(rows_of(state, rows), served.w.expand(len(rows), -1)))
            state = self._local_steps(adapt, state, i, rows)
            self._heard[called] += 1
            self._answered(called)
            taken = list(zip(called, rows, strict=True))[: self.workload.server_rounds.wanted]  # nobody is late here
            told = {k: self.workload.samples_told(k, i - 1) for k, _ in taken}
            mean = self.workload.server_rounds.mean(i - 1, {k: state.phi[r].cpu().numpy() for k, r in taken}, told)
            self._abandoned, self._taken = self._abandoned + (mean is None), self._taken + len(taken)
            served = served if mean is None else server.step(served, aligned(mean).to(config.device))
            if self._report(i, [hub], served.w[None]):
                break
        state = begin(state, served.w.expand_as(state.w))
        self._heard[clients] += 1
        return self._finish(i, {hub: served, **{k: row_of(state, r) for r, k in enumerate(clients)}})

    def _first_states(self) -> State:
        """What every agent with tasks starts from, stacked."""
        states = []
        for k in self.workload.clients:
            if self._opening:
                local = train_alone(self.workload, self.kernels, k)
                self.recorder.record(TrainedAlone(k, local.steps, local.loss, local.gradient_norm))
                states.append(self.algorithm.init(local.w))
            else:
                states.append(self.workload.first_state(k))
        return stack_states(states)

    def _local_steps(self, adapt: Adapt, state: State, i: int, rows: Sequence[int]) -> State:
        local_steps, agents = self.config.local_steps, [self.workload.clients[r] for r in rows]
        for step in range((i - 1) * local_steps, i * local_steps):
            if step > (i - 1) * local_steps:
                state = state._replace(w=state.phi)
            state, info = adapt(state, step, rows)
        self._steps_done[agents] += local_steps
        if not state.phi.isfinite().all():
            raise Diverged(f"iteration {i}: an intermediate state is no longer finite; a smaller --outer-lr or "
                           f"--inner-lr may help")  # fmt: skip
        for name, figures in info.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros(self.topology.agents, dtype=torch.float64, device=figures.device)
            self._sums[name][agents] += figures.double()
        self._summed[agents] += 1
        return state

    def _exchanged(self) -> None:
        self._uploads += self._degrees
        self._heard += np.count_nonzero(self.topology.A, axis=0) - (np.diagonal(self.topology.A) != 0)

    def _answered(self, clients: Sequence[int]) -> None:
        self._uploads[clients] += 1

    def _report(self, i: int, holders: Sequence[int], w: Tensor) -> bool:
        """What the recorder hears after an iteration; whether it was the last one."""
        if i % self.workload.measure_every == 0 and i % self.config.eval_every and i < self.config.iterations:
            for r, k in enumerate(holders):
                self.recorder.record(Snapshot(k, i), [w[r].cpu().numpy()])
        last = i == self.config.iterations or bool(self._stop)
        if time.monotonic() - self._progressed_at > PROGRESS_S or last or i % self.config.eval_every == 0:
            self._progress(i)
        if i % self.config.eval_every == 0 or last:
            for r, k in enumerate(holders):
                self._evaluate(k, i, w[r])
        return last or self.recorder.target_reached

    def _evaluate(self, k: int, i: int, w: Tensor) -> None:
        w, account, recorder = w.clone(), self._account(k), self.recorder
        if self.workload.tests_itself(k):
            figures = self.kernels.evaluate(w, self._validation_tasks(k))
            recorder.record(account.evaluated(k, i, figures, self.config.eval_steps), [w.cpu().numpy()])
            return
        recorder.record(account.submitted(k, i), [w.cpu().numpy()])
        for due, judges in recorder.tally.verdicts.unasked():
            held = torch.from_numpy(due.held.w).to(self.config.device)
            for judge in judges:
                figures = self.kernels.evaluate(held, self._validation_tasks(judge))
                recorder.record(judged(judge, due.held.iteration, figures, self.config.eval_steps))

    def _validation_tasks(self, k: int) -> Tasks | Sequence[Tasks]:
        """What agent k tests with; where nobody has data of its own, the same for all."""
        if not self.workload.is_owned:
            return self.kernels.validation
        if k not in self._tasks:
            self._tasks[k] = self.workload.validation_tasks(k)
        return self._tasks[k]

    def _account(self, k: int) -> Account:
        """What an agent k would have done and sent as a process, but for what a wire adds."""
        calls, answers = int(self._heard.sum()), int(self._uploads.sum())
        is_hub = k == self.workload.hub
        sent, heard = (calls, answers) if is_hub else (int(self._uploads[k]), int(self._heard[k]))
        counters = Counters(payload_bytes=sent * self._state_bytes, messages=sent, states=sent,
                            heard_payload_bytes=heard * self._state_bytes)  # fmt: skip
        served = Served(answers, int(self._steps_done.sum()), self._abandoned, self._taken) if is_hub else None
        return Account(counters, int(self._steps_done[k]), served)

    def _progress(self, i: int) -> None:
        self._progressed_at, agents = time.monotonic(), self.topology.agents
        pss = memory_pss()
        usage = Usage((cpu_seconds() - self._cpu_from) / agents, pss // agents if pss else None,
                      memory_peak() // agents)  # fmt: skip
        sums = {name: figures.tolist() for name, figures in self._sums.items()}
        for k, count in enumerate(self._summed.tolist()):
            means = {name: by_agent[k] / count for name, by_agent in sums.items()} if count else {}
            self.recorder.record(self._account(k).progress(k, i, means, usage))
        self._sums, self._summed = {}, np.zeros(agents, dtype=np.int64)
        self.recorder.pulse()

    def _finish(self, i: int, states: dict[int, State]) -> str:
        ended = "done" if i == self.config.iterations or self.recorder.target_reached else "stopped"
        self._progress(i)
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


