"""Clients with data of their own: who trains, who is held out, what of each is support and what query."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from difnet.data import Array, Indices, Table
from difnet.errors import ConfigError
from difnet.maths.evaluate import accuracy_of
from difnet.maths.federation import deal_clients, sample_rows, split_clients, split_samples
from difnet.maths.partitions import partition_labels
from difnet.maths.seeding import data_generator
from difnet.meta import Batch, Tasks

MOST_CLASSES, MOST_NAMED = 100, 20_000  # in a manifest: classes that are counted, clients that are named
PIECE = 2**14  # rows that are looked up at a time
Take = Callable[[Indices], Batch]  # rows of any shape -> inputs and targets with that leading shape
Members = Callable[[int], Indices]  # client -> its rows


class Pool(NamedTuple):
    """One part of several clients, one after another: drawing from it is a single look-up."""

    rows: Indices
    first: Indices  # (clients,): where each client begins
    sizes: Indices  # (clients,)

    def some(self, clients: Indices, n: int, rng: np.random.Generator) -> Indices:
        """n rows of each of these clients, (clients, n)."""
        return self.rows[self.first[clients, None] + sample_rows(rng, self.sizes[clients], n)]


class Pools(NamedTuple):
    """The support parts of several clients, their query parts, and all that they have."""

    support: Pool
    query: Pool
    whole: Pool

    def choose(self, count: int, rng: np.random.Generator) -> Indices:
        """The clients of so many tasks, all alike likely: the first that is drawn of a generator, whatever follows."""
        return rng.integers(len(self.whole.sizes), size=count)


def pool(parts: Sequence[Indices]) -> Pool:
    """The pool of these clients' parts."""
    sizes = np.array([len(rows) for rows in parts])
    return Pool(np.concatenate(parts), sizes.cumsum() - sizes, sizes)


