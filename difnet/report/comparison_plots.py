"""What did runs come to, and at what price? Matplotlib pictures that put experiments side by side."""

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from difnet.errors import RunFolderError
from difnet.maths.distributions import bandwidth, cdf, density
from difnet.record.costs import Target, to_reach
from difnet.record.events import LOCAL_AVERAGE, OWN_MODELS
from difnet.record.formatting import bytes_text, in_picture, steps_text, time_text
from difnet.record.run import Run
from difnet.report.experiments import Experiments, grouped, scores, spent, steps_tested, target_text
from difnet.report.plots import COLOURS, INK, PALE, figure_of, finish, new_figure
from difnet.report.tables import flops_text, joules_text, qualities

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_RATIO = 30  # from which figures side by side are drawn on a logarithmic axis
NARROWEST = 0.01  # a kernel's least width: clients that all score alike are a bump, not an endless needle
DARK, LIGHT = "#3d4f66", "#a9c1de"  # told apart in print as well
Amounts = list[list[float | None]]  # per experiment, a value per run


def costs(runs: Sequence[Run], target: Target) -> "Figure":
    """Bytes and floating-point operations that each experiment needed to reach a target (as Fig. 3 of FedMeta).

    Bars are means over the seeds that got there, with their standard deviation; where not all did, it is said.

    Raises: RunFolderError, if no run reached it; EnvironmentLacks, without matplotlib.
    """
    groups = grouped(runs)
    needed = [[to_reach(run.validations, *target) for run in group] for group in groups.values()]
    if not any(one for each in needed for one in each):
        raise RunFolderError(f"no run reached {target_text(target)}; give an easier --target")
    remarks = ["" if all(each) else f"{sum(map(bool, each))} of {len(each)} seeds" if any(each) else "not reached"
               for each in needed]  # fmt: skip
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(groups))]
    page = new_figure(9.6, 1.5 + 0.55 * len(groups))
    panels = (("payload_bytes", "Bytes sent", bytes_text), ("flops", "Floating-point operations", flops_text))
    for ax, (name, title, show) in zip(page.subplots(1, 2, sharey=True), panels, strict=True):
        amounts = [[one.get(name) if one else None for one in each] for each in needed]
        _bars(ax, {"": (colours, amounts)}, show, remarks)
        ax.set_yticks(range(len(groups)), [*map(in_picture, groups)])
        finish(ax, title, f"to reach {target_text(target)}", "", grid="x")
    return page


def time_and_energy(runs: Sequence[Run]) -> "Figure":
    """Time and energy of computation and of communication, per experiment (as Fig. 2(b) and (c) of Meta-Backward).

    Totals of all agents at the last validation, means over seeds with their standard deviation. Computation time is
    processor time; communication is that of the modelled channel.

    Raises: RunFolderError, if no run has been validated; EnvironmentLacks, without matplotlib.
    """
    if not any(spent(run) for run in runs):
        raise RunFolderError("no run was validated, so none tells what it spent; let one reach its first validation")
    groups = grouped(runs)
    series = {"computation": (DARK, ("cpu_s", "joules")),
              "communication (modelled)": (LIGHT, ("communication_s", "communication_joules"))}  # fmt: skip
    page = new_figure(9.6, 1.7 + 0.8 * len(groups))
    panels = (("Time", "processor time of all agents, time of the channel", time_text),
              ("Energy", f"of all agents; computation: {qualities(runs)}", joules_text))  # fmt: skip
    for panel, (ax, (title, x_label, show)) in enumerate(zip(page.subplots(1, 2, sharey=True), panels, strict=True)):
        shown = {}
        for label, (colour, names) in series.items():
            amounts = [[spent(run).get(names[panel]) for run in group] for group in groups.values()]
            shown[label] = ([colour] * len(groups), amounts)
        _bars(ax, shown, show)
        ax.set_yticks(range(len(groups)), [*map(in_picture, groups)])
        finish(ax, title, x_label, "", grid="x")
    _one_legend(page)
    return page


