"""`difnet agent`: one agent in the foreground."""

import os

import click


@click.command()
@click.argument("agent", type=click.IntRange(min=0))
@click.option("--registry", required=True, help="Where the registry listens, e.g. tcp://10.0.0.1:5600.")
@click.option("--listen", default="tcp://127.0.0.1:*", show_default=True, help="Where this agent listens.")
def command(agent: int, registry: str, listen: str) -> int:
    """Be one agent in the foreground, as a container or a pod is. The run's token is read from DIFNET_TOKEN.

    \b
    Examples:
      DIFNET_TOKEN=… difnet agent 3 --registry tcp://127.0.0.1:5600
    """
    from difnet.host import run_foreground

    return run_foreground(agent, registry, os.environ.get("DIFNET_TOKEN", ""), listen)
