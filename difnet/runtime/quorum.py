"""Are enough agents still together for a run to go on? Pure: how many there are and a clock in, words out.

Together are those who can still hear of one another, by whatever detour: who is dead, frozen or cut off is not among
them. This is the quorum of a run; the one of `[server]` is how many answers a round of a served star needs.
"""

LOOK_S = 3.0  # a longer time between two looks was one in which nobody could be seen


class Quorum:
    """Counts how long too few have been together, and makes words of it.

    Args: `needed`, so many agents; None: any number will do. `patience_s`, how long fewer are borne, since they may
        come back.

    >>> quorum = Quorum(5, 2.0)
    >>> [quorum.look(together, float(s)) != "" for s, together in enumerate((6, 4, 5, 4, 3))]
    [False, True, False, True, False]
    >>> quorum.look(4, 6.0), quorum.reason
    ('', 'fewer than 5 agents, which is the quorum, were together for 3 s; at last 4')
    """

    def __init__(self, needed: int | None, patience_s: float) -> None:
        self.needed, self.reason = needed or 0, ""  # why the run ends, once it does
        self._patience_s = patience_s
        self._short_s: float | None = None  # how long there have been too few; None while there are enough
        self._looked_at = 0.0

    def look(self, together: int, now: float) -> str:
        """Take in how many are together. Returns what is to be said of it: a warning when they become too few."""
        passed_s, self._looked_at = min(now - self._looked_at, LOOK_S), now
        if together >= self.needed:
            self._short_s = None
            return ""
        is_new = self._short_s is None
        self._short_s = 0.0 if self._short_s is None else self._short_s + passed_s
        if self._short_s >= self._patience_s:
            self.reason = self.reason or (f"fewer than {self.needed} agents, which is the quorum, were together for "
                                          f"{self._short_s:.0f} s; at last {together}")  # fmt: skip
            return ""
        return "" if not is_new else (f"{together} agents are together, fewer than the quorum of {self.needed}: unless "
                                      f"some come back within {self._patience_s:g} s, the run ends")  # fmt: skip
