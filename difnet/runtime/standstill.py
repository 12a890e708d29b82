"""Rounds stand still: whom does everybody wait for? Pure: iterations, answers and a clock in, words out."""

from difnet.places import agents_text

STILL_S, ANSWER_S = 5.0, 1.5
USUAL = 3  # slow rounds are given so many times what a round takes on average


class Standstill:
    """Watches the iteration of the slowest agent, says when to ask all of them, and makes words of their answers."""

    def __init__(self, now: float) -> None:
        self._began, self._iteration = now, -1
        self._ask_at = self._asked_at = float("inf")
        self._doing: dict[int, float | None] = {}  # agent -> how long its step has lasted; None: it waits

    def is_time_to_ask(self, iteration: int, now: float) -> bool:
        """Whether rounds have stood still for so long that everybody is to be asked: what are you doing?"""
        if iteration != self._iteration:
            self._iteration, self._asked_at = iteration, float("inf")
            usual = (now - self._began) / iteration if iteration > 0 else 0.0
            self._ask_at = now + max(STILL_S, USUAL * usual)
        if now < self._ask_at:
            return False
        self._doing, self._asked_at, self._ask_at = {}, now, now + STILL_S
        return True

    def heard(self, agent: int, step_s: float | None) -> None:
        """An agent's answer: how long the step that it computes has lasted; None if it waits for others."""
        self._doing[agent] = step_s

    def told(self, now: float) -> str:
        """Who holds everybody up, once there are answers; said once in each standstill.

        >>> still = Standstill(0.0)
        >>> [still.is_time_to_ask(7, float(s)) for s in (1, 3, 7)]
        [False, False, True]
        >>> still.heard(0, None), still.heard(3, 5.9), still.told(9.0), still.told(9.0)
        (None, None, 'waiting for agent 3: in one step for 6 s', '')
        """
        if now - self._asked_at < ANSWER_S:
            return ""
        self._asked_at = float("inf")
        busy = {k: s for k, s in self._doing.items() if s is not None and s > STILL_S / 2}
        if not busy or all(s is not None for s in self._doing.values()):
            return ""  # all of them compute, or nobody does: nobody is waited for
        self._ask_at = float("inf")
        agents = f"agent{'s' if len(busy) > 1 else ''} {agents_text(sorted(busy))}"
        return f"waiting for {agents}: in one step for {max(busy.values()):.0f} s"
