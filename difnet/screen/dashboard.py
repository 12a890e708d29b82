"""Events -> screen: `update` folds one event into a View, `render` draws the View as lines of text; both are pure.

Nothing here knows a terminal, a clock or a file, so the screen of a run is tested as text.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from difnet.maths.theory import promised_decay
from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Event,
    Measured,
    NeighbourBack,
    NeighbourLost,
    Note,
    Pieces,
    Pulse,
    Ready,
    Resumed,
    RunEnded,
    RunStarted,
    Tested,
    Validated,
)
from difnet.record.formatting import bytes_text, number_text, printable, steps_text, time_text
from difnet.record.pieces import named
from difnet.screen.charts import BARS, log_chart, sparkline
from difnet.screen.lines import BAD, GOOD, WARNING, plain_line

NOTES_KEPT = 50
WIDE = 116  # columns from which the losses stand beside the curve
NEAR_TO_FAR = ("#3b6fb6", "#5b9bd5", "#8fc1e3", "#b8bcc2", "#e6c07b", "#e5983c", "#d66a1f", "#b84a00")
BY_PIECE = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00")  # again from the first after the last


# Events -> View


class View(NamedTuple):
    """What the screen knows: the latest event of each kind, the curve so far, and who is in trouble."""

    started: RunStarted | None = None
    ready: Ready | None = None
    pulse: Pulse | None = None
    validated: Validated | None = None
    history: tuple[Validated, ...] = ()  # without the distances: only the latest are shown
    measured: Measured | None = None
    curve: tuple[tuple[float, float], ...] = ()  # (iteration, consensus error, or with a server loss) above zero
    apart: frozenset[tuple[int, int]] = frozenset()  # (agent, the neighbour it goes on without)
    lost: frozenset[int] = frozenset()  # agents whose process is gone
    pieces: tuple[tuple[int, ...], ...] = ()  # into which the network has fallen, the biggest first; () while whole
    notes: tuple[tuple[str, str], ...] = ()  # (style, text), the newest last
    ended: RunEnded | None = None

    @property
    def server(self) -> int | None:
        """The hub that serves, if one does: then all agents hold its model, and there is no consensus to watch."""
        return self.ready.server if self.ready else None


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
        case Resumed():
            return _note(_resumed(view, event), "", event)
        case Pulse():
            return view._replace(pulse=event)
        case Measured():
            height = event.disagreement if view.server is None else _last_loss(event)
            point = ((float(event.iteration), height),) if height else ()
            view = view._replace(measured=event, curve=view.curve + point)
            if isinstance(event, Validated):
                view = view._replace(validated=event, history=(*view.history, replace(event, distances={})))
            return view
        case NeighbourLost():
            return _note(view._replace(apart=view.apart | {(event.agent, event.neighbour)}), WARNING, event)
        case NeighbourBack():
            return _note(view._replace(apart=view.apart - {(event.agent, event.neighbour)}), "", event)
        case AgentReturned():
            return _note(view._replace(lost=view.lost - {event.agent}), "", event)
        case AgentLost():
            return _note(view._replace(lost=view.lost | {event.agent}), BAD, event)
        case Pieces():
            fallen = tuple(map(tuple, event.pieces)) if len(event.pieces) > 1 else ()
            return _note(view._replace(pieces=fallen), WARNING if fallen else "", event)
        case Tested():
            return _note(view, "", event)
        case RunEnded():
            return _note(view._replace(ended=event), "bold" if event.state == "done" else BAD, event)
    return view


def _resumed(view: View, event: Resumed) -> View:
    """The view of a run that goes on after an iteration: without what is done again."""
    history = tuple(v for v in view.history if v.iteration < event.iteration)
    started = view.started and replace(view.started, iterations=event.iterations)
    return View(started=started, ready=view.ready, validated=history[-1] if history else None, history=history,
                curve=tuple(p for p in view.curve if p[0] < event.iteration), notes=view.notes)  # fmt: skip


def _last_loss(event: Measured) -> float | None:
    """The loss after the most inner steps, of a measurement at which it was validated."""
    return [*event.after.values()][-1]["mean"] if isinstance(event, Validated) and event.after else None


def _note(view: View, style: str, event: Event) -> View:
    return view._replace(notes=(*view.notes, (style, plain_line(event) or ""))[-NOTES_KEPT:])


# View -> screen


def render(view: View, width: int, height: int) -> RenderableType:
    """The whole screen: at most `height` lines, none wider than `width` columns."""
    head = [_title(view), _progress(view, width)]
    agents = _agents(view, width, max(2, height // 7))
    figures = [*_losses(view, width), _rule("network", width), *_counters(view, width)]
    theory = [Text(f"  {line}", "dim") for line in theory_lines(view.started, view.server)]
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
    how = s.strategy if view.server is None else "server and clients,"
    who = "one learner" if s.strategy == "centralised" else f"{s.agents} agents"
    return Text.assemble(
        (printable(s.run), "bold"), "  ",
        printable(f"{s.topology} · {who} · {how} {s.algorithm} · {s.task}"),
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


def theory_lines(started: RunStarted | None, server: int | None = None) -> list[str]:
    """What Theorem 1 of the Dif-MAML paper promises for this network, in at most two lines."""
    if server is not None:
        return [f"agent {server} serves: after each round its model is everybody's, so there is no consensus to reach"]
    if started is None or started.mixing_rate is None:
        return []
    rate = started.mixing_rate
    if started.combine != "mean":
        return [f"combined by {started.combine}, not by the combination matrix alone, whose theory is silent here"]
    if started.strategy == "centralised":
        return ["one learner has the tasks of all agents, so there is nobody to agree with"]
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
    if view.server is None:
        error = f"mean ‖w_k − centroid‖² {number_text(now.disagreement)}" if now else ""
        heading = _rule("consensus error", width, error)
    else:
        steps = steps_text([*view.validated.after][-1]) if view.validated else ""
        heading = _rule("validation loss", width, f"{steps} {number_text(curve[-1][1])}" if curve else "")
    if height < 4:
        return [heading]
    if not curve:
        waiting = "  all agents are still the same" if now else "  not measured yet"
        return [heading, Text(waiting, "dim"), *(Text() for _ in range(height - 2))]
    total = float(view.started.iterations if view.started else curve[-1][0])
    rate = view.started.promised_rate if view.started and view.server is None else None
    promise, end = promised_decay(curve, rate), max(total, curve[-1][0], 1)
    return [heading, *log_chart(curve, promise, end, width, height - 1, GOOD)]


def _losses(view: View, width: int) -> list[Text]:
    name = 23
    lines = [Text.assemble((f"{'validation loss':<{name}}", "bold"), (f"{'mean':>9} {'worst':>9}", "dim"))]
    if not (v := view.validated):
        return [*lines, Text("  no validation yet", "dim")]
    rows: list[tuple[str, Callable[[Validated], Mapping[str, float]]]] = [("before adaptation", lambda e: e.before)]
    rows += [(steps_text(n), lambda e, n=n: e.after.get(n, {})) for n in v.after]  # type: ignore[misc]
    for label, of in rows:
        means = [of(e).get("mean") for e in view.history]
        line = Text(f"  {label:<{name - 2}}{number_text(of(v).get('mean')):>9} {number_text(of(v).get('worst')):>9}  ")
        lines.append(line.append(sparkline(means, min(width - name - 22, 60)), GOOD))
    if v.accuracy:
        rising = " → ".join(f"{a['mean']:.1%}" for a in v.accuracy.values())
        lines.append(Text(f"  accuracy before, {', '.join(v.after)} steps: {rising}"))
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
    lines, marks = [Text()], _marks(view)
    for first in range(0, count, share):
        if len(lines[-1]) + wide > width:
            lines.append(Text())
        group = range(first, min(first + share, count))
        mark = marks.get(first) if share == 1 else None
        lines[-1].append(f"{first:>{label}}" if wide > 2 else "", mark or "dim")
        cell = _cell(view, group, distances, middle)
        if mark and wide <= 2 and first not in view.lost:  # there is no number to bear it
            cell.stylize(mark)
        lines[-1].append_text(cell).append(" " if wide > 1 else "")
    told = ([(BARS[i], NEAR_TO_FAR[i]) for i in range(8)] + [(" 1/10…10 × median distance²  ", "dim")]
            if view.server is None else [("◆", GOOD), (" hub ", "dim"), ("●", GOOD), (" client  ", "dim")])  # fmt: skip
    legend = Text.assemble(
        *told,
        ("!", WARNING), (" lost a neighbour ", "dim"), ("x", BAD), (" lost", "dim"),
    )  # fmt: skip
    name = "agents" if share == 1 else f"agents, {share} to a cell"
    return [_rule(name, width - len(legend)).append_text(legend), *_pieces(view), *lines]


def _pieces(view: View) -> list[Text]:
    """The line that says who is in which piece, each in the colour of its agents' numbers; none while it is whole."""
    if not view.pieces:
        return []
    line = Text(f"  in {len(view.pieces)} pieces: ", WARNING)
    for n, words in enumerate(named(view.pieces)):
        style = WARNING if words.startswith("alone") else BY_PIECE[n % len(BY_PIECE)]
        line.append(" | " if n else "", "dim").append(words, style)
    return [line]


def _marks(view: View) -> dict[int, str]:
    """Agent -> the colour of its piece; who is alone has that of a warning."""
    return {k: BY_PIECE[n % len(BY_PIECE)] if len(piece) > 1 else WARNING
            for n, piece in enumerate(view.pieces) for k in piece}  # fmt: skip


def _cell(view: View, agents: Iterable[int], distances: Mapping[int, float], middle: float) -> Text:
    """The cell of one agent, or of several by the one that is worst off."""
    agents = list(agents)
    if view.lost.intersection(agents):
        return Text("x", BAD)
    if {k for k, _ in view.apart}.intersection(agents):
        return Text("!", WARNING)
    if view.server is not None:
        return Text("◆" if view.server in agents else "●", GOOD)
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
