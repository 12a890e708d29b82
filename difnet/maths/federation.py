"""What does a federation of clients need? Who is held out, whose data is cut where, who takes part, what the mean is.

Pure functions of numbers; every draw comes from the generator that is handed in.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from difnet.errors import ConfigError

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

LEAST = 0.001  # of a whole, the smallest share that anything is divided into: numbers named in errors stay sensible


class Parts(NamedTuple):
    """Which clients are for training, for validation and for testing: ascending, disjoint, together all of them."""

    train: Indices
    validation: Indices
    test: Indices


def split_clients(clients: int, shares: Sequence[float] = (0.8, 0.1, 0.1), *, rng: np.random.Generator) -> Parts:
    """The clients 0..clients-1, divided at random into training, validation and test clients in these shares.

    Sizes are the shares of the whole, rounded, each within one client of its share.

    Raises: ConfigError, if the shares are not three numbers from 0.001 up that sum to one, or a part would be empty.
    Source: Chen et al., "Federated Meta-Learning with Fast Convergence and Efficient Communication", section 4: 80, 10
    and 10 % of the clients.

    >>> [len(part) for part in split_clients(50, rng=np.random.default_rng(0))]
    [40, 5, 5]
    """
    if len(shares) != 3 or not min(shares) >= LEAST or not abs(sum(shares) - 1) < 1e-9:
        raise ConfigError(
            f"shares are {list(shares)}; they must be three numbers (training, validation and test clients), each "
            f"{LEAST} or more, that sum to 1, such as [0.8, 0.1, 0.1]"
        )
    parts = Parts(*_split(rng, clients, shares))
    if not all(map(len, parts)):
        raise ConfigError(
            f"{clients} clients in shares {list(shares)} leave {' + '.join(str(len(part)) for part in parts)} for "
            f"training, validation and test, and none may be empty: "
            f"{_enough(min(shares))} clients or more would do, or more even shares"
        )
    return parts


def split_samples(samples: int, fraction: float, rng: np.random.Generator | None) -> tuple[Indices, Indices]:
    """One client's samples 0..samples-1, cut into a support and a query part: ascending, disjoint, together all.

    Args: `fraction` of the samples are for the support set, p in FedMeta; their number is rounded, halves upwards;
    `rng`, to cut at random; None: the first samples are for support, the last for query.
    Raises: ConfigError, if one of the two would be empty.
    Source: Chen et al., "Federated Meta-Learning with Fast Convergence and Efficient Communication", section 4.2.

    >>> support, query = split_samples(10, 0.2, np.random.default_rng(0))
    >>> len(support), len(query)
    (2, 8)
    """
    if not LEAST <= fraction <= 1 - LEAST:
        raise ConfigError(
            f"a support fraction of {fraction} of a client's {samples} samples leaves its support or its query set "
            f"empty; it must be from {LEAST} to {1 - LEAST}, such as 0.2"
        )
    support, query = _split(rng, samples, (fraction, 1 - fraction))
    if not len(support) or not len(query):
        first = max(2, int(0.5 / min(fraction, 1 - fraction)))  # at most a sample or two below the answer
        least = next(n for n in count(first) if 0 < _edges(n, (fraction,))[0] < n)
        raise ConfigError(
            f"a support fraction of {fraction} of a client's {samples} samples is {len(support)} for support and "
            f"{len(query)} for query, and neither may be empty; with this fraction a client needs {least} samples or "
            f"more: leave smaller clients out, or take another fraction"
        )
    return support, query


def deal_clients(clients: Sequence[int] | Indices, agents: int) -> list[Indices]:
    """Clients dealt out to the agents in turn, like cards: each has as many as any other, or one fewer.

    Raises: ConfigError, if there are fewer clients than agents.

    >>> [hand.tolist() for hand in deal_clients([3, 5, 6, 8, 9], 2)]
    [[3, 6, 9], [5, 8]]
    """
    if len(clients) < agents:
        raise ConfigError(
            f"{len(clients)} training clients for {agents} agents: every agent needs one of its own; "
            f"take {agents} training clients or more, or fewer agents"
        )
    return [np.asarray(clients, dtype=np.int64)[k::agents] for k in range(agents)]


def sample_clients(
    rng: np.random.Generator, candidates: Sequence[int], m: int, weights: Sequence[float] | None = None
) -> list[int]:
    """Which m of the candidates take part in a round: distinct, ascending.

    Args: `weights`, one for each candidate, e.g. their numbers of samples: whoever is chosen next is so with
    probability in proportion to weight among those left, so that for m > 1 the chance to be among the m grows a little
    less than in proportion. None: all alike.
    Raises: ConfigError, if m is not in 1..K, or weights are negative, not finite, or positive for fewer than m.

    >>> sample_clients(np.random.default_rng(0), [2, 4, 6, 8], 4)
    [2, 4, 6, 8]
    """
    if not 1 <= m <= len(candidates):
        raise ConfigError(
            f"{m} clients per round out of {len(candidates)}; it must be a number from 1 to {len(candidates)}"
        )
    chances = None
    if weights is not None:
        w = np.asarray(weights, dtype=np.float64)
        if w.shape != (len(candidates),) or not np.isfinite(w).all() or (w < 0).any() or np.count_nonzero(w) < m:
            raise ConfigError(
                f"{m} clients per round by weights {w.tolist()}; give each of the {len(candidates)} candidates one "
                f"finite weight, none negative and {m} or more positive"
            )
        chances = w / w.max()  # by the largest first: a sum may overflow
        chances = chances / chances.sum()
    return sorted(int(k) for k in rng.choice(np.asarray(candidates), size=m, replace=False, p=chances))


def sample_rows(rng: np.random.Generator, sizes: Sequence[int] | Indices, n: int) -> Indices:
    """For each of T sets, n of its members 0..size-1 in random order, without replacement.

    A set with fewer than n members is drawn from with replacement: all its n draws are independent.

    Returns: shape (T, n). All sizes are positive.

    >>> sample_rows(np.random.default_rng(0), [3, 1], 3).tolist()
    [[2, 1, 0], [0, 0, 0]]
    """
    sizes = np.asarray(sizes, dtype=np.int64)[:, None]
    keys = rng.random((len(sizes), max(n, int(sizes.max()))))  # the order of random keys is a random order
    keys[np.arange(keys.shape[1]) >= sizes] = np.inf
    picked = np.argsort(keys, axis=1)[:, :n]
    return np.where(sizes >= n, picked, rng.integers(sizes, size=picked.shape))


def weighted_mean(messages: Mapping[int, Array], weights: Mapping[int, float]) -> Array:
    """The mean of what the agents sent, each with its weight over the sum of the weights of those who answered.

    Summed in ascending order of the agents' numbers, so that the order of arrival never changes a bit.

    Args: `messages`, agent -> array, all of one shape and dtype; `weights`, of these agents at least.
    Returns: the messages' shape and dtype.
    Raises: ValueError, if nobody answered, or the weights of those who did are not positive together.

    >>> weighted_mean({4: np.array([1.0, 2.0]), 1: np.array([5.0, 6.0])}, {1: 1, 2: 7, 4: 3})
    array([2., 3.])
    """
    if not messages:
        raise ValueError("a mean of no messages; a round without answers changes nothing and is not aggregated")
    agents = sorted(messages)
    whole = float(sum(weights[l] for l in agents))
    if not whole > 0:
        raise ValueError(f"the weights of agents {agents} sum to {whole}; they must be positive together")
    terms = ((float(weights[l]) / whole) * messages[l] for l in agents)
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def _edges(n: int, shares: Sequence[float]) -> Indices:
    """Where n things are cut: the cumulative shares, rounded with halves upwards."""
    return np.floor(np.cumsum(shares) * n + 0.5).astype(np.int64)


def _enough(share: float) -> int:
    """Things with which a part of this share is never empty, wherever it lies: its share is then 1 or more."""
    return int(np.ceil(1 / share))


def _split(rng: np.random.Generator | None, n: int, shares: Sequence[float]) -> list[Indices]:
    order = np.arange(n) if rng is None else rng.permutation(n)
    return [np.sort(part) for part in np.split(order, _edges(n, shares[:-1]))]
