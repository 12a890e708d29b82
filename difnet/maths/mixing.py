"""How fast does a combination matrix A bring agents together, on what do they agree, and how far apart are they?

`A[l, k]` is the weight agent k gives to what it hears from agent l, so columns sum to one. With W holding one launch
model per row, combining is W <- A^T W: it leaves the centroid alone when A is doubly stochastic, and brings the agents
together at the mixing rate.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from difnet.maths.spectra import extremes, symmetrised

Array = npt.NDArray[Any]
TOLERANCE = 1e-9


def mixing_rate(A: Array) -> float:
    """|lambda_2(A)|, the second largest modulus of A's eigenvalues: what one combination leaves of a disagreement.

    In [0, 1) for a primitive A, and 0 for a single agent; 1 says that some agents never agree. Where A is doubly
    stochastic it is the spectral radius of A^T - 11^T/K. Symmetric and reversible A (all the rules here on undirected
    graphs) take well under a minute up to 10 000 agents; any other costs O(K^3).

    Source: Theorem 1 of the Dif-MAML paper (lambda_2 there).

    >>> import networkx as nx
    >>> from difnet.topology.weights import metropolis
    >>> round(mixing_rate(metropolis(nx.star_graph(9))), 9)     # 1 - 1/K
    0.9
    """
    if len(A) == 1:
        return 0.0
    if (S := symmetrised(A)) is not None:
        low, high = extremes(*S)
        return float(min(max(abs(low), abs(high)), 1.0))
    return float(min(np.sort(np.abs(np.linalg.eigvals(A)))[-2], 1.0))


def is_doubly_stochastic(A: Array) -> bool:
    """Whether rows, too, sum to one (within 1e-9): then the network agrees on the plain mean.

    >>> import networkx as nx
    >>> from difnet.topology.weights import averaging
    >>> is_doubly_stochastic(averaging(nx.path_graph(3)))
    False
    """
    return bool(np.abs(A.sum(axis=1) - 1).max() <= TOLERANCE and np.abs(A.sum(axis=0) - 1).max() <= TOLERANCE)


def iterations_to_agreement(A: Array, factor: float = 1e-3) -> int | None:
    """Combinations until a disagreement ||w_k - centroid|| has shrunk to `factor` of itself; None if it never does.

    >>> import networkx as nx
    >>> from difnet.topology.weights import metropolis
    >>> iterations_to_agreement(metropolis(nx.cycle_graph(40)))
    839
    """
    return iterations_at(mixing_rate(A), factor)


def iterations_at(rate: float, factor: float = 1e-3) -> int | None:
    """`iterations_to_agreement` for a mixing rate that is already known: ceil(log factor / log rate)."""
    if rate >= 1 - 1e-12:
        return None
    return 1 if rate <= 1e-12 else max(1, math.ceil(math.log(factor) / math.log(rate) - 1e-9))


def perron(A: Array) -> Array:
    """The weighted mean that a network agrees on: A p = p, sum(p) = 1; left alone, every w_k tends to sum_l p_l w_l.

    Returns: p, float64 (K,); all 1/K exactly when A is doubly stochastic.

    >>> import networkx as nx
    >>> from difnet.topology.weights import averaging
    >>> perron(averaging(nx.path_graph(3))).round(3).tolist()     # n_k / sum n
    [0.286, 0.429, 0.286]
    """
    if is_doubly_stochastic(A):
        return np.full(len(A), 1 / len(A))
    p = np.linalg.solve(A - np.eye(len(A)) + 1, np.ones(len(A)))  # columns of A - I sum to 0, so sum(p) = 1
    return p / p.sum()


def centroid(W: Any) -> Array:
    """The network centroid: the mean of the launch models in the rows of W (K, M), float64 (M,)."""
    return np.asarray(W).mean(axis=0, dtype=np.float64)


def distances(W: Any) -> Array:
    """Each agent's squared distance to the centroid, ||w_k - centroid||^2: float64 (K,), for W (K, M) of any type.

    >>> distances([[0.0, 0.0], [2.0, 0.0]]).tolist()
    [1.0, 1.0]
    """
    W = np.asarray(W)
    middle = centroid(W)
    return np.array([float(gap @ gap) for gap in (w.astype(np.float64) - middle for w in W)])


def disagreement(W: Any) -> float:
    """The mean over agents of ||w_k - centroid||^2, for W (K, M): 0 when all launch models are one.

    >>> disagreement([[0.0, 0.0], [2.0, 0.0]])
    1.0
    """
    return float(distances(W).mean())


