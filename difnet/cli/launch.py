"""`difnet launch`: a network of agent processes."""

from functools import partial
from typing import Any

import click

from difnet.cli import following, options


@click.command()
@click.argument("ready_made", required=False, metavar="[NAME]")
@options.shared
@options.DATA
@click.option("--place", help="Where hosts run: local, expected, compose, or a plug-in's.  [local]")
@click.option("--hosts-expected", type=int, metavar="N", help="Wait for N hosts that you start: place expected.")
@click.option("--agents-per-host", type=int, metavar="N", help="In each container.  [1, for up to 50 agents]")
@click.option("--registry", metavar="ENDPOINT", help="Where to listen for hosts.  [tcp://0.0.0.0:5600 if expected]")
@click.option("--dry-run", is_flag=True, help="Print what would be started where, and stop.")
@click.option("--transport", help="ipc or tcp between the agents of this machine.  [ipc]")
@click.option("--on-failure", help="When an agent dies: restart it, continue without it, or stop.  [restart]")
@click.option("--checkpoint-every", type=int, metavar="N", help="Iterations; 0: never.  [once a minute]")
@click.option("--max-lost", type=int, help="So many lost agents still count as success.  [0]")
@click.option("--quorum", type=int, metavar="N", help="End when fewer agents are together for return_s.  [never]")
def command(ready_made: str | None, **given: Any) -> int:
    """Run a network of agents, each an operating-system process, that learn one launch model together.

    NAME is a ready-made run in launch/. What is not given keeps its [default]. On a star, an algorithm such as
    fedmeta or fedavg makes the hub a server and the others its clients. Exit status: 0 done; 1 agents were lost or the
    run diverged; 2 wrong usage; 3 the machine lacks something, also room for a file of the run; 4 done, but --target
    was not reached; 130, 143 and 129 stopped by Ctrl-C, SIGTERM and a terminal that closed, everything written.

    \b
    Examples:
      difnet launch --topology ring40
      difnet launch --topology "cycle_graph(n=6)" --iterations 300 --json
      difnet launch paper6 --seed 1
      difnet launch --topology ring6 --set algorithm.inner=reptile --optimizer sgd --outer-lr 0.1
      difnet launch --topology complete10 --combine trim:1
      difnet launch --topology star10 --algorithm fedmeta --set algorithm.inner=meta-sgd --set server.clients=4
      difnet launch --topology star10 --algorithm fedavg --task synthetic --target accuracy=0.6
      difnet launch --topology ring6 --iterations 300 --checkpoint-every 100
      difnet launch --topology ring6 --on-failure continue --max-lost 2 --quorum 4
      difnet launch --topology ring40 --hosts-expected 3 --dry-run
    """
    shown = {name: given.pop(name) for name in ("print_config", "as_json", "quiet")}
    dry = given.pop("dry_run")
    data = given.pop("data")
    config = options.read(given, ready_made, data)
    from difnet.runtime.launcher import launch, plan

    if dry:
        click.echo(plan(config))
        return 0
    return following.follow(partial(launch, data=data), shown, config)
