"""What does an agent make of what it has heard? Combine: for one agent, and for all at once with the same bits."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from difnet.maths.mixing import Array

Vector = TypeVar("Vector")  # anything with * and +: a numpy array, a torch tensor


def column(A: Array, k: int) -> dict[int, float]:
    """Agent k's weights as `mix` takes them: {l: a_lk} for l = k and every l it hears, as Python floats.

    >>> import networkx as nx
    >>> from difnet.topology.weights import metropolis
    >>> column(metropolis(nx.star_graph(2)), 1)
    {0: 0.3333333333333333, 1: 0.6666666666666667}
    """
    return {int(l): float(A[l, k]) for l in np.flatnonzero((A[:, k] != 0) | (np.arange(len(A)) == k))}


def mix(weights: Mapping[int, float], k: int, phi: Vector, heard: Mapping[int, Vector]) -> Vector:
    """Combine: agent k's next launch model, sum over l of a_lk phi_l; the weight of the silent stays with k itself.

    `weights` is column k of A, `heard` {l: phi_l} of the neighbours who answered. Works on whatever multiplies with a
    float and adds (numpy, torch); the order is fixed, so what arrives first never changes a bit.

    >>> mix({0: 0.25, 1: 0.5, 2: 0.25}, 1, np.array([1.0]), {0: np.array([5.0])})     # 2 is silent: 0.75 * 1 + 0.25 * 5
    array([2.])
    """
    silent = sum(a for l, a in weights.items() if l != k and l not in heard)
    mixed: Any = (weights.get(k, 0.0) + silent) * phi  # type: ignore[operator]
    for l in sorted(heard):
        mixed = mixed + weights[l] * heard[l]  # type: ignore[operator]
    return mixed


class PaddedWeights(NamedTuple):
    """A as arrays: k hears its d-th neighbour, `neighbours[d, k]`, with `weights[d, k]`, after `own[k]` of itself.

    Neighbours are in rising order; agents with fewer than the most, D, fill up with themselves at weight 0.
    """

    own: Any  # (K,)
    neighbours: Any  # (D, K), int64
    weights: Any  # (D, K)


def padded(A: Array, dtype: npt.DTypeLike = np.float64) -> PaddedWeights:
    """A combination matrix (K, K) as the arrays that `mix_all` wants, weights already in the type of the launch models.

    For torch tensors, convert the three arrays once: `PaddedWeights(*map(torch.from_numpy, padded(A, np.float32)))`.

    >>> import networkx as nx
    >>> from difnet.topology.weights import metropolis
    >>> padded(metropolis(nx.path_graph(3))).neighbours.tolist()
    [[1, 0, 1], [0, 2, 2]]
    """
    agents = len(A)
    k, l = np.nonzero((A * (1 - np.eye(agents))).T)  # sorted by k, then by l
    count = np.bincount(k, minlength=agents)
    d = np.arange(len(k)) - np.repeat(np.cumsum(count) - count, count)
    neighbours = np.tile(np.arange(agents), (count.max(), 1))
    weights = np.zeros(neighbours.shape)
    neighbours[d, k], weights[d, k] = l, A[l, k]
    return PaddedWeights(np.diagonal(A).astype(dtype), neighbours, weights.astype(dtype))


def mix_all(weights: PaddedWeights, Phi: Any) -> Any:
    """Combine for every agent at once: Phi (K, M) -> W (K, M), the bits of `mix` for each k with everybody heard.

    The bits agree for finite Phi of the type that the weights were made for. It takes D + 1 passes over Phi: the order
    of the additions is the price of the bits, where Phi.T @ A would be free to choose its own.

    >>> mix_all(padded(np.full((2, 2), 0.5)), np.array([[0.0], [1.0]])).tolist()
    [[0.5], [0.5]]
    """
    mixed = weights.own[:, None] * Phi
    for neighbours, a in zip(weights.neighbours, weights.weights, strict=True):
        mixed = mixed + a[:, None] * Phi[neighbours]
    return mixed
