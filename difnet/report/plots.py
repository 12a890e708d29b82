"""How did runs go? Matplotlib pictures of curves and networks; the figures never touch pyplot's state."""

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from difnet.errors import EnvironmentLacks, RunFolderError
from difnet.maths.theory import promised_decay
from difnet.record.events import AgentLost, Measured
from difnet.record.formatting import in_picture, steps_text
from difnet.record.run import Run
from difnet.report.experiments import accurate, grouped, steps_validated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every kind of colour vision, and by lightness in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
MARKERS = "osD^vPX"
INK, PALE = "#222222", "#888888"


def validation(runs: Sequence[Run], ax: "Axes | None" = None, steps: str | None = None, what: str = "loss") -> "Figure":
    """Validation loss or accuracy after adaptation against iteration, a line per experiment (as Fig. 1(b) of the
    Dif-MAML paper and the upper rows of Fig. 2 of FedMeta).

    Seeds of one experiment are drawn as their mean with a band from least to greatest. `steps`: after how many inner
    steps; by default the fewest that every run was tested with. `what`: "loss" or "accuracy".

    Raises: RunFolderError, if no run has been validated so; EnvironmentLacks, without matplotlib.
    """
    steps = steps or _fewest_steps(accurate(runs) if what == "accuracy" else runs, what)
    column = f"{'after' if what == 'loss' else what}_{steps}_mean"
    ax = _axes(ax)
    for index, (label, members) in enumerate(grouped(runs).items()):
        x, rows = _aligned(members, column)
        if not len(x):
            continue
        colour = COLOURS[index % len(COLOURS)]
        name = in_picture(label) + ("" if len(members) == 1 else f" (mean of {len(members)} seeds)")
        style: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "markevery": max(len(x) // 10, 1)}
        ax.plot(x, rows.mean(axis=0), color=colour, label=name, markersize=4.5, linewidth=1.8, **style)
        if len(members) > 1:
            ax.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    over = "" if all(run.served for run in runs) else "\n(mean over agents)"
    finish(ax, f"Validation {what} after adaptation", "iteration", f"{what} on unseen tasks, {steps_text(steps)}{over}")
    if what == "loss":
        ax.set_ylim(bottom=0)
    return figure_of(ax)


def consensus(runs: Sequence[Run], ax: "Axes | None" = None) -> "Figure":
    """Consensus error against iteration, logarithmic, with the decay that each network's mixing rate promises.

    The promise runs from the first measured point, falling with λ₂² per iteration, to the measured floor. Runs with a
    server have one launch model, and no curve.
    """
    ax = _axes(ax)
    alone = len(runs) == 1
    seen: set[str] = set()
    for index, (label, members) in enumerate(grouped(runs).items()):
        colour = COLOURS[index % len(COLOURS)]
        for run in members:
            measured = run.consensus()
            positive = measured["disagreement"] > 0 if measured else np.array([], dtype=bool)
            if not positive.any():
                continue
            x, y = measured["iteration"][positive], measured["disagreement"][positive]
            name = "measured" if alone else in_picture(label)
            ax.plot(x, y, color=colour, linewidth=1.6, label=name if name not in seen else None)
            seen.add(name)
            rate = run.mixing_rate if run.combine == "mean" else None
            if run is members[0] and (promise := promised_decay(list(zip(x.tolist(), y.tolist(), strict=True)), rate)):
                told = f"theory: $\\lambda_2^{{2i}}$ down to the floor, $\\lambda_2$ = {rate:.4f}"
                ax.plot(*zip(*promise, strict=True), color=PALE if alone else colour, linestyle=(0, (4, 2)),
                        linewidth=1.1, label=told if told not in seen else None)  # fmt: skip
                seen.add(told)
    ax.set_yscale("log")
    low, high = np.log10(ax.dataLim.intervaly) if seen else (-1, 0)
    ax.set_ylim(10.0 ** np.floor(low), 10.0 ** np.ceil(high + 1e-9))
    finish(ax, "Consensus error", "iteration", "mean over agents of $\\|w_k - w_c\\|^2$")
    if not seen:
        ax.text(0.5, 0.5, "the agents' launch models never differed", transform=ax.transAxes, ha="center", color=PALE)
    return figure_of(ax)


def loss(run: Run, ax: "Axes | None" = None) -> "Figure":
    """Validation loss of one run before and after adaptation: mean over agents, and up to the worst agent as a band."""
    ax = _axes(ax)
    measured = run.metrics()
    means = [name.removesuffix("_mean") for name in measured if name.endswith("_mean")]
    prefixes = [name for name in means if name.startswith(("before", "after_"))]
    for colour, prefix in zip(COLOURS, prefixes, strict=False):
        x, mean = measured["iteration"], measured[f"{prefix}_mean"]
        label = "before adaptation" if prefix == "before" else steps_text(prefix.removeprefix("after_"))
        ax.plot(x, mean, color=colour, label=label, linewidth=1.8)
        ax.fill_between(x, mean, measured.get(f"{prefix}_worst", mean), color=colour, alpha=0.15, linewidth=0)
    finish(ax, "Validation loss", "iteration", "loss on unseen tasks\n(mean over agents, band to the worst)")
    ax.set_ylim(bottom=0)
    return figure_of(ax)


def network(run: Run, ax: "Axes | None" = None) -> "Figure":
    """The run's graph, each agent coloured by its squared distance from the centroid, lost agents crossed out.

    The distances are those of the last validation that reached every agent.

    Raises: RunFolderError, if the folder has no topology.json.
    """
    if not run.topology:
        raise RunFolderError(f"{run.folder} has no topology.json, so its network cannot be drawn")
    from difnet.report.network_drawing import draw_network, layout
    from difnet.topology import Topology

    topology = Topology.from_dict(run.topology)
    lost = sorted({e.agent for e in run.events if isinstance(e, AgentLost)})
    ax = _axes(ax, square=True)
    if told := _last_distances(run, topology.agents):
        iteration, distances = told
        draw_network(ax, topology, distances=distances)
        title = f"{in_picture(topology.name)}, iteration {iteration}"
    else:
        draw_network(ax, topology)
        title = in_picture(topology.name)
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    if lost:
        x, y = layout(topology)[lost].T
        ax.scatter(x, y, s=260, marker="x", color="#d00000", linewidths=3, zorder=5, label="lost")
        ax.legend(loc="lower right", fontsize=9, frameon=False)
    return figure_of(ax)


def png(figure: "Figure", dpi: int = 160) -> bytes:
    """A figure as the bytes of a PNG file; they carry no date, so the same run gives the same bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": "difnet"})
    return buffer.getvalue()


# Inside


def _last_distances(run: Run, agents: int) -> tuple[int, np.ndarray] | None:
    """The latest iteration at which every agent's distance is known, and the distances: (agents,)."""
    for event in reversed(run.events):
        if isinstance(event, Measured):
            distances = np.array([event.distances.get(str(k)) for k in range(agents)], dtype=float)
            if np.isfinite(distances).all():
                return event.iteration, distances
    return None


def _fewest_steps(runs: Sequence[Run], what: str) -> str:
    if steps := steps_validated(runs, what):
        return steps[0]
    raise RunFolderError(
        f"no number of inner steps after which all these runs were validated by their {what}; let each of them reach "
        "its first validation"
    )


def _aligned(runs: Sequence[Run], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The iterations at which every run has the figure, and the figure: (runs, iterations)."""
    curves = []
    for run in runs:
        columns = run.metrics()
        told = zip(columns["iteration"], columns[name], strict=True) if name in columns else ()
        curves.append({i: v for i, v in told if np.isfinite(v)})
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return np.array(shared), np.array([[curve[i] for i in shared] for curve in curves])


@cache
def _picture() -> "type[Figure]":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentLacks("pictures need matplotlib, which is not here; pip install 'difnet[viz]'") from error

    class Picture(Figure):
        """A figure with a canvas of its own, which a notebook shows whether or not pyplot is in use."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            return png(self, dpi=110)

    return Picture


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, so many inches wide and high, that keeps what is drawn in it from overlapping.

    Raises: EnvironmentLacks, without matplotlib.
    """
    return _picture()(figsize=(width, height), layout="constrained")


def _axes(ax: "Axes | None", square: bool = False) -> "Axes":
    """The given axes, or those of a new figure."""
    return ax or (new_figure(5.6, 5.6) if square else new_figure(7.2, 4.3)).add_subplot()


def figure_of(ax: "Axes") -> "Figure":
    """The figure that axes belong to."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def finish(ax: "Axes", title: str, x_label: str, y_label: str, grid: Literal["x", "y", "both"] = "y") -> None:
    """Give axes their words, a light grid, a legend where something has a label, and this project's look."""
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    ax.set_xlabel(x_label, color=INK)
    ax.set_ylabel(y_label, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(PALE)
    ax.tick_params(colors=INK, labelsize=9)
    ax.grid(axis=grid, which="major", color="#dddddd", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.margins(x=0.02)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85)
