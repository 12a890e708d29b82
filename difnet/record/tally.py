"""What do the agents' words add up to? Pure: agents' events in, network-level events and totals out."""

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from difnet.maths.mixing import centroid, distances
from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Edge,
    Evaluated,
    Finished,
    Measured,
    NeighbourBack,
    NeighbourLost,
    Pieces,
    Progress,
    Pulse,
    Saved,
    Snapshot,
    Submitted,
    TrainedAlone,
    Validated,
)  # fmt: skip
from difnet.record.pieces import pieces
from difnet.record.verdicts import Measurement, Verdicts, validated

LATELY_S = 3.0  # the span over which rounds per second are taken
MOST_TOLD = 8  # edges in one sentence
ROUNDING = 1e-9  # of a centroid's squared length: launch models that are no farther apart are one
MOST_OWN, MOST_VALUES = 100, 2**25  # agents whose own models are tested, and the values in all of these


class ModelAt(NamedTuple):
    """The network's launch model at some iteration: the centroid, and those of which it is."""

    iteration: int
    w: np.ndarray  # (L,), in the agents' own type
    own: Mapping[int, np.ndarray] = {}  # agent -> its launch model (L,)

    @property
    def apart(self) -> float:
        """How far the agents' own models are from their mean: the mean squared distance, of its squared length."""
        if not self.own:
            return 0.0
        wide = self.w.astype(np.float64)
        gaps = [w.astype(np.float64) - wide for w in self.own.values()]
        return float(np.mean([gap @ gap for gap in gaps])) / max(float(wide @ wide), 1e-300)

    def that_differ(self) -> dict[int, np.ndarray]:
        """The agents' own models, if they differ by more than rounding does: their mean is then a model of nobody's.

        Of many agents, or of few with big models, some evenly spread ones.

        >>> one, other = np.ones(2), np.zeros(2)
        >>> list(ModelAt(0, one, {0: one, 1: one}).that_differ())
        []
        >>> list(ModelAt(0, one, {0: one, 1: other}).that_differ())
        [0, 1]
        """
        if len(self.own) < 2 or self.apart <= ROUNDING:
            return {}
        agents = sorted(self.own)
        most = max(2, min(MOST_OWN, MOST_VALUES // len(self.w), len(agents)))
        return {agents[n]: self.own[agents[n]] for n in np.linspace(0, len(agents) - 1, most).round().astype(int)}


@dataclass
class Tally:
    """The network as its agents have told it so far."""

    agents: int
    server: int | None = None  # the hub, if it serves: then it alone holds the launch model
    lost: dict[int, AgentLost] = field(default_factory=dict)  # agent -> how
    progress: dict[int, Progress] = field(default_factory=dict)
    finished: dict[int, Finished] = field(default_factory=dict)
    broken: list[NeighbourLost] = field(default_factory=list)
    healed: int = 0  # times that one end of an edge was cut off and went on as if it had not been
    resent: int = 0  # states that were sent again for it
    apart: dict[tuple[int, int], NeighbourLost] = field(default_factory=dict)  # who has not joined again, by whom
    returned: set[int] = field(default_factory=set)
    saved: dict[int, dict[int, Saved]] = field(default_factory=dict)  # iteration -> who has a checkpoint of it
    edges: list[Edge] = field(default_factory=list)
    alone: dict[int, TrainedAlone] = field(default_factory=dict)
    resumed_at: int = 0  # the iteration with which this run went on
    first: ModelAt | None = None  # that of the first validation
    last: ModelAt | None = None  # that of the latest measurement, validated or not
    newest: dict[int, ModelAt] = field(default_factory=dict)  # holder -> the model that it told of last
    best: ModelAt | None = None  # that of the validation with the best figures after the most inner steps
    validations: list[Validated] = field(default_factory=list)
    verdicts: Verdicts = field(default_factory=Verdicts)  # where others test than who learns
    _figures: dict[str, float] = field(default_factory=dict)  # sums over adapt steps of what algorithms report
    _pending: dict[int, dict[int, tuple[Snapshot, np.ndarray]]] = field(default_factory=dict)
    _lately: list[tuple[float, int]] = field(default_factory=list)
    _ended: list[Progress] = field(default_factory=list)  # the last words of processes that others have replaced
    _processes: dict[int, int] = field(default_factory=dict)  # agent -> the incarnation that was heard of last
    _next: dict[int, int] = field(default_factory=dict)  # agent -> the iteration from which it takes part again
    _pieces: list[list[int]] = field(default_factory=list)  # that were told last; [] while it has never fallen apart
    _moved_at: int | None = None  # the iteration with which somebody came or went since

    @property
    def alive(self) -> list[int]:
        """The agents that are not lost."""
        return [k for k in range(self.agents) if k not in self.lost]

    @property
    def holders(self) -> list[int]:
        """The living agents that hold a launch model of the network's: all, or the hub that serves."""
        return self.alive if self.server is None else [k for k in self.alive if k == self.server]

    @property
    def iteration(self) -> int:
        """How many iterations the slowest of the living has done; of a served star, the hub, also when it is lost.

        Where all are lost, that of the newest record.
        """
        counting = self.alive if self.server is None else [self.server]
        return min(map(self.reached, counting)) if counting else max(map(self.reached, self.lost), default=0)

    def reached(self, agent: int) -> int:
        """The furthest iteration that an agent has told of."""
        told = (self.progress.get(agent), self.newest.get(agent), self.finished.get(agent))
        return max([self.resumed_at, self._next.get(agent, 0), *(word.iteration for word in told if word)])

    def progressed(self, event: Progress, may_be_new: bool = False) -> None:
        """Take in where one agent stands.

        Args: `may_be_new`, whether it may be of a new process of which nobody said so: one that has used less time.
        """
        before = self.progress.get(event.agent)
        if may_be_new and before and event.cpu_s < before.cpu_s:
            self._ended.append(self.progress.pop(event.agent))
            before = None
        steps = event.steps - (before.steps if before else 0)
        for name, mean in event.figures.items():
            self._figures[name] = self._figures.get(name, 0.0) + mean * steps
        self.progress[event.agent] = event

    def died(self, event: AgentLost, incarnation: int | None) -> None:
        """An agent's process has ended; None: its last one."""
        if incarnation is None or incarnation >= self._processes.get(event.agent, 0):
            self.lost[event.agent] = event
            self.verdicts.lose(event.agent)
            self._moved(event.iteration)

    def left(self, event: NeighbourLost) -> None:
        """One agent goes on without another."""
        self.broken.append(event)
        self.apart[event.agent, event.neighbour] = event
        self._moved(event.iteration)

    def joined(self, event: NeighbourBack) -> None:
        """Two agents are joined again."""
        self.apart.pop((event.agent, event.neighbour), None)
        self._moved(event.first)

    def came_back(self, event: AgentReturned) -> None:
        """An agent goes on at a later iteration than its last one, perhaps as a new process that counts from 0."""
        self.lost.pop(event.agent, None)
        self._moved(event.iteration)
        self.returned.add(event.agent)
        self._next[event.agent], self._processes[event.agent] = event.iteration, event.incarnation
        if event.incarnation and event.agent in self.progress:
            self._ended.append(self.progress.pop(event.agent))

    def fallen(self, edges: Callable[[], Collection[tuple[int, int]]], seconds: float) -> list[Pieces]:
        """The pieces of the network, if they are others than those that were told last; else none.

        Nothing is told of a network that was never whole, or of which nobody is left.

        Args: `edges` gives those of the whole network; it is asked when somebody has come or gone.
        """
        at, self._moved_at = self._moved_at, None
        if at is None or not self.alive:
            return []
        found = pieces(self.alive, whole, self.apart.keys()) if (whole := edges()) else []
        if found == self._pieces or max(len(found), len(self._pieces)) < 2:
            return []
        self._pieces = found
        return [Pieces(at, seconds, found)]

    def recall_pieces(self, pieces: list[list[int]]) -> None:
        """The pieces that another launcher has told of."""
        self._pieces = pieces

    def waiting(self, agent: int) -> set[int]:
        """The iterations of which an agent has told its model, and of which others may tell theirs yet."""
        last = self.last.iteration if self.last else -1
        return {i for i, told in self._pending.items() if agent in told and i > last}

    def _moved(self, iteration: int) -> None:
        self._moved_at = max(iteration, self._moved_at or 0)

    def kept(self, event: Saved, carriers: Collection[int]) -> list[Saved]:
        """One agent has a checkpoint; those of all carriers that live, once they are complete."""
        told = self.saved.setdefault(event.iteration, {})
        told[event.agent] = event
        if not told.keys() >= set(carriers) - self.lost.keys():
            return []
        self.saved = {i: those for i, those in self.saved.items() if i > event.iteration}
        return [*told.values()]

    def goes_on(self, told: Iterable[Progress], carriers: Collection[int]) -> None:
        """Take in what agents of a run that is resumed had told of themselves before.

        The processes of carriers count on from their checkpoints; what the others had counted is kept beside.
        """
        for event in told:
            self.progressed(event)
        for k in self.progress.keys() - set(carriers):
            self._ended.append(self.progress.pop(k))

    def figures(self) -> dict[str, float]:
        """What the algorithm reports beside the loss, each a mean over all adapt steps of all agents."""
        return {name: total / (self.total("steps") or 1) for name, total in self._figures.items()}

    def measured(self, event: Snapshot, w: np.ndarray, seconds: float) -> list[Measured]:
        """Keep one agent's model; the network's figures as soon as every holder has sent the same iteration's."""
        self._pending.setdefault(event.iteration, {})[event.agent] = (event, w)
        self.newest[event.agent] = ModelAt(event.iteration, w)
        return self.settle(seconds)

    def settle(self, seconds: float) -> list[Measured]:
        """The measurements that wait for nobody any more, in order; none where nobody is left."""
        if not self.alive:
            return []
        away = {k for k in self.lost.keys() | self._next.keys() if k < self.agents}
        least = self.agents - len(away) if self.server is None else 1 - len(away & {self.server})  # counts are quick
        complete = sorted(i for i, told in self._pending.items() if len(told) >= least and told.keys() >= {
            k for k in self.holders if self._next.get(k, 0) <= i})  # fmt: skip
        for i in complete:
            self.verdicts.wait(self._measure(i, self._pending.pop(i), seconds))
        return self.judged()

    def judged(self, at_once: bool = False) -> list[Measured]:
        """The measurements, in order, whose validation waits for nobody any more; or all of them, `at_once`."""
        done = []
        for event, held, _ in self.verdicts.leave(at_once):
            if isinstance(event, Validated):
                self.first = self.first or held._replace(own={})
                if self.best is None or _merit(event) > max(map(_merit, self.validations), default=-float("inf")):
                    self.best = held
                self.validations.append(event)
            done.append(event)
        return done

    def _measure(self, iteration: int, told: dict[int, tuple[Snapshot, np.ndarray]], seconds: float) -> Measurement:
        agents = sorted(told)
        W = np.stack([told[k][1] for k in agents])
        apart = distances(W)
        by_agent = {str(k): float(d) for k, d in zip(agents, apart, strict=True)}
        self.last = held = ModelAt(iteration, centroid(W).astype(W.dtype), dict(zip(agents, W, strict=True)))
        measured = Measured(iteration, seconds, float(np.mean(apart)), by_agent)
        due = [snapshot for k in agents if isinstance(snapshot := told[k][0], Submitted)]
        if len(due) < len(agents):
            return Measurement(measured, None)  # of many that wait together no models are kept
        spent = {name: sum(getattr(s, name) for s in due) for name in ("payload_bytes", "steps", "uploads")}
        tests = [snapshot for snapshot in due if isinstance(snapshot, Evaluated)]
        if len(tests) < len(agents):
            return Measurement(measured, held, spent)
        return Measurement(validated(measured, tests, spent), held)

    def pulse(self, seconds: float) -> Pulse:
        """How the network is doing right now."""
        self._lately = [(t, i) for t, i in self._lately if seconds - t <= LATELY_S] + [(seconds, self.iteration)]
        (t0, i0), (t1, i1) = self._lately[0], self._lately[-1]
        told = list(self.progress.values())
        losses = [p.loss for p in told if p.loss is not None]
        weights = [p.pss_bytes for p in told if p.pss_bytes is not None]
        return Pulse(
            seconds, self.iteration, (i1 - i0) / (t1 - t0) if t1 > t0 else 0.0,
            statistics.fmean(losses) if losses else None, self.total("payload_bytes"), self.total("wire_bytes"),
            self.total("messages"), statistics.fmean(weights) / 2**20 if weights else None, len(self.alive),
            self.total("missed"),
        )  # fmt: skip

    @property
    def cpu_s(self) -> float:
        """Processor time of all agents so far."""
        return sum(p.cpu_s for p in [*self.progress.values(), *self._ended])

    def total(self, counter: str) -> int:
        """The sum over agents of one of their counters."""
        return sum(getattr(p, counter) for p in [*self.progress.values(), *self._ended])

    def one_sided_exchanges(self) -> int:
        """In how many rounds one end of a broken edge used it and the other, though it lived on, did not."""
        used = {(e.agent, e.neighbour, e.epoch): e.used for e in self.broken}
        both = [(k, l, n) for k, l, n in used if k < l and (l, k, n) in used and not {k, l} & self.lost.keys()]
        return sum(abs(used[k, l, n] - used[l, k, n]) for k, l, n in both)

    def stayed_apart(self) -> str:
        """Which neighbours never joined again, though both lived on; "" where there are none."""
        edges = {tuple(sorted(ends)): e for ends, e in self.apart.items() if not self.lost.keys() & ends}
        told = [f"{k}-{l} since iteration {e.iteration} ({e.reason})" for (k, l), e in sorted(edges.items())]
        more = f" and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
        return f"neighbours stayed apart: {', '.join(told[:MOST_TOLD])}{more}" if told else ""


def _merit(validated: Validated) -> float:
    """How good the launch model was after the most inner steps: its accuracy, or minus its loss where there is none."""
    figures, sign = (validated.accuracy, 1) if validated.accuracy else (validated.after, -1)
    mean = figures[max(figures, key=int)]["mean"]
    return -float("inf") if mean is None else sign * mean  # None: read from a record, which has no number for infinite
