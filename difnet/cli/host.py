"""`difnet host`: fork and supervise the agents of one host."""

import os

import click

from difnet.errors import ConfigError


@click.command()
@click.option("--agents", required=True, help="Which agents: 0-19, or 3,5,8.")
@click.option("--registry", required=True, help="Where the registry listens, e.g. tcp://10.0.0.1:5600.")
@click.option("--listen", default="tcp://127.0.0.1:*", show_default=True, help="Where agents listen.")
def command(agents: str, registry: str, listen: str) -> int:
    """Fork and supervise the agents of one host. The run's token is read from DIFNET_TOKEN.

    \b
    Examples:
      DIFNET_TOKEN=… difnet host --agents 0-19 --registry tcp://127.0.0.1:5600
    """
    from difnet.host import run_host

    return run_host(parse_agents(agents), registry, os.environ.get("DIFNET_TOKEN", ""), listen)


def parse_agents(text: str) -> list[int]:
    """Agent numbers from words such as "0-19" or "3,5,8".

    >>> parse_agents("0-2,7")
    [0, 1, 2, 7]
    """
    agents: list[int] = []
    try:
        for part in text.split(","):
            low, _, high = part.partition("-")
            agents += range(int(low), int(high or low) + 1)
    except ValueError as error:
        raise ConfigError(f"--agents {text!r} is no list of agents; try 0-19 or 3,5,8") from error
    return agents
