"""Where a run's events go while a person waits, and the exit status it ends with."""

import json
from collections.abc import Callable
from typing import Any

import click

from difnet.screen.terminal import Screen, console

EXIT_STATUS = {"done": 0, "failed": 1, "SIGINT": 130, "SIGTERM": 143}
TARGET_MISSED = 4


def follow(run: Callable[[Any, Callable[[Any], None]], dict[str, Any]], words: dict[str, Any], config: Any) -> int:
    """Run something that emits events, show them, print its summary. Returns the exit status."""
    if words["print_config"]:
        click.echo(config.to_toml(), nl=False)
        return 0
    quiet, as_json = words["quiet"], words["as_json"]
    if quiet or as_json:
        summary = run(config, (lambda event: None) if quiet else print_line)
    else:
        with Screen(print_line) as screen:
            summary = run(config, screen.show)
    if as_json:
        click.echo(json.dumps(summary))
    elif not quiet:
        from difnet.screen.lines import summary_table

        console().print(summary_table(summary))
    if summary["state"] == "done" and summary["target"] and not summary["target"]["reached"]:
        click.echo(f"difnet: the run ended without reaching {summary['target']['asked']}", err=True)
        return TARGET_MISSED
    return EXIT_STATUS[summary["reason"] if summary["state"] == "stopped" else summary["state"]]


def print_line(event: Any, err: bool = True) -> None:
    """One plain line on stderr, or else stdout, for events that are worth one."""
    from difnet.screen.lines import plain_line

    if (line := plain_line(event)) is not None:
        click.echo(line, err=err)
