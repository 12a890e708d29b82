"""`difnet simulate`: all agents in one process."""

from functools import partial
from typing import Any

import click

from difnet.cli import following, options


@click.command()
@click.argument("ready_made", required=False, metavar="[NAME]")
@options.shared
@options.DATA
@click.option("--simulator", help="exact (the bits of launch) or batched (faster; many agents, GPU).  [exact]")
def command(ready_made: str | None, **given: Any) -> int:
    """Run the recursion of a whole network in one process, with the same words as launch.

    The exact simulator ends in the same bits as launch with the same seed on the same machine. The batched one maps one
    kernel over many agents and differs in the last bits; it goes to ten thousand agents, and to a GPU.

    \b
    Examples:
      difnet simulate --topology ring40
      difnet simulate --topology ring40 --simulator batched --iterations 5000
      difnet simulate --topology paper6 --strategy centralised --json
    """
    shown = {name: given.pop(name) for name in ("print_config", "as_json", "quiet")}
    data = given.pop("data")
    config = options.read(given, ready_made, data)
    from difnet.runtime.simulation import simulate

    return following.follow(partial(simulate, data=data), shown, config)
