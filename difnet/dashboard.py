"""Events -> screen: `update` folds one event into a View, `render` draws the View as lines of text; both are pure.

Nothing here knows a terminal, a clock or a file, so the screen of a run is tested as text.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from difnet.events import (
    AgentLost,
    Event,
    Measured,
    NeighbourLost,
    Note,
    Pulse,
    Ready,
    RunEnded,
    RunStarted,
    Validated,
)
from difnet.readable import BARS, bytes_text, energy_text, figure, log_chart, promised, sparkline, steps_text, time_text

NOTES_KEPT = 50
WIDE = 116  # columns from which the losses stand beside the curve
NEAR_TO_FAR = ("#3b6fb6", "#5b9bd5", "#8fc1e3", "#b8bcc2", "#e6c07b", "#e5983c", "#d66a1f", "#b84a00")
GOOD, WARNING, BAD = "#56b4e9", "bold yellow", "bold red"


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# Events -> View


class View(NamedTuple):
    """What the screen knows: the latest event of each kind, the curve so far, and who is in trouble."""

    started: RunStarted | None = None
    ready: Ready | None = None
    pulse: Pulse | None = None
    validated: Validated | None = None
    history: tuple[Validated, ...] = ()  # without the distances: only the latest are shown
    measured: Measured | None = None
    curve: tuple[tuple[float, float], ...] = ()  # (iteration, consensus error) where it is above zero
    bereft: frozenset[int] = frozenset()  # agents that go on without a neighbour
    lost: frozenset[int] = frozenset()  # agents whose process is gone
    notes: tuple[tuple[str, str], ...] = ()  # (style, text), the newest last
    ended: RunEnded | None = None


def update(view: View, event: Event) -> View:
    """The view after one more event; events that no screen shows leave it as it is.

    >>> update(View(), Note("37/40 agents ready")).notes
    (('', '37/40 agents ready'),)
    """
    match event:
        case RunStarted():
            return View(started=event, notes=view.notes)
        case Ready():
            return _note(view._replace(ready=event), "", event)
        case Note():
            return _note(view, "", event)
        case Pulse():
            return view._replace(pulse=event)
        case Measured():
            point = ((float(event.iteration), event.disagreement),) if event.disagreement else ()
            view = view._replace(measured=event, curve=view.curve + point)
            if isinstance(event, Validated):
                view = view._replace(validated=event, history=(*view.history, replace(event, distances={})))
            return view
        case NeighbourLost():
            return _note(view._replace(bereft=view.bereft | {event.agent}), WARNING, event)
        case AgentLost():
            return _note(view._replace(lost=view.lost | {event.agent}), BAD, event)
        case RunEnded():
            return _note(view._replace(ended=event), "bold" if event.state == "done" else BAD, event)
    return view


def _note(view: View, style: str, event: Event) -> View:
    return view._replace(notes=(*view.notes, (style, plain_line(event) or ""))[-NOTES_KEPT:])


def plain_line(event: Event) -> str | None:
    """One plain line about an event, for pipes and logs; None where there is nothing to say.

    Of the pulses, which come every second, one in ten is worth a line.

    >>> plain_line(NeighbourLost(7, 8, 312, 311, "silent for 3.0 s"))
    'agent 7 goes on without 8: silent for 3.0 s'
    """
    match event:
        case RunStarted():
            line = (
                f"{event.run}: {event.agents} agents on {event.topology} ({event.edges} edges, mixing rate "
                f"{figure(event.mixing_rate)}), {event.strategy} {event.algorithm} on {event.task}, "
                f"{event.iterations} iterations"
            )
        case Note():
            line = event.text
        case Ready():
            line = f"ready after {time_text(event.seconds)}: {event.parameters} parameters, engine {event.engine}"
        case Pulse() if event.seconds % 10 < 1:
            loss = "" if event.training_loss is None else f"training loss {figure(event.training_loss)}, "
            line = f"iteration {event.iteration}: {loss}{figure(event.rounds_per_s)} rounds/s, {event.alive} agents"
        case Validated():
            after = ", ".join(f"{figure(s.get('mean'))} {steps_text(n)}" for n, s in event.after.items())
            line = (
                f"iteration {event.iteration}: loss {figure(event.before.get('mean'))} before, {after}; "
                f"consensus error {figure(event.disagreement)}"
            )
        case NeighbourLost():
            line = f"agent {event.agent} goes on without {event.neighbour}: {event.reason}"
        case AgentLost():
            last = event.log_tail.strip().rpartition("\n")[2]
            line = f"agent {event.agent} lost at iteration {event.iteration}: {event.status}{last and '; ' + last}"
        case RunEnded():
            reason = event.summary.get("reason")
            line = f"{event.state} after {time_text(event.summary.get('seconds'))}{f': {reason}' if reason else ''}"
        case _:
            return None
    return _printable(line)


# View -> screen


def render(view: View, width: int, height: int) -> RenderableType:
    """The whole screen: at most `height` lines, none wider than `width` columns."""
    head = [_title(view), _progress(view, width)]
    agents = _agents(view, width, max(2, height // 7))
    figures = [*_losses(view, width), _rule("network", width), *_counters(view, width)]
    theory = [Text(f"  {line}", "dim") for line in theory_lines(view.started)]
    if width >= WIDE:
        side = width * 2 // 5
        figures = [*_losses(view, side), Text(), _rule("network", side), *_counters(view, side)]
        rows = height - len(head) - len(theory) - len(agents)
        chart_rows = max(min(rows - 8, 26), len(figures))
        left = _consensus(view, width - side - 2, chart_rows)
        body = [*_beside(left, figures, width - side - 2), *theory]
    else:
        rows = height - len(head) - len(theory) - len(agents) - len(figures)
        body = [*_consensus(view, width, rows - (3 if rows > 8 else 1)), *theory, *figures]
    lines = [*head, *body, *agents]
    lines += _notes(view, height - len(lines))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return Group(*lines[:height])


def _title(view: View) -> Text:
    if not (s := view.started):
        return Text("difnet: waiting for the run to start", "bold")
    return Text.assemble(
        (_printable(s.run), "bold"), "  ",
        _printable(f"{s.topology} · {s.agents} agents · {s.strategy} {s.algorithm} · {s.task}"),
    )  # fmt: skip


def _iteration(view: View) -> int:
    latest = max((e.iteration for e in (view.pulse, view.validated) if e), default=0)
    done = view.ended.summary.get("iterations") if view.ended else None
    return done or latest


def _progress(view: View, width: int) -> Text:
    total, now = (view.started.iterations if view.started else 0), _iteration(view)
    if view.ended:
        style = GOOD if view.ended.state == "done" else BAD
        told = f" {now}/{total}  {view.ended.state} in {time_text(view.ended.summary.get('seconds'))}"
    elif not view.ready:
        return Text(f"starting: {view.notes[-1][1]}" if view.notes else "starting", GOOD)
    else:
        speed = view.pulse.rounds_per_s if view.pulse else 0
        left = f"{time_text((total - now) / speed)} left" if speed else "no round yet"
        style, told = GOOD, f" {now}/{total}  {now / max(total, 1):.0%}  {left}"
    room = max(width - len(told), 0)
    filled = round(room * min(now / max(total, 1), 1))
    return Text.assemble(("━" * filled, style), ("─" * (room - filled), "dim"), told)


def _rule(title: str, width: int, right: str = "") -> Text:
    return Text.assemble((title, "bold"), (" " + "─" * max(width - len(title) - len(right) - 2, 0) + " ", "dim"), right)


def theory_lines(started: RunStarted | None) -> list[str]:
    """What Theorem 1 of the Dif-MAML paper promises for this network, in at most two lines."""
    if started is None or started.mixing_rate is None:
        return []
    rate = started.mixing_rate
    if started.strategy == "noncooperative" or rate >= 1 - 1e-12:
        return ["theory: nothing mixes here, so nothing makes the agents agree"]
    if rate < 1e-9:
        return ["theory: mixing rate λ₂ 0: one exchange and all agents are the same"]
    factor = (started.outer_lr * rate / (1 - rate)) ** 2
    return [
        f"theory: λ₂ {rate:.4f}: it falls by at least {100 * (1 - rate**2):.2g} % per iteration, down to",
        f"the gradients' own floor, ∝ outer_lr² λ₂²/(1-λ₂)² = {factor:.2g} (Theorem 1)",
    ]


def _consensus(view: View, width: int, height: int) -> list[Text]:
    """Heading, curve and axis: `height` lines."""
    curve, now = view.curve, view.measured
    heading = _rule("consensus error", width, f"mean ‖w_k − centroid‖² {figure(now.disagreement)}" if now else "")
    if height < 4:
        return [heading]
    if not curve:
        waiting = "  all agents are still the same" if now else "  not measured yet"
        return [heading, Text(waiting, "dim"), *(Text() for _ in range(height - 2))]
    total = float(view.started.iterations if view.started else curve[-1][0])
    rate = view.started.mixing_rate if view.started else None
    return [heading, *log_chart(curve, promised(curve, rate), max(total, curve[-1][0], 1), width, height - 1, GOOD)]


def _losses(view: View, width: int) -> list[Text]:
    name = 23
    lines = [Text.assemble((f"{'validation loss':<{name}}", "bold"), (f"{'mean':>9} {'worst':>9}", "dim"))]
    if not (v := view.validated):
        return [*lines, Text("  no validation yet", "dim")]
    rows: list[tuple[str, Callable[[Validated], Mapping[str, float]]]] = [("before adaptation", lambda e: e.before)]
    rows += [(steps_text(n), lambda e, n=n: e.after.get(n, {})) for n in v.after]  # type: ignore[misc]
    for label, of in rows:
        means = [of(e).get("mean") for e in view.history]
        line = Text(f"  {label:<{name - 2}}{figure(of(v).get('mean')):>9} {figure(of(v).get('worst')):>9}  ")
        lines.append(line.append(sparkline(means, min(width - name - 22, 60)), GOOD))
    return lines


def _counters(view: View, width: int) -> list[Text]:
    if not (p := view.pulse):
        return [Text("  no round yet", "dim")]
    total = view.started.agents if view.started else p.alive
    memory = "memory unknown" if p.pss_mb is None else f"{p.pss_mb:.3g} MB/agent (PSS)"
    facts = [
        Text(f"{p.rounds_per_s:.3g} rounds/s", "bold"),
        Text(f"{p.alive}/{total} alive", BAD if p.alive < total and not view.ended else ""),
        Text(memory),
        Text(f"{bytes_text(p.payload_bytes)} payload"),
        Text(f"{p.missed} missed", WARNING if p.missed else ""),
    ]
    lines = [Text("  ")]
    for fact in facts:
        if len(lines[-1]) > 2 and len(lines[-1]) + len(fact) + 3 > width:
            lines.append(Text("  "))
        lines[-1].append(" · " if len(lines[-1]) > 2 else "").append_text(fact)
    return lines


def _agents(view: View, width: int, rows: int) -> list[Text]:
    """A cell per agent: bar and colour tell its squared distance from the centroid, as a multiple of the median."""
    count = view.started.agents if view.started else 0
    if not count:
        return []
    distances = {int(k): d for k, d in (view.measured.distances if view.measured else {}).items()}
    middle = median(distances.values()) if distances else 0.0
    label = len(str(count - 1)) + 1
    wide = next((w for w in (label + 2, 2, 1) if count <= rows * (width // w)), 1)
    share = math.ceil(count / (rows * (width // wide)))  # agents a cell stands for
    lines = [Text()]
    for first in range(0, count, share):
        if len(lines[-1]) + wide > width:
            lines.append(Text())
        group = range(first, min(first + share, count))
        lines[-1].append(f"{first:>{label}}" if wide > 2 else "", "dim")
        lines[-1].append_text(_cell(view, group, distances, middle)).append(" " if wide > 1 else "")
    legend = Text.assemble(
        *((BARS[i], NEAR_TO_FAR[i]) for i in range(8)), (" 1/10…10 × median distance²  ", "dim"),
        ("!", WARNING), (" lost a neighbour ", "dim"), ("x", BAD), (" lost", "dim"),
    )  # fmt: skip
    name = "agents" if share == 1 else f"agents, {share} to a cell"
    return [_rule(name, width - len(legend)).append_text(legend), *lines]


def _cell(view: View, agents: Iterable[int], distances: Mapping[int, float], middle: float) -> Text:
    """The cell of one agent, or of several by the one that is worst off."""
    agents = list(agents)
    if view.lost.intersection(agents):
        return Text("x", BAD)
    if view.bereft.intersection(agents):
        return Text("!", WARNING)
    known = [d for k in agents if (d := distances.get(k)) is not None and math.isfinite(d)]
    if not known:
        return Text("·", "dim")
    ratio = max(known) / middle if middle > 0 else 1.0
    level = round(3.5 + 3.5 * math.log10(ratio)) if ratio > 0 else 0
    level = max(0, min(level, 7))
    return Text(BARS[level], NEAR_TO_FAR[level])


def _notes(view: View, rows: int) -> list[Text]:
    shown = view.notes[-rows:] if rows > 0 else ()
    return [Text.assemble(("› ", "dim"), (text, style)) for style, text in shown]


def _beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    lines = []
    for i in range(max(len(left), len(right))):
        line = Text().append_text(left[i] if i < len(left) else Text())  # so that left's own style ends with it
        line.truncate(width, overflow="ellipsis", pad=True)
        lines.append(line.append("  ").append_text(right[i] if i < len(right) else Text()))
    return lines


# The end


def summary_table(summary: Mapping[str, Any]) -> RenderableType:
    """The table a command ends with: what the run reached, what it cost, and what to try next."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in _summary_rows(summary):
        table.add_row(name, Text(_printable(value)))
    state = str(summary.get("state", "unknown"))
    name = _printable(str(summary.get("run", "")))
    heading = Text.assemble((state, "bold green" if state == "done" else BAD), "  ", (name, "bold"))
    folder = _printable(str(summary.get("folder") or summary.get("run") or "latest"))
    tries = [f"difnet report {folder}", f"difnet watch {folder}", f"difnet compare {folder} OTHER"]
    return Group(heading, table, Text("Next:", "dim"), *(Text(f"  {line}", GOOD, no_wrap=True) for line in tries))


