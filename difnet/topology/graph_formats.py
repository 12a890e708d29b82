"""Which graph does a file hold? It tells the format by its ending, and reads documents that list nodes and edges."""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx

from difnet.errors import TopologyError
from difnet.system.texts import NotText, read_text
from difnet.topology.edge_lists import read_adjacency, read_edges
from difnet.topology.graphs import checked, first_line, from_edges, is_number, numbered, refuse_agents, refuse_twice
from difnet.topology.matrix_market import read_matrix

MAX_FILE_MB = 32


def read(path: Path) -> nx.Graph:
    """The graph in a file, by the ending of its name: see READERS.

    In every format an edge from l to k of a directed graph means that k hears l. A first line "# directed" makes an
    edge list or an adjacency list directed.

    Raises: TopologyError, naming the file and what is wrong with it.
    """
    ending = path.suffix.lower()
    if ending not in READERS:
        raise TopologyError(f"{path}: no known format ends in {path.suffix!r}. Known: {', '.join(sorted(READERS))}.")
    return _guarded(path, READERS[ending])


def read_json(path: Path) -> Any:
    """The document in a JSON file; TopologyError, if it is none."""
    return _guarded(path, _parse_json)


def _guarded(path: Path, reader: Callable[[Path], Any]) -> Any:
    """What the reader makes of the file, unless it is too large; every failure names the path."""
    try:
        if (size := path.stat().st_size) > MAX_FILE_MB * 2**20:
            raise TopologyError(f"the file has {size / 2**20:.0f} MB; the limit is {MAX_FILE_MB} MB.")
        return reader(path)
    except OSError as error:
        raise TopologyError(f"cannot read {path}: {error.strerror}.") from error
    except NotText as error:
        raise TopologyError(f"{path}: {error}. Is it really {path.suffix[1:]}?") from error
    except TopologyError as error:
        raise TopologyError(f"{path}: {error}") from error


def _parse_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise TopologyError(f"not valid JSON: {first_line(error)}.") from error


def from_node_link(data: Any) -> nx.Graph:
    """The graph of a node-link document; nodes may be plain labels and edges plain pairs, also called "links".

    Where nodes have no ids, or only words as ids, and all ends of edges are numbers, these are places in the list of
    nodes, as D3 counts them; a weight may also be called "value" there.

    Raises: TopologyError, if it is none, or what it holds is no network.

    >>> from_node_link({"nodes": [0, 1], "edges": [[0, 1]]}).edges
    EdgeView([(0, 1)])
    >>> from_node_link({"nodes": [{"name": "pump"}, {"name": "tank"}], "links": [{"source": 1, "target": 0}]}).nodes[1]
    {'label': 'tank'}
    """
    edges = data.get("edges", data.get("links")) if isinstance(data, dict) else None
    if not isinstance(edges, list) or not isinstance(data.get("nodes", []), list):
        raise TopologyError('not node-link JSON: {"directed": false, "nodes": [{"id": 0}, ...], "edges": [...]} is.')
    refuse_agents(len(data.get("nodes", [])))
    try:
        pairs = [_triple(edge) for edge in edges]
        nodes, names = _listed(data.get("nodes", []), {end for edge in pairs for end in edge[:2]})
        graph = from_edges(pairs, nodes, directed=bool(data.get("directed", False)))
    except (KeyError, ValueError, TypeError) as error:
        raise TopologyError(f"not node-link JSON: a node or an edge is malformed ({first_line(error)}).") from error
    if strange := list(graph)[len(nodes) :] if nodes else []:
        raise TopologyError(f"an edge names {strange[0]!r}, which is none of the {len(nodes)} nodes. Ends of edges are "
                            f"ids of nodes, or all of them are places in the list of nodes, from 0 on.")  # fmt: skip
    return checked(numbered(graph, names or None))


def _triple(edge: Any) -> tuple[Any, ...]:
    """Both ends of an edge and its weight; D3's "value" may be anything."""
    if not isinstance(edge, dict):
        return (*edge, None)
    value = edge.get("value")
    return edge["source"], edge["target"], edge.get("weight", value if is_number(value) else None)


