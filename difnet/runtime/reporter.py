"""What does an agent tell of itself while it runs, and when is it told to end?"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from difnet.agent import aligned
from difnet.algorithms import Info, State
from difnet.exchange.control import Control
from difnet.exchange.transport import Transport
from difnet.maths.robust import TIMES, outsized
from difnet.record.checkpoints import Checkpoint
from difnet.record.events import Edge, Event, Finished, Snapshot
from difnet.runtime.account import Account, Served, Usage
from difnet.runtime.judge import Judge, stay
from difnet.runtime.saving import Saving
from difnet.runtime.star import Hub
from difnet.system.machine import cpu_seconds, memory_peak, memory_pss
from difnet.workload import Workload
from difnet.workload.kernels import Kernels

PROGRESS_S, MEMORY_S, AGREEMENT_S = 0.5, 5.0, 10.0


def state_of(saved: Checkpoint) -> State:
    """What an agent carried when it wrote a checkpoint."""
    w = aligned(saved.w)
    return State(w, w, tuple(map(aligned, saved.slots)))


class Reporter:
    """Watches the loop: reports progress now and then, evaluates on schedule, and ends the loop when asked to.

    Args: `patience_s`, how long a silent launcher is waited for at the end, where no host ends us when that is gone.
    """

    def __init__(
        self, k: int, workload: Workload, kernels: Kernels, control: Control, transport: Transport, saving: Saving,
        patience_s: float = float("inf"),
    ) -> None:  # fmt: skip
        self.saving = saving
        self._k, self._control, self._transport = k, control, transport
        self._workload, self._kernels, self._patience_s = workload, kernels, patience_s
        self._measure_every = workload.measure_every
        self._stopping = False
        self._until: int | None = None
        self._figures: dict[str, float] = {}  # sums since the last progress
        self._count = 0
        self._pss: int | None = None
        self._reported_at = self._weighed_at = 0.0
        self._cpu_before_s = 0.0  # of processes that were this agent before the run was resumed
        self._named: set[int] = set()  # neighbours whose states were told to be too long
        self.judge = Judge(k, workload, kernels, control)  # of what others have learnt
        self.hub: Hub | None = None  # if this agent is the one that serves
        self.steps = 0
        self.iteration, self.state = 0, workload.first_state(k)

    def observe(self, iteration: int, state: State, info: Info) -> bool:
        """After each iteration of an agent that holds a launch model of the network's; False ends the loop."""
        self.after_round(iteration, state, info)
        if self._stopping and self._until is None:
            self._await_agreement()
        last = iteration in (self._workload.config.iterations, self._until)
        self.measure(iteration, state, last)
        self.saving.save(iteration, state, self.totals)
        return not last and (self._until is None or iteration < self._until)

    def measure(self, iteration: int, state: State, last: bool = False) -> None:
        """What is due after an iteration: a test, or the launch model for the consensus error."""
        if iteration % self._workload.config.eval_every == 0 or last:
            self.evaluate(iteration, state)
        elif iteration % self._measure_every == 0:
            self.say(Snapshot(self._k, iteration), state.w)

    def answered(self, iteration: int, state: State, info: Info) -> bool:
        """After each round of a client that is called in every one, and carries something on: its hub ends it."""
        self.after_round(iteration, state, info)
        self.saving.save(iteration, state, self.totals)
        return True

    def after_round(self, iteration: int, state: State, info: Info) -> bool:
        """After each round of a client: its hub says when to end."""
        self.iteration, self.state = iteration, state
        self._count += 1
        if info:
            self.steps += self._workload.config.local_steps
        for name, figure in info.items():
            self._figures[name] = self._figures.get(name, 0.0) + float(figure)
        if time.monotonic() - self._reported_at > PROGRESS_S:
            self.progress()
        self.judge.work()
        return True

    def watch(self, iteration: int, phi: np.ndarray, heard: Mapping[int, np.ndarray]) -> None:
        """Tell, once of each neighbour, whose state is far too long to be like the others'."""
        rule = self._workload.config.combine
        then = "it is combined all the same; --combine clip, trim:b or median bound what it does"
        for neighbour in outsized(phi, heard):
            if neighbour not in self._named:
                self._named.add(neighbour)
                length = float(np.linalg.norm(heard[neighbour].astype(np.float64)))
                self._control.say("note", {"text": (
                    f"agent {self._k}, iteration {iteration}: neighbour {neighbour} sent a state of norm {length:.3g}, "
                    f"over {TIMES:.0f} times the agent's own and the others' usual one; it may be faulty, or lie: "
                    f"{then if rule == 'mean' else f'combine {rule!r} bounds what it does'}")})  # fmt: skip

    def evaluate(self, iteration: int, state: State) -> None:
        """Test the launch model on the validation tasks, and send both the figures and the model; or the model alone,
        where others have the tasks."""
        self.iteration, self.state = iteration, state
        if self._workload.tests_itself(self._k):
            figures = self._kernels.evaluate(state.w, self.judge.tasks)
            self.say(self._account().evaluated(self._k, iteration, figures, self._workload.config.eval_steps), state.w)
        else:
            self.say(self._account().submitted(self._k, iteration), state.w)

    def _account(self) -> Account:
        hub, local_steps = self.hub, self._workload.config.local_steps
        served = Served(hub.heard, hub.answered * local_steps, hub.abandoned, hub.answered) if hub else None
        return Account(self._transport.counters, self.steps, served)

    def totals(self) -> dict[str, Any]:
        """What was done and sent so far, for a checkpoint."""
        served = [self.hub.heard, self.hub.answered, self.hub.abandoned] if self.hub else []
        return {"steps": self.steps, "cpu_s": self._cpu_before_s + cpu_seconds(), "served": served,
                **self._transport.totals()}  # fmt: skip

    def resume(self, saved: Checkpoint) -> State:
        """Go on where a checkpoint was written: its totals count, and what was due then is told again."""
        self.iteration, self.state = saved.manifest.iteration, state_of(saved)
        totals = saved.manifest.totals
        self.steps, self._cpu_before_s = totals["steps"], totals["cpu_s"] - cpu_seconds()
        self._transport.count_on(totals)
        if self.hub:
            self.hub.heard, self.hub.answered, self.hub.abandoned = totals["served"]
        if self._k in self._workload.holders:
            self.measure(self.iteration, self.state)
        return self.state

    def progress(self) -> None:
        """Send where this agent stands."""
        now = time.monotonic()
        if now - self._weighed_at > MEMORY_S:
            self._pss, self._weighed_at = memory_pss(), now
        means = {name: figure / self._count for name, figure in self._figures.items()}
        usage = Usage(self._cpu_before_s + cpu_seconds(), self._pss, memory_peak())
        waited_s = self._transport.longest_wait_s
        self.say(self._account().progress(self._k, self.iteration, means, usage, waited_s))
        self._figures, self._count, self._reported_at = {}, 0, now

    def say(self, event: Event, *tensors: Tensor) -> bool:
        """Send an event up."""
        body = event.to_dict()
        return self._control.say(body.pop("event"), body, tuple(t.reshape(-1).numpy() for t in tensors))

    def leave(self, ended: str, reason: str = "") -> None:
        """Hand over how it ended and with which state, and stay until that is recorded: a stopped launcher goes on."""
        self.progress()
        if ended != "failed":
            self.saving.save_last(self.iteration, self.state, self.totals())
        used = self._transport.used()
        for l, sent in self._transport.sent.items():
            self.say(Edge(self._k, l, sent.payload_bytes, sent.wire_bytes, sent.messages, *used[l], sent.resent))
        self.say(Finished(self._k, self.iteration, ended, reason), self.state.w, *self.state.slots)
        self.judge.work()
        if not stay(self._k, self._control, self.judge, self._patience_s):
            print(f"agent {self._k}: nobody took its last state for {self._patience_s:.0f} s; it may be lost",
                  flush=True)  # fmt: skip

    def read_control(self) -> None:
        """Answer the registry: a stop is agreed on, so that all agents end after the same iteration."""
        while heard := self._control.hear(0):
            kind, body = heard
            if kind == "stop":
                self._stopping = True
                self._control.say("at", {"agent": self._k, "iteration": self.iteration})
            elif kind == "where":
                self._control.say("doing", {"agent": self._k, "step_s": self._transport.step_s})
            elif kind == "until":
                self._until = max(int(body["iteration"]), self.iteration)
            elif kind == "save":
                self.saving.ask(int(body["iteration"]))
            elif kind == "peers":  # of a launcher that took another's place: somebody may have moved between
                for l, endpoint in body["endpoints"].items():
                    self._transport.moved(int(l), endpoint)
            elif kind == "moved":
                self._transport.moved(int(body["agent"]), str(body["endpoint"]))
            elif kind == "gone":
                self._transport.gone(int(body["agent"]))
            else:
                self.judge.asked(kind, body)

    def _await_agreement(self) -> None:
        """Between two iterations, after a stop: until the registry says which iteration is everybody's last."""
        deadline = time.monotonic() + AGREEMENT_S
        while self._until is None and time.monotonic() < deadline:
            self._transport.service(0.05)
        if self._until is None:
            self._until = self.iteration
