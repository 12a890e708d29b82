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

from difnet.errors import ConfigError
from difnet.maths.federation import Indices, deal_clients, split_clients, split_samples
from difnet.maths.seeding import data_generator
from difnet.tasks._clients import Clients, tensors

Array = npt.NDArray[Any]

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


def synthetic(
    agents: int, shots: int, queries: int, alpha: float = 1.0, beta: float = 1.0, clients: int = 100,
    features: int = 60, classes: int = 10, support: float = 0.5, data_seed: int = 0,
    shares: Sequence[float] = (0.8, 0.1, 0.1), most: int = 500, common: float = 0.0, relabel: bool = False,
) -> Clients:  # fmt: skip
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
    parts = split_clients(clients, shares, rng=data_generator(data_seed))
    shared = shared_law(data_generator(data_seed, SHARED), features, classes)

    def client(number: int) -> tuple[Array, Array, Indices, Indices]:
        rng = data_generator(data_seed, number)
        its_law = blend(law(rng, alpha, beta, features, classes), shared, common)
        n = int(min(most, 50 + np.floor(rng.lognormal(4, 2))))
        x, y = sample(rng, its_law, n)
        rows = split_samples(n, support, rng)
        return x, rng.permutation(classes)[y] if relabel else y, *rows

    x, y, supports, queried = zip(*map(client, range(clients)), strict=True)
    first = np.cumsum([0, *map(len, y)])
    return Clients(
        tensors(np.concatenate(x), np.concatenate(y)), lambda c: (first[c] + supports[c], first[c] + queried[c]),
        deal_clients(parts.train, agents), {"validation": parts.validation, "test": parts.test}, shots=shots,
        queries=queries,
        default_model="logistic", model_words={"inputs": features, "outputs": classes},
    )  # fmt: skip
