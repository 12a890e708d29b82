"""`difnet predict`: what a fitted model says of the rows of a table."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Predict the rows of a table with a model that was fitted to one.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("table", metavar="FILE", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to.  [stdout]")
@click.option("--keep", metavar="A,B", help="Columns of FILE to go before what is predicted, such as id,name.")
@click.option("--keep-all", is_flag=True, help="All columns of FILE.")
@click.option("--columns", metavar="A,B,C", help="Names for a FILE that begins without them.  [x1, x2, …]")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--json", "as_json", is_flag=True, help="A JSON document a line, instead of CSV.")
def command(
    model: Path, table: Path, output: Path | None, keep: str | None, keep_all: bool, columns: str | None, force: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Predict every row of FILE with MODEL, a file that `difnet fit` wrote of a launch model of --task table.

    FILE is a table such as MODEL was fitted to (CSV, TSV, Parquet); it needs no target. Rows come out in their order:
    for classification the class, and the probability of each; for regression the value, in the target's own unit. What
    the model has not seen in its rows is said on stderr. Exit status 3 for a cell or a column that is not as the
    model's schema says: a word that is none of its categories, for example.

    \b
    Examples:
      difnet predict clinic.safetensors new-patients.csv
      difnet predict clinic.safetensors new-patients.csv --keep age,ward -o predicted.csv
      difnet predict clinic.safetensors new-patients.csv --keep-all --json
    """
    from difnet.after_training.export import refuse_existing, write_whole
    from difnet.after_training.prediction import predict
    from difnet.launch_models import read
    from difnet.record.formatting import printable

    if output is not None:
        refuse_existing([output], force)
    if keep and keep_all:
        raise click.UsageError("--keep and --keep-all are both given; give one of them")
    kept = None if keep_all else _words(keep)
    told = predict(read(model), table, kept, _words(columns) or None)
    text = "".join(_lines(told.columns)) if as_json else _table(told.columns)
    for caution in told.cautions:
        click.echo(f"caution: {printable(caution)}", err=True)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, lambda scratch: scratch.write_text(text, encoding="utf-8", newline=""))
        click.echo(f"wrote {output}", err=True)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in text.split(",")] if text else []


def _table(columns: dict[str, list[Any]]) -> str:
    from difnet.record.files import csv_text

    return csv_text([*columns], zip(*columns.values(), strict=True))


def _lines(columns: dict[str, list[Any]]) -> Iterable[str]:
    import json

    for row in zip(*columns.values(), strict=True):
        yield json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n"
