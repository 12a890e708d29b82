"""`difnet logs`: what agents printed."""

import click


@click.command(short_help="Print what the agents of a run printed.")
@click.argument("run")
@click.argument("agent", required=False, type=click.IntRange(min=0))
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until the run ends.")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
def command(run: str, agent: int | None, follow: bool, home: str) -> None:
    """Print what AGENT of RUN printed; without AGENT what all printed, each line behind the agent's number.

    RUN is a folder, a name, its beginning, or "latest". Escape sequences are left out; agents/KKK/log.txt of the run
    has them.

    \b
    Examples:
      difnet logs latest
      difnet logs latest 0 -f
    """
    from difnet.record.formatting import harmless
    from difnet.record.living import printed, resolve

    folder, anything = resolve(run, home), False
    for k, line in printed(folder, agent, follow):
        anything = True
        click.echo(harmless(line) if agent is not None else f"{k:03d} {harmless(line)}")
    if not anything:
        who = "any agent" if agent is None else f"agent {agent}"
        click.echo(f"nothing was printed by {who} of {harmless(folder.name)}", err=True)
