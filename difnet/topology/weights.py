"""Which weight does each agent give to what it hears? Rules, graph -> A, and what a combination matrix must be.

`A[l, k]` is the weight agent k gives to what it hears from agent l, so columns sum to one; an edge l -> k of a directed
graph means that k hears l. Agents are the nodes 0..K-1.
"""

import math
from collections.abc import Callable, Mapping

import networkx as nx
import numpy as np

from difnet.errors import TopologyError
from difnet.maths.mixing import TOLERANCE, Array, mixing_rate
from difnet.maths.spectra import extremes
from difnet.topology.graphs import require_connected

_FASTEST_LIMIT = 300  # agents; every step of the search decomposes a (K, K) matrix


def averaging(graph: nx.Graph) -> Array:
    """Averaging rule: agent k gives the same weight to itself and to everyone it hears.

    a_lk = 1 / n_k, n_k counting agent k and those it hears. Doubly stochastic only where all n_k are alike (and, if the
    graph is directed, every agent is heard as often as it hears); otherwise the network agrees on `perron(A)`.

    Returns: A, float64 (K, K); columns sum to one.
    Raises: TopologyError, if the graph is empty, not connected, or its nodes are not 0..K-1.
    Source: A. H. Sayed, "Adaptation, Learning, and Optimization over Networks", 2014: the averaging (uniform) rule.

    >>> averaging(nx.path_graph(3)).round(3).tolist()
    [[0.5, 0.333, 0.0], [0.5, 0.333, 0.5], [0.0, 0.333, 0.5]]
    """
    heard = _adjacency(graph) + np.eye(len(graph))
    return heard / heard.sum(axis=0)


def metropolis(graph: nx.Graph) -> Array:
    """Metropolis rule: symmetric, so no agent counts for more than another.

    a_lk = 1 / max(n_l, n_k) for neighbours, n_k counting agent k and its neighbours; a_kk takes the rest.

    Returns: A, float64 (K, K): symmetric, non-negative, rows and columns sum to one.
    Raises: TopologyError, if the graph is directed, empty, not connected, or its nodes are not 0..K-1.
    Source: A. H. Sayed, "Adaptation, Learning, and Optimization over Networks", 2014: the Metropolis rule.

    >>> metropolis(nx.path_graph(3))[1].round(3).tolist()
    [0.333, 0.333, 0.333]
    """
    heard = _adjacency(_undirected(graph, "metropolis"))
    n = heard.sum(axis=0) + 1
    l, k = np.nonzero(heard)
    heard[l, k] = 1 / np.maximum(n[l], n[k])
    return _with_own_rest(heard)


def best_constant(graph: nx.Graph) -> Array:
    """Best constant rule: I - eps L, one weight eps on every edge, the one that mixes fastest.

    eps = 2 / (l_1 + l_{K-1}), with l_1 the largest and l_{K-1} the smallest non-zero eigenvalue of the Laplacian L.
    Where that would make a weight negative (a star, say), eps = 1 / (largest degree), the largest that does not.

    Returns: A, float64 (K, K): symmetric, non-negative, rows and columns sum to one.
    Raises: TopologyError, if the graph is directed, empty, not connected, or its nodes are not 0..K-1.
    Source: L. Xiao, S. Boyd, "Fast linear iterations for distributed averaging", Syst. Control Lett. 53, 2004.

    >>> best_constant(nx.cycle_graph(4)).round(3).tolist()[0]     # Laplacian eigenvalues 0, 2, 2, 4
    [0.333, 0.333, 0.0, 0.333]
    """
    heard = _adjacency(_undirected(graph, "best-constant"))
    if len(heard) == 1:
        return np.eye(1)
    most = heard.sum(axis=0).max()
    low, high = extremes(_with_own_rest(heard / (2 * most)))  # I - L / (2 most) has eigenvalues 1 - l / (2 most)
    eps = 1 / (most * (2 - low - high))
    return _with_own_rest(heard * min(eps, 1 / most))


