"""`difnet ps`: the runs that go on."""

import json

import click


@click.command(short_help="List the runs that go on on this machine.")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR",
              help="Where runs of other users may lie; your own are found anywhere.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(home: str, as_json: bool) -> None:
    """List the runs that go on on this machine: yours, whatever their --runs, and those of others in DIR.

    \b
    Examples:
      difnet ps
      difnet ps --json
    """
    from difnet.record.living import living
    from difnet.screen.terminal import print_table

    runs = living(home)
    if as_json:
        click.echo(json.dumps({"runs": [run._asdict() for run in runs]}))
    elif not runs:
        click.echo("no run goes on here", err=True)
    else:
        head = ["run", "user", "pid", "since", "agents", "iteration", "folder"]
        print_table(head, [[r.run, r.user, r.pid, r.since, "?" if r.agents is None else r.agents,
                            f"{r.iteration or 0}/{r.iterations or '?'}", r.folder] for r in runs])  # fmt: skip
