"""Where does a graph come from? From an expression like "cycle_graph(n=6)", or from a file.

Either way it ends as a connected graph of agents 0..K-1 without self loops; labels that are no such numbers are kept as
the node attribute "label". Sizes are checked before anything large is built or parsed.
"""

import ast
import inspect
import json
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx

from difnet.errors import TopologyError, did_you_mean
from difnet.maths.mixing import require_connected

MAX_AGENTS = 10_000
MAX_EDGES = 2_000_000
MAX_FILE_MB = 32

_Size = Callable[..., float]

# How many agents a generator makes, where that is not its largest argument; and edges, where they may be very many.
_AGENTS: Mapping[str, _Size] = {
    "barbell": lambda m1, m2: 2 * m1 + m2,
    "caveman connected_caveman planted_partition relaxed_caveman": lambda l, k: l * k,
    "complete_multipartite": lambda subset_sizes: sum(subset_sizes),
    "dorogovtsev_goltsev_mendes": lambda n: 3**n,
    "grid": lambda dim: math.prod(dim),
    "grid_2d hexagonal_lattice triangular_lattice": lambda m, n: m * n,
    "hypercube mycielski": lambda n: 2**n,
    "kneser": lambda n, k: math.comb(n, k),
    "margulis_gabber_galil": lambda n: n * n,
    "navigable_small_world": lambda n, dim=2: n**dim,
    "star": lambda n: n + 1,
    "sudoku": lambda n=3: n**4,
    "windmill": lambda n, k: n * k,
    "balanced_tree": lambda r, h: r**h,
    "binomial_tree": lambda n: 2**n,
    "ring_of_cliques": lambda num_cliques, clique_size: num_cliques * clique_size,
}
_EDGES: Mapping[str, _Size] = {
    "barabasi_albert": lambda n, m: n * m,
    "binomial erdos_renyi fast_gnp_random gnp_random": lambda n, p: p * n * n / 2,
    "circulant": lambda n, offsets: n * len(offsets),
    "complete": lambda n: n * (n - 1) / 2,
    "complete_multipartite": lambda subset_sizes: sum(subset_sizes) ** 2 / 2,
    "connected_watts_strogatz newman_watts_strogatz watts_strogatz": lambda n, k: n * k / 2,
    "dense_gnm_random gnm_random": lambda n, m: m,
    "random_geometric": lambda n, radius: n * n / 2 * min(1, math.pi * radius * radius),
    "random_regular": lambda d, n: d * n / 2,
    "turan": lambda n, r: n * n / 2 * (1 - 1 / r),
    "windmill": lambda n, k: n * k * k / 2,
}
_COUNTS_EDGES = {"dense_gnm_random_graph", "gnm_random_graph", "hnm_harary_graph"}  # their m may exceed MAX_AGENTS