def _listed(nodes: list[Any], ends: set[Any]) -> tuple[list[Any], dict[Any, Any]]:
    """The labels of nodes that edges name, and what they are called besides."""
    tables = [node if isinstance(node, dict) else {"id": node} for node in nodes]
    ids = [node.get("id") for node in tables]
    if all(isinstance(end, int) for end in ends) and not any(isinstance(label, int) for label in ids):
        names = [node.get("id", node.get("name", place)) for place, node in enumerate(tables)]
        return list(range(len(tables))), dict(enumerate(names))
    if all("id" not in node for node in tables):
        return [node["name"] for node in tables], {}
    return [node["id"] for node in tables], {}


def _read_graphml(path: Path) -> nx.Graph:
    names: Counter[str] = Counter()
    try:
        for _, element in ElementTree.iterparse(path, events=("end",)):
            if element.tag.endswith("}node"):
                names[element.get("id", "")] += 1
                refuse_agents(len(names))
        refuse_twice(names)
        found = nx.read_graphml(path)
    except TopologyError:
        raise
    except Exception as error:  # the XML parser's and networkx's many ways to say that this is not GraphML
        raise TopologyError(f"not readable as GraphML: {first_line(error)}.") from error
    pairs = [(l, k, data.get("weight")) for l, k, data in found.edges(data=True)]
    return checked(numbered(from_edges(pairs, list(found), directed=found.is_directed())))


def _read_gexf(path: Path) -> nx.Graph:
    """GEXF of any version: networkx has no reader for some of them."""
    names: dict[str, str] = {}
    pairs: list[tuple[Any, Any, Any]] = []
    kinds = set()
    usual = "undirected"
    try:
        for event, element in ElementTree.iterparse(path, events=("start", "end")):
            tag = element.tag.rpartition("}")[2]
            if event == "start" and tag == "graph":
                usual = element.get("defaultedgetype", usual)
            elif event == "end" and tag == "node":
                refuse_twice(Counter({element.attrib["id"]: 1 + (element.attrib["id"] in names)}))
                names[element.attrib["id"]] = element.get("label") or element.attrib["id"]
                refuse_agents(len(names))
            elif event == "end" and tag == "edge":
                weight = element.get("weight")
                pairs.append((element.attrib["source"], element.attrib["target"], weight and float(weight)))
                kinds.add(element.get("type", usual))
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise TopologyError(f"not readable as GEXF: {first_line(error)}.") from error
    if strange := kinds - {"directed", "undirected"}:
        raise TopologyError(f"edges of type {min(strange)!r}; what is read is directed or undirected.")
    if len(kinds) > 1:
        raise TopologyError("some edges are directed and some are not. Write each of the latter twice, once in each "
                            "direction, as directed.")  # fmt: skip
    if strange := {end for edge in pairs for end in edge[:2]} - names.keys():
        raise TopologyError(f"an edge names the node {min(strange)!r}, which is not listed. Is the file whole?")
    return checked(numbered(from_edges(pairs, names, directed="directed" in (kinds or {usual})), names))


def _read_gml(path: Path) -> nx.Graph:
    try:
        found = nx.parse_gml(read_text(path).split("\n"), label="id")
    except NotText:
        raise
    except Exception as error:  # networkx's many ways to say that this is not GML
        raise TopologyError(f"not readable as GML: {first_line(error)}.") from error
    pairs = [(l, k, data.get("weight", data.get("value"))) for l, k, data in found.edges(data=True)]
    names = {node: data.get("label", node) for node, data in found.nodes(data=True)}
    return checked(numbered(from_edges(pairs, names, directed=found.is_directed()), names))


READERS: dict[str, Callable[[Path], nx.Graph]] = {
    ".json": lambda path: from_node_link(_parse_json(path)),
    ".graphml": _read_graphml,
    ".gexf": _read_gexf,
    ".gml": _read_gml,
    ".mtx": read_matrix,
    ".adjlist": read_adjacency,
} | dict.fromkeys((".edgelist", ".edges", ".txt", ".csv", ".tsv"), read_edges)  # fmt: skip
