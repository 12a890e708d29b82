"""`difnet export compose`: a run as a docker-compose file."""

from pathlib import Path
from typing import Any

import click

from difnet.cli import options


@click.command()
@click.argument("ready_made", required=False, metavar="[NAME]")
@options.of_a_run
@click.option("--agents-per-host", type=int, metavar="N", help="In each container.  [1; 20 for more than 50 agents]")
@click.option("--profile", "profiles", multiple=True, metavar="NAME",
              help="A ready-made run that the file offers too, under its name; can be given again.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Where to.  [stdout]")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def command(ready_made: str | None, profiles: tuple[str, ...], output: Path | None, force: bool, **given: Any) -> None:
    """Write a run as a docker-compose file: a container per agent, one for the launcher, and one for the report page.

    NAME is a ready-made run in launch/; the other words are those of `difnet launch`. The image is called difnet, or
    $DIFNET_IMAGE. How to build, run and watch it: docs/containers.md.

    \b
    Examples:
      difnet export compose --topology "cycle_graph(n=5)"
      difnet export compose star5 --iterations 100 -o star5.yml
      difnet export compose --topology ring6 --profile paper6 --profile star5 -o docker-compose.yml
      difnet export compose --topology "cycle_graph(n=200)" --agents-per-host 50 | docker-compose -f - config
    """
    import os

    from difnet.places import _compose_file as composing

    nothing_more: dict[str, Any] = {"config": None, "settings": ()}
    main = composing.network(options.read(given, ready_made))
    others = {name: composing.network(options.read(dict(nothing_more), name)) for name in profiles}
    beside = output.parent if output else Path.cwd()
    text = composing.exported(main, others, os.environ.get("DIFNET_IMAGE") or composing.IMAGE, beside)
    if output is None:
        click.echo(text, nl=False)
        return
    from difnet.after_training.export import refuse_existing, write_whole

    refuse_existing([output], force)
    write_whole(output, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    click.echo(output)
