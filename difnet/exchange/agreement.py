"""After which iteration do all agents end that are asked to stop? After the next one of the one that is furthest."""

import time
from collections.abc import Set

STOP_ANSWER_S = 5.0  # for agents to say where they are


class Agreement:
    """One for each run; nothing of it is true before `ask`.

    >>> agreement = Agreement()
    >>> agreement.ask(), agreement.ask()
    (True, False)
    >>> agreement.heard(0, 41), agreement.settle({0, 1}), agreement.heard(1, 43), agreement.settle({0, 1})
    (None, None, None, 44)
    """

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._at: dict[int, int] = {}  # agent -> the iteration it was in when asked to stop
        self.until: int | None = None  # the iteration after which all end

    @property
    def is_asked(self) -> bool:
        """Whether agents were asked to stop."""
        return self._asked_at is not None

    def ask(self) -> bool:
        """Whether agents are to be asked now: nobody has asked them before."""
        is_first = self._asked_at is None
        self._asked_at = self._asked_at or time.monotonic()
        return is_first

    def heard(self, agent: int, iteration: int) -> None:
        """Where an agent was when it was asked."""
        self._at[agent] = iteration

    def settle(self, agents: Set[int]) -> int | None:
        """What all are to be told now: once every one of these has said where it is, or had time to; else None."""
        if self._asked_at is None or self.until is not None or not self._at:
            return None
        if self._at.keys() >= agents or time.monotonic() - self._asked_at > STOP_ANSWER_S:
            self.until = max(self._at.values()) + 1
        return self.until
