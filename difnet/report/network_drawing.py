"""What does a network look like? Agents where the eye expects them: rings round, hubs inside, grids square.

Only numpy is needed to place the agents; matplotlib is handed in as axes, and imported when a picture is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from difnet.errors import EnvironmentLacks
from difnet.maths.mixing import Array
from difnet.record.formatting import in_picture
from difnet.topology import Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, AGENT, HUB, EDGE = "#22313f", "#4c78a8", "#e4803b", "#8fa1b3"


def layout(topology: Topology) -> Array:
    """Where the agents stand: float64 (K, 2) within [-1, 1], the same at every call.

    >>> from difnet.topology.networks import load
    >>> layout(load("star_graph(n=4)")).round(3).tolist()[:2]
    [[0.0, 0.0], [0.0, 1.0]]
    """
    K, graph = topology.agents, topology.graph
    if topology.hub is not None and graph.number_of_edges() == K - 1:
        rim = [k for k in range(K) if k != topology.hub]
        places = np.zeros((K, 2))
        places[rim] = _circle(K - 1)
        return places
    if (grid := _grid(topology)) is not None:
        return grid
    beside = sum(graph.has_edge(k, (k + 1) % K) for k in range(K))
    return _circle(K) if K <= 3 or beside >= 0.7 * K or _turned(graph) else _relaxed(graph)


def _circle(agents: int) -> Array:
    """Clockwise from the top."""
    angle = np.pi / 2 - 2 * np.pi * np.arange(agents) / max(agents, 1)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _grid(topology: Topology) -> Array | None:
    """The places that grid labels (row, column) name."""
    labels = [topology.graph.nodes[k].get("label") for k in range(topology.agents)]
    if not all(isinstance(label, tuple) and len(label) == 2 and all(type(x) is int for x in label) for label in labels):
        return None
    places = np.array([(column, -row) for row, column in labels], dtype=float)
    return _framed(places)


def _turned(graph: nx.Graph) -> bool:
    """Whether k -> k + 1 maps the graph to itself, as with complete, exponential and other circulant graphs."""
    K = len(graph)
    return all(graph.has_edge((l + 1) % K, (k + 1) % K) for l, k in graph.edges)


def _relaxed(graph: nx.Graph, steps: int = 300) -> Array:
    """Places whose distances are close to the lengths of shortest paths: stress majorisation from classical scaling.

    Source: E. R. Gansner, Y. Koren, S. North, "Graph drawing by stress majorization", Graph Drawing 2004.
    """
    K = len(graph)
    hops = np.zeros((K, K))
    for l, lengths in nx.all_pairs_shortest_path_length(graph.to_undirected(as_view=True)):
        hops[l, list(lengths)] = list(lengths.values())
    centred = np.eye(K) - 1 / K
    values, vectors = np.linalg.eigh(-0.5 * centred @ hops**2 @ centred)
    places = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 1e-6))
    places = places + 0.05 * _circle(K)  # agents that hear the same neighbours must not start in one place
    weight = 1 / np.where(hops > 0, hops, np.inf) ** 2
    laplacian = np.diag(weight.sum(axis=1)) - weight
    inverse = np.linalg.inv(laplacian + 1 / K)
    for _ in range(steps):
        apart = np.linalg.norm(places[:, None] - places[None], axis=2)
        pull = weight * hops / np.where(apart > 1e-9, apart, np.inf)
        places = inverse @ (np.diag(pull.sum(axis=1)) - pull) @ places
    return _framed(_upright(places))


def _upright(places: Array) -> Array:
    """Turned so that the longest direction lies flat, with agent 0 on the left and in the upper half."""
    places = places - places.mean(axis=0)
    places = places @ np.linalg.svd(places, full_matrices=False)[2].T
    return places * np.where(places[0] * [-1, 1] < 0, -1, 1)


def _framed(places: Array) -> Array:
    """Shifted and scaled into [-1, 1], keeping proportions."""
    low, high = places.min(axis=0), places.max(axis=0)
    return 2 * (places - (low + high) / 2) / max((high - low).max(), 1e-9)


def draw_network(ax: Axes, topology: Topology, distances: Any = None) -> None:
    """Draw a network on matplotlib axes; readable up to about 200 agents.

    `distances` (K,), say `mixing.distances(W)`, colours the agents on a logarithmic scale: dark is far away.

    Raises: EnvironmentLacks, without matplotlib.
    """
    collections = _matplotlib("collections")
    places, K = layout(topology), topology.agents
    size = float(np.clip(8000 / K, 36, 460))
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set_xlim(-1.14, 1.14)
    height = np.abs(places[:, 1]).max()
    ax.set_ylim(-height - 0.14, height + 0.14)
    crowd = len(topology.edges) / K
    style = {"linewidths": float(np.clip(2.2 - 0.006 * K - 0.12 * crowd, 0.4, 2)), "alpha": 0.9 if crowd < 4 else 0.55}
    if topology.directed:
        _draw_arrows(ax, topology, places, size, style)
    else:
        lines = [_line(places, l, k) for l, k in topology.edges]
        ax.add_collection(collections.LineCollection(lines, colors=EDGE, zorder=1, capstyle="round", **style))
    shades = None if distances is None else _shades(distances)
    colours = (
        [HUB if k == topology.hub else AGENT for k in range(K)] if shades is None else _coloured(shades, distances)
    )
    border = 1.2 if K <= 100 else 0.6
    ax.scatter(places[:, 0], places[:, 1], s=size, c=colours, zorder=3, edgecolors="white", linewidths=border)
    if K <= 60:
        _write_numbers(ax, places, size, colours)
    if shades is not None:
        bar = ax.figure.colorbar(shades, ax=ax, shrink=0.6, pad=0.02)
        bar.set_label("squared distance to the centroid", color=INK)
        bar.outline.set_visible(False)


def _line(places: Array, l: int, k: int) -> Array:
    """From l to k: straight, but chords of a circle are bent inwards, so that they do not hide its rim."""
    a, b = places[l], places[k]
    on_circle = np.allclose(np.linalg.norm(places, axis=1), 1)
    if not on_circle or (k - l) % len(places) in (1, len(places) - 1):
        return np.stack([a, b])
    t = np.linspace(0, 1, 25)[:, None]
    return (1 - t) ** 2 * a + t * (1 - t) * (a + b) * 0.75 + t**2 * b


def _draw_arrows(ax: Axes, topology: Topology, places: Array, size: float, style: dict[str, float]) -> None:
    """Arrows in the direction of what is said: from l to k, who hears l."""
    patches = _matplotlib("patches")
    gap = size**0.5 / 2
    for l, k in topology.edges:
        arrow = patches.FancyArrowPatch(
            places[l],
            places[k],
            arrowstyle="-|>",
            mutation_scale=8,
            shrinkA=gap,
            shrinkB=gap + 1,
            connectionstyle="arc3,rad=0.08",
            color=EDGE,
            linewidth=style["linewidths"],
            alpha=style["alpha"],
            zorder=1,
        )
        ax.add_patch(arrow)


def _write_numbers(ax: Axes, places: Array, size: float, colours: Any) -> None:
    points = float(np.clip(size**0.5 * 0.52, 5.5, 10.5))
    brightness = _matplotlib("colors").to_rgba_array(colours)[:, :3] @ [0.3, 0.59, 0.11]
    for k, (x, y) in enumerate(places):
        ink = "white" if brightness[k] < 0.65 else INK
        ax.text(x, y, str(k), ha="center", va="center_baseline", fontsize=points, color=ink, zorder=4)


def _coloured(shades: Any, distances: Any) -> Any:
    return shades.to_rgba(np.maximum(np.asarray(distances, dtype=float), shades.norm.vmin))


def _shades(distances: Any) -> Any:
    """A logarithmic colour scale over at most eight decades below the largest distance."""
    values = np.asarray(distances, dtype=float)
    top = float(values.max(initial=0)) or 1.0
    positive = values[values > 0]
    low = max(float(positive.min(initial=top)), top * 1e-8)
    norm = _matplotlib("colors").LogNorm(vmin=min(low, top / 10), vmax=top)
    return _matplotlib("cm").ScalarMappable(norm=norm, cmap="viridis_r")


def save_picture(topology: Topology, path: str, distances: Any = None) -> None:
    """One network as a picture file; the format is the path's ending (.png, .svg, .pdf).

    Raises: EnvironmentLacks, without matplotlib.
    """
    figure_module, backend = _matplotlib("figure"), _matplotlib("backends.backend_agg")
    places = layout(topology)
    height = float(np.clip(7 * np.abs(places[:, 1]).max() + 1.2, 3.2, 8.2))
    figure = figure_module.Figure(figsize=(8, height), layout="constrained", facecolor="white")
    backend.FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    draw_network(ax, topology, distances)
    ax.set_title(
        f"{in_picture(topology.name)}: {topology.agents} agents, {len(topology.edges)} edges\n", loc="left", color=INK,
        fontsize=13,
    )  # fmt: skip
    ax.text(
        0, 1.01, f"{topology.rule} weights, mixing rate {topology.mixing_rate:.4f}",
        transform=ax.transAxes, color="#6b7b8c", fontsize=10, va="bottom",
    )  # fmt: skip
    figure.savefig(path, dpi=130)


def _matplotlib(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"matplotlib.{name}")
    except ImportError as error:
        raise EnvironmentLacks("pictures need matplotlib, which is not installed: pip install 'difnet[viz]'") from error
