"""Which graph does a file hold? JSON, GraphML and edge lists, as others write them."""

import ast
import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx

from difnet.errors import TopologyError
from difnet.topology.graphs import checked, first_line, from_edges, numbered, refuse_agents, refuse_twice, short

MAX_FILE_MB = 32


def read(path: Path) -> nx.Graph:
    """The graph in a file: node-link JSON (.json), GraphML (.graphml), or an edge list (.edgelist, .edges, .txt).

    An edge list has two labels a line, l before k where k hears l; what follows them is a weight or is ignored after #.
    A first line "# directed" makes it directed, and a line with one label is an agent.

    Raises: TopologyError, naming the file and what is wrong with it.
    """
    readers = {".json": lambda p: from_node_link(_parse_json(p)), ".graphml": _read_graphml} | dict.fromkeys(
        (".edgelist", ".edges", ".txt"), _read_edges
    )
    if path.suffix not in readers:
        raise TopologyError(f"{path}: no known format ends in {path.suffix!r}. Known: {', '.join(sorted(readers))}.")
    return _guarded(path, readers[path.suffix])


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
    except UnicodeDecodeError as error:
        raise TopologyError(f"{path} is not UTF-8 text. Is it really {path.suffix[1:]}?") from error
    except TopologyError as error:
        raise TopologyError(f"{path}: {error}") from error


def _parse_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise TopologyError(f"not valid JSON: {first_line(error)}.") from error


def from_node_link(data: Any) -> nx.Graph:
    """The graph of a node-link document; nodes may be plain labels and edges plain pairs, also called "links".

    Raises: TopologyError, if it is none, or what it holds is no network.

    >>> from_node_link({"nodes": [0, 1], "edges": [[0, 1]]}).edges
    EdgeView([(0, 1)])
    """
    edges = data.get("edges", data.get("links")) if isinstance(data, dict) else None
    if not isinstance(edges, list) or not isinstance(data.get("nodes", []), list):
        raise TopologyError('not node-link JSON: {"directed": false, "nodes": [{"id": 0}, ...], "edges": [...]} is.')
    refuse_agents(len(data.get("nodes", [])))
    try:
        pairs = [
            (edge["source"], edge["target"], edge.get("weight")) if isinstance(edge, dict) else (*edge, None)
            for edge in edges
        ]
        nodes = [n["id"] if isinstance(n, dict) else n for n in data.get("nodes", [])]
        graph = from_edges(pairs, nodes, directed=bool(data.get("directed", False)))
    except (KeyError, ValueError, TypeError) as error:
        raise TopologyError(f"not node-link JSON: a node or an edge is malformed ({first_line(error)}).") from error
    return checked(numbered(graph))


def _read_edges(path: Path) -> nx.Graph:
    pairs, alone, seen, directed = [], [], set(), False
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            text, _, comment = line.partition("#")
            directed = directed or (number == 1 and comment.strip().lower().startswith("directed"))
            words = text.replace(",", " ", 1).split(None, 2)
            seen.update(words[:2])
            refuse_agents(len(seen))
            if len(words) == 1:
                alone.append(words[0])
            elif words:
                pairs.append((words[0], words[1], _edge_weight(words[2], number) if len(words) == 3 else None))
    return checked(numbered(from_edges(pairs, dict.fromkeys(alone), directed=directed)))


def _edge_weight(text: str, number: int) -> Any:
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError) as error:
        raise TopologyError(f"line {number}: {short(text.strip())!r} after the two agents is not a weight.") from error
    return value.get("weight") if isinstance(value, dict) else value


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