def fastest(graph: nx.Graph, *, iterations: int = 400) -> Array:
    """Fastest mixing symmetric A on a graph, by a projected subgradient method; never worse than Metropolis.

    The mixing rate is convex in the edge weights p. From Metropolis on, each step goes down a subgradient (a mean over
    the eigenvectors near the extreme ones, since symmetric graphs have many of them), then projects on p >= 0 and
    sum of p around each agent <= 1. The best A met is returned, mostly within about 1e-4 of the optimal rate; on a
    random graph of 12 agents (p = 0.3, seed 4) it stays 3.2e-4 above it, however long the search.

    Returns: A, float64 (K, K): symmetric, non-negative, rows and columns sum to one.
    Raises: TopologyError, as `metropolis`, and if there are more than 300 agents.
    Source: S. Boyd, P. Diaconis, L. Xiao, "Fastest mixing Markov chain on a graph", SIAM Review 46(4), 2004, sec. 5.

    >>> round(mixing_rate(fastest(nx.path_graph(4))), 3)     # optimal on a path: cos(pi / K)
    0.707
    """
    if len(graph) > _FASTEST_LIMIT:
        raise TopologyError(
            f"weights 'fastest' are for {_FASTEST_LIMIT} agents at most, this graph has {len(graph)}: the search would "
            "take minutes. Use best-constant or metropolis."
        )
    best = A = metropolis(_undirected(graph, "fastest"))
    edges = np.array([(min(l, k), max(l, k)) for l, k in graph.edges if l != k], dtype=int).reshape(-1, 2).T
    around = [np.flatnonzero((edges == k).any(axis=0)) for k in range(len(A))]
    best_rate, radius, steps = mixing_rate(A), 0.5, 40
    for i in range(iterations if len(A) > 2 else 0):
        if i % steps == 0 and i:  # every so often: back to the best one, with half the radius
            A, radius = best, radius / 2
        rate, downhill = _subgradient(A, edges, blur=0.05 * radius)
        if rate < best_rate:
            best, best_rate = A, rate
        p = A[edges[0], edges[1]] + radius / math.sqrt(i % steps + 1) * downhill
        A = _from_edges(_feasible(p, around), edges, len(A))
    return best if len(A) != 2 else np.full((2, 2), 0.5)


def _subgradient(A: Array, edges: Array, blur: float) -> tuple[float, Array]:
    """The mixing rate of a symmetric A and a unit step of the edge weights that lowers it.

    d lambda / d p_lk = -(u_l - u_k)^2 for the unit eigenvector u of lambda; the rate is max(lambda_2, -lambda_K).
    """
    values, vectors = np.linalg.eigh(A)
    values = values[:-1]
    rate = max(values[-1], -values[0])
    share = np.exp((values - rate) / blur) - np.exp((-values - rate) / blur)
    slopes = (vectors[edges[0], :-1] - vectors[edges[1], :-1]) ** 2 @ share
    return float(rate), slopes / (np.linalg.norm(slopes) or 1.0)


def _feasible(p: Array, around: list[Array]) -> Array:
    """Edge weights made non-negative, with at most 1 around each agent: one agent after the other is projected."""
    p = np.maximum(p, 0)
    for mine in around:
        if p[mine].sum() > 1:
            falling = np.sort(p[mine])[::-1]
            excess = (np.cumsum(falling) - 1) / np.arange(1, len(mine) + 1)
            p[mine] = np.maximum(p[mine] - excess[falling > excess][-1], 0)
    return p


def _from_edges(p: Array, edges: Array, agents: int) -> Array:
    A = np.zeros((agents, agents))
    A[edges[0], edges[1]] = A[edges[1], edges[0]] = p
    return _with_own_rest(A)


def _with_own_rest(A: Array) -> Array:
    """Weights of the neighbours, completed in place by a_kk = 1 - their sum; a rest of rounding errors becomes zero."""
    rest = 1 - A.sum(axis=0)
    np.fill_diagonal(A, np.where(np.abs(rest) < 1e-14, 0.0, rest))
    return A


