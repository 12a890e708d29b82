"""Where a run's events go while a person waits: a live screen on a terminal, one plain line each on a pipe."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

EXIT_STATUS = {"done": 0, "failed": 1, "SIGINT": 130, "SIGTERM": 143}
TARGET_MISSED = 4
FRAME_S = 0.5


def follow(run: Callable[[Any, Callable[[Any], None]], dict[str, Any]], words: dict[str, Any], config: Any) -> int:
    """Run something that emits events, show them, print its summary. Returns the exit status."""
    if words["print_config"]:
        click.echo(config.to_toml(), nl=False)
        return 0
    quiet, as_json = words["quiet"], words["as_json"]
    if quiet or as_json:
        summary = run(config, (lambda event: None) if quiet else print_line)
    elif sys.stdout.isatty():
        summary = _live(run, config)
    else:
        summary = run(config, print_line)
    if as_json:
        click.echo(json.dumps(summary))
    elif not quiet:
        from rich.console import Console

        from difnet.plain import summary_table

        Console(highlight=False, emoji=False, markup=False).print(summary_table(summary))
    if summary["state"] == "done" and summary["target"] and not summary["target"]["reached"]:
        click.echo(f"difnet: the run ended without reaching {summary['target']['asked']}", err=True)
        return TARGET_MISSED
    return EXIT_STATUS[summary["reason"] if summary["state"] == "stopped" else summary["state"]]


def print_line(event: Any) -> None:
    """One plain line on stderr, for events that are worth one."""
    from difnet.plain import plain_line

    if (line := plain_line(event)) is not None:
        click.echo(line, err=True)


def _live(run: Callable[[Any, Callable[[Any], None]], dict[str, Any]], config: Any) -> dict[str, Any]:
    from rich.console import Console
    from rich.live import Live

    from difnet.dashboard import View, render, update

    console = Console(highlight=False, emoji=False, markup=False)
    view, drawn_at = View(), 0.0

    def show(event: Any) -> None:
        nonlocal view, drawn_at
        view = update(view, event)
        if time.monotonic() - drawn_at > FRAME_S or view.ended or not view.ready:
            live.update(render(view, console.width, console.height - 1), refresh=True)
            drawn_at = time.monotonic()

    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        return run(config, show)


def print_table(header: list[str] | None, rows: list[list[Any]]) -> None:
    """Columns on stdout; colour only where a terminal shows it, and whole lines where none does."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    table = Table(box=None, show_header=header is not None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, word in enumerate(header or [""] * len(rows[0])):
        numbers = bool(rows) and all(isinstance(row[place], int) for row in rows)
        table.add_column(word, style="bold" if place == 0 else "", justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    if not console.is_terminal:
        console.width = 200
    console.print(table)
