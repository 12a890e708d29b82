"""A name, an expression or a file -> graph, A, who is the hub: one frozen value.

`load` takes a name in `topologies/` ("ring40"), a generator expression ("cycle_graph(n=6)"), or a path to a TOML, JSON,
GraphML or edge list file. The TOML words are those of `topologies/*.toml`; `_read_toml` holds them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import tomli_w

from difnet import catalog
from difnet.config import read_toml
from difnet.errors import ConfigError, TopologyError, did_you_mean
from difnet.maths import mixing
from difnet.maths.mixing import Array
from difnet.topology import graphs

_WORDS = {
    "graph", "arguments", "agents", "edges", "file", "directed",
    "weights", "matrix", "hub", "note",
}  # fmt: skip
_TOML_MB = 8
_DENSE_AGENTS = 400  # A is written whole up to so many agents; above, by its entries where most of it is zero


@dataclass(frozen=True, eq=False)
class Topology:
    """A network: who hears whom, and with which weight.

    `graph` has the nodes 0..K-1; `A` is float64 (K, K) and read-only; `rule` names what made A ("given" for an explicit
    matrix); `source` is what was loaded; `hub` is the centre of a star, or None.
    """

    name: str
    graph: nx.Graph
    A: Array
    rule: str
    source: str
    hub: int | None = None
    note: str = ""

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

    def hears(self, k: int) -> list[int]:
        """The neighbours whose phi agent k combines, in rising order."""
        return [int(l) for l in np.flatnonzero(self.A[:, k]) if l != k]

    def tells(self, k: int) -> list[int]:
        """The neighbours that agent k sends its phi to, in rising order."""
        return [int(l) for l in np.flatnonzero(self.A[k]) if l != k]

    def with_strategy(self, strategy: str) -> "Topology":
        """The same agents under a strategy: as they are, all hearing all (A = 11^T/K), or each alone (A = I).

        Raises: ConfigError, for a strategy that is none of diffusion, cta, centralised, noncooperative.

        >>> load("ring6").with_strategy("centralised").mixing_rate < 1e-12
        True
        """
        if strategy in ("diffusion", "cta"):
            return self
        if strategy == "centralised":
            graph = graphs.build("complete_graph", self.agents)
            return replace(self, graph=graph, A=np.full(self.A.shape, 1 / self.agents), rule=strategy, hub=None)
        if strategy == "noncooperative":
            graph = nx.empty_graph(self.agents)
            return replace(self, graph=graph, A=np.eye(self.agents), rule=strategy, hub=None)
        known = ("diffusion", "cta", "centralised", "noncooperative")
        raise ConfigError(f"no strategy called {strategy!r}{did_you_mean(strategy, known) or '.'} "
                          f"Known: {', '.join(known)}.")  # fmt: skip

    def served(self) -> "Topology":
        """This star with its hub as a server: after a round everybody holds the mean of what the rim has sent.

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
        } | ({"labels": [labels[agent] for agent in range(self.agents)]} if labels else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Topology":
        """The network that `to_dict` wrote; edges and A are taken as they are (A = I and no edges are allowed here).

        Raises: TopologyError, if the values do not fit together.

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
            mixing.check(A, graph)
        words = {word: data[word] for word in ("name", "rule", "source", "note") if word in data}
        return cls(**({"name": "", "rule": "given", "source": ""} | words), graph=graph, A=A, hub=hub)


def load(spec: str, *, agents: int | None = None, weights: str | None = None) -> Topology:
    """The network a user names: a name in `topologies/`, a generator expression, or a path.

    `weights` overrides the file's own rule; without either, Metropolis, or averaging where the graph is directed.
    `agents` is what the user expects K to be.

    Raises: TopologyError, if there is no such network, it cannot be used, or it has another number of agents.

    >>> load("ring6").hears(0), load("star_graph(n=4)").hub, load("paper6", weights="averaging").doubly_stochastic
    ([1, 5], 0, False)
    """
    if weights is not None and weights not in mixing.RULES:
        raise TopologyError(
            f"no weights rule {weights!r}{did_you_mean(weights, mixing.RULES) or '.'} Known: {_known_rules()}."
        )
    if "(" in spec and not Path(spec).exists():
        topology = _make(spec, graphs.generate(spec), spec, weights)
    else:
        path = _find(spec)
        topology = _load_file(path, weights)
    if agents is not None and agents != topology.agents:
        raise TopologyError(
            f"topology {topology.name!r} has {topology.agents} agents, not {agents}. {_of_size(topology, agents)}"
        )
    return topology


def stars() -> list[str]:
    """The names in `topologies/` of networks with a hub.

    >>> "star10" in stars()
    True
    """
    return [path.stem for path in catalog.entries("topologies") if load(path.stem).hub is not None]


def save(topology: Topology, path: Path) -> None:
    """Write a network to a file that `load` reads back: .graphml and .edgelist hold the graph alone.

    Raises: TopologyError, for another ending, or if the file cannot be written.
    """
    if path.suffix not in (".toml", ".json", ".graphml", ".edgelist"):
        raise TopologyError(f"cannot write a network to {path}: it must end in .toml, .json, .graphml or .edgelist.")
    try:
        if path.suffix == ".graphml":
            plain = nx.create_empty_copy(topology.graph, with_data=False)
            plain.add_edges_from(topology.edges)
            nx.write_graphml(plain, path)
        else:
            path.write_text(_written(topology, path.suffix), encoding="utf-8")
    except OSError as error:
        raise TopologyError(f"cannot write {path}: {error.strerror}.") from error


def _written(topology: Topology, suffix: str) -> str:
    if suffix == ".json":
        return (
            json.dumps(topology.to_dict(), indent=1) + "\n" if topology.agents <= 12 else json.dumps(topology.to_dict())
        )
    if suffix == ".edgelist":
        kind = "directed" if topology.directed else "undirected"
        alone = ["0"] if topology.agents == 1 else []
        return (
            "\n".join([f"# {kind}, {topology.agents} agents", *alone, *(f"{l} {k}" for l, k in topology.edges)]) + "\n"
        )
    table: dict[str, Any] = {"agents": topology.agents, "directed": topology.directed, "note": topology.note}
    table |= {"matrix": topology.A.tolist()} if topology.rule not in mixing.RULES else {"weights": topology.rule}
    table |= {} if topology.hub is None else {"hub": topology.hub}
    edges = "".join(f"  [{l}, {k}],\n" for l, k in topology.edges)
    return f"# made from {' '.join(topology.source.split())}\n{tomli_w.dumps(table)}".replace(
        "\nnote =", f"\nedges = [\n{edges}]\nnote =", 1
    )


def _of_size(topology: Topology, agents: int) -> str:
    """What to type for the same kind of network with another number of agents."""
    K, graph = topology.agents, topology.graph
    kinds = {
        f"cycle_graph(n={agents})": K >= 3 and not topology.directed and nx.is_isomorphic(graph, nx.cycle_graph(K)),
        f"cycle_graph(n={agents}, directed=True)": topology.directed and set(dict(graph.degree).values()) == {2},
        f"star_graph(n={agents - 1})": topology.hub is not None,
        f"complete_graph(n={agents})": graph.number_of_edges() == K * (K - 1) / 2 and not topology.directed,
    }
    instead = next((expression for expression, fits in kinds.items() if fits), None)
    return f"Type {instead!r} instead." if instead else "Leave --agents away, or give another topology."


def _find(spec: str) -> Path:
    """The file behind a name or a path."""
    if (path := Path(spec)).suffix and path.is_file():
        return path
    if found := catalog.find("topologies", spec):
        return found
    looked = " and ".join(_near(folder) for folder in catalog.folders("topologies")) or "./topologies, which is missing"
    if path.suffix in (".toml", ".json", ".graphml", ".edgelist", ".edges", ".txt") or len(path.parts) > 1:
        raise TopologyError(f"no topology file {spec!r}. Names are looked up in {looked}.")
    names = [entry.stem for entry in catalog.entries("topologies")]
    raise TopologyError(f"no topology called {spec!r}{did_you_mean(spec, names) or '.'} Looked in {looked}.")


def _near(path: Path) -> str:
    """A path as a user would type it."""
    near = path.is_absolute() and path.is_relative_to(Path.cwd())
    return f"./{path.relative_to(Path.cwd())}" if near else str(path)


def _load_file(path: Path, weights: str | None) -> Topology:
    if path.suffix == ".toml":
        if path.stat().st_size > _TOML_MB * 2**20:
            raise TopologyError(f"{path} has more than {_TOML_MB} MB. Put the edges into an edge list: file = ...")
        try:
            return _read_toml(path, weights)
        except TopologyError as error:
            raise TopologyError(f"{path}: {error}") from error
    data = graphs.read_json(path) if path.suffix == ".json" and weights is None else None
    if isinstance(data, dict) and {"A", "rule"} <= data.keys():
        try:
            return replace(Topology.from_dict(data), source=_near(path))
        except TopologyError as error:
            raise TopologyError(f"{path}: {error}") from error
    return _make(path.stem, graphs.read(path), _near(path), weights)


def _read_toml(path: Path, weights: str | None) -> Topology:
    """A network of `topologies/`: exactly one of graph, edges, file; at most one of weights, matrix."""
    table = read_toml(path)
    for word in table.keys() - _WORDS:
        raise TopologyError(f"no such word {word!r}{did_you_mean(word, _WORDS) or '.'} "
                            f"Known: {', '.join(sorted(_WORDS))}.")  # fmt: skip
    if len(given := table.keys() & {"graph", "edges", "file"}) != 1:
        raise TopologyError(f"give one of graph, edges and file; got {' and '.join(sorted(given)) or 'none'}.")
    if {"weights", "matrix"} <= table.keys():
        raise TopologyError("give weights (a rule) or matrix (A itself), not both.")
    _require_type(table, "weights", str, f"one of {_known_rules()}")
    _require_type(table, "note", str, 'a sentence, as in note = "..."')
    _require_type(table, "directed", bool, "true or false")
    _require_type(table, "agents", int, "a whole number")
    _require_type(table, "arguments", dict, "a table, [arguments]")
    if "arguments" in table and "graph" not in table:
        raise TopologyError("[arguments] are those of a generator: give graph = ... with them.")
    graph = _toml_graph(table, path)
    if (agents := table.get("agents", len(graph))) != len(graph):
        raise TopologyError(f"agents = {agents}, but the graph has {len(graph)}. Correct the one that is wrong.")
    if weights is None:
        weights = table.get("weights")
    matrix = table.get("matrix") if weights is None else None
    return _make(path.stem, graph, _near(path), weights, matrix, table.get("hub"), table.get("note", ""))


def _toml_graph(table: Mapping[str, Any], path: Path) -> nx.Graph:
    directed = table.get("directed", False)
    if "file" in table:
        _require_type(table, "file", str, "a path beside this file")
        if Path(table["file"]).suffix == ".toml":
            raise TopologyError("file = ... is a JSON, GraphML or edge list file, not another TOML file.")
        graph = graphs.read(path.parent / table["file"])
        if directed and not graph.is_directed():
            raise TopologyError(f"directed = true, but {table['file']} is undirected. Say so there (# directed).")
        return graph
    if "edges" in table:
        edges = table["edges"]
        if not isinstance(edges, list) or not all(_is_pair(edge) for edge in edges):
            raise TopologyError("edges are pairs of agents, as in edges = [[0, 1], [1, 2]].")
        graph = graphs.from_edges([(l, k, None) for l, k in edges], () if edges else (0,), directed=directed)
        return graphs.checked(graphs.numbered(graph))
    _require_type(table, "graph", str, "the name of a generator")
    arguments = dict(table.get("arguments", {})) | ({"directed": True} if directed else {})
    name = table["graph"].removesuffix("_graph")
    if "agents" in table and not arguments.keys() & {"n", "m"}:
        arguments["n"] = table["agents"] - (name == "star")  # networkx counts the rim
    return graphs.build(table["graph"], **arguments)


def _make(name: str, graph: nx.Graph, source: str, weights: str | None, matrix: Any = None,
          hub: Any = None, note: str = "") -> Topology:  # fmt: skip
    """A checked Topology of a connected graph on 0..K-1 and a rule or a matrix."""
    if matrix is not None:
        try:
            A = _matrix(matrix, len(graph))
        except (TypeError, ValueError) as error:
            raise TopologyError(f"matrix must be {len(graph)} rows of {len(graph)} numbers each.") from error
        rule = "given"
    else:
        rule = weights or ("averaging" if graph.is_directed() else "metropolis")
        if rule not in mixing.RULES:
            raise TopologyError(
                f"no weights rule {rule!r}{did_you_mean(str(rule), mixing.RULES) or '.'} Known: {_known_rules()}."
            )
        A = mixing.RULES[rule](graph)
    mixing.check(A, graph)
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


def _is_pair(edge: Any) -> bool:
    return isinstance(edge, Sequence) and len(edge) == 2 and all(type(k) is int for k in edge)


def _require_type(table: Mapping[str, Any], word: str, kind: type, right: str) -> None:
    if word in table and type(table[word]) is not kind:
        raise TopologyError(f"{word} = {table[word]!r} is wrong: it is {right}.")


def _known_rules() -> str:
    return ", ".join(mixing.RULES)
