"""Who was away, and what did it do to consensus error and loss? A table and a picture of one run."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from difnet.errors import RunFolderError
from difnet.record.absences import Absence, Course, Spell, course, effect, least_adapted_loss
from difnet.record.events import Measured, Pulse
from difnet.record.formatting import in_picture, number_text, steps_text, time_text
from difnet.record.run import Columns, Run
from difnet.report.page import Table
from difnet.report.plots import COLOURS, INK, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 40  # agents and edges in a picture, and spells in a table
AWAY, APART, PIECES = COLOURS[1], COLOURS[4], "#f4e9dc"


def course_of(run: Run) -> Course:
    """Who was away in a run, as far as its folder tells; without its topology.json, nobody whose process lived on."""
    return course(run.events, [(int(k), int(l)) for k, l in run.topology.get("edges", ())])


def away_table(run: Run) -> Table:
    """A row for each time that an agent was away, or two neighbours apart, in the order of its beginning."""
    told = course_of(run)
    spells: list[tuple[str, Spell]] = [(str(a.agent), a) for a in told.absences]
    spells += [(f"{p.edge[0]}–{p.edge[1]} apart", p) for p in told.partings]
    spells.sort(key=lambda named: named[1].began)
    end_s = max((e.seconds for e in run.events if isinstance(e, Pulse | Measured)), default=0.0)
    rows = [_row(name, spell, run, end_s) for name, spell in spells[:MOST_ROWS]]
    if len(spells) > MOST_ROWS:
        rows.append((f"and {len(spells) - MOST_ROWS} more", *[""] * 7))
    head = ("agent", "away from iteration", "to", "for about", "why", "came back with",
            "consensus error: before → highest → after", "loss: before → highest → after")  # fmt: skip
    return Table(head, tuple(rows))


def _row(name: str, spell: Spell, run: Run, end_s: float) -> tuple[str, ...]:
    back = "–" if spell.ended is None else spell.model or "what it had" if isinstance(spell, Absence) else "–"
    effects = [_effect(spell, run, f) for f in (lambda e: e.disagreement, least_adapted_loss)]
    seconds, until = spell.lasted_s(end_s), "the end" if spell.ended is None else str(spell.ended)
    lasted = "under 1 s" if seconds < 1 else time_text(seconds)
    return name, str(spell.began), until, lasted, spell.why, back, *effects


def _effect(spell: Spell, run: Run, figure: Callable[[Measured], float | None]) -> str:
    told = effect(spell, run.events, figure)
    return " → ".join("–" if x is None else number_text(float(x)) for x in told)


def away(run: Run) -> "Figure":
    """Consensus error and loss of one run, and below them on the same axis who was away when.

    A bar for each agent that was away, a thinner one for neighbours that were apart though both were there; the
    background is shaded while the network was in pieces, and a dashed line is where the run was resumed.

    Raises: RunFolderError, if nobody was away; EnvironmentLacks, without matplotlib.
    """
    told = course_of(run)
    if told.is_whole:
        raise RunFolderError(f"nobody was away in {run.folder}, so there is nothing to draw")
    rows = _rows(told)
    curves = [draw for draw in (_consensus, _loss) if draw(run, None)]
    heights = [*[1.7] * len(curves), 0.75 + 0.24 * max(len(rows), 2)]
    page = new_figure(9.6, sum(heights) + 0.5)
    panels = np.atleast_1d(page.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    end = _last(run, told)
    for ax, draw in zip(panels, [*curves, None], strict=True):
        for began, ended in told.in_pieces:
            ax.axvspan(began, end if ended is None else ended, color=PIECES, linewidth=0, zorder=0)
        for at in told.resumed:
            ax.axvline(at, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
        if draw is not None:
            for absence in told.absences:  # so that what is below can be seen in the curve
                ax.axvspan(absence.began, end if absence.ended is None else absence.ended, ymax=0.035, color=AWAY,
                           linewidth=0, alpha=0.8)  # fmt: skip
            draw(run, ax)
    _timeline(panels[-1], rows, told, end)
    panels[-1].set_xlim(0, max(end, 1))
    return page


def _rows(told: Course) -> list[tuple[str, list[Spell]]]:
    """The names of agents and of edges that were apart, each with its spells: agents first."""
    rows: dict[tuple[int, ...], list[Spell]] = {}
    for absence in told.absences:
        rows.setdefault((absence.agent,), []).append(absence)
    agents = sorted(rows)
    for parting in told.partings:
        rows.setdefault(parting.edge, []).append(parting)
    edges = sorted(rows.keys() - set(agents))
    return [("–".join(map(str, ends)), rows[ends]) for ends in [*agents, *edges]]


def _last(run: Run, told: Course) -> int:
    """The furthest iteration that anything tells of."""
    spells = [*told.absences, *told.partings]
    return max([e.iteration for e in run.events if isinstance(e, Measured | Pulse)]
               + [s.ended or s.began for s in spells], default=1)  # fmt: skip


def _timeline(ax: "Axes", rows: Sequence[tuple[str, list[Spell]]], told: Course, end: int) -> None:
    """A bar for each spell."""
    shown, named = rows[:MOST_ROWS], set[str]()
    least = end / 400  # what is shorter would not be seen
    for y, (_, spells) in enumerate(shown):
        for spell in spells:
            is_agent = isinstance(spell, Absence)
            label = "agent away" if is_agent else "neighbours apart"
            long = (end if spell.ended is None else spell.ended) - spell.began
            ax.barh(y, max(long, least), 0.62 if is_agent else 0.26, left=spell.began,
                    color=AWAY if is_agent else APART, label=None if label in named else label, zorder=2)  # fmt: skip
            named.add(label)
    if told.in_pieces:
        ax.fill_between([], [], color=PIECES, label="network in pieces")
    if told.resumed:
        ax.plot([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="run resumed")
    more = f" ({len(rows) - MOST_ROWS} more are not shown)" if len(rows) > MOST_ROWS else ""
    finish(ax, f"Who was away{more}", "iteration", "agent or edge" if told.partings else "agent", grid="x")
    ax.set_yticks(range(len(shown)), [name for name, _ in shown])
    ax.set_ylim(max(len(shown), 2) - 0.4, -0.6)
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, fontsize=9, frameon=False, borderaxespad=0.2)


def _consensus(run: Run, ax: "Axes | None") -> bool:
    """Draw the consensus error; with no axes, say whether there is any."""
    told = run.consensus()
    is_there = bool(told) and not run.served and bool((told["disagreement"] > 0).any())
    if ax is not None:
        x, y = _in_order(told, "disagreement")
        shown = (y > 0) & np.isfinite(y)
        x, y = x[shown], y[shown]
        ax.plot(x, y, color=COLOURS[0], linewidth=1.6)
        ax.set_yscale("log")
        low, high = np.log10([y.min(), y.max()])
        ax.set_ylim(10.0 ** np.floor(low), 10.0 ** np.ceil(high + 1e-9))  # whole decades, so that each end has its mark
        ax.minorticks_off()
        finish(ax, f"{in_picture(str(run.fact('run')))}: consensus error", "", "mean $\\|w_k - w_c\\|^2$")
    return is_there


def _loss(run: Run, ax: "Axes | None") -> bool:
    """Draw the validation loss after the fewest inner steps; with no axes, say whether there is any."""
    told = run.metrics()
    steps = sorted((n.split("_")[1] for n in told if n.startswith("after_") and n.endswith("_mean")), key=int)
    if ax is not None:
        x, y = _in_order(told, f"after_{steps[0]}_mean")
        _, worst = _in_order(told, f"after_{steps[0]}_worst")
        ax.plot(x, y, color=COLOURS[2], linewidth=1.6, label="mean over agents")
        ax.fill_between(x, y, worst, color=COLOURS[2], alpha=0.18, linewidth=0, label="to the worst")
        finish(ax, f"Validation loss {steps_text(steps[0])}", "", "loss")
        ax.set_ylim(bottom=0)
    return bool(steps)


def _in_order(told: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A figure against iteration, in rising order: while somebody is away measurements may come late."""
    order = np.argsort(told["iteration"], kind="stable")
    return told["iteration"][order], told[name][order]
