"""What makes a graph a network of agents? A connected graph of agents 0..K-1 without self loops, and not too large.

Labels that are no such numbers are kept as the node attribute "label".
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import networkx as nx

from difnet.errors import TopologyError

MAX_AGENTS = 10_000
MAX_EDGES = 2_000_000


def is_number(value: Any) -> bool:
    """Whether a value is a number, which True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def from_edges(edges: Iterable[tuple[Any, Any, Any]], nodes: Iterable[Any] = (), *, directed: bool = False) -> nx.Graph:
    """A graph of (l, k, weight or None) triples and of the nodes listed, in that order.

    An edge that is there twice, with different weights, has the weight NaN: `weights.given` refuses it, all other
    rules never look.

    Raises: TopologyError, for a node listed twice, a weight that is no finite number, or too many of either.
    """
    listed = list(nodes)
    refuse_twice(Counter(listed))
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from(listed)
    for l, k, weight in edges:
        if weight is not None and not (is_number(weight) and math.isfinite(weight)):
            raise TopologyError(f"edge {l}-{k} has weight {weight!r}: a weight is a finite number.")
        if graph.has_edge(l, k) and graph.edges[l, k].get("weight", weight) != weight:
            weight = math.nan
        graph.add_edge(l, k, **({} if weight is None else {"weight": weight}))
        refuse_agents(len(graph))
    return graph


def numbered(graph: nx.Graph, names: Mapping[Any, Any] | None = None) -> nx.Graph:
    """The same graph on agents 0..K-1, in that order.

    Whole numbers (also those written as text, as files do) must be 0..K-1; any other labels are numbered as they come,
    and kept as the node attribute "label".

    Args: `names`, what nodes are called, of formats that list all nodes with ids and names: then an id may be any
        number, and the name is kept, if there is one.

    >>> numbered(nx.Graph([("pump", "valve")])).nodes(data="label")
    NodeDataView({0: 'pump', 1: 'valve'}, data='label')
    """
    agents = {label: whole(label) for label in graph}
    labelled = any(k is None for k in agents.values())
    if labelled or (names is not None and set(agents.values()) != set(range(len(graph)))):
        labelled = True
        agents = {label: k for k, label in enumerate(graph)}
    elif missing := sorted(set(range(len(graph))) - set(agents.values())):  # type: ignore[arg-type]
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise TopologyError(
            f"{'agent' if len(missing) == 1 else 'agents'} {shown} missing: {len(graph)} agents must be numbered "
            f"0..{len(graph) - 1}, got {min(agents.values())}..{max(agents.values())}. Renumber them."  # type: ignore
        )
    result = nx.DiGraph() if graph.is_directed() else nx.Graph()
    for label, k in sorted(agents.items(), key=lambda item: item[1]):  # type: ignore[arg-type, return-value]
        result.add_node(k, **({"label": (names or {}).get(label, label)} if labelled or names else {}))
    result.add_edges_from((agents[l], agents[k], data) for l, k, data in graph.edges(data=True))
    return result


def checked(graph: nx.Graph) -> nx.Graph:
    """The graph itself, if agents can agree over it.

    Raises: TopologyError, for an empty or unconnected graph, an agent joined to itself, too many agents or edges.
    """
    refuse_agents(len(graph))
    if (edges := graph.number_of_edges()) > MAX_EDGES:
        raise TopologyError(f"graph has {edges} edges; the limit is {MAX_EDGES}.")
    if loops := sorted(l for l, _ in nx.selfloop_edges(graph)):
        raise TopologyError(
            f"agent {loops[0]} has an edge to itself; its own weight comes from the weights rule. Remove the edge."
        )
    require_connected(graph)
    return graph


def whole(label: Any) -> int | None:
    """The whole number that a label is, or is written as; None, if it is none.

    >>> whole("-7"), whole("7.0"), whole("pump")
    (-7, None, None)
    """
    if isinstance(label, str) and label.isascii() and label.removeprefix("-").isdigit() and len(label) < 19:
        return int(label)
    return label if isinstance(label, int) and not isinstance(label, bool) else None


def refuse_agents(agents: int) -> None:
    """Raises: TopologyError, if there are too many."""
    if agents > MAX_AGENTS:
        raise TopologyError(f"graph has more than {MAX_AGENTS} agents, the limit. Take a part of it.")


def refuse_twice(names: Counter[Any]) -> None:
    """Raises: TopologyError, if an agent is listed more than once."""
    if twice := [name for name, times in names.items() if times > 1]:
        raise TopologyError(f"agent {twice[0]!r} is listed {names[twice[0]]} times. List every agent once.")


def short(text: str) -> str:
    """A text as an error message may quote it."""
    return text if len(text) <= 60 else text[:57] + "..."


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, as far as one line goes."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def require_connected(graph: nx.Graph) -> None:
    """Agents can only agree if word gets from each of them to every other.

    Raises: TopologyError, if the graph is empty or not (strongly, if directed) connected.

    >>> require_connected(nx.Graph([(0, 1), (2, 3), (3, 4)]))
    Traceback (most recent call last):
    difnet.errors.TopologyError: graph is not connected: 2 parts, the smallest is [0, 1]; agents in different parts \
never agree. Add an edge between them.
    """
    if len(graph) == 0:
        raise TopologyError("graph is empty: a network has at least one agent. Add edges between agents 0..K-1.")
    directed = graph.is_directed()
    parts = sorted(nx.strongly_connected_components(graph) if directed else nx.connected_components(graph), key=len)
    if len(parts) > 1:
        smallest = sorted(parts[0], key=str if any(isinstance(k, str) for k in parts[0]) else None)
        shown = ", ".join(map(str, smallest[:8])) + (", ..." if len(smallest) > 8 else "")
        raise TopologyError(
            f"graph is not {'strongly ' if directed else ''}connected: {len(parts)} parts, the smallest is [{shown}]; "
            + (
                "word does not get both ways between different parts. Add a directed path back."
                if directed
                else "agents in different parts never agree. Add an edge between them."
            )
        )
