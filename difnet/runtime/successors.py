"""Which agents that died get a successor, a new process of the same number, and when? At most three in ten minutes."""

import time
from collections.abc import Mapping

from difnet.runtime.child_processes import CRASHED

WITHIN_S, BACK_OFF_S = 600.0, (0.0, 1.0, 5.0)


class Successors:
    """The decisions of one host.

    >>> successors = Successors()
    >>> successors.are_wanted = True
    >>> [successors.decide(7, "killed by SIGKILL") for _ in range(4)], successors.decide(8, "exit status 1")
    ([True, True, True, False], False)
    """

    def __init__(self, before: Mapping[int, int] | None = None) -> None:
        self._before = before or {}  # agent -> the processes that were it at hosts before this one
        self.are_wanted = False  # the run has begun, is not ending, and does not mean to go on without them
        self._deaths: dict[int, list[float]] = {}  # agent -> when
        self._due: list[tuple[float, int, int]] = []  # when, agent, incarnation

    def decide(self, agent: int, status: str) -> bool:
        """Whether an agent that ended so is to be replaced: it was killed, or met an error that nobody foresaw.

        One that gave up of its own accord, because it diverged for example, would do so again.
        """
        if not self.are_wanted or not (status.startswith("killed") or status == f"exit status {CRASHED}"):
            return False
        now, deaths = time.monotonic(), self._deaths.setdefault(agent, [])
        lately = sum(now - then < WITHIN_S for then in deaths)
        if lately == len(BACK_OFF_S):
            return False
        deaths.append(now)
        self._due.append((now + BACK_OFF_S[lately], agent, self._before.get(agent, 0) + len(deaths)))
        return True

    def due(self) -> list[tuple[int, int]]:
        """Who is to be started now: (agent, incarnation)."""
        now, due = time.monotonic(), self._due
        self._due = [one for one in due if one[0] > now]
        return [(agent, incarnation) for when, agent, incarnation in due if when <= now]
