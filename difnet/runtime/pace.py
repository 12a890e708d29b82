"""When does the launcher ask for a checkpoint? Pure: a clock and iterations in, an iteration out."""

from difnet.record.events import Checkpointed


class Pace:
    """When to ask, and for a checkpoint of which iteration.

    One at a time, `every_s` after the last one was complete, and so seldom that a fiftieth of the time goes into it.

    >>> pace = Pace(60.0, 0.0)
    >>> pace.ask(59.0, 499, 500, 10.0), pace.ask(60.0, 509, 510, 10.0), pace.ask(61.0, 519, 520, 10.0)
    (None, 532, None)
    >>> pace = pace.after(Checkpointed(532, 4.0, took_s=2.0, file_bytes=9, energy={}), 64.0)
    >>> pace.ask(163.0, 1500, 1500, 10.0), pace.ask(164.0, 1500, 1500, 10.0)
    (None, 1522)
    """

    LEAD_S, SHARE = 2.0, 0.02  # until everybody has heard of it; of the time

    def __init__(self, every_s: float, now: float) -> None:
        self._every_s, self._due_at = every_s, now + every_s
        self._asked: int | None = None
        self._newest: Checkpointed | None = None

    def after(self, newest: Checkpointed | None, now: float) -> "Pace":
        """The same, which knows of the newest checkpoint that everybody has."""
        if newest and newest is not self._newest:
            self._newest = newest
            self._complete(now, newest.took_s)
        return self

    def ask(self, now: float, slowest: int, furthest: int, rounds_per_s: float) -> int | None:
        """The iteration of which everybody is to write a checkpoint, if it is time to ask.

        Args: `slowest` and `furthest`, the iterations that agents are at. A checkpoint that somebody did not write,
            since his disk was still at the one before, is never complete: it is forgotten when all are past it.
        """
        lead = round(self.LEAD_S * rounds_per_s) + 2
        if self._asked is not None and slowest > self._asked + lead:
            self._complete(now, 0.0)
        if self._asked is not None or now < self._due_at:
            return None
        self._asked = furthest + lead
        return self._asked

    def _complete(self, now: float, took_s: float) -> None:
        self._asked, self._due_at = None, now + max(self._every_s, took_s / self.SHARE)
