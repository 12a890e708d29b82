"""Which words of which agent are recorded for good, so that it need not keep them for another launcher?

An agent's launch model is in the record once the measurement is for which others tell theirs; until then its receipt
waits.
"""

from collections.abc import Callable, Iterator

MOST = 64  # receipts of one agent that wait; a later one says what an earlier one would


class Receipts:
    """What agents have asked for.

    Args: `waiting` tells the iterations of which an agent has told, and of which others may tell yet.

    >>> waits = {20}
    >>> receipts = Receipts(lambda agent: waits)
    >>> receipts.asked(3, 7)
    >>> [*receipts.due()], waits.clear(), [*receipts.due()]
    ([], None, [(3, 7)])
    """

    def __init__(self, waiting: Callable[[int], set[int]]) -> None:
        self._waiting = waiting
        self._asked: dict[int, list[tuple[int, set[int]]]] = {}  # agent -> words said, what they wait for

    def asked(self, agent: int, said: int) -> None:
        """An agent wants to know whether so many of its words, all that came before this one, are recorded."""
        asked = self._asked.setdefault(agent, [])
        if len(asked) < MOST:
            asked.append((said, set(self._waiting(agent))))

    def due(self) -> Iterator[tuple[int, int]]:
        """(agent, words) of whom that is true by now."""
        for agent, asked in self._asked.items():
            waiting = self._waiting(agent)
            if settled := [said for said, of in asked if not of & waiting]:
                self._asked[agent] = [one for one in asked if one[0] > settled[-1]]
                yield agent, settled[-1]
