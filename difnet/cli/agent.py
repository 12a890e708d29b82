"""`difnet agent`: one agent in the foreground."""

from typing import Any

import click

from difnet.cli.host import contract


@click.command()
@click.argument("agent", type=click.IntRange(min=0))
@contract
def command(agent: int, **told: Any) -> int:
    """Be one agent in the foreground, under a debugger or a profiler. Elsewhere `difnet host` looks after its agents.

    \b
    Examples:
      difnet agent 3 --registry tcp://127.0.0.1:5600 --token $DIFNET_TOKEN
    """
    from difnet.runtime.host import HostSettings, run_foreground

    return run_foreground(HostSettings([agent], **told))
