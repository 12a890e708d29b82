"""Which samples are whose, where they have no natural owner? By class, in shards, by Dirichlet shares, or at random.

Pure functions of labels; every draw comes from the generator that is handed in.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from difnet.errors import ConfigError, did_you_mean

Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[Any]
PARTITIONS = ("natural", "class", "shards", "dirichlet", "iid")


def partition_labels(
    labels: Labels, how: str, clients: int, *, rng: np.random.Generator, alpha: float = 0.5, per_client: int = 2
) -> list[Indices]:
    """The samples of each client, ascending; disjoint, together all of them, and no client is without any.

    Args: `labels` (samples,), classes; `how`, "class": each client has `per_client` classes, and a class is split
        evenly among those who have it; "shards": the samples sorted by class and cut into clients * per_client shards
        of one size, `per_client` of them for each client; "dirichlet": see `by_dirichlet`; "iid": at random, evenly.
    Raises: ConfigError for an unknown partition, or one that cannot be made.

    >>> parts = partition_labels(np.array([7, 7, 7, 9, 9, 9]), "class", 3, rng=np.random.default_rng(0), per_client=1)
    >>> sorted(map(len, parts))
    [1, 2, 3]
    """
    if how not in PARTITIONS:
        raise ConfigError(f"task.partition is {how!r}{did_you_mean(how, PARTITIONS) or '.'} It must be one of "
                          f"{', '.join(PARTITIONS)}.")  # fmt: skip
    if how == "natural":
        raise ConfigError("task.partition is 'natural', but these samples have no natural owners; try 'dirichlet'")
    for name, value in {"clients": clients, "per_client": per_client}.items():
        if not (type(value) is int and value >= 1):
            raise ConfigError(f"task.{name} is {value!r}; it must be a whole number, 1 or more")
    labels = np.asarray(labels)
    if clients > len(labels):
        raise ConfigError(f"{clients} clients, but {len(labels)} samples: not one for each; take fewer clients")
    if how != "iid" and labels.dtype.kind == "f":
        raise ConfigError(f"task.partition is {how!r}, but the targets are no classes (they are {labels.dtype}); take "
                          f"'iid' or 'natural'")  # fmt: skip
    if how == "iid":
        parts = np.array_split(rng.permutation(len(labels)), clients)
    elif how == "class":
        parts = by_class(labels, clients, per_client, rng)
    elif how == "shards":
        parts = by_shards(labels, clients, per_client, rng)
    else:
        parts = by_dirichlet(labels, clients, alpha, rng)
    return [np.sort(part).astype(np.int64) for part in parts]


def by_class(labels: Labels, clients: int, per_client: int, rng: np.random.Generator) -> list[Indices]:
    """Each client's samples of `per_client` classes that it is dealt, all different.

    Classes are dealt like cards, from a pack that is shuffled anew whenever it is used up.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    if per_client > len(classes):
        raise ConfigError(f"task.per_client is {per_client}, but there are {len(classes)} classes; it must be from 1 "
                          f"to {len(classes)}")  # fmt: skip
    if clients * per_client < len(classes):
        raise ConfigError(f"{clients} clients with {per_client} classes each leave some of the {len(classes)} classes "
                          f"to nobody; take {-(-len(classes) // clients)} classes per client, or "
                          f"{-(-len(classes) // per_client)} clients, or more")  # fmt: skip
    owners = _dealt(len(classes), clients, per_client, rng)
    parts: list[list[Indices]] = [[] for _ in range(clients)]
    for c, having in enumerate(owners):
        rows = np.flatnonzero(numbers == c)
        if len(rows) < len(having):
            raise ConfigError(f"class {classes[c]} has {len(rows)} samples and {len(having)} clients that share it; "
                              f"take fewer clients, or a smaller task.per_client")  # fmt: skip
        for client, share in zip(having, np.array_split(rng.permutation(rows), len(having)), strict=True):
            parts[client].append(share)
    return [np.concatenate(part) for part in parts]


def _dealt(classes: int, clients: int, per_client: int, rng: np.random.Generator) -> list[list[int]]:
    """Who has each class."""
    owners: list[list[int]] = [[] for _ in range(classes)]
    pack: list[int] = []
    for client in range(clients):
        hand: list[int] = []
        while len(hand) < per_client:
            card = next((c for c in pack if c not in hand), None)
            if card is None:
                pack += rng.permutation(classes).tolist()
                continue
            pack.remove(card)
            hand.append(card)
            owners[card].append(client)
    return owners


def by_shards(labels: Labels, clients: int, per_client: int, rng: np.random.Generator) -> list[Indices]:
    """Each client's `per_client` shards out of clients * per_client of the samples sorted by class.

    Shards differ by one sample at most. Within a class the order is random, so that nothing but the class decides.

    Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", 2017, section 3: 200 shards of 300 digits, two for each of 100 clients.
    """
    count = clients * per_client
    if count > len(labels):
        raise ConfigError(f"{clients} clients with {per_client} shards each are {count} shards, of {len(labels)} "
                          f"samples; take fewer clients, or a smaller task.per_client")  # fmt: skip
    order = rng.permutation(len(labels))
    shards = np.array_split(order[np.argsort(labels[order], kind="stable")], count)
    dealt = rng.permutation(count).reshape(clients, per_client)
    return [np.concatenate([shards[s] for s in hand]) for hand in dealt]


def by_dirichlet(labels: Labels, clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Each client's share of every class: for each class p ~ Dir(alpha, …, alpha) over the clients, drawn by itself.

    The smaller alpha is, the fewer clients have most of a class; how much data a client has varies too. A client that
    would have nothing gets one sample of whoever has most (where many clients share few classes, redrawing until
    nobody is empty would never end).

    Source: Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", 2019, section 4, as the
    paper says it: their published code besides gives nothing more to a client that has its even share, and redraws
    until everybody has ten samples. Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification", 2019, is another law: every client has equally many samples, their classes from
    Dir(alpha p).
    """
    if not 0 < alpha < np.inf:
        raise ConfigError(f"task.alpha is {alpha}, the concentration of a Dirichlet distribution; it must be a "
                          f"positive number, such as 0.5")  # fmt: skip
    parts: list[list[Indices]] = [[] for _ in range(clients)]
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        edges = np.floor(np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(rows) + 0.5).astype(np.int64)
        for client, share in enumerate(np.split(rows, np.minimum(edges, len(rows)))):
            parts[client].append(share)
    return _nobody_empty([np.concatenate(part) for part in parts])


def _nobody_empty(parts: Sequence[Indices]) -> list[Indices]:
    whole = list(parts)
    for client, part in enumerate(whole):
        if not len(part):
            richest = max(range(len(whole)), key=lambda k: len(whole[k]))
            whole[client], whole[richest] = whole[richest][:1], whole[richest][1:]
    return whole
