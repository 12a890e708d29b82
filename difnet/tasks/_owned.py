"""Owners with data that stays theirs: whose is dealt to which agent here, and what of each is kept back to test on.

A process has its own clients alone. Whatever is random about a client follows from `data_seed` and its name, so that a
host with a third of the clients cuts them as one that has all would.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from difnet.data import Indices
from difnet.errors import ConfigError
from difnet.maths.seeding import data_generator
from difnet.meta import Tasks

PARTS = ("validation", "test")
Example = Callable[[int, int, int, np.random.Generator], Tasks]  # (tasks, shots, queries, rng) -> tasks of nobody's
Make = Callable[[Indices, Indices], Tasks]  # rows for support (T, n) and for query (T, m) -> T tasks


class Cut(NamedTuple):
    """One client's rows: for training those of support and query, and those kept back; all disjoint."""

    support: Indices
    query: Indices
    validation: Indices
    test: Indices
    training: Indices  # those of support and query together


class Samples(NamedTuple):
    """The samples of all clients here, as one kind of data has them.

    A unit is what rows are drawn from: a client, or in episodes one of its classes.
    """

    make: Make
    example: Example
    rows_of: Callable[[str], Indices]  # of a unit, in an order that does not change
    sizes: Mapping[str, int]  # by unit
    targets: Mapping[str, Mapping[str, int]]  # by client: how many of each class; {} where there are none
    cautions: Sequence[str]  # what may surprise whoever learns from them
    units: Mapping[str, Sequence[str]] | None = None  # of each client; None: a client is one


