"""`difnet watch`: a run's events -> the dashboard, for as long as the run goes on."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from difnet.cli import following
from difnet.record.formatting import harmless
from difnet.screen import terminal

if TYPE_CHECKING:
    from difnet.record.events import Event, RunEnded


class Silent(Exception):
    """The run stopped writing without having ended."""


@click.command(short_help="Show the dashboard of a running or finished run.")
@click.argument("run", default="latest")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("--patience", default=60.0, show_default=True, type=click.FloatRange(min=0), metavar="SECONDS",
              help="Give up on a run that has written nothing for so long.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The events as JSON lines.")
@click.pass_context
def command(ctx: click.Context, run: str, home: str, patience: float, as_json: bool) -> None:
    """Show the dashboard of RUN, running or finished: a folder, a name, its beginning, or "latest".

    On a terminal it is drawn live, on a pipe there is one plain line per event; leaving with Ctrl-C leaves the run
    alone. Ends with the run: exit status 1 if the run failed, or if it fell silent.

    \b
    Examples:
      difnet watch
      difnet watch runs/2026-11-20_14-00-22_ring40_dif-maml_s0
      difnet watch latest --json
    """
    from difnet.record import finding

    folder = finding.resolve(run, home)
    try:
        if as_json:
            ended = _print_json(folder, patience)
        elif (folder / "run.json").is_file():
            ended = _show_finished(folder)
        else:
            with terminal.Screen(partial(following.print_line, err=False)) as shown:
                for event in _patient(folder, patience):
                    shown.show(event)
                    if shown.failure:
                        raise shown.failure
            ended = shown.view.ended
    except Silent as silence:
        click.echo(f"difnet: {harmless(str(silence))}", err=True)
        ctx.exit(1)
    except KeyboardInterrupt:
        click.echo(f"difnet: stopped watching; the run goes on. Again: difnet watch {harmless(str(folder))}", err=True)
        ctx.exit(130)
    if ended and not as_json:
        from difnet.screen.lines import summary_table

        terminal.console().print(summary_table(ended.summary))
    if ended and ended.state == "failed":
        ctx.exit(1)


def _patient(folder: Path, patience: float) -> "Iterator[Event | None]":
    """The run's events, until it ends or has been silent for `patience` seconds; raises Silent then."""
    from difnet.record import finding
    from difnet.record.formatting import time_text

    path = folder / "events.jsonl"
    last = time.monotonic() - (max(time.time() - path.stat().st_mtime, 0) if path.is_file() else 0)
    caught_up = False
    for event in finding.follow(folder, poll_s=min(0.25, patience / 2)):
        yield event
        if event is None:
            caught_up = True
            if (silent := time.monotonic() - last) > patience:
                raise Silent(
                    f"{folder.name} has written nothing for {time_text(silent)} and has not ended: its launcher is "
                    f"gone or stuck. Look into {folder}/agents/*/log.txt; wait longer with --patience SECONDS."
                )
        elif caught_up:
            last = time.monotonic()


def _show_finished(folder: Path) -> "RunEnded":
    from difnet.record import finding
    from difnet.record.events import RunEnded
    from difnet.screen.dashboard import View, render, update

    run, view = finding.load(folder), View()
    for event in run.events:
        view = update(view, event)
    ended = view.ended or RunEnded(run.state, run.summary)
    console = terminal.console()
    console.print(render(view._replace(ended=ended), console.width, max(min(console.height - 1, 40), 20)))
    return ended


def _print_json(folder: Path, patience: float) -> "RunEnded | None":
    from difnet.record.events import RunEnded

    for event in _patient(folder, patience):
        if event is not None:
            click.echo(json.dumps(event.to_dict()))
        if isinstance(event, RunEnded):
            return event
    return None