def distribution(runs: Sequence[Run], what: str | None = None) -> "Figure":
    """The distribution function of the final test loss or accuracy over tasks (as Fig. 2(a) of Meta-Backward).

    A line per experiment, its seeds pooled: after one inner step, and after the most that all runs were tested with.
    Where a run also tested the average of the local models it set out from, that is a dashed line.
    `what`: "loss" or "accuracy"; by default accuracy where all tested runs have it.

    Raises: RunFolderError, if no run was tested; EnvironmentLacks, without matplotlib.
    """
    tested = [run for run in runs if run.scores]
    what = what or ("accuracy" if steps_tested(tested, "accuracy") else "loss")
    steps = _common_steps(tested, what)
    shown = list(dict.fromkeys((steps[0], steps[-1])))
    page = new_figure(9.6 if len(shown) > 1 else 7.2, 4.6)
    for ax, n in zip(np.atleast_1d(page.subplots(1, len(shown), sharey=True)), shown, strict=True):
        _draw_distributions(ax, grouped(runs), what, n)
        unit = "accuracy of a client" if what == "accuracy" else "loss of a task"
        finish(ax, f"Test {what} {steps_text(n)}", unit, "share of test tasks" if n == shown[0] else "",
               grid="both")  # fmt: skip
        ax.set_ylim(0, 1.02)
        if what == "accuracy":
            ax.set_xlim(0, 1.01)
    _one_legend(page)
    return page


def client_density(runs: Sequence[Run], steps: str | None = None) -> "Figure":
    """The kernel density of the final accuracies over test clients (as the last row of Fig. 2 of FedMeta).

    A line per experiment: the mean of its seeds' densities, each with Silverman's bandwidth, reflected at 0 and 1.
    `steps`: after how many inner steps; by default the most that all runs with accuracies were tested with.

    Raises: RunFolderError, if no run tested accuracies; EnvironmentLacks, without matplotlib.
    """
    steps = steps or _common_steps([r for r in runs if any(np.isfinite(s.accuracy) for s in r.scores)], "accuracy")[-1]
    at = np.linspace(0, 1, 501)
    ax = new_figure(7.2, 4.0).add_subplot()
    for index, (label, group) in enumerate(grouped(runs).items()):
        each = [density(a, at, _width(a), 0.0, 1.0) for run in group if (a := scores(run, "accuracy", steps)).size]
        if each:
            colour, mean = COLOURS[index % len(COLOURS)], np.mean(each, axis=0)
            ax.plot(at, mean, color=colour, linewidth=1.8, label=_pooled_label(label, each))
            ax.fill_between(at, mean, color=colour, alpha=0.12, linewidth=0)
    finish(ax, f"Accuracy over test clients, {steps_text(steps)}", "accuracy of a client", "density of clients")
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    return figure_of(ax)


# Inside


def _bars(
    ax: "Axes", series: dict[str, tuple[list[str], Amounts]], show: Callable[[float | None], str],
    remarks: Sequence[str] = (),
) -> None:  # fmt: skip
    """Horizontal bars, an experiment after another from the top, the figure written behind each.

    Args: `series`, label -> a colour and the amounts of each experiment; `remarks`, what else to write, of each.
    """
    means = {name: [_mean(each) for each in amounts] for name, (_, amounts) in series.items()}
    known = [mean for each in means.values() for mean in each if mean]
    wide = bool(known) and max(known) > WIDE_RATIO * min(known)
    start = min(known) / 4 if wide else 0.0  # a logarithmic axis has no zero: bars of nothing end where it starts
    thick, furthest = 0.74 / len(series), start
    for row, (name, (colours, amounts)) in enumerate(series.items()):
        y = np.arange(len(amounts)) + thick * (row - (len(series) - 1) / 2)
        ends = [max(mean or 0.0, start) for mean in means[name]]
        ax.barh(y, np.array(ends) - start, thick * 0.94, left=start, color=colours, label=name or None)
        for at, (end, mean, each) in enumerate(zip(ends, means[name], amounts, strict=True)):
            if spread := _deviation(each):
                whiskers = [[min(spread, end - start)], [spread]]
                ax.errorbar(end, y[at], xerr=whiskers, color=INK, linewidth=1, capsize=2.5)
            words = [show(mean) if mean is not None or not remarks or not remarks[at] else "", *remarks[at : at + 1]]
            ax.annotate(", ".join(filter(None, words)), (end + spread, y[at]), (5, 0), textcoords="offset points",
                        va="center", fontsize=8.5, color=PALE if mean is None else INK)  # fmt: skip
            furthest = max(furthest, end + spread)
    ax.set_ylim(len(next(iter(means.values()))) - 0.45, -0.55)
    _measure(ax, start, furthest, show if known else None)


