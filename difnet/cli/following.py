"""Where a run's events go while a person waits, and the exit status it ends with."""

import errno
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from difnet.screen.outlet import Outlet
from difnet.screen.terminal import Screen, attempt, console

EXIT_STATUS = {"done": 0, "failed": 1, "SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143}
NOT_WRITTEN, TARGET_MISSED = 3, 4


def follow(run: Callable[[Any, Callable[[Any], None]], dict[str, Any]], words: dict[str, Any], config: Any) -> int:
    """Run something that emits events, show them, print its summary. Returns the exit status.

    A screen that cannot be written to any more ends no run, and one that takes nothing holds none up. A file that is
    missing from the run's folder makes the exit status another one than 0, and so does a summary that was asked for as
    JSON and cannot be delivered; that one is data, and waits for its reader.
    """
    if words["print_config"]:
        click.echo(getattr(config, "config", config).to_toml(), nl=False)
        return 0
    with Outlet() as outlet:
        return _follow(run, words["quiet"], words["as_json"], config, outlet)


def _follow(run: Callable[..., dict[str, Any]], quiet: bool, as_json: bool, config: Any, outlet: Outlet) -> int:
    def tell(event: Any) -> None:
        if not quiet:
            attempt(print_line, event)

    if quiet or as_json:
        summary = run(config, tell)
    else:
        with Screen(print_line, outlet.wait) as screen:
            summary = run(config, screen.show)
    failure = _print_summary(summary, as_json, outlet) if as_json or not quiet else None
    if failure:
        _complain(f"the summary could not be printed: {failure.strerror}; {summary['folder']}/run.json holds it")
    if missing := summary["unwritten"]:
        named = sorted(missing, key=lambda name: name.startswith("agents/"))
        more = f" and {len(named) - 4} more" if len(named) > 4 else ""
        _complain(f"the disk did not take {', '.join(named[:4])}{more}: {summary['folder']} is not complete")
    if summary["lost_records"]:
        _complain(f"the disk did not take {summary['lost_records']} records: the course of the run has gaps")
    if summary["state"] != "done":
        return EXIT_STATUS[summary["reason"] if summary["state"] == "stopped" else summary["state"]]
    if missing or (failure and as_json):
        return NOT_WRITTEN
    if summary["target"] and not summary["target"]["reached"]:
        _complain(f"the run ended without reaching {summary['target']['asked']}")
        return TARGET_MISSED
    return EXIT_STATUS["done"]


def _print_summary(summary: dict[str, Any], as_json: bool, outlet: Outlet) -> OSError | None:
    if as_json and sys.stdout is None:
        return OSError(errno.EBADF, "standard output is closed")
    if as_json:
        return attempt(outlet.deliver, json.dumps(summary))
    from difnet.screen.lines import summary_table

    failure = attempt(console().print, summary_table(summary))
    outlet.wait()
    return failure or outlet.failure()


def _complain(text: str) -> None:
    attempt(partial(click.echo, err=True), f"difnet: {text}")


def print_line(event: Any, err: bool = True) -> None:
    """One plain line on stderr, or else stdout, for events that are worth one."""
    from difnet.screen.lines import plain_line

    if (line := plain_line(event)) is not None:
        click.echo(line, err=err)
