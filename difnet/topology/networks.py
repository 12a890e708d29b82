"""Which network does a user name, and how is one written?

`load` takes a name in `topologies/` ("ring40"), a generator expression ("cycle_graph(n=6)"), or a path to a file, TOML
or one of the formats in `graph_formats.READERS`. Those of TOML are the words of `topologies/*.toml`; see `_read_toml`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import tomli_w

from difnet import catalog
from difnet.config import RunConfig, read_toml
from difnet.errors import TopologyError, did_you_mean
from difnet.maths.robust import least_neighbours
from difnet.topology import Topology, generators, graph_formats, graphs, known_rules, make
from difnet.topology.weights import GIVEN, RULES

_WORDS = {
    "graph", "arguments", "agents", "edges", "file", "directed",
    "weights", "matrix", "hub", "note",
}  # fmt: skip
_TOML_MB = 8


def load(spec: str, *, agents: int | None = None, weights: str | None = None) -> Topology:
    """The network a user names: a name in `topologies/`, a generator expression, or a path.

    `weights` overrides the file's own rule, unless it is "given": the matrix or the edges' weights in the file. Without
    either, Metropolis, or averaging where the graph is directed.
    `agents` is what the user expects K to be.

    Raises: TopologyError, if there is no such network, it cannot be used, or it has another number of agents.

    >>> load("ring6").hears(0), load("star_graph(n=4)").hub, load("paper6", weights="averaging").doubly_stochastic
    ([1, 5], 0, False)
    """
    if weights is not None and weights not in (GIVEN, *RULES):
        raise TopologyError(
            f"no weights rule {weights!r}{did_you_mean(weights, RULES) or '.'} Known: {known_rules()}."
        )
    if "(" in spec and not Path(spec).exists():
        topology = make(spec, generators.generate(spec), spec, weights)
    else:
        path = _find(spec)
        topology = _load_file(path, weights)
    if agents is not None and agents != topology.agents:
        raise TopologyError(
            f"topology {topology.name!r} has {topology.agents} agents, not {agents}. {_of_size(topology, agents)}"
        )
    return topology


def of_run(config: RunConfig) -> Topology:
    """The network of a run: the one that it names, under its strategy.

    Raises: as `load`, and TopologyError, if an agent has too few neighbours for the run's rule to combine by, or there
        are too few agents for the run's quorum.
    """
    topology = load(config.topology, agents=config.agents, weights=config.weights).with_strategy(config.strategy)
    if config.quorum and config.quorum > topology.agents:
        raise TopologyError(f"quorum {config.quorum} can never be met by the {topology.agents} agents of "
                            f"{topology.name!r}; give {topology.agents} or less. How many answers a round of a served "
                            f"star needs is server.quorum")  # fmt: skip
    if least := least_neighbours(config.combine):
        k = min(range(topology.agents), key=lambda k: len(topology.hears(k)))
        if (heard := len(topology.hears(k))) < least:
            raise TopologyError(f"combine {config.combine!r} needs {least} or more neighbours at every agent, and "
                                f"agent {k} of {topology.name!r} hears {heard}; give a network with more edges, a "
                                f"smaller number after trim:, or --combine clip")  # fmt: skip
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
    table |= {"matrix": topology.A.tolist()} if topology.rule not in RULES else {"weights": topology.rule}
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
    if path.suffix in (".toml", *graph_formats.READERS) or len(path.parts) > 1:
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
    data = graph_formats.read_json(path) if path.suffix == ".json" and weights in (None, GIVEN) else None
    if isinstance(data, dict) and {"A", "rule"} <= data.keys():
        try:
            return replace(Topology.from_dict(data), source=_near(path))
        except TopologyError as error:
            raise TopologyError(f"{path}: {error}") from error
    return make(path.stem, graph_formats.read(path), _near(path), weights)


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
    _require_type(table, "weights", str, f"one of {known_rules()}")
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
    matrix = table.get("matrix") if weights in (None, GIVEN) else None
    return make(path.stem, graph, _near(path), weights, matrix, table.get("hub"), table.get("note", ""))


def _toml_graph(table: Mapping[str, Any], path: Path) -> nx.Graph:
    directed = table.get("directed", False)
    if "file" in table:
        _require_type(table, "file", str, "a path beside this file")
        if Path(table["file"]).suffix == ".toml":
            raise TopologyError("file = ... is a file of another format, not another TOML file.")
        graph = graph_formats.read(path.parent / table["file"])
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
    return generators.build(table["graph"], **arguments)


def _is_pair(edge: Any) -> bool:
    return isinstance(edge, Sequence) and len(edge) == 2 and all(type(k) is int for k in edge)


def _require_type(table: Mapping[str, Any], word: str, kind: type, right: str) -> None:
    if word in table and type(table[word]) is not kind:
        raise TopologyError(f"{word} = {table[word]!r} is wrong: it is {right}.")
