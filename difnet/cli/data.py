"""`difnet data`: what data there is, whether it is whole, where to get it, and who has which part of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from difnet.cli.describe import describe
from difnet.screen.terminal import print_table

if TYPE_CHECKING:
    from difnet.data.checks import Verdict

LACKING = 3
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_data_dir = click.option("--data-dir", metavar="DIR",
                         help="Where data sets lie.  [$DIFNET_DATA, else ~/.local/share/difnet]")  # fmt: skip


@click.group()
def command() -> None:
    """List, check and fetch data sets, and show who has what.

    A data set is a folder of its name with the files as their owner publishes them.

    \b
    Examples:
      difnet data list
      difnet data show --task sinusoid --agents 6
    """


command.add_command(describe)


@command.command("list")
@_data_dir
@_json
def list_(data_dir: str | None, as_json: bool) -> None:
    """Name the data sets that difnet knows, and say which of them are here, by their checksums.

    \b
    Examples:
      difnet data list
      difnet data list --json
    """
    from difnet.data.checks import look, to_dict
    from difnet.data.home import home
    from difnet.data.sources import SOURCES

    base = home(data_dir)
    with waiting():
        seen = {name: look(source, base) for name, source in SOURCES.items()}
    if as_json:
        known = [{**to_dict(seen[s.name]), "title": s.title, "families": s.families, "owner": s.owner,
                  "licence": s.licence} for s in SOURCES.values()]  # fmt: skip
        click.echo(json.dumps({"home": str(base), "sets": known}, indent=1))
        return
    print_table(["name", "here", "task", "licence", "what it is"],
                [[s.name, seen[s.name].state, ", ".join(s.families), s.licence, s.title]
                 for s in SOURCES.values()])  # fmt: skip
    click.echo(f"looked for in {base}; `difnet data check` reads what is here", err=True)


@command.command()
@click.argument("place", required=False, metavar="[DIR]")
@click.option("--only", multiple=True, metavar="NAME", help="This data set alone. Can be given more than once.")
@_data_dir
@_json
def check(place: str | None, only: tuple[str, ...], data_dir: str | None, as_json: bool) -> int:
    """Say whether the data sets in DIR are whole: files against their checksums, then read and counted.

    DIR has a folder for each of them, or is the folder of one.

    Exit status: 0 whole, or another version that reads well; 3 something is damaged, incomplete or not there.

    \b
    Examples:
      difnet data check --only mnist
      difnet data check --only mnist --only omniglot --json
    """
    from difnet.data.checks import check_all, to_dict
    from difnet.data.home import home
    from difnet.data.sources import SOURCES, source

    chosen = {name: source(name) for name in only} or SOURCES
    with waiting():
        verdicts = check_all(chosen, home(place or data_dir), asked=bool(only))
    if as_json:
        click.echo(json.dumps([to_dict(verdict) for verdict in verdicts], indent=1))
    else:
        print_table(["name", "state", "read"], [[v.name, v.state, v.found] for v in verdicts])
        for verdict in verdicts:
            _say_why(verdict)
    return 0 if all(verdict.good for verdict in verdicts) else LACKING


def _say_why(verdict: Verdict) -> None:
    if verdict.why:
        from difnet.record.formatting import harmless

        click.echo(f"{'warning: ' if verdict.good else ''}{verdict.name}: {harmless(verdict.why)}", err=True)


@command.command()
@click.argument("name")
@click.option("--dir", "--data-dir", "data_dir", metavar="DIR",
              help="Where data sets lie.  [$DIFNET_DATA, else ~/.local/share/difnet]")  # fmt: skip
@click.option("--deadline-s", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True,
              help="How long a server may be silent.")  # fmt: skip
def get(name: str, data_dir: str | None, deadline_s: float) -> None:
    """Fetch a data set from its owner's addresses, or say where to get it.

    What broke off is kept in NAME.part, and the same command goes on from there. A file gets its name when its checksum
    is right. Exit status 3 without a network, without room, or if what comes is not what it should be.

    \b
    Examples:
      difnet data get mnist
      difnet data get omniglot --dir ~/data
    """
    from difnet.data.fetch import fetch
    from difnet.data.home import home
    from difnet.data.sources import source

    wanted = source(name)
    click.echo(f"{wanted.title}. Owner: {wanted.owner}. Licence: {wanted.licence}.", err=True)
    place = home(data_dir) / wanted.name
    with waiting():
        came = fetch(wanted, place, deadline_s)
    for path in came:
        click.echo(path)
    if not came:
        click.echo(f"nothing to fetch: what can be fetched is in {place}", err=True)
    if wanted.how:
        click.echo(f"besides, {wanted.how}. The folder is {place}", err=True)
    click.echo(f"Next: difnet data check {home(data_dir)} --only {name}", err=True)


@command.command()
@click.argument("run", required=False, metavar="[RUN]")
@click.option("--task", help="A task family's name, or module:factory, in place of a run.")
@click.option("--agents", type=click.IntRange(min=1), default=10, show_default=True, help="With --task: how many.")
@click.option("--set", "settings", multiple=True, metavar="task.KEY=VALUE", help="With --task: its options.")
@_data_dir
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, writable=True), help="Draw it: .png, .svg or .pdf.")
@_json
def show(
    run: str | None, task: str | None, agents: int, settings: tuple[str, ...], data_dir: str | None, home: str,
    output: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Say which clients, samples and classes every agent has, and what is held out.

    RUN is a folder, a name, its beginning, or "latest" (the default); --task asks a task family instead. A bar is as
    high as the samples of a class beside those of this agent's largest.

    \b
    Examples:
      difnet data show --task sinusoid --agents 6
      difnet data show --task synthetic --agents 20 -o who.png
    """
    from difnet.errors import ConfigError
    from difnet.report.partition import agent_data, picture, rows

    if run and task:
        raise ConfigError(f"both a run ({run}) and --task {task}; give one of them")
    if output and Path(output).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"cannot draw to {output!r}: pictures end in .png, .svg or .pdf.")
    with waiting():
        title, manifest = _asked(task, agents, settings, data_dir) if task else _recorded(run or "latest", home)
    held = agent_data(manifest)
    if as_json:
        click.echo(json.dumps([holding._asdict() for holding in held], indent=1))
    else:
        print_table(*rows(held))
    if output:
        try:
            picture(held, f"Who has what: {title}").savefig(output, dpi=130)
        except OSError as error:
            raise ConfigError(f"cannot write {output}: {error.strerror}.") from error
        click.echo(f"wrote {output}", err=True)