def _summary_rows(summary: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    def statistics(values: Any) -> str:
        if not isinstance(values, Mapping):
            return figure(values)
        return ", ".join(f"{name} {figure(values.get(name))}" for name in ("mean", "median", "worst"))

    for measure in ("loss", "accuracy"):
        if values := summary.get(measure):
            yield f"{measure} before adaptation", statistics(values.get("before"))
            for steps, after in (values.get("after") or {}).items():
                yield f"{measure} {steps_text(steps)}", statistics(after)
    yield "consensus error", figure(summary.get("consensus_error"))
    sent = summary.get("bytes") or {}
    yield "sent", f"{bytes_text(sent.get('payload'))} payload, {bytes_text(sent.get('wire'))} on the wire"
    rounds, speed = summary.get("iterations"), figure(summary.get("rounds_per_s"))
    yield "time", f"{time_text(summary.get('seconds'))} for {rounds} iterations, {speed} rounds/s"
    yield "memory", f"{figure(summary.get('pss_mb_per_agent'))} MB per agent (PSS)"
    yield "energy", energy_text(summary.get("energy"))
    lost = summary.get("lost_agents") or []
    yield "lost agents", "none" if not lost else ", ".join(map(str, lost)) if isinstance(lost, list) else str(lost)
    yield "folder", str(summary.get("folder") or "unknown")
