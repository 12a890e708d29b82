"""What is said of a run in plain words: a line for an event, and the table it ends with."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Event,
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
from difnet.record.formatting import bytes_text, energy_text, number_text, printable, steps_text, time_text
from difnet.record.pieces import pieces_text

GOOD, WARNING, BAD = "#56b4e9", "bold yellow", "bold red"


def plain_line(event: Event) -> str | None:
    """One plain line about an event, for pipes and logs; None where there is nothing to say.

    Of the pulses, which come every second, one in ten is worth a line.

    >>> plain_line(NeighbourLost(7, 8, 312, 311, "silent for 3.0 s"))
    'agent 7 goes on without 8: silent for 3.0 s'
    """
    match event:
        case RunStarted():
            line = _started_text(event)
        case Note():
            line = event.text
        case Ready():
            line = f"ready after {time_text(event.seconds)}: {event.parameters} parameters, engine {event.engine}"
            line += "" if event.server is None else f", agent {event.server} serves"
        case Resumed():
            again = f", {event.redone} of them to be done again" if event.redone else ""
            line = f"resumed after iteration {event.iteration} of {event.iterations}{again}"
        case Pulse() if event.seconds % 10 < 1:
            loss = "" if event.training_loss is None else f"training loss {number_text(event.training_loss)}, "
            speed = f"{number_text(event.rounds_per_s)} rounds/s"
            line = f"iteration {event.iteration}: {loss}{speed}, {event.alive} agents"
        case Validated():
            after = ", ".join(f"{number_text(s.get('mean'))} {steps_text(n)}" for n, s in event.after.items())
            line = f"iteration {event.iteration}: loss {number_text(event.before.get('mean'))} before, {after}"
            if event.accuracy:
                rising = " → ".join(f"{a['mean']:.1%}" for a in event.accuracy.values())
                line += f"; accuracy {rising}"
            if len(event.distances) > 1:
                line += f"; consensus error {number_text(event.disagreement)}"
        case Tested():
            what = f"the {event.model} of iteration {event.iteration}"
            if event.agents:
                what = f"{event.agents} {event.model}, which differ,"
            line = f"tested {what} on {event.tasks} tasks: {_test_text(event)}"
        case NeighbourBack():
            line = f"agent {event.agent} is joined to {event.neighbour} again, from iteration {event.first} on"
        case AgentReturned():
            who = f"a new process is agent {event.agent}" if event.incarnation else f"agent {event.agent} is back"
            gap = "" if event.left_out is None else f", {event.left_out} left out"
            line = f"{who}: it goes on at iteration {event.iteration}{gap}, with {event.model}"
        case NeighbourLost():
            line = f"agent {event.agent} goes on without {event.neighbour}: {event.reason}"
        case Pieces():
            line = f"the network is {pieces_text(event.pieces)}{'' if len(event.pieces) > 1 else ' again'}"
        case AgentLost():
            last = event.log_tail.strip().rpartition("\n")[2]
            line = f"agent {event.agent} lost at iteration {event.iteration}: {event.status}{last and '; ' + last}"
        case RunEnded():
            reason = event.summary.get("reason")
            line = f"{event.state} after {time_text(event.summary.get('seconds'))}{f': {reason}' if reason else ''}"
        case _:
            return None
    return printable(line)


def _started_text(event: RunStarted) -> str:
    """What is about to run."""
    network = f"({event.edges} edges, mixing rate {number_text(event.mixing_rate)})"
    who = f"{event.agents} agents on {event.topology} {network}"
    if event.strategy == "centralised":
        who = f"one learner for all agents of {event.topology}"
    combine = "" if event.combine == "mean" else f", combine {event.combine}"
    return (f"{event.run}: {who}, {event.strategy} {event.algorithm} on {event.task}, {event.iterations} iterations"
            f"{combine}")  # fmt: skip


def _test_text(event: Tested) -> str:
    """The figures of a test before adaptation, after one inner step and after the most."""
    what, by_steps = ("accuracy", event.accuracy) if event.accuracy else ("loss", event.loss)
    shown = dict.fromkeys(n for n in ("0", "1", max(by_steps, key=int, default="0")) if n in by_steps)

    def figure(scores: Mapping[str, float | None], name: str) -> str:
        value = scores.get("micro", scores.get("mean")) if name == "mean" else scores.get(name)
        return f"{value:.1%}" if what == "accuracy" and value is not None else number_text(value)

    told = (figure(by_steps[n], "mean") for n in shown)
    if event.agents:  # who differ
        told = (f"{figure(by_steps[n], 'mean')} (worst {figure(by_steps[n], 'worst')})" for n in shown)
    return f"{what} " + ", ".join(f"{x} {'before' if n == '0' else steps_text(n)}"
                                  for n, x in zip(shown, told, strict=True))  # fmt: skip


def summary_table(summary: Mapping[str, Any]) -> RenderableType:
    """The table a command ends with: what the run reached, what it cost, and what to try next."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in _summary_rows(summary):
        table.add_row(name, Text(printable(value)))
    state = str(summary.get("state", "unknown"))
    name = printable(str(summary.get("run", "")))
    heading = Text.assemble((state, "bold green" if state == "done" else BAD), "  ", (name, "bold"))
    folder = printable(str(summary.get("folder") or summary.get("run") or "latest"))
    tries = [f"difnet report {folder}", f"difnet watch {folder}", f"difnet compare {folder} OTHER"]
    return Group(heading, table, Text("Next:", "dim"), *(Text(f"  {line}", GOOD, no_wrap=True) for line in tries))


