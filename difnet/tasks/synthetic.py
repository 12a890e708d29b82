"""Synthetic(alpha, beta): a federation of classification clients that differ in their models and in their inputs.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks" (FedProx), 2020,
section 5.1. `alpha` and `beta` are standard deviations, as in the generator the authors published.

There nothing that one client learns is of use to another: every W is drawn anew. `common` leads from that to the
section's Synthetic-IID, where all have one law, and `relabel` lets each client number the classes its own way: what is
then shared is a way to look at the inputs, and what to make of it each client has to learn for itself.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from difnet.errors import ConfigError
from difnet.federation import Indices, cut, deal, divide, pick
from difnet.meta import Batch, Tasks

Array = npt.NDArray[Any]

DIVISION = 2**32 - 1  # in place of a client: how the clients are divided
SHARED = 2**32 - 2  # in place of a client: what is common to all


class Law(NamedTuple):
    """The law of one client's samples: x ~ N(centre, Sigma), y = argmax softmax(W x + b)."""

    W: Array  # (classes, features)
    b: Array  # (classes,)
    centre: Array  # (features,)


def law(rng: np.random.Generator, alpha: float, beta: float, features: int, classes: int) -> Law:
    """One client's law: W_jl, b_j ~ N(u, 1) with u ~ N(0, alpha^2), and centre_l ~ N(B, 1) with B ~ N(0, beta^2)."""
    u, shift = alpha * rng.standard_normal(), beta * rng.standard_normal()
    W, b = u + rng.standard_normal((classes, features)), u + rng.standard_normal(classes)
    return Law(W, b, shift + rng.standard_normal(features))


def shared_law(rng: np.random.Generator, features: int, classes: int) -> Law:
    """The one law of Synthetic-IID: W_jl, b_j ~ N(0, 1), and inputs around zero."""
    return Law(rng.standard_normal((classes, features)), rng.standard_normal(classes), np.zeros(features))


def blend(own: Law, shared: Law, common: float) -> Law:
    """sqrt(common) of the shared law and sqrt(1 - common) of a client's own: of the same variance for every `common`.

    Two clients' entries of W, or of b, are correlated by `common`, as long as alpha is zero.
    """
    return Law(*(np.sqrt(common) * theirs + np.sqrt(1 - common) * its for its, theirs in zip(own, shared, strict=True)))


def sample(rng: np.random.Generator, client: Law, n: int) -> tuple[Array, Array]:
    """n samples of a client: inputs (n, features), float64, and classes (n,), int64; Sigma_jj = j^-1.2, j from 1 on."""
    deviations = np.arange(1, len(client.centre) + 1) ** -0.6
    x = client.centre + deviations * rng.standard_normal((n, len(deviations)))
    return x, np.argmax(x @ client.W.T + client.b, axis=1)  # softmax keeps the order of the logits


class Pool(NamedTuple):
    """One part, support or query, of several clients' data, one after another: drawing from it is a single look-up."""

    x: Tensor
    y: Tensor
    first: Indices  # (clients,): the row with which each client begins
    sizes: Indices  # (clients,)


def pool(parts: Sequence[Batch]) -> Pool:
    """The pool of these clients' parts."""
    sizes = np.array([len(y) for _, y in parts])
    x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Pool(x, y, sizes.cumsum() - sizes, sizes)


class Synthetic:
    """Clients with data of their own, each cut once into a support and a query part."""

    loss = staticmethod(cross_entropy)
    default_model = "logistic"

    def __init__(
        self, shots: int, queries: int, train: Sequence[Sequence[Tasks]], validation: Sequence[Tasks],
        test: Sequence[Tasks],
    ) -> None:  # fmt: skip
        self.shots, self.queries = shots, queries
        self._held_out = {"validation": tuple(validation), "test": tuple(test)}
        hands: dict[int | None, Sequence[Tasks]] = {None: validation, **dict(enumerate(train))}
        self._pools = {k: (pool([c.support for c in cs]), pool([c.query for c in cs])) for k, cs in hands.items()}

    @staticmethod
    def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
        """The share of samples (n,) whose largest logit, of (n, classes), is that of their class."""
        return (prediction.argmax(-1) == target).to(prediction.dtype).mean()

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """Inputs (count, samples, features), float64, and classes (count, samples), int64.

        Each task is one of the agent's training clients, all alike likely (for None: of the validation clients), with
        `shots` samples of its support part and `queries` of its query part: without replacement where the part has as
        many, else with replacement.
        """
        support, query = self._pools[agent]
        clients = rng.integers(len(support.sizes), size=count)

        def some(data: Pool, n: int) -> Batch:
            rows = torch.from_numpy(data.first[clients, None] + pick(rng, data.sizes[clients], n))
            return data.x[rows], data.y[rows]

        return Tasks(some(support, self.shots), some(query, self.queries))

    def samples(self, agent: int) -> int:
        """How many samples the agent's training clients hold together, support and query."""
        return sum(len(part.y) for part in self._pools[agent])

    def held_out(self, part: str) -> Sequence[Tasks]:
        """All data of every client held out for "validation" or "test", one task each, without a leading size."""
        return self._held_out[part]


