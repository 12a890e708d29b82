"""`difnet doctor`: what this machine has and lacks, one line each, with the remedy."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from difnet.errors import ConfigError, EnvironmentLacks

if TYPE_CHECKING:
    from difnet.doctor.finding import Finding


@click.command()
@click.option("--topology", metavar="WHERE", help="The network that is planned.  [ring40]")
@click.option("--agents", type=click.IntRange(min=1),
              help="How many of its agents run here; without --topology, a ring of so many.  [all]")  # fmt: skip
@click.option("--runs", default="runs", show_default=True, metavar="DIR", help="Where run folders go.")
@click.option("--data-dir", metavar="DIR", help="Where data sets lie.  [$DIFNET_DATA, else ~/.local/share/difnet]")
@click.option("--smoke", is_flag=True, help="Run two agents as well; the first time compiles for half a minute.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(
    topology: str | None, agents: int | None, runs: str, data_dir: str | None, smoke: bool, as_json: bool
) -> int:
    """Say what this machine has for a run, what it lacks, and what would help.

    Nothing is changed. Exit status: 0 nothing is in the way of a run, though there may be warnings; 3 something is.

    \b
    Examples:
      difnet doctor
      difnet doctor --agents 20 --smoke
      difnet doctor --topology star10 --json
    """
    try:
        from difnet.doctor import examination, finding
        from difnet.topology.networks import load
    except ImportError as error:
        raise EnvironmentLacks(f"difnet is not installed as a whole: {error}; install it again with pip") from error

    ring = f"{'cycle' if agents > 2 else 'path'}_graph(n={agents})" if agents else "ring40"
    planned = load(topology or ring)
    if agents is not None and agents > planned.agents:
        raise ConfigError(f"--agents {agents}, but {planned.name} has {planned.agents}; give at most so many")
    if smoke and not as_json:
        click.echo("running two agents …", err=True)
    findings = examination.examine(planned, agents or planned.agents, Path(runs), data_dir, smoke)
    state = finding.worst(findings.values())
    if as_json:
        checks = [{"name": name, **finding._asdict()} for name, finding in findings.items()]
        click.echo(json.dumps({"checks": checks, "state": state}))
    else:
        _show(findings)
    return EnvironmentLacks.exit_code if state == finding.FAIL else 0


def _show(findings: "dict[str, Finding]") -> None:
    """Columns and colours on a terminal, and one plain line each on a pipe; then what it comes to."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from difnet.screen.lines import BAD, GOOD, WARNING

    style = {"ok": GOOD, "warn": WARNING, "fail": BAD}
    if sys.stdout.isatty():
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for name, (state, seen, remedy) in findings.items():
            told = Text(seen) + Text(f"\n→ {remedy}" if remedy else "", style=style[state])
            table.add_row(Text(state, style=style[state]), Text(name, style="bold"), told)
        Console(highlight=False, emoji=False, markup=False).print(table, "")
    else:
        for name, (state, seen, remedy) in findings.items():
            click.echo(f"{state:<5} {name:<12} {seen}" + (f" -> {remedy}" if remedy else ""))
    click.echo(_verdict(findings))


def _verdict(findings: "dict[str, Finding]") -> str:
    """What it comes to, in a line."""
    failed, warned = ([name for name in findings if findings[name].state == state] for state in ("fail", "warn"))
    if failed:
        return f"In the way of a run: {', '.join(failed)}." + (f" See also: {', '.join(warned)}." if warned else "")
    return f"Nothing is in the way of a run; see to: {', '.join(warned)}." if warned else "All is well."
