"""When does an agent write a checkpoint of itself, and how does training go on meanwhile?

Every so many iterations, or when the launcher asks for one; and at its end. A thread writes, so that a slow disk stops
nobody: while it is at one checkpoint, another that falls due is left out.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from difnet.algorithms import State
from difnet.config import RunConfig
from difnet.record.checkpoints import Shelf
from difnet.record.events import Saved
from difnet.topology import Topology

LAST_S = 30.0  # how long an agent waits at its end for its last checkpoint to be written
MOST_KEPT = 2  # beyond those that an agent may be ahead of another by


class Saving:
    """The checkpoints of one agent as it goes along.

    Args: `shelf`, where they go, None: nowhere; `every`, iterations, None: when it is asked for one; `kept`, how many
        of the newest stay; `tell` hears of each that is written, and `complain` once why one was not.
    """

    def __init__(
        self, shelf: Shelf | None, every: int | None, kept: int, tell: Callable[[Saved], object],
        complain: Callable[[str], object],
    ) -> None:  # fmt: skip
        self._shelf, self._every, self._kept, self._tell, self._complain = shelf, every, kept, tell, complain
        self._asked: int | None = None
        self._newest = 0
        self._has_failed = False
        self._thread: threading.Thread | None = None

    def ask(self, iteration: int) -> None:
        """Somebody wants a checkpoint of everybody after this iteration."""
        self._asked = iteration

    def is_due(self, iteration: int) -> bool:
        """Whether one is to be written after this iteration."""
        return iteration == self._asked or bool(self._every and iteration % self._every == 0)

    def save(self, iteration: int, state: State, totals: Callable[[], dict[str, Any]]) -> None:
        """Have a checkpoint written, unless another one still is; the state's tensors are never written to."""
        if self._shelf and self.is_due(iteration) and not self._is_busy():
            self._begin(iteration, state, totals())

    def save_last(self, iteration: int, state: State, totals: dict[str, Any]) -> None:
        """Write where the agent ends, and wait for that; not for ever."""
        if self._shelf is None:
            return
        deadline = time.monotonic() + LAST_S
        if not self._is_busy(LAST_S) and self._newest != iteration:
            self._begin(iteration, state, totals)
        if self._is_busy(max(0.0, deadline - time.monotonic())):
            self._complain(f"its last checkpoint was not written within {LAST_S:.0f} s: the disk does not answer")

    def _is_busy(self, patience_s: float = 0.0) -> bool:
        """Whether one is being written, after waiting so long for its end."""
        if self._thread:
            self._thread.join(patience_s)
        return self._thread is not None and self._thread.is_alive()

    def _begin(self, iteration: int, state: State, totals: dict[str, Any]) -> None:
        w, *slots = (t.numpy() for t in (state.w, *state.slots))
        self._newest = iteration
        self._thread = threading.Thread(target=self._write, args=(iteration, totals, w, slots), daemon=True)
        self._thread.start()

    def _write(self, iteration: int, totals: dict[str, Any], w: np.ndarray, slots: Sequence[np.ndarray]) -> None:
        assert self._shelf is not None
        began = time.monotonic()
        try:
            size = self._shelf.write(iteration, totals, w, slots)
            self._shelf.keep(self._shelf.iterations()[-self._kept :])
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                self._complain(f"cannot write checkpoints to {self._shelf.folder}: {error.strerror}; training goes on, "
                               f"and a run that is killed now goes on from an older one. Make room there, or set "
                               f"DIFNET_CHECKPOINTS to another folder")  # fmt: skip
            return
        self._has_failed = False
        self._tell(Saved(self._shelf.expected.agent, iteration, time.monotonic() - began, size))


def kept(config: RunConfig, topology: Topology) -> int:
    """How many checkpoints an agent keeps: so many that one of each other agent's newest is among them.

    Who is d edges away may be d rounds behind, or more where rounds are asynchronous. Those that the launcher asks for
    come one after the other.
    """
    if not config.checkpoint_every:
        return MOST_KEPT
    if not topology.edges:
        return config.iterations  # all: nobody waits for anybody, so one may be ahead of another by any number
    lead = topology.breadth * (1 + config.staleness * (config.mode == "async"))
    return MOST_KEPT + lead // config.checkpoint_every
