"""Who was away, from when to when, and what did that do to the network? Pure: a run's events in, spells out.

An agent is away while all its neighbours that are there go on without it, or while no process is it. One whose
neighbours are all away is there, and waits. Events of agents tell no time: theirs is that of the last one before that
does, of which there is one a second.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Checkpointed,
    Event,
    Measured,
    NeighbourBack,
    NeighbourLost,
    Pieces,
    Pulse,
    Resumed,
    Validated,
)

Edge = tuple[int, int]  # the lower number first
ABOUT_S = 3.0  # neighbours do not notice, and are not joined again, all at once
REPLACED = "; a new process takes its place"  # which the column beside it says better


@dataclass(frozen=True)
class Spell:
    """From one iteration to another; None: to the end of the run."""

    began: int
    ended: int | None
    began_s: float
    ended_s: float | None
    why: str

    def lasted_s(self, end_s: float) -> float:
        """How many seconds it took; `end_s` is when the run ended."""
        return (end_s if self.ended_s is None else self.ended_s) - self.began_s

    def covers(self, iteration: int) -> bool:
        """Whether an iteration is one of those."""
        return self.began <= iteration and (self.ended is None or iteration < self.ended)


S = TypeVar("S", bound=Spell)


@dataclass(frozen=True)
class Absence(Spell):
    """An agent that was away."""

    agent: int
    model: str = ""  # with which it came back; "" where nobody said so
    left_out: int | None = None  # iterations that it has not done; None: unknown


@dataclass(frozen=True)
class Parting(Spell):
    """Two neighbours that were there, of which one at least went on without the other."""

    edge: Edge


class Course(NamedTuple):
    """What came of the network in a run: spells in the order of their beginning."""

    absences: list[Absence]
    partings: list[Parting]  # without those of agents that were away
    in_pieces: list[tuple[int, int | None]]  # from which iteration to which the network was in pieces
    resumed: list[int]  # iterations with which the run went on after it had ended, or was killed

    @property
    def is_whole(self) -> bool:
        """Whether nobody was ever away, and no neighbours apart."""
        return not (self.absences or self.partings)


class Effect(NamedTuple):
    """A figure before a spell, the highest while it lasted, and after it; None where it was not measured."""

    before: float | None
    highest: float | None
    after: float | None


def course(events: Iterable[Event], edges: Iterable[Edge]) -> Course:
    """What came of the network in a run.

    Args: `events` in order; `edges` of the network, in any order.
    """
    watch = _Watch(edges)
    for event in events:
        watch.see(event)
    return watch.told()


def effect(spell: Spell, events: Iterable[Event], figure: Callable[[Measured], float | None]) -> Effect:
    """What a figure was before, during and after a spell.

    Args: `figure` of a measurement; None where it has none.

    >>> curve = [Measured(i, i / 10, error, {}) for i, error in enumerate([1.0, 2.0, 9.0, 8.0, 3.0])]
    >>> effect(Spell(2, 4, 0.2, 0.4, "silent"), curve, lambda e: e.disagreement)
    Effect(before=2.0, highest=9.0, after=3.0)
    """
    told = sorted((e.iteration, x) for e in events if isinstance(e, Measured) and (x := figure(e)) is not None)
    before = [x for i, x in told if i < spell.began]
    after = [x for i, x in told if spell.ended is not None and i >= spell.ended]
    return Effect(before[-1] if before else None, max((x for i, x in told if spell.covers(i)), default=None),
                  after[0] if after else None)  # fmt: skip


def least_adapted_loss(event: Measured) -> float | None:
    """The mean loss after the fewest inner steps, of a measurement at which it was validated."""
    return event.after[min(event.after, key=int)]["mean"] if isinstance(event, Validated) and event.after else None


class _Watch:
    """The spells that are open, and those that are over, after so many events."""

    def __init__(self, edges: Iterable[Edge]) -> None:
        self._neighbours: dict[int, set[int]] = defaultdict(set)
        for k, l in edges:
            self._neighbours[k].add(l)
            self._neighbours[l].add(k)
        self._now = 0.0
        self._apart: dict[tuple[int, int], NeighbourLost] = {}  # (agent, the neighbour it goes on without)
        self._dead: set[int] = set()
        self._away: dict[int, Absence] = {}
        self._back: dict[int, Absence] = {}  # an agent's last, if it is over
        self._over: list[Absence] = []  # all others
        self._parted: dict[Edge, Parting] = {}
        self._partings: list[Parting] = []
        self._in_pieces: list[tuple[int, int | None]] = []
        self._resumed: list[int] = []

    def see(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case Pulse() | Measured() | Checkpointed():
                self._now = max(self._now, event.seconds)
            case NeighbourLost():
                self._parts(event)
            case NeighbourBack():
                self._joins(event)
            case AgentLost():
                self._dies(event)
            case AgentReturned():
                self._returns(event)
            case Pieces():
                self._falls(event)
            case Resumed():
                self._resumes(event)

    def told(self) -> Course:
        """What came of the network so far."""
        absences = sorted([*self._over, *self._back.values(), *self._away.values()], key=lambda a: (a.began, a.agent))
        by_agent: dict[int, list[Absence]] = defaultdict(list)
        for absence in absences:
            by_agent[absence.agent].append(absence)
        partings = [p for p in [*self._partings, *self._parted.values()]
                    if not any(_explains(a, p) for k in p.edge for a in by_agent[k])]  # fmt: skip
        return Course(absences, sorted(partings, key=lambda p: (p.began, p.edge)), self._in_pieces, self._resumed)

    def _parts(self, event: NeighbourLost) -> None:
        ends = (event.agent, event.neighbour)
        self._apart[ends] = event
        edge = (min(ends), max(ends))
        self._parted.setdefault(edge, Parting(event.iteration, None, self._now, None, event.reason, edge))
        k = event.neighbour
        there = self._neighbours[k] - self._away.keys()
        if k not in self._away and event.agent in there and all((l, k) in self._apart for l in there):
            began = max(self._apart[l, k].iteration for l in there)
            self._away[k] = Absence(began, None, self._now, None, event.reason, k)

    def _joins(self, event: NeighbourBack) -> None:
        k, l = event.agent, event.neighbour
        self._apart.pop((k, l), None)
        if (l, k) not in self._apart and (parting := self._parted.pop((min(k, l), max(k, l)), None)):
            self._partings.append(replace(parting, ended=max(event.first, parting.began), ended_s=self._now))
        for one, other in ((k, l), (l, k)):
            if other not in self._away and one not in self._dead:
                self._comes_back(one, event.first)

    def _dies(self, event: AgentLost) -> None:
        k, why = event.agent, event.status.removesuffix(REPLACED)
        self._dead.add(k)
        known = self._away.get(k) or Absence(event.iteration, None, self._now, None, why, k)
        self._away[k] = replace(known, why=why)

    def _returns(self, event: AgentReturned) -> None:
        k, due = event.agent, event.iteration - (event.left_out or 0)
        self._dead.discard(k)
        if k not in self._away:
            last = self._back.get(k)
            if last is None or last.model or due > (last.ended or 0):
                if not event.left_out:
                    return
                self._away[k] = Absence(due, None, self._now, None, "it was in a piece that had been cut off", k)
        self._comes_back(k, event.iteration)
        until = max(event.iteration, self._back[k].began)  # its neighbours may have been ready for it before
        self._back[k] = replace(self._back[k], ended=until, model=event.model, left_out=event.left_out)

    def _comes_back(self, agent: int, first: int) -> None:
        """An agent takes part again, and with it those who were away together with it."""
        waiting = [agent]
        while waiting:
            k = waiting.pop()
            if k not in self._away:
                continue
            spell = self._away.pop(k)
            if k in self._back:
                self._over.append(self._back.pop(k))
            self._back[k] = replace(spell, ended=max(first, spell.began), ended_s=self._now)
            waiting += [l for l in self._neighbours[k] - self._dead if not {(k, l), (l, k)} & self._apart.keys()]

    def _falls(self, event: Pieces) -> None:
        was = bool(self._in_pieces) and self._in_pieces[-1][1] is None
        if was and len(event.pieces) < 2:
            began, _ = self._in_pieces.pop()
            self._in_pieces.append((began, max(began, event.iteration)))
        elif not was and len(event.pieces) > 1:
            self._in_pieces.append((event.iteration, None))

    def _resumes(self, event: Resumed) -> None:
        """Everybody is there again; what was after the iteration with which the run goes on has not been."""
        first, was = event.iteration, self.told()
        self._now = max(self._now, event.seconds)
        self._over = [replace(_cut(a, first, self._now), model=a.model or "the run was resumed")
                      for a in was.absences if a.began < first]  # fmt: skip
        self._partings = [_cut(p, first, self._now) for p in was.partings if p.began < first]
        self._in_pieces = [(a, first if b is None else min(b, first)) for a, b in self._in_pieces if a < first]
        for everything in (self._back, self._away, self._parted, self._apart):
            everything.clear()
        self._dead.clear()
        self._resumed.append(first)


def _cut(spell: S, end: int, end_s: float) -> S:
    if spell.ended is not None and spell.ended <= end:
        return spell
    return replace(spell, ended=end, ended_s=end_s if spell.ended_s is None else spell.ended_s)


def _explains(absence: Absence, parting: Parting) -> bool:
    """Whether two were apart because one of them was away: for as long as that, but for some seconds."""
    ended = float("inf") if parting.ended_s is None else parting.ended_s
    gone = float("inf") if absence.ended_s is None else absence.ended_s
    return parting.began_s >= absence.began_s - ABOUT_S and ended <= gone + ABOUT_S