def given(graph: nx.Graph) -> Array:
    """The weights that the edges of a file have: a_lk is that of the edge l -> k, and a_kk takes the rest.

    In an undirected graph both ends give it to each other.

    Returns: A, float64 (K, K); columns sum to one.
    Raises: TopologyError, for an edge without a weight, with a negative one or with two, or more than 1 in a column.

    >>> given(nx.Graph([(0, 1, {"weight": 0.25})])).tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """
    _adjacency(graph)
    A = np.zeros((len(graph), len(graph)))
    for l, k, weight in graph.edges(data="weight"):
        if weight is None or not weight >= 0:
            what = "no weight" if weight is None else "two weights" if math.isnan(weight) else f"weight {weight:g}"
            raise TopologyError(f"edge {l}-{k} has {what}: to use the weights of a file, each edge needs one that "
                                f"is not negative. Take a rule instead: {', '.join(RULES)}.")  # fmt: skip
        A[l, k] = weight
        if not graph.is_directed():
            A[k, l] = weight
    if (sums := A.sum(axis=0)).max(initial=0) > 1 + TOLERANCE:
        k = int(sums.argmax())
        raise TopologyError(f"the weights of what agent {k} hears sum to {sums[k]:.6g}, and its own would be negative: "
                            f"they must sum to 1 at most. Divide them, or take a rule: {', '.join(RULES)}."
                            )  # fmt: skip
    return _with_own_rest(A)


GIVEN = "given"  # in place of a rule: the weights are those of the file
RULES: Mapping[str, Callable[[nx.Graph], Array]] = {
    "metropolis": metropolis,
    "averaging": averaging,
    "best-constant": best_constant,
    "fastest": fastest,
}


def _adjacency(graph: nx.Graph) -> Array:
    """(K, K), 1 where agent k (column) hears agent l (row), l != k."""
    require_connected(graph)
    if set(graph) != set(range(len(graph))):
        raise TopologyError(
            f"agents must be numbered 0..{len(graph) - 1}, got {list(graph)[:5]}... Renumber the nodes."
        )
    heard = nx.to_numpy_array(graph, nodelist=range(len(graph)), weight=None, multigraph_weight=max)
    np.fill_diagonal(heard, 0)
    return heard


def _undirected(graph: nx.Graph, rule: str) -> nx.Graph:
    if graph.is_directed():
        raise TopologyError(
            f"weights {rule!r} are symmetric and need an undirected graph, this one is directed. "
            "Use averaging, give the matrix A itself, or make the edges undirected."
        )
    return graph


def check_matrix(A: Array, graph: nx.Graph) -> None:
    """Refuse a matrix that is no combination matrix of this graph, or that never brings its agents together.

    Raises: TopologyError, unless A is (K, K), finite, non-negative, its columns sum to one within 1e-9, no agent weighs
    one it does not hear, and A is primitive (strongly connected and aperiodic).
    """
    agents = len(graph)
    if A.shape != (agents, agents):
        raise TopologyError(f"matrix A has shape {A.shape}; for {agents} agents it must be {(agents, agents)}.")
    if not np.isfinite(A).all() or (A < 0).any():
        l, k = np.argwhere(~(np.isfinite(A) & (A >= 0)))[0]
        raise TopologyError(f"weight A[{l}, {k}] is {A[l, k]:g}: weights are finite and not negative.")
    sums = A.sum(axis=0)
    if (wrong := np.abs(sums - 1)).max() > TOLERANCE:
        k = int(wrong.argmax())
        hint = " The rows do sum to one: give the transpose." if np.abs(A.sum(axis=1) - 1).max() <= TOLERANCE else ""
        raise TopologyError(f"column {k} of A sums to {sums[k]:.12g}: what an agent gives out must sum to 1.{hint}")
    heard = nx.to_numpy_array(graph, nodelist=range(agents), weight=None) > 0
    np.fill_diagonal(heard, True)
    if (A[~heard] > 0).any():
        l, k = np.argwhere((A > 0) & ~heard)[0]
        raise TopologyError(f"A[{l}, {k}] is {A[l, k]:g}, but agent {k} does not hear agent {l}. Add the edge {l}-{k}.")
    support = nx.DiGraph(zip(*(index.tolist() for index in np.nonzero(A)), strict=True))
    support.add_nodes_from(range(agents))
    require_connected(support)
    if not np.diagonal(A).any() and not nx.is_aperiodic(support):
        raise TopologyError("A swaps agents in turns and never mixes. Let some agent give itself a weight (a_kk > 0).")
