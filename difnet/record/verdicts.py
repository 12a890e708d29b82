"""Which launch models wait to be tested by owners of data that stays with them, and what did these say?

Measurements leave in the order of their iterations: those that come after one that waits for a verdict wait with it.
"""

import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from difnet.record.events import Evaluated, Judged, Measured, Statistics, Validated


class Measurement(NamedTuple):
    """What was measured after some iteration, and the launch model that it was measured of."""

    event: Measured
    held: Any  # of a validation: the model, for whoever keeps the best one
    spent: Mapping[str, int] | None = None  # of a validation that is due: what the network had taken


@dataclass
class Verdicts:
    """What waits, oldest first. Judges are the agents that test."""

    judges: Collection[int] = ()
    _line: deque[Measurement] = field(default_factory=deque)
    _unasked: list[Measurement] = field(default_factory=list)
    _asked: dict[int, set[int]] = field(default_factory=dict)  # iteration -> the judges whose word is waited for
    _said: dict[int, dict[int, Judged]] = field(default_factory=dict)  # iteration -> judge -> its figures

    def wait(self, one: Measurement) -> None:
        """Something was measured: it leaves when nothing before it waits any more."""
        self._line.append(one)
        if one.spent is not None:
            self._said[one.event.iteration], self._asked[one.event.iteration] = {}, set(self.judges)
            self._unasked.append(one)

    def unasked(self, lost: Collection[int] = ()) -> list[tuple[Measurement, list[int]]]:
        """Those that nobody was asked to judge yet, each with the judges to ask; by this, they are.

        Args: `lost`, judges that are not there: theirs is not waited for, though they may come back.
        """
        asked, self._unasked = [one for one in self._unasked if one.event.iteration in self._asked], []
        for one in asked:
            self._asked[one.event.iteration] -= set(lost)
        return [(one, sorted(self._asked[one.event.iteration])) for one in asked]

    def hear(self, event: Judged) -> None:
        """One judge's figures; those of a model that nobody waits for any more are left out."""
        if event.iteration in self._said and event.agent in self.judges:
            self._said[event.iteration][event.agent] = event

    def lose(self, judge: int) -> None:
        """A judge's process has ended: what it was asked nobody will answer, also if another takes its place."""
        for asked in self._asked.values():
            asked.discard(judge)

    def missing(self) -> list[int]:
        """The judges of whom something is waited for."""
        return sorted(set().union(*(asked - self._said[i].keys() for i, asked in self._asked.items())))

    def leave(self, at_once: bool = False) -> Iterator[Measurement]:
        """What waits for nobody any more; of a model on which nobody said anything, only how far apart agents were.

        Args: `at_once`, nobody is waited for any longer.
        """
        while self._line:
            event, held, spent = self._line[0]
            if spent is not None:
                said = self._said[event.iteration]
                if self._asked[event.iteration] - said.keys() and not at_once:
                    return
                del self._said[event.iteration], self._asked[event.iteration]
                if said:
                    event = validated(event, [said[k] for k in sorted(said)], spent)
            self._line.popleft()
            yield Measurement(event, held)


def validated(
    measured: Measured, said: Sequence[Evaluated | Judged], spent: Mapping[str, int]
) -> Validated:  # fmt: skip
    """A measurement with the figures of those who tested."""
    m = measured
    return Validated(
        m.iteration, m.seconds, m.disagreement, m.distances, over_agents([t.before for t in said]),
        {steps: over_agents([t.after[steps] for t in said]) for steps in said[0].after},
        {steps: over_agents([t.accuracy[steps] for t in said], worst=min) for steps in said[0].accuracy}, {**spent},
    )  # fmt: skip


def over_agents(figures: Sequence[float], worst: Callable[[Sequence[float]], float] = max) -> Statistics:
    """The mean, median and worst of one figure over the agents.

    >>> over_agents([1.0, 2.0, 6.0])
    {'mean': 3.0, 'median': 2.0, 'worst': 6.0}
    """
    return {"mean": statistics.fmean(figures), "median": statistics.median(figures), "worst": worst(figures)}