def exponential_graph(n: int) -> nx.DiGraph:
    """Static exponential graph: agent k hears k-1, k-2, k-4, ... (mod n); its averaging A is doubly stochastic.

    Source: B. Ying et al., "Exponential Graph is Provably Efficient for Decentralized Deep Training", NeurIPS 2021.

    >>> sorted(exponential_graph(8).pred[0])
    [4, 6, 7]
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((k, (k + 2**j) % n) for k in range(n) for j in range(math.ceil(math.log2(n)) if n > 1 else 0))
    return graph


def generators() -> dict[str, Callable[..., Any]]:
    """Name -> generator: networkx's public functions that make a graph out of numbers, and difnet's own.

    >>> {"cycle_graph", "erdos_renyi_graph", "exponential_graph"} <= generators().keys()
    True
    """
    found = {
        name: made
        for name, made in vars(nx).items()
        if not name.startswith(("_", "is_", "number_of_", "prefix_"))
        and inspect.isfunction(made)
        and made.__module__.startswith("networkx.generators.")
        and "G" not in inspect.signature(made).parameters
    }
    return found | {"exponential_graph": exponential_graph}


def generate(expression: str) -> nx.Graph:
    """The graph that a generator expression describes; nothing in it is executed but that one generator.

    Arguments are plain numbers, words and lists. `directed=True` asks any generator that can for a directed graph. A
    random generator without a seed gets seed=0: the same words always give the same graph.

    Raises: TopologyError, if the expression or its graph is not usable.

    >>> nx.is_isomorphic(generate("cycle_graph(n=6)"), nx.cycle_graph(6))
    True
    """
    try:
        call = ast.parse(expression.strip(), mode="eval").body if len(expression) < 100_000 else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is not one call of a generator")
        positional = [_literal(value) for value in call.args]
        named = {str(word.arg): _literal(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise TopologyError(
            f"cannot read {_short(expression)!r} as a generator expression: {_first_line(error)}. "
            "Write a name and plain arguments, as in cycle_graph(n=6)."
        ) from error
    return build(call.func.id, *positional, **named)


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        raise ValueError(f"{_short(ast.unparse(value))!r} is no plain number or list") from error


def build(name: str, *positional: Any, **named: Any) -> nx.Graph:
    """The graph a generator makes of these arguments; "cycle" is "cycle_graph". See `generate`.

    Raises: TopologyError, for an unknown name, wrong arguments, or a graph too large or no network.
    """
    known = generators()
    name = name if name in known or f"{name}_graph" not in known else f"{name}_graph"
    if name not in known:
        short = [word.removesuffix("_graph") for word in known]
        raise TopologyError(
            f"no graph generator called {name!r}{did_you_mean(name, short if '_' not in name else known) or '.'} "
            "Generators are those of networkx.generators, and exponential_graph."
        )
    parameters = [
        p for p in inspect.signature(known[name]).parameters.values() if p.name not in ("backend", "backend_kwargs")
    ]
    signature = inspect.Signature(parameters)
    words = {p.name for p in parameters}
    if "directed" not in words and "create_using" in words and "directed" in named:
        named["create_using"] = nx.DiGraph if named.pop("directed") else nx.Graph
    elif "directed" in named and name == "exponential_graph":
        named.pop("directed")
    try:
        bound = signature.bind(*positional, **named)
    except TypeError as error:
        raise TopologyError(f"wrong arguments for {name}: {error}. It takes {_readable(signature)}.") from error
    if any(isinstance(value, str) for value in bound.arguments.values()) and name != "triad_graph":
        raise TopologyError(f"wrong arguments for {name}: they are numbers. It takes {_readable(signature)}.")
    if "seed" in words and bound.arguments.get("seed") is None:
        bound.arguments["seed"] = 0
    _refuse_large(name, bound.arguments)
    try:
        graph = known[name](*bound.args, **bound.kwargs)
    except Exception as error:  # whatever a generator objects to, and they object in many ways
        raise TopologyError(
            f"{name} refuses its arguments: {_first_line(error)}. It takes {_readable(signature)}."
        ) from error
    if not isinstance(graph, nx.Graph):
        raise TopologyError(f"{name} makes a {type(graph).__name__}, not one graph. Take another generator.")
    graph = nx.DiGraph(graph) if graph.is_directed() else nx.Graph(graph)  # parallel edges become one
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))  # a_kk is the weights rule's business
    try:
        return checked(numbered(graph))
    except TopologyError as error:
        raise TopologyError(f"{name}: {error}{' Or try another seed.' if 'seed' in words else ''}") from error


def _readable(signature: inspect.Signature) -> str:
    """A signature in the words an expression may use."""
    words = signature.parameters
    shown = [str(p) for name, p in words.items() if name not in ("create_using", "pos_name", "weight_name")]
    if "create_using" in words and "directed" not in words:
        shown.append("directed=False")
    return f"({', '.join(shown)})"


def _refuse_large(name: str, arguments: Mapping[str, Any]) -> None:
    sizes = {w: v for w, v in arguments.items() if w not in ("seed", "tries", "max_tries", "max_iters", "directed")}
    if name in _COUNTS_EDGES:
        sizes.pop("m", None)
    numbers = [n for v in sizes.values() for n in (v if isinstance(v, list | tuple) else [v]) if _is_count(n)]
    agents = float(max(numbers, default=1))
    if agents <= MAX_AGENTS:
        agents = max(agents, _estimate(_AGENTS, name, arguments))
    edges = _estimate(_EDGES, name, arguments) if agents <= MAX_AGENTS else 0
    for number, what, limit in ((agents, "agents", MAX_AGENTS), (edges, "edges", MAX_EDGES)):
        if number > limit:
            count = f"{number:.0f}" if number < 1e12 else "more than 10^12"
            raise TopologyError(f"{name} would make {count} {what}; the limit is {limit}. Ask for a smaller graph.")


def _estimate(sizes: Mapping[str, _Size], name: str, arguments: Mapping[str, Any]) -> float:
    names = (name, name.removesuffix("_graph"))
    size = next((size for row, size in sizes.items() if not {*names}.isdisjoint(row.split())), lambda: 0)
    words = inspect.signature(size).parameters
    try:
        return size(**{w: v for w, v in arguments.items() if w in words})
    except (TypeError, ValueError, ArithmeticError):
        return 0  # not even numbers: the generator itself will say so


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
        raise TopologyError(f"not valid JSON: {_first_line(error)}.") from error


def from_node_link(data: Any) -> nx.Graph:
    """The graph of a node-link document; nodes may be plain labels and edges plain pairs, also called "links".

    Raises: TopologyError, if it is none, or what it holds is no network.

    >>> from_node_link({"nodes": [0, 1], "edges": [[0, 1]]}).edges
    EdgeView([(0, 1)])
    """
    edges = data.get("edges", data.get("links")) if isinstance(data, dict) else None
    if not isinstance(edges, list) or not isinstance(data.get("nodes", []), list):
        raise TopologyError('not node-link JSON: {"directed": false, "nodes": [{"id": 0}, ...], "edges": [...]} is.')
    _refuse_agents(len(data.get("nodes", [])))
    try:
        pairs = [
            (edge["source"], edge["target"], edge.get("weight")) if isinstance(edge, dict) else (*edge, None)
            for edge in edges
        ]
        nodes = [n["id"] if isinstance(n, dict) else n for n in data.get("nodes", [])]
        graph = from_edges(pairs, nodes, directed=bool(data.get("directed", False)))
    except (KeyError, ValueError, TypeError) as error:
        raise TopologyError(f"not node-link JSON: a node or an edge is malformed ({_first_line(error)}).") from error
    return checked(numbered(graph))


def _read_edges(path: Path) -> nx.Graph:
    pairs, alone, seen, directed = [], [], set(), False
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            text, _, comment = line.partition("#")
            directed = directed or (number == 1 and comment.strip().lower().startswith("directed"))
            words = text.replace(",", " ", 1).split(None, 2)
            seen.update(words[:2])
            _refuse_agents(len(seen))
            if len(words) == 1:
                alone.append(words[0])
            elif words:
                pairs.append((words[0], words[1], _edge_weight(words[2], number) if len(words) == 3 else None))
    return checked(numbered(from_edges(pairs, dict.fromkeys(alone), directed=directed)))


def _edge_weight(text: str, number: int) -> Any:
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError) as error:
        raise TopologyError(f"line {number}: {_short(text.strip())!r} after the two agents is not a weight.") from error
    return value.get("weight") if isinstance(value, dict) else value


def _read_graphml(path: Path) -> nx.Graph:
    names: Counter[str] = Counter()
    try:
        for _, element in ElementTree.iterparse(path, events=("end",)):
            if element.tag.endswith("}node"):
                names[element.get("id", "")] += 1
                _refuse_agents(len(names))
        _refuse_twice(names)
        found = nx.read_graphml(path)
    except TopologyError:
        raise
    except Exception as error:  # the XML parser's and networkx's many ways to say that this is not GraphML
        raise TopologyError(f"not readable as GraphML: {_first_line(error)}.") from error
    pairs = [(l, k, data.get("weight")) for l, k, data in found.edges(data=True)]
    return checked(numbered(from_edges(pairs, list(found), directed=found.is_directed())))


def from_edges(edges: Iterable[tuple[Any, Any, Any]], nodes: Iterable[Any] = (), *, directed: bool = False) -> nx.Graph:
    """A graph of (l, k, weight or None) triples and of the nodes listed, in that order.

    Raises: TopologyError, for a node listed twice, a weight that is no number >= 0, or too many of either.
    """
    listed = list(nodes)
    _refuse_twice(Counter(listed))
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from(listed)
    for l, k, weight in edges:
        if weight is not None and not (_is_count(weight) and math.isfinite(weight) and weight >= 0):
            raise TopologyError(f"edge {l}-{k} has weight {weight!r}: a weight is a number that is not negative.")
        graph.add_edge(l, k, **({} if weight is None else {"weight": weight}))
        _refuse_agents(len(graph))
    return graph


def numbered(graph: nx.Graph) -> nx.Graph:
    """The same graph on agents 0..K-1, in that order.

    Whole numbers (also those written as text, as files do) must be 0..K-1; any other labels are numbered as they come,
    and kept as the node attribute "label".

    >>> numbered(nx.Graph([("pump", "valve")])).nodes(data="label")
    NodeDataView({0: 'pump', 1: 'valve'}, data='label')
    """
    agents = {label: _whole(label) for label in graph}
    labelled = any(k is None for k in agents.values())
    if labelled:
        agents = {label: k for k, label in enumerate(graph)}
    elif missing := sorted(set(range(len(graph))) - set(agents.values())):  # type: ignore[arg-type]
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise TopologyError(
            f"{'agent' if len(missing) == 1 else 'agents'} {shown} missing: {len(graph)} agents must be numbered "
            f"0..{len(graph) - 1}, got {min(agents.values())}..{max(agents.values())}. Renumber them."  # type: ignore
        )
    result = nx.DiGraph() if graph.is_directed() else nx.Graph()
    for label, k in sorted(agents.items(), key=lambda item: item[1]):  # type: ignore[arg-type, return-value]
        result.add_node(k, **({"label": label} if labelled else {}))
    result.add_edges_from((agents[l], agents[k], data) for l, k, data in graph.edges(data=True))
    return result


def checked(graph: nx.Graph) -> nx.Graph:
    """The graph itself, if agents can agree over it.

    Raises: TopologyError, for an empty or unconnected graph, an agent joined to itself, too many agents or edges.
    """
    _refuse_agents(len(graph))
    if (edges := graph.number_of_edges()) > MAX_EDGES:
        raise TopologyError(f"graph has {edges} edges; the limit is {MAX_EDGES}.")
    if loops := sorted(l for l, _ in nx.selfloop_edges(graph)):
        raise TopologyError(
            f"agent {loops[0]} has an edge to itself; its own weight comes from the weights rule. Remove the edge."
        )
    require_connected(graph)
    return graph


def _whole(label: Any) -> int | None:
    if isinstance(label, str) and label.isascii() and label.removeprefix("-").isdigit() and len(label) < 19:
        return int(label)
    return label if isinstance(label, int) and not isinstance(label, bool) else None


def _refuse_agents(agents: int) -> None:
    if agents > MAX_AGENTS:
        raise TopologyError(f"graph has more than {MAX_AGENTS} agents, the limit. Take a part of it.")


def _refuse_twice(names: Counter[Any]) -> None:
    if twice := [name for name, times in names.items() if times > 1]:
        raise TopologyError(f"agent {twice[0]!r} is listed {names[twice[0]]} times. List every agent once.")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
