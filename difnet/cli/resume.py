"""`difnet resume`: a run that had ended, or was killed, goes on."""

from pathlib import Path
from typing import Any

import click

from difnet.cli import following, options


@click.command()
@click.argument("run")
@click.option("--iterations", type=int, metavar="N", help="Do so many in all, more than it was to do.  [as before]")
@click.option("--from", "first", type=int, metavar="N",
              help="Go on after iteration N, 0 for all anew.  [the newest that all have]")  # fmt: skip
@click.option("--place", help="Where hosts run from now on.  [as before]")
@click.option("--hosts-expected", type=int, metavar="N", help="Wait for N hosts that you start: place expected.")
@click.option("--registry", metavar="ENDPOINT", help="Where to listen for hosts.  [as before]")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@options.DATA
@options.shown
def command(run: str, first: int | None, home: str, data: Path | None, **given: Any) -> int:
    """Have RUN go on where every agent has a checkpoint: it ends in the bits of a run that nothing ever stopped.

    If only its launcher was killed, and hosts that you started still live (place expected), nothing is done again:
    they are listened to, as they go on.

    RUN is a folder, a name, its beginning, or "latest": of a run that was killed, stopped or failed, or that is to do
    more iterations. Checkpoints lie in its folder, or on each host that cannot see that, in $DIFNET_CHECKPOINTS or the
    user's state folder. Asynchronous rounds go on too, and learn as well, though not in the same bits. Exit status as
    of launch; 2 if it cannot go on, and then its folder is as it was.

    \b
    Examples:
      difnet resume latest
      difnet resume latest --iterations 2000
    """
    from difnet.record import finding, past
    from difnet.runtime.launcher import resume

    shown = {name: given.pop(name) for name in ("print_config", "as_json", "quiet")}
    changes = {name: value for name, value in given.items() if value is not None}
    went_before = past.read(finding.resolve(run, home), changes)
    return following.follow(lambda told, listen: resume(told, listen, first, data), shown, went_before)
