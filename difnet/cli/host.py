"""`difnet host`: fork and supervise the agents of one host."""

from typing import Any

import click

from difnet.cli import options

REGISTRY = click.option("--registry", envvar="DIFNET_REGISTRY", show_envvar=True, required=True, metavar="ENDPOINT",
                        help="Where the registry listens, e.g. tcp://10.0.0.1:5600.")  # fmt: skip
TOKEN = click.option("--token", envvar="DIFNET_TOKEN", show_envvar=True, required=True,
                     help="The run's secret; on a machine that others use too, set the variable instead.")  # fmt: skip
ADVERTISE = click.option("--advertise", envvar="DIFNET_ADVERTISE", show_envvar=True, metavar="NAME",
                         help="The name or address by which other hosts reach this one.  "
                              "[the one it has towards the registry]")  # fmt: skip
RUN = click.option("--run-id", "run", envvar="DIFNET_RUN_ID", show_envvar=True, metavar="NAME",
                   help="Take part in this run only.  [whichever the registry serves]")  # fmt: skip
PATIENCE = click.option("--patience", "patience_s", type=click.FloatRange(min=0), default=60.0, show_default=True,
                        metavar="SECONDS", help="How long to wait for a registry that is not there yet.")  # fmt: skip


def contract(command: Any) -> Any:
    """Give a command the words that say where it takes part, and with which data."""
    for word in (options.DATA, PATIENCE, RUN, ADVERTISE, TOKEN, REGISTRY):
        command = word(command)
    return command


@click.command()
@click.option("--agents", envvar="DIFNET_AGENTS", show_envvar=True, required=True, metavar="WHICH",
              help="0-19, or 3,5,8.")  # fmt: skip
@contract
@click.option("--bound-to", type=int, hidden=True, help="The launcher's process on this machine: end with it.")
def command(agents: str, **told: Any) -> int:
    """Fork and supervise the agents of one host: on another machine than the launcher's, or in a container.

    It waits for the registry, asks it what to run, and ends when the run is over or its launcher is gone. Exit status:
    0 all agents ended well; 1 one did not; 2 refused; 3 the registry was not reached, or the machine lacks something;
    143 stopped.

    \b
    Examples:
      difnet host --agents 0-19 --registry tcp://10.0.0.1:5600 --token $DIFNET_TOKEN
      DIFNET_TOKEN=… DIFNET_AGENTS=3 DIFNET_REGISTRY=tcp://dashboard:5600 difnet host --advertise agent-3
    """
    from difnet.places import parse_agents
    from difnet.runtime.host import HostSettings, run_host

    return run_host(HostSettings(parse_agents(agents), **told))
