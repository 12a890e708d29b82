"""`difnet report`: run folders -> curves, tables and one HTML page."""

from pathlib import Path

import click


@click.command(short_help="Draw the curves of one or several runs and write one HTML page.")
@click.argument("names", nargs=-1, metavar="RUN...")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Where to write; by default RUN/report, for several runs ./report.")  # fmt: skip
@click.option("--target", "asked", multiple=True, metavar="WHAT=VALUE",
              help="Tell what it cost to reach it: accuracy=0.74, or loss@1=0.5 for that after 1 inner step. Can be "
                   "given twice. By default the runs' own target, or one that all reached.")  # fmt: skip
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("--json", "as_json", is_flag=True, help="The written files as one JSON document.")
def command(names: tuple[str, ...], output: Path | None, asked: tuple[str, ...], home: str, as_json: bool) -> None:
    """Draw the curves of one or several runs and write report.html, report.md, summary.csv, clients.csv (the scores of
    every test task or client) and the pictures.

    RUN is a folder, a name, its beginning, or "latest" (the default). Runs that differ only in their seed are told as
    mean ± standard deviation. The page needs no other file and no network; its path is printed.

    \b
    Examples:
      difnet report
      difnet report latest -o page
      difnet report runs/*_ring40_* -o curves
      difnet report runs/*_star10_* --target accuracy=0.74
    """
    import json

    from difnet import report, runs
    from difnet.costs import Target

    targets = [Target.parse(text) for text in asked]
    folders = [runs.resolve(name, home) for name in names or ("latest",)]
    loaded = [runs.load(folder) for folder in dict.fromkeys(folders)]
    place = output or (loaded[0].folder / "report" if len(loaded) == 1 else Path("report"))
    page = report.write(loaded, place, targets)
    if as_json:
        files = sorted(str(path) for path in page.parent.iterdir() if path.suffix in (".html", ".md", ".csv", ".png"))
        click.echo(json.dumps({"page": str(page), "files": files, "runs": [str(r.folder) for r in loaded]}))
    else:
        click.echo(page)