def _summary_rows(summary: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    def statistics(values: Any) -> str:
        if not isinstance(values, Mapping):
            return number_text(values)
        return ", ".join(f"{name} {number_text(values.get(name))}" for name in ("mean", "median", "worst"))

    for measure in ("loss", "accuracy"):
        if values := summary.get(measure):
            yield f"{measure} before adaptation", statistics(values.get("before"))
            for steps, after in (values.get("after") or {}).items():
                yield f"{measure} {steps_text(steps)}", statistics(after)
    for model, test in (summary.get("test") or {}).items():
        yield f"test of the {model}", _test_text(Tested(model, **test))
    if summary.get("transductive"):
        yield "evaluation", "transductive: batch normalisation over the samples that are tested together"
    if target := summary.get("target"):
        when = f"at iteration {target.get('iteration')}" if target["reached"] else "not reached"
        yield "target", f"{target['asked']}: {when}"
    if summary.get("server"):
        server = summary["server"]
        yield "hub", f"{number_text(server['hub_share'])} of the time at work, {_rounds_text(server)}"
    else:
        yield "consensus error", number_text(summary.get("consensus_error"))
    sent = summary.get("bytes") or {}
    yield "sent", f"{bytes_text(sent.get('payload'))} payload, {bytes_text(sent.get('wire'))} on the wire"
    rounds, speed = summary.get("iterations"), number_text(summary.get("rounds_per_s"))
    yield "time", f"{time_text(summary.get('seconds'))} for {rounds} iterations, {speed} rounds/s"
    yield "memory", f"{number_text(summary.get('pss_mb_per_agent'))} MB per agent (PSS)"
    yield "energy", energy_text(summary.get("energy"))
    air = summary.get("communication") or {}
    uploads = f"for {air.get('uploads')} uploads"
    yield "modelled channel", f"{time_text(air.get('seconds'))}, {number_text(air.get('joules'))} J {uploads}"
    lost = summary.get("lost_agents") or []
    yield "lost agents", "none" if not lost else ", ".join(map(str, lost)) if isinstance(lost, list) else str(lost)
    if summary.get("lost_records") or summary.get("unwritten"):
        missing = ", ".join(["", *summary.get("unwritten", ())])
        yield "not on disk", f"{number_text(summary.get('lost_records'))} records{missing}"
    yield "folder", str(summary.get("folder") or "unknown")


def _rounds_text(server: Mapping[str, Any]) -> str:
    return (
        f"{number_text(server['per_round'])} of {server['clients']} clients per round, "
        f"{server['abandoned_rounds']} rounds abandoned, {server['late']} late answers"
    )
