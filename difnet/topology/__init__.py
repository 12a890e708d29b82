"""Who is whose neighbour, with which weight? A graph, its combination matrix A and its hub, as one frozen value.

A network comes from a name, an expression or a file (`networks`); `weights` makes A of a graph.

Imports: errors, system, catalog, config, maths.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np

from difnet.errors import ConfigError, TopologyError, did_you_mean
from difnet.maths import mixing
from difnet.maths.mixing import Array
from difnet.topology import generators, graphs
from difnet.topology.weights import GIVEN, RULES, check_matrix, given

STRATEGIES = ("diffusion", "cta", "centralised", "fully-connected", "noncooperative")
UNUSED_WEIGHTS = "the weights that the edges have in the file are not used; --weights given takes them"
_DENSE_AGENTS = 400  # A is written whole up to so many agents; above, by its entries where most of it is zero


@dataclass(frozen=True, eq=False)
class Topology:
    """A network: who hears whom, and with which weight.

    `graph` has the nodes 0..K-1; `A` is float64 (K, K) and read-only; `rule` names what made A ("given" for an explicit
    matrix); `source` is what was loaded; `hub` is the centre of a star, or None; `owners` is how many agents' tasks the
    one learner of a centralised network has, or None, where every agent has its own.
    """

    name: str
    graph: nx.Graph
    A: Array
    rule: str
    source: str
    hub: int | None = None
    note: str = ""
    owners: int | None = None

    def __post_init__(self) -> None:
        self.A.setflags(write=False)

    @property
    def agents(self) -> int:
        """K, the number of agents."""
        return len(self.A)

    @property
    def directed(self) -> bool:
        """Whether hearing may be one-sided."""
        return bool(self.graph.is_directed())

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """All edges in rising order: l < k, or in a directed graph l -> k, where k hears l."""
        return tuple(sorted((l, k) if self.directed else (min(l, k), max(l, k)) for l, k in self.graph.edges))

    @cached_property
    def mixing_rate(self) -> float:
        """|lambda_2(A)|; see `mixing.mixing_rate`."""
        return mixing.mixing_rate(self.A)

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether the network agrees on the plain mean."""
        return mixing.is_doubly_stochastic(self.A)

    @property
    def unused_weights(self) -> bool:
        """Whether its edges have weights of their own, not all alike, that had no part in A."""
        weights = {weight for _, _, weight in self.graph.edges(data="weight", default=None)}
        return self.rule in RULES and len(weights) > 1

    @cached_property
    def breadth(self) -> int:
        """At least the number of edges between the two agents that are farthest apart; 0 where nobody hears another.

        >>> from difnet.topology.networks import load
        >>> load("ring6").breadth
        6
        """
        graph = self.graph.to_undirected(as_view=True) if self.directed else self.graph
        return 2 * max(nx.single_source_shortest_path_length(graph, 0).values())

    def hears(self, k: int) -> list[int]:
        """The neighbours whose phi agent k combines, in rising order."""
        return [int(l) for l in np.flatnonzero(self.A[:, k]) if l != k]

    def tells(self, k: int) -> list[int]:
        """The neighbours that agent k sends its phi to, in rising order."""
        return [int(l) for l in np.flatnonzero(self.A[k]) if l != k]

    def with_strategy(self, strategy: str) -> "Topology":
        """The same agents under a strategy: as they are, all hearing all (A = 11^T/K), or each alone (A = I).

        Under "centralised" one learner is left, which has the tasks of all agents and one optimiser. "fully-connected"
        is what Dif-MAML's section IV compares with: with SGD and a common start both are the same recursion; where each
        agent keeps an optimiser's state of its own, as Adam's moments, they are not.

        Raises: ConfigError, for a strategy that is none of STRATEGIES.

        >>> from difnet.topology.networks import load
        >>> load("ring6").with_strategy("fully-connected").mixing_rate < 1e-12
        True
        >>> load("ring6").with_strategy("centralised").agents, load("ring6").with_strategy("centralised").owners
        (1, 6)
        """
        if strategy in ("diffusion", "cta"):
            return self
        if strategy == "centralised":
            return replace(self, graph=nx.empty_graph(1), A=np.eye(1), rule=strategy, hub=None, owners=self.agents)
        if strategy == "fully-connected":
            graph = generators.build("complete_graph", self.agents)
            return replace(self, graph=graph, A=np.full(self.A.shape, 1 / self.agents), rule=strategy, hub=None)
        if strategy == "noncooperative":
            graph = nx.empty_graph(self.agents)
            return replace(self, graph=graph, A=np.eye(self.agents), rule=strategy, hub=None)
        raise ConfigError(f"no strategy called {strategy!r}{did_you_mean(strategy, STRATEGIES) or '.'} "
                          f"Known: {', '.join(STRATEGIES)}.")  # fmt: skip

    def served(self) -> "Topology":
        """This star with its hub as a server: after a round everybody holds the mean of what the rim has sent.

        >>> from difnet.topology.networks import load
        >>> load("star_graph(n=2)").served().A.tolist()
        [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
        """
        A = np.full(self.A.shape, 1 / (self.agents - 1))
        A[self.hub] = 0.0
        return replace(self, A=A, rule="server")

    def to_dict(self) -> dict[str, Any]:
        """This network as plain values, for a run folder's topology.json; `from_dict` and `load` read it back.

        "A" is a list of K rows; where most of more than 400 agents hear nothing of most others it is {"l": [...],
        "k": [...], "weight": [...]} of its entries.
        """
        l, k = np.nonzero(self.A)
        is_dense = self.agents <= _DENSE_AGENTS or 3 * len(l) > self.A.size
        entries = {"l": l.tolist(), "k": k.tolist(), "weight": self.A[l, k].tolist()}
        labels = nx.get_node_attributes(self.graph, "label")
        return {
            "name": self.name,
            "agents": self.agents,
            "directed": self.directed,
            "nodes": list(range(self.agents)),
            "edges": [list(edge) for edge in self.edges],
            "A": self.A.tolist() if is_dense else entries,
            "rule": self.rule,
            "mixing_rate": self.mixing_rate,
            "doubly_stochastic": self.doubly_stochastic,
            "hub": self.hub,
            "source": self.source,
            "note": self.note,
            "owners": self.owners,
        } | ({"labels": [labels[agent] for agent in range(self.agents)]} if labels else {})

    def hashes(self) -> dict[str, str]:
        """What two neighbours must share, the graph and the weights, in 16 hexadecimal digits each."""
        graph = json.dumps([self.agents, self.directed, self.edges])
        return {
            "topology": hashlib.sha256(graph.encode()).hexdigest()[:16],
            "weights": hashlib.sha256(self.A.tobytes()).hexdigest()[:16],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Topology":
        """The network that `to_dict` wrote; edges and A are taken as they are (A = I and no edges are allowed here).

        Raises: TopologyError, if the values do not fit together.

        >>> from difnet.topology.networks import load
        >>> Topology.from_dict(load("paper6").to_dict()).edges
        ((0, 2), (1, 2), (2, 3), (2, 4), (3, 4), (4, 5))
        """
        try:
            graph = graphs.from_edges(
                [(int(l), int(k), None) for l, k in data["edges"]], range(len(data["nodes"])), directed=data["directed"]
            )
            A = _matrix(data["A"], len(data["nodes"]))
            labels = [tuple(label) if isinstance(label, list) else label for label in data.get("labels", ())]
        except (KeyError, TypeError, ValueError) as error:
            raise TopologyError(f"not a network that difnet wrote: {type(error).__name__} {error}.") from error
        if len(graph) != len(A):
            raise TopologyError(f"edges name agents beyond the {len(A)} listed. Is the file whole?")
        if (hub := data.get("hub")) is not None:
            _check_hub(hub, graph)
        nx.set_node_attributes(graph, dict(enumerate(labels)), "label")
        if data.get("rule") not in ("noncooperative", "server"):
            check_matrix(A, graph)
        words = {word: data[word] for word in ("name", "rule", "source", "note", "owners") if word in data}
        return cls(**({"name": "", "rule": "given", "source": ""} | words), graph=graph, A=A, hub=hub)


def make(name: str, graph: nx.Graph, source: str, weights: str | None, matrix: Any = None,
          hub: Any = None, note: str = "") -> Topology:  # fmt: skip
    """A checked Topology of a connected graph on 0..K-1 and a rule or a matrix."""
    if matrix is not None:
        try:
            A = _matrix(matrix, len(graph))
        except (TypeError, ValueError) as error:
            raise TopologyError(f"matrix must be {len(graph)} rows of {len(graph)} numbers each.") from error
        rule = GIVEN
    elif weights == GIVEN:
        rule, A = GIVEN, given(graph)
    else:
        rule = weights or ("averaging" if graph.is_directed() else "metropolis")
        if rule not in RULES:
            raise TopologyError(
                f"no weights rule {rule!r}{did_you_mean(str(rule), RULES) or '.'} Known: {known_rules()}."
            )
        A = RULES[rule](graph)
    check_matrix(A, graph)
    if hub is not None:
        _check_hub(hub, graph)
    return Topology(name, graph, A, rule, source, _centre(graph) if hub is None else hub, note)


def _check_hub(hub: Any, graph: nx.Graph) -> None:
    """Raises: TopologyError, if `hub` is no agent, or not connected to all others both ways."""
    if isinstance(hub, bool) or hub not in graph:
        raise TopologyError(f"hub = {hub!r} is no agent: agents are 0..{len(graph) - 1}.")
    far = [k for k in graph if k != hub and not (graph.has_edge(hub, k) and graph.has_edge(k, hub))]
    if far:
        raise TopologyError(f"hub = {hub} is not connected to {far[:5]}{'…' if len(far) > 5 else ''}: a hub hears and "
                            f"tells everybody. Add the edges, or leave hub away.")  # fmt: skip


def _centre(graph: nx.Graph) -> int | None:
    """The centre of a star of at least three agents, if the graph is one."""
    if graph.is_directed() or len(graph) < 3 or graph.number_of_edges() != len(graph) - 1:
        return None
    return next((k for k, degree in graph.degree if degree == len(graph) - 1), None)


def _matrix(values: Any, agents: int) -> Array:
    """A from its rows, or from its entries."""
    if not isinstance(values, Mapping):
        return np.array(values, dtype=np.float64)
    A = np.zeros((agents, agents))
    A[values["l"], values["k"]] = values["weight"]
    return A


def known_rules() -> str:
    """The rules for weights, as an error message lists them."""
    return ", ".join([*RULES, GIVEN])
