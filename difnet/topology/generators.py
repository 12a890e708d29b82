"""Which graph does an expression such as "cycle_graph(n=6)" mean? Sizes are checked before anything large is built."""

import ast
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import networkx as nx

from difnet.errors import TopologyError, did_you_mean
from difnet.topology.graphs import MAX_AGENTS, MAX_EDGES, checked, first_line, is_number, numbered, short

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
            f"cannot read {short(expression)!r} as a generator expression: {first_line(error)}. "
            "Write a name and plain arguments, as in cycle_graph(n=6)."
        ) from error
    return build(call.func.id, *positional, **named)


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        raise ValueError(f"{short(ast.unparse(value))!r} is no plain number or list") from error


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
            f"{name} refuses its arguments: {first_line(error)}. It takes {_readable(signature)}."
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
    numbers = [n for v in sizes.values() for n in (v if isinstance(v, list | tuple) else [v]) if is_number(n)]
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
