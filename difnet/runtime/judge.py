"""Who tests launch models with data that nobody else may see? An owner's agent, when the launcher asks it to.

An agent that trains is asked while it waits, and once it has ended; one that is held out does nothing else.
"""

import os
import time
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from difnet.errors import DifnetError
from difnet.exchange.control import Control
from difnet.meta import Tasks
from difnet.record.events import AgentReturned
from difnet.record.tally import ModelAt
from difnet.runtime.account import judged
from difnet.runtime.causes import explained
from difnet.runtime.testing import score_with_own
from difnet.workload import Workload
from difnet.workload.kernels import Kernels

STAY_S = 10.0  # how often who has ended asks whether it may go


class Judge:
    """The owner behind agent `k`: what it was asked to test, and its answers."""

    def __init__(self, k: int, workload: Workload, kernels: Kernels, control: Control) -> None:
        self._k, self._workload, self._kernels, self._control = k, workload, kernels, control
        self._asked: deque[dict[str, Any]] = deque()

    @cached_property
    def tasks(self) -> Tasks | Sequence[Tasks]:
        """What this agent tests launch models with on the way."""
        w = self._workload
        return w.validation_tasks(self._k) if w.is_owned else self._kernels.validation

    def asked(self, kind: str, body: dict[str, Any]) -> bool:
        """Keep what is asked for the next `work`; whether it was that."""
        if kind == "score":
            self._asked.append(body)
        return kind == "score"

    def work(self) -> None:
        """Test what was asked for, and tell the figures: numbers, and nothing else of the data."""
        while self._asked:
            body = self._asked.popleft()
            if body["part"] == "test":
                self._score(body["models"], body["tensors"])
            else:
                for iteration, w in zip(body["models"].values(), body["tensors"], strict=True):
                    self._judge(iteration, w)

    def _judge(self, iteration: int, w: np.ndarray) -> None:
        figures = self._kernels.evaluate(torch.from_numpy(w.copy()), self.tasks)
        event = judged(self._k, iteration, figures, self._workload.config.eval_steps).to_dict()
        self._control.say(event.pop("event"), event)

    def _score(self, models: dict[str, int], tensors: list[np.ndarray]) -> None:
        held = {name: ModelAt(i, w) for (name, i), w in zip(models.items(), tensors, strict=True)}
        try:
            scored = score_with_own(self._workload, held, self._k)
        except Exception as error:
            why = str(explained(error, "the models could not be tested"))
            self._control.say("not scored", {"reason": f"agent {self._k}: {why}", "agent": self._k})
            return
        for model, iteration, figures, samples, k in scored:
            told = {"model": model, "iteration": iteration, "shape": figures.shape, "agent": k}
            self._control.say("scored", told, (figures.reshape(-1), samples))
        self._control.say("all scored", {"agent": self._k})


def stay(k: int, control: Control, judge: Judge, patience_s: float) -> bool:
    """Judge whatever is asked until the launcher lets this agent go; whether it did, within its patience."""
    heard_at, asked_at, said = time.monotonic(), -STAY_S, False
    while time.monotonic() - heard_at < patience_s:
        if time.monotonic() - asked_at > STAY_S:
            control.say("leave", {})
            asked_at = time.monotonic()
        if heard := control.hear(0.25):
            heard_at, (kind, body) = time.monotonic(), heard
            if kind == "left":
                return True
            if kind == "stop":
                control.say("at", {"agent": k, "iteration": 0})
            elif kind == "where":
                control.say("doing", {"agent": k, "step_s": None})
            elif judge.asked(kind, body):
                judge.work()
        elif time.monotonic() - heard_at > STAY_S and not said:
            print(f"agent {k}: no answer 'left' from the registry at {control.endpoint} in {STAY_S:.0f} s; it keeps "
                  f"its last state until that is taken", flush=True)  # fmt: skip
            said = True
    return False


def run_held_out(k: int, control: Control, judge: Judge, incarnation: int, timeout_s: float, patience_s: float) -> int:
    """Be an agent that trains nothing and has no neighbours. Returns the process's exit status.

    Raises: DifnetError, if it may not take part, or the start does not come.
    """
    registration = {"agent": k, "incarnation": incarnation, "endpoint": None, "pid": os.getpid()}
    control.say("register", registration)
    control.introduction = lambda: ("register", registration)
    control.expect("peers", 10 * timeout_s)
    if incarnation:
        event = AgentReturned(k, incarnation, 0, None, "none, since it only tests those of others").to_dict()
        control.say(event.pop("event"), event)
    else:
        control.say("joined", {"agent": k})
        control.expect("go", 10 * timeout_s)
    if stay(k, control, judge, patience_s):
        return 0
    raise DifnetError(f"agent {k}: nothing was heard of the launcher for {patience_s:.0f} s")
