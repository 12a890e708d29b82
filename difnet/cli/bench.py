"""`difnet bench`: run the measuring scripts of `bench/`, each in a process of its own, and show what they found."""

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from difnet.errors import ConfigError, DifnetError, EnvironmentLacks, did_you_mean

FULL_S, QUICK_S, GRACE_S = 3600.0, 600.0, 15.0


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "listing", is_flag=True, help="Name the measurements and stop.")
@click.option("--quick", is_flag=True, help="Fewer sizes and repetitions: a look, not a result.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.md",
              help="Write the tables there; a measurement's earlier table is replaced.")  # fmt: skip
def command(names: tuple[str, ...], listing: bool, quick: bool, as_json: bool, output: Path | None) -> None:
    """Measure this machine. Without NAME all measurements run, which takes about three quarters of an hour.

    Nothing else should run meanwhile; ratios are taken in one run, in turn, and survive a noisy machine best.

    \b
    Examples:
      difnet bench --list
      difnet bench gradients --quick
      difnet bench rounds communication -o docs/benchmarks.md
    """
    known = measurements(scripts_folder())
    if listing:
        for name, question in known.items():
            click.echo(f"{name:<15}{question}")
        return
    for name in names:
        if name not in known:
            raise ConfigError(f"no measurement {name!r}{did_you_mean(name, known) or '.'} Known: {', '.join(known)}.")
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"cannot write {output}: there is no folder {output.parent}")
    documents = []
    for name in dict.fromkeys(names or known):
        click.echo(f"{name}: {known[name]}", err=True)
        documents.append(measure(name, quick))
        if output is not None:
            write(output, documents[-1])
            click.echo(f"wrote {name} to {output}", err=True)
        elif not as_json:
            show(documents[-1])
    if as_json:
        click.echo(json.dumps(documents))


def scripts_folder() -> Path:
    """The folder of the measuring scripts.

    Raises: EnvironmentLacks, where there is none: an installed package leaves them out.
    """
    folder = Path(__file__).parents[2] / "bench"
    if not (folder / "figures.py").exists():
        raise EnvironmentLacks("difnet bench runs the scripts in bench/, which an installed package does not carry; "
                               "clone the repository and run `pip install -e .` there")  # fmt: skip
    return folder


def measurements(folder: Path) -> dict[str, str]:
    """Name -> question: a script whose first line is a question is a measurement."""
    firsts = {path.stem: (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")[0]
              for path in sorted(folder.glob("*.py"))}  # fmt: skip
    return {name: first for name, first in firsts.items() if first.endswith("?")}


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Run one measurement; what it says meanwhile goes to stderr. Returns its document.

    Raises: DifnetError, if it fails or is not done in time; whatever happens, its whole process group is ended.
    """
    words = [sys.executable, str(scripts_folder() / f"{name}.py"), "--json", *(["--quick"] if quick else [])]
    paths = [str(scripts_folder().parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DIFNET_BENCH_PARENT": str(os.getpid())}
    timeout_s = QUICK_S if quick else FULL_S
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, text=True,
                               start_new_session=True)  # fmt: skip
    try:
        out, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise DifnetError(f"measurement {name} was not done in {timeout_s:.0f} s; it was ended") from None
    finally:
        _end_group(process)
    if process.returncode != 0:
        raise DifnetError(f"measurement {name} failed with exit status {process.returncode}; its last words are above")
    return json.loads(out)


def _end_group(process: subprocess.Popen) -> None:
    """Ask a process and its group to end, then end them."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def show(document: dict[str, Any]) -> None:
    """Print a measurement as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, emoji=False, markup=False)
    for header, *lines in tables(document):
        table = Table(header_style="bold")
        for n, name in enumerate(header):
            table.add_column(name, justify="right" if n else "left")
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for line in [*document["notes"], caption(document)]:
        console.print(line)


def write(path: Path, document: dict[str, Any]) -> None:
    """Put a measurement's tables into a Markdown file, in place of its earlier ones or at the end."""
    begin, end = (f"<!-- {edge} of {document['name']} -->" for edge in ("begin", "end"))
    text = path.read_text("utf-8") if path.exists() else "# Benchmarks\n"
    before, found, after = text.partition(begin)
    after = after.partition(end)[2] if found else "\n"
    block = f"{begin}\n{markdown(document)}{end}"
    path.write_text(f"{before}{'' if found else chr(10)}{block}{after}", "utf-8")


def markdown(document: dict[str, Any]) -> str:
    """A measurement as Markdown."""
    lines = [f"## {document['question']}", ""]
    for header, *body in tables(document):
        lines += [_line(header), _line(["---", *["---:"] * (len(header) - 1)]), *map(_line, body), ""]
    return "\n".join([*lines, *document["notes"], "", f"*{caption(document)}*", ""])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def tables(document: dict[str, Any]) -> Iterator[list[list[str]]]:
    """The table and the ratios of a measurement as lines of text, each with a header."""
    header = list(dict.fromkeys(column for row in document["rows"] for column in row))
    yield [header, *([cell(row.get(column, "")) for column in header] for row in document["rows"])]
    if document["ratios"]:
        yield [["ratio, in pairs", "times"], *([name, cell(value)] for name, value in document["ratios"].items())]


def cell(value: Any) -> str:
    """One figure as text.

    >>> cell({"median": 1234.5, "min": 1200.0, "max": 1300.0, "runs": 3}), cell(0.5), cell("ring")
    ('1234 [1200–1300]', '0.500', 'ring')
    """
    if isinstance(value, dict):
        spread = f" [{number(value['min'])}–{number(value['max'])}]" if value["runs"] > 1 else ""
        return number(value["median"]) + spread
    return number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """Three digits that matter, and never a power of ten."""
    size = abs(value)
    return (
        f"{value:.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 1
        else f"{value:.3f}"
    )


def caption(document: dict[str, Any]) -> str:
    """When, where and how a measurement was taken."""
    m = document["machine"]
    quick = ", quick: a look and not a result" if document["quick"] else ""
    return (f"Median [least–most]; {m['date']}, {m['cores']} cores ({m['processor']}), Python {m['python']}, "
            f"torch {m['torch']}, libzmq {m['libzmq']}, seed {document['seed']}, "
            f"load before {m['load_before']}{quick}.")  # fmt: skip
