"""`difnet stop`: end a run that goes on."""

import signal

import click


@click.command(short_help="Stop a run that goes on: everything is written.")
@click.argument("run")
@click.option("--now", is_flag=True, help="Do not wait for the end of an iteration, as two Ctrl-C.")
@click.option("--patience", default=60.0, show_default=True, type=click.FloatRange(min=0), metavar="SECONDS",
              help="Wait so long for its end.")  # fmt: skip
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
def command(run: str, now: bool, patience: float, home: str) -> int:
    """Ask the launcher of RUN to stop, as Ctrl-C does: agents end after the same iteration, everything is written.

    RUN is a folder, a name, its beginning, "latest", or the name of a run of yours that goes on elsewhere. Waits for
    the end, and says what became of it. Exit status: 0 it has ended; 1 it goes on, or ended without a summary; 2
    nothing goes on there.

    \b
    Examples:
      difnet stop latest
      difnet stop latest --now --patience 10
    """
    from difnet.record import finding
    from difnet.record.formatting import printable
    from difnet.record.living import resolve
    from difnet.system.holding import ask_to_end

    folder = resolve(run, home)
    asked = [signal.SIGINT, signal.SIGTERM] if now else [signal.SIGINT]  # two of one kind may count once
    if not ask_to_end(folder, asked, patience):
        harder = "wait longer with --patience SECONDS" if now else f"end it at once: difnet stop {folder} --now"
        click.echo(printable(f"{folder.name} was asked to stop, and goes on after {patience:g} s; {harder}"), err=True)
        return 1
    ended = finding.load(folder)
    if not ended.summary:
        click.echo(printable(f"{folder.name} ended without writing a summary; what it has recorded is in {folder}"))
        return 1
    at = f"{ended.summary.get('iterations') or 0} iterations"
    click.echo(printable(f"{folder.name}: {ended.state} after {at}; everything is in {folder}"))
    return 0