def _asked(task: str, agents: int, settings: tuple[str, ...], data_dir: str | None) -> tuple[str, dict[str, Any]]:
    """The manifest of a task family that is made for it."""
    from difnet import config
    from difnet.errors import ConfigError
    from difnet.workload.building import make_family

    words = {"task": task} | ({"data_dir": data_dir} if data_dir else {})
    family = make_family(config.load(None, dict(map(config.parse_setting, settings)), words), agents)
    if not hasattr(family, "manifest"):
        raise ConfigError(f"task {task!r} does not tell who has what: it has no manifest(); see docs/data.md")
    return f"{task}, {agents} agents", family.manifest()


def _recorded(run: str, home: str) -> tuple[str, dict[str, Any]]:
    """The manifest that a run has kept."""
    from difnet.errors import RunFolderError
    from difnet.record import finding
    from difnet.system.texts import read_text

    folder = finding.resolve(run, home)
    path = folder / "partition.json"
    try:
        return folder.name, json.loads(read_text(path))
    except FileNotFoundError:
        raise RunFolderError(f"{folder} has no partition.json: its task does not tell who has what, or difnet was "
                             f"older; ask the task itself: difnet data show --task NAME") from None  # fmt: skip
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


@contextmanager
def waiting() -> Iterator[None]:
    """Within the block, what takes long is shown on stderr: a bar on a terminal, now and then a line on a pipe."""
    from difnet.system.progress import as_lines, progress_to

    if not sys.stderr.isatty():
        with progress_to(as_lines(lambda text: click.echo(text, err=True))):
            yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
               TimeRemainingColumn()]  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        one: dict[str, TaskID] = {}

        def hear(what: str, done: int, whole: int | None) -> None:
            if what not in one:
                for name in list(one):
                    bars.remove_task(one.pop(name))
                one[what] = bars.add_task(what, total=whole)
            bars.update(one[what], completed=done, total=whole)

        with progress_to(hear):
            yield