def _measure(ax: "Axes", start: float, furthest: float, show: Callable[[float | None], str] | None) -> None:
    """The axis along bars, with room for the words behind them; without ticks where nothing is known.

    Times are marked in seconds: minutes and hours would fall on odd numbers.
    """
    if show is None:
        ax.set_xticks([])
        ax.set_xlim(0, 1)
        return
    if start:
        ax.set_xscale("log")
        ax.set_xlim(start, furthest * (furthest / start) ** 0.4)
        ax.xaxis.get_major_locator().set_params(numticks=4)  # type: ignore[call-arg]
        ax.minorticks_off()
    else:
        ax.set_xlim(0, (furthest or 1.0) * 1.5)
        ax.xaxis.get_major_locator().set_params(nbins=4)  # type: ignore[call-arg]
    mark = (lambda value: f"{value:g} s") if show is time_text else show
    ax.xaxis.set_major_formatter(lambda value, _: mark(value) if value else "0")


def _one_legend(page: "Figure") -> None:
    """One legend below all panels, which share their lines."""
    for ax in page.axes:
        ax.legend().remove()
    handles, labels = page.axes[0].get_legend_handles_labels()
    columns = 3 if len(labels) % 2 and max(map(len, labels)) < 40 else 2
    page.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(v) for v in values if v is not None]
    return statistics.fmean(known) if known else None


def _deviation(values: Sequence[float | None]) -> float:
    known = [float(v) for v in values if v is not None]
    return statistics.stdev(known) if len(known) > 1 else 0.0


def _common_steps(tested: Sequence[Run], what: str) -> list[str]:
    if steps := steps_tested(tested, what):
        return steps
    raise RunFolderError(
        f"no number of inner steps after which the {what} of every tested run is known: there is no test.csv with it"
    )


def _draw_distributions(ax: "Axes", groups: Experiments, what: str, steps: str) -> None:
    drawn: list[tuple[float, ...]] = []
    values: list[np.ndarray] = []
    for index, (label, group) in enumerate(groups.items()):
        colour = COLOURS[index % len(COLOURS)]
        each = [own for run in group if (own := scores(run, what, steps)).size]
        if each:
            centroid = "centroid of " if any(OWN_MODELS in run.tests for run in group) else ""
            name = centroid + _pooled_label(label, each)
            values.append(_step(ax, np.concatenate(each), color=colour, linewidth=1.8, label=name))
        averages = np.concatenate([scores(run, what, steps, LOCAL_AVERAGE) for run in group])
        if averages.size and tuple(averages) not in drawn:  # several may have set out from the same average
            name, dashes = f"{LOCAL_AVERAGE} ({in_picture(label)})", (0, (4, 2))
            values.append(_step(ax, averages, color=colour, linewidth=1.3, linestyle=dashes, label=name, zorder=3))
            drawn.append(tuple(averages))
    if len(drawn) == 1:
        average = next(line for line in ax.lines if str(line.get_label()).startswith(LOCAL_AVERAGE))
        average.set(label=LOCAL_AVERAGE, color=INK)
    finite = np.concatenate(values)
    if finite.size and finite.min() > 0 and np.quantile(finite, 0.99) > WIDE_RATIO * np.quantile(finite, 0.01):
        ax.set_xscale("log")


def _step(ax: "Axes", samples: np.ndarray, **style: Any) -> np.ndarray:
    """Draw a distribution function as steps up from zero; returns the finite samples."""
    x, share = cdf(samples)
    ax.step([*x[:1], *x], [0.0, *share] if x.size else [], where="post", **style)
    return x


def _width(accuracies: np.ndarray) -> float:
    return max(bandwidth(accuracies), NARROWEST) if accuracies.size > 1 else NARROWEST


def _pooled_label(label: str, each: Sequence[np.ndarray]) -> str:
    return in_picture(label) + ("" if len(each) == 1 else f" ({len(each)} seeds)")