def synthetic(
    agents: int,
    shots: int,
    queries: int,
    alpha: float = 1.0,
    beta: float = 1.0,
    clients: int = 100,
    features: int = 60,
    classes: int = 10,
    support: float = 0.5,
    data_seed: int = 0,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    most: int = 500,
    common: float = 0.0,
    relabel: bool = False,
) -> Synthetic:
    """The federation Synthetic(alpha, beta), its training clients dealt evenly to the agents.

    A client has 50 samples and a lognormal(4, 2) number more, `most` at most (the paper has no such limit). The data
    depends on `data_seed` and these options alone, never on the seed of a run, and a client's own law and samples not
    on how many clients there are. By the formula, `alpha` changes no label: u adds the same to all logits of a sample.
    Clients differ at alpha = 0 as well, each having a W of its own.

    Args: `support`, the share of each client's samples in its support part; `shares` of the clients for training,
    validation and testing; `common`, from 0 for laws of the clients' own to 1 for one law of all, see `blend`; with
    `relabel` the classes of each client are a random permutation of those of its law.
    Raises: ConfigError for a value out of range, an empty part, or fewer training clients than agents.

    >>> family = synthetic(agents=20, shots=5, queries=15)
    >>> (x, y), _ = family.draw(0, 2, np.random.default_rng(0))
    >>> x.shape, y.shape, len(family.held_out("test"))
    (torch.Size([2, 5, 60]), torch.Size([2, 5]), 10)
    """
    whole = {"clients": clients, "features": features, "classes": classes, "most": most}
    if wrong := [name for name, value in whole.items() if not (type(value) is int and value >= 2)]:
        raise ConfigError(f"task synthetic: {wrong[0]} is {whole[wrong[0]]!r}; it must be a whole number, 2 or more")
    for name, value in {"alpha": alpha, "beta": beta}.items():
        if not 0 <= value < np.inf:
            raise ConfigError(f"task synthetic: {name} is {value}, a standard deviation; it must be 0 or more, finite")
    if not 0 <= common <= 1:
        raise ConfigError(f"task synthetic: common is {common}, the share of the law that all clients have in common; "
                          f"it must be from 0 to 1")  # fmt: skip
    if not isinstance(relabel, bool):
        raise ConfigError(f"task synthetic: relabel is {relabel!r}; it must be true or false")
    if not (type(data_seed) is int and 0 <= data_seed < 2**63):
        raise ConfigError(f"task synthetic: data_seed is {data_seed!r}; it must be a whole number from 0 to 2^63 - 1")
    parts = divide(clients, shares, rng=_stream(data_seed, DIVISION))
    hands, shared = deal(parts.train, agents), shared_law(_stream(data_seed, SHARED), features, classes)

    def client(number: int) -> Tasks:
        rng = _stream(data_seed, number)
        its_law = blend(law(rng, alpha, beta, features, classes), shared, common)
        n = int(min(most, 50 + np.floor(rng.lognormal(4, 2))))
        x, y = sample(rng, its_law, n)
        rows = cut(n, support, rng)
        return _cut_apart(x, rng.permutation(classes)[y] if relabel else y, *rows)

    train = [[client(c) for c in hand] for hand in hands]
    return Synthetic(shots, queries, train, [client(c) for c in parts.validation], [client(c) for c in parts.test])


def _cut_apart(x: Array, y: Array, support: Indices, query: Indices) -> Tasks:
    assert not np.intersect1d(support, query).size, "a sample is in the support part and in the query part"
    return Tasks(*((torch.from_numpy(x[rows]), torch.from_numpy(y[rows])) for rows in (support, query)))


def _stream(data_seed: int, client: int) -> np.random.Generator:
    """The generator of one client's data: keyed as in seeding.py, with second words far above those that runs use."""
    return np.random.Generator(np.random.Philox(key=np.array([data_seed, 2**62 + int(client)], dtype=np.uint64)))