class Owned:
    """A family whose clients' data lies with their owners: `difnet.tasks.Owned`, for all kinds of data.

    Nothing of a client is looked at before it is asked for.
    """

    accuracy: Callable[[Tensor, Tensor], Tensor]
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]]

    def __init__(
        self, samples: Samples, *, agents: int, shots: int, queries: int, here: Sequence[int] | None = None,
        keeps: bool = True, whole: bool = False, ways: int | None = None,
        support: float = 0.5, kept: float = 0.1, least: int = 10, data_seed: int = 0,
        loss: Callable[[Tensor, Tensor], Tensor], default_model: str, model_words: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """
        Args: `here`, the agents whose data this is (None: all); `keeps`, whether `kept` of each unit's rows, twice,
            are kept back for validation and test; `support`, the share of the others that is for support sets;
            `whole`, whether the samples are those of all agents' clients, though only those `here` are asked for;
            `ways`, how many units of its client a task has, `shots` and `queries` of each (None: its only one).
        Raises: ConfigError for shares that leave nothing, and for fewer clients than agents.
        """
        least_possible = 4 if keeps else 2
        if not (0 < support < 1 and 0 < kept <= 0.25) or type(least) is not int or least < least_possible:
            raise ConfigError(f"task.support is {support}, task.kept {kept}, task.least {least}; support must be above "
                              f"0 and below 1, kept above 0 and 0.25 at most, least a whole number, {least_possible} "
                              f"or more: a row for each part")  # fmt: skip
        self.here = list(range(agents)) if here is None else sorted(here)
        self.shots, self.queries, self.loss = shots, queries, loss
        self.default_model, self.model_words = default_model, dict(model_words)
        self._samples, sizes = samples, samples.sizes
        self._keeps, self._support, self._kept, self._seed, self._least = keeps, support, kept, data_seed, least
        units = samples.units or {name: [name] for name in sizes}
        few = [name for name in sorted(sizes) if sizes[name] < least]
        self._ways, self._units = ways or 1, {client: [unit for unit in units[client] if sizes[unit] >= least]
                                              for client in sorted(units)}  # fmt: skip
        clients = [client for client, its in self._units.items() if len(its) >= self._ways]
        dealt = deal(clients, range(agents) if whole else self.here, len(units) - len(clients), least)
        self.owners = {agent: dealt[agent] for agent in self.here}
        self.cautions = [*samples.cautions, *(f"{name}: {sizes[name]} rows, fewer than {least} (task.least): left out"
                                              for name in few),
                         *(f"{client}: {len(its)} classes that are large enough, fewer than {ways} (task.ways): left "
                           f"out" for client, its in self._units.items() if ways and len(its) < ways)]  # fmt: skip
        self._cuts: dict[str, Cut] = {}

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """Training tasks, each of one of the agent's clients, all alike likely.

        `shots` of its support rows and `queries` of its query rows: without replacement where there are as many. In
        episodes so many of each of `ways` classes, which are others and in another order in each task.

        Raises: ConfigError for an agent whose data is not here.
        """
        tasks = self._choose_cuts(agent, count, rng)
        return self._tasks([[cut.support for cut in cuts] for cuts in tasks],
                           [[cut.query for cut in cuts] for cuts in tasks], rng)  # fmt: skip

    def draw_alike(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """As `draw`, of the same clients, with all rows for training drawn alike."""
        n, tasks = self.shots + self.queries, self._choose_cuts(agent, count, rng)
        both = np.array([[some(cut.training, n, rng) for cut in cuts] for cuts in tasks])
        support, query = np.split(both, [self.shots], axis=2)  # (count, ways, of each)
        return self._samples.make(support.reshape(count, -1), query.reshape(count, -1))

    def draw_kept(self, agent: int, part: str, count: int, rng: np.random.Generator) -> Tasks:
        """As `draw`, with query rows of those that the client keeps back for "validation" or "test".

        Raises: ConfigError, where nothing is kept back.
        """
        if not self._keeps or part not in PARTS:
            raise ConfigError(f"no rows are kept back for {part!r} here; they are kept for {' and '.join(PARTS)}, "
                              f"where owners are not held out as a whole")  # fmt: skip
        tasks = self._choose_cuts(agent, count, rng)
        return self._tasks([[cut.support for cut in cuts] for cuts in tasks],
                           [[getattr(cut, part) for cut in cuts] for cuts in tasks], rng)  # fmt: skip

    def example(self, count: int, rng: np.random.Generator) -> Tasks:
        """Tasks of nobody's data, in the shapes of everybody's."""
        return self._samples.example(count, self.shots, self.queries, rng)

    def samples(self, agent: int) -> int:
        """How many rows the agent's clients hold for training, support and query."""
        return sum(self._training(client) for client in self._clients(agent))

    def samples_drawn(self, agent: int, count: int, rng: np.random.Generator) -> Indices:
        """How many rows for training the client of each task has that `draw` makes of the same generator."""
        return np.array([self._training(client) for client in self._choose(agent, count, rng)], dtype=np.int64)

    def manifest(self) -> dict[str, Any]:
        """Who of those here has how many rows of which part, and a hash of which of its own: nothing of what they hold.

        "agents" are those of "here", in that order.
        """

        def told(client: str) -> dict[str, Any]:
            each = [self._places(unit) for unit in self._units[client]]
            sizes = [np.diff([0, *bounds, len(places)]) for places, bounds in each]
            counts = {part: int(n) for part, n in zip(Cut._fields, np.sum(sizes, axis=0), strict=False)
                      if part not in PARTS or self._keeps}  # fmt: skip
            digest = hashlib.sha256()
            for (places, _), size in zip(each, sizes, strict=True):
                digest.update(f"{size.tolist()}".encode() + places.astype("<i8").tobytes())
            return {"client": client, **counts, "rows": digest.hexdigest()[:16]}

        division = {"support": self._support, "kept": self._kept if self._keeps else 0.0, "least": self._least,
                    "data_seed": self._seed}  # fmt: skip
        counts = [self._counted(agent) for agent in self.here]
        targets = {"targets": {"agents": counts}} if any(counts) else {}
        return {"division": division, "here": self.here, **targets,
                "agents": [[told(client) for client in self.owners[agent]] for agent in self.here]}  # fmt: skip

    def _counted(self, agent: int) -> dict[str, int]:
        counts: dict[str, int] = {}
        for client in self.owners[agent]:
            for word, n in self._samples.targets.get(client, {}).items():
                counts[word] = counts.get(word, 0) + n
        return {word: n for word, n in counts.items() if n}

    def _clients(self, agent: int | None) -> list[str]:
        if agent is None:
            raise ConfigError("nobody has the data of the whole network: these tasks are owned, and each agent tests "
                              "on what its own clients keep back (draw_kept)")  # fmt: skip
        if agent not in self.owners:
            raise ConfigError(f"the data of agent {agent} is not here: this process has that of "
                              f"{', '.join(map(str, self.here))}; run the agent on the host that has it")  # fmt: skip
        return self.owners[agent]

    def _choose(self, agent: int | None, count: int, rng: np.random.Generator) -> list[str]:
        """The clients of so many tasks: the first that is drawn of a generator, whatever follows."""
        clients = self._clients(agent)
        return [clients[n] for n in rng.integers(len(clients), size=count)]

    def _choose_cuts(self, agent: int | None, count: int, rng: np.random.Generator) -> list[list[Cut]]:
        """For each of so many tasks the parts of its units: of one client, or of `ways` of its classes."""
        its = [self._units[client] for client in self._choose(agent, count, rng)]
        if self._samples.units is not None:
            its = [[units[n] for n in rng.permutation(len(units))[: self._ways]] for units in its]
        return [[self._cut(unit) for unit in units] for units in its]

    def _tasks(
        self, support: Sequence[Sequence[Indices]], query: Sequence[Sequence[Indices]], rng: np.random.Generator
    ) -> Tasks:
        s, q = ([np.concatenate([some(rows, n, rng) for rows in units]) for units in part]
                for part, n in ((support, self.shots), (query, self.queries)))  # fmt: skip
        return self._samples.make(np.stack(s), np.stack(q))

    def _training(self, client: str) -> int:
        return sum(self._samples.sizes[unit] - 2 * self._kept_rows(unit) for unit in self._units[client])

    def _kept_rows(self, unit: str) -> int:
        """How many rows a unit keeps back for each part: one at least."""
        return max(1, int(self._kept * self._samples.sizes[unit] + 0.5)) if self._keeps else 0

    def _cut(self, unit: str) -> Cut:
        """The rows of a unit's parts."""
        if unit not in self._cuts:
            places, bounds = self._places(unit)
            rows = self._samples.rows_of(unit)[places]
            support, query, validation, test = np.split(rows, bounds)
            self._cuts[unit] = Cut(support, query, validation, test, rows[: bounds[1]])
        return self._cuts[unit]

    def _places(self, unit: str) -> tuple[Indices, tuple[int, int, int]]:
        """The same, counted among the unit's own rows, which is the same wherever its data lies; and where to cut."""
        size, kept = self._samples.sizes[unit], self._kept_rows(unit)
        training = size - 2 * kept
        order = data_generator(self._seed, number_of(unit)).permutation(size)
        support = min(max(1, int(self._support * training + 0.5)), training - 1)
        bounds = (support, training, training + kept)
        return np.concatenate([np.sort(part) for part in np.split(order, bounds)]), bounds


def deal(clients: Sequence[str], here: Sequence[int], left_out: int = 0, least: int = 0) -> dict[int, list[str]]:
    """Clients dealt to the agents in equal runs, in the order given.

    Raises: ConfigError, if there are fewer clients than agents.

    >>> deal(["a", "b", "c"], [4, 7])
    {4: ['a', 'b'], 7: ['c']}
    """
    if not here:
        return {}  # a hub has no data
    if len(clients) < len(here):
        besides = f"; {left_out} more have fewer than {least} rows (task.least) and are left out" if left_out else ""
        raise ConfigError(f"{len(clients)} clients for {len(here)} agents here{besides}. Every agent needs one of its "
                          f"own: give data of {len(here)} clients or more, or take fewer agents.")  # fmt: skip
    runs = np.array_split(np.array(clients, object), len(here))
    return {agent: list(names) for agent, names in zip(here, runs, strict=True)}


def number_of(unit: str) -> int:
    """The number by which a unit's randomness is known: of its name alone, below 2^56."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:7], "big")


def some(rows: Indices, n: int, rng: np.random.Generator) -> Indices:
    """n of these rows, (n,): different ones where there are as many, else with replacement."""
    return rows[rng.choice(len(rows), size=n, replace=len(rows) < n)]