class Clients:
    """A federation: every client is for training, for validation or for testing; its data is cut once.

    Nothing of a client is looked at before it is asked for, so an agent reads the data of its own clients alone.
    """

    loss = staticmethod(cross_entropy)
    accuracy = staticmethod(accuracy_of)

    def __init__(
        self, take: Take, cut_client: Callable[[int], tuple[Indices, Indices]],
        hands: Sequence[Sequence[int] | Indices], held_out: Mapping[str, Sequence[int] | Indices], *, shots: int,
        queries: int, default_model: str, model_words: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None, names: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """
        Args: `take` looks rows up; `cut_client`, a client's support and query rows, the same in every process; `hands`,
            the training clients of each agent; `held_out`, those for "validation" and "test"; `model_words`, what a
            model for this data is built with; `about`, what a manifest says of the whole; `names` of the clients.
        """
        self.default_model, self.model_words, self._about = default_model, dict(model_words or {}), dict(about or {})
        self.shots, self.queries, self._take, self._names = shots, queries, take, names
        self._hands: dict[int | None, Sequence[int] | Indices] = dict(enumerate(hands))
        self._hands[None] = held_out["validation"]
        self._parts = held_out
        self._cut = cut_client
        self._pools: dict[int | None, Pools] = {}

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """Tasks with inputs and targets as `take` makes them: leading sizes (count, samples).

        Each task is one of the agent's training clients, all alike likely (for None: of the validation clients), with
        `shots` samples of its support part and `queries` of its query part: without replacement where the part has as
        many, else with replacement.
        """
        pools = self._pool(agent)
        clients = pools.choose(count, rng)
        support, query = pools.support.some(clients, self.shots, rng), pools.query.some(clients, self.queries, rng)
        return Tasks(self._take(support), self._take(query))

    def draw_alike(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """As `draw`, of the same clients, with samples of both parts drawn alike: what FedAvg calls a minibatch.

        A sample is as likely as any other of its client, wherever `draw` would use it.
        """
        pools = self._pool(agent)
        rows = pools.whole.some(pools.choose(count, rng), self.shots + self.queries, rng)
        return Tasks(self._take(rows[:, : self.shots]), self._take(rows[:, self.shots :]))

    def samples(self, agent: int) -> int:
        """How many samples the agent's training clients hold together, support and query."""
        return sum(len(rows) for c in self._hands[agent] for rows in self._cut(int(c)))

    def samples_drawn(self, agent: int, count: int, rng: np.random.Generator) -> Indices:
        """How many samples, of both parts, the client of each task has that `draw` makes of the same generator."""
        pools = self._pool(agent)
        return pools.whole.sizes[pools.choose(count, rng)]

    def held_out(self, part: str) -> Sequence[Tasks]:
        """All data of every client held out for "validation" or "test", one task each, without a leading size."""
        return [Tasks(*(self._take(rows) for rows in self._cut(int(c)))) for c in self._parts[part]]

    def manifest(self) -> dict[str, Any]:
        """Who has what: the clients of every agent and those held out, their samples, and a hash of each one's rows.

        Under "targets", how many samples of each class they have together, where there are at most 100 classes. Of more
        than 20000 clients, those of an agent are told together.
        """

        def told(name: str, clients: Sequence[int]) -> dict[str, Any]:
            cuts = [self._cut(client) for client in clients]
            support, query = (sum(map(len, parts)) for parts in zip(*cuts, strict=True))
            digest = hashlib.sha256()
            for rows in (rows for both in cuts for rows in both):
                digest.update(rows.astype("<i8").tobytes())
            return {"client": name, "support": support, "query": query, "rows": digest.hexdigest()[:16]}

        def each(clients: Sequence[int] | Indices) -> list[dict[str, Any]]:
            if few:
                return [told(self._names[c] if self._names else str(c), [c]) for c in map(int, clients)]
            return [told(f"{len(clients)} clients", [*map(int, clients)])]

        few = sum(map(len, self._hands.values())) + len(self._parts["test"]) <= MOST_NAMED
        agents = [each(self._hands[k]) for k in range(len(self._hands) - 1)]
        held_out = {part: each(clients) for part, clients in self._parts.items()}
        counts = {"agents": [self._counted(self._hands[k]) for k in range(len(agents))],
                  **{part: self._counted(clients) for part, clients in self._parts.items()}}  # fmt: skip
        classes = {c for counted in (*counts["agents"], *(counts[part] for part in held_out)) for c in counted}
        targets = {"targets": counts} if 0 < len(classes) <= MOST_CLASSES else {}
        return {**self._about, "agents": agents, **held_out, **targets}

    def _counted(self, clients: Sequence[int] | Indices) -> dict[str, int]:
        """How many samples of each class these clients have; {} where targets are no classes."""
        counts: Counter[int] = Counter()
        for client in clients:
            rows = np.concatenate(self._cut(int(client)))
            for piece in np.split(rows, range(PIECE, len(rows), PIECE)):
                targets = self._take(piece)[1]
                if targets.is_floating_point() or targets.ndim != 1:
                    return {}
                counts.update(targets.tolist())
        return {str(c): counts[c] for c in sorted(counts)}

    def _pool(self, agent: int | None) -> "Pools":
        if agent not in self._pools:
            supports, queries = zip(*(self._cut(int(c)) for c in self._hands[agent]), strict=True)
            whole = [np.concatenate(parts) for parts in zip(supports, queries, strict=True)]
            self._pools[agent] = Pools(pool(supports), pool(queries), pool(whole))
        return self._pools[agent]


Family = TypeVar("Family", bound=Clients)


@dataclass(frozen=True)
class Division:
    """How a table's samples become clients, and who of them is for what: the options of every task family with clients.

    `partition` is "natural" (the table's own groups), or makes `clients` of all samples, whoever they are of: "class"
    (each has `per_client` classes), "shards" (each has `per_client` shards of the samples sorted by class), "dirichlet"
    (shares of every class from a Dirichlet distribution of concentration `alpha`), "iid".
    """

    partition: str = "natural"
    clients: int = 100
    alpha: float = 0.5
    per_client: int = 2
    least: int = 10  # clients with fewer samples are left out
    most: int | None = None  # of a client with more samples, so many are taken at random
    support: float = 0.2  # the share of a client's samples that is for the support set, p in FedMeta
    query: float | None = None  # the share that is for the query set; unless told, all the rest; else some are unused
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)  # of the clients: training, validation, test
    data_seed: int = 0


def clients_of(
    table: Table, take: Take, division: Division, *, agents: int, shots: int, queries: int, default_model: str,
    model_words: Mapping[str, Any], in_order: bool = False, kind: type[Family] = Clients,  # type: ignore[assignment]
) -> Family:  # fmt: skip
    """A table's samples as a federation.

    Args: `in_order`, a client's first samples are for support and its last ones for query, instead of any; `kind` of
        federation, for a family with more to tell.
    Raises: ConfigError for a division that cannot be.
    """
    d, rng = division, data_generator(division.data_seed)
    names, members = _natural(table, d) if d.partition == "natural" else _divided(table, d, rng)
    if len(names) < 3:
        raise ConfigError(f"{len(names)} clients with {d.least} samples or more: needed are 3 at least, one each for "
                          f"training, validation and test; a smaller task.least leaves fewer of them out")  # fmt: skip
    parts = split_clients(len(names), d.shares, rng=rng)

    def cut_client(client: int) -> tuple[Indices, Indices]:
        rows, its = members(client), data_generator(d.data_seed, client)
        if d.most is not None and len(rows) > d.most:
            rows = rows[: d.most] if in_order else np.sort(its.choice(rows, size=d.most, replace=False))
        support, query = _cut(len(rows), d.support, d.query, None if in_order else its)
        return rows[support], rows[query]

    about = {"data": table.digest, "division": d.__dict__, "names": len(names)}
    unseen = {"validation": parts.validation, "test": parts.test}
    return kind(take, cut_client, deal_clients(parts.train, agents), unseen,
                shots=shots, queries=queries, default_model=default_model, model_words=model_words, about=about,
                names=names)  # fmt: skip


def _natural(table: Table, d: Division) -> tuple[list[str], Members]:
    """The table's own groups; their rows are counted out only when they are asked for."""
    groups = [g for g in range(table.groups) if table.sizes[g] >= d.least]
    return [table.names[g] for g in groups], lambda client: table.rows(groups[client])


def _divided(table: Table, d: Division, rng: np.random.Generator) -> tuple[list[str], Members]:
    """All samples, whoever they are of, as so many clients."""
    everything = np.concatenate([table.rows(g) for g in range(table.groups)])
    parts = partition_labels(np.asarray(table.targets)[everything], d.partition, d.clients, rng=rng, alpha=d.alpha,
                             per_client=d.per_client)  # fmt: skip
    enough = [part for part in parts if len(part) >= d.least]
    return [f"{d.partition}-{n}" for n in range(len(enough))], lambda client: everything[enough[client]]


def _cut(
    samples: int, support: float, query: float | None, rng: np.random.Generator | None
) -> tuple[Indices, Indices]:  # fmt: skip
    """`federation.cut`; where the query set has a share of its own, it is cut off first, and then the support set."""
    if query is None or abs(support + query - 1) < 1e-9:
        return split_samples(samples, support, rng)
    if not 0 < query < 1 - support:
        raise ConfigError(f"task.support is {support} and task.query {query} of a client's samples; both must be "
                          f"above 0, and 1 together at most, such as 0.05 and 0.2")  # fmt: skip
    rest, last = split_samples(samples, 1 - query, rng)
    return rest[split_samples(len(rest), support / (1 - query), rng)[0]], last


def tensors(inputs: Array, targets: Array, change: Callable[[Array], Array] = lambda inputs: inputs) -> Take:
    """`take` of two arrays, the inputs changed on their way (to numbers from 0 to 1, for example)."""

    def take(rows: Indices) -> Batch:
        return torch.from_numpy(np.ascontiguousarray(change(inputs[rows]))), torch.from_numpy(targets[rows])

    return take
