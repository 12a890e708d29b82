"""`difnet report`: run folders -> curves, tables and one HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from difnet.record.costs import Target


@click.command(short_help="Draw the curves of one or several runs and write one HTML page.")
@click.argument("names", nargs=-1, metavar="RUN...")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Where to write; by default RUN/report, for several runs ./report.")  # fmt: skip
@click.option("--target", "asked", multiple=True, metavar="WHAT=VALUE",
              help="Tell what it cost to reach it: accuracy=0.74, or loss@1=0.5 for that after 1 inner step. Can be "
                   "given twice. By default the runs' own target, or one that all reached.")  # fmt: skip
@click.option("--serve", "at", metavar="[HOST:]PORT",
              help="Serve the page, made again as the runs grow, until Ctrl-C; HOST is 127.0.0.1 unless told, and "
                   "port 0 any free one. Nothing is written.")  # fmt: skip
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("--json", "as_json", is_flag=True, help="The written files, or the address, as one JSON document.")
def command(
    names: tuple[str, ...], output: Path | None, asked: tuple[str, ...], at: str | None, home: str, as_json: bool
) -> None:
    """Draw the curves of one or several runs and write report.html, report.md, summary.csv, clients.csv (the scores of
    every test task or client) and the pictures.

    RUN is a folder, a name, its beginning, or "latest" (the default). Runs that differ only in their seed are told as
    mean ± standard deviation. Where agents were away the page says who, when, and what it did. It needs no other file
    and no network; its path is printed.

    With --serve the page's address is printed instead, and "latest" may have no run yet: the page waits for it, and
    goes on to every newer one. Asked to stop by Ctrl-C or SIGTERM, a server has done its work: exit status 0.

    \b
    Examples:
      difnet report
      difnet report latest -o page
      difnet report runs/*_ring40_* -o curves
      difnet report runs/*_star10_* --target accuracy=0.74
      difnet report latest --serve 8000
    """
    import json

    from difnet.record import finding
    from difnet.record.costs import Target
    from difnet.report import writing

    names, targets = names or ("latest",), [Target.parse(text) for text in asked]
    if at is not None:
        _serve(names, home, at, targets, output, as_json)
        return
    folders = [finding.resolve(name, home) for name in names]
    loaded = [finding.load(folder) for folder in dict.fromkeys(folders)]
    place = output or (loaded[0].folder / "report" if len(loaded) == 1 else Path("report"))
    page = writing.write(loaded, place, targets)
    if as_json:
        files = sorted(str(path) for path in page.parent.iterdir() if path.suffix in (".html", ".md", ".csv", ".png"))
        click.echo(json.dumps({"page": str(page), "files": files, "runs": [str(r.folder) for r in loaded]}))
    else:
        click.echo(page)


def _serve(
    names: tuple[str, ...], home: str, at: str, targets: "list[Target]", output: Path | None, as_json: bool
) -> None:
    import json

    from difnet.errors import ConfigError
    from difnet.report.web_server import serve

    if output is not None:
        raise ConfigError("--serve writes nothing, so --output has no meaning beside it; leave one of the two out")
    serve(names, home, at, targets, lambda url: click.echo(json.dumps({"address": url}) if as_json else url))
