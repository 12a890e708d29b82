"""`difnet data describe`: what somebody's own tables hold, as a schema that can be edited, sent and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from difnet.data.own_tables import OwnTable
    from difnet.data.schema import Schema


@click.command()
@click.argument("data", nargs=-1, required=True, metavar="DATA…", type=click.Path(path_type=Path))
@click.option("--target", metavar="COLUMN", help="What is to be predicted.")
@click.option("--client", metavar="COLUMN", help="Whose a row is.  [a file is a client]")
@click.option("--kind", type=click.Choice(["classification", "regression"]), help="Of the target.  [as its cells are]")
@click.option("--columns", metavar="A,B,C", help="Names for tables that begin without them.  [x1, x2, …]")
@click.option("--constants", is_flag=True, help="Scale by the mean and spread of all rows: figures of your data.")
@click.option("--against", metavar="FILE", type=click.Path(path_type=Path), help="Read by this schema; do they fit?")
@click.option("--verbose", "-v", is_flag=True, help="Show rows, gaps and classes of every client on stderr.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def describe(
    data: tuple[Path, ...], target: str | None, client: str | None, kind: str | None, columns: str | None,
    constants: bool, against: Path | None, verbose: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the schema of your own tables as TOML on stdout; or merge the schemas that several owners have sent.

    DATA is a folder with one table (CSV, TSV, Parquet) for each client, one or more tables, or schemas (.toml). The
    schema holds names of columns, categories and classes, and no row. What was decided without being told is said on
    stderr. Exit status 3 for a table that cannot be read or does not fit.

    \b
    Examples:
      difnet data describe clients --target ill > schema.toml
      difnet data describe mine.csv more.csv --target y -v
      difnet data describe clients --against schema.toml
      difnet data describe schema.toml
    """
    from difnet.cli.data import waiting
    from difnet.data import own_tables
    from difnet.data import schema as schemas

    if any(path.suffix == ".toml" for path in data):
        _refuse_words(data, target or client or kind or columns or constants or against)
        _tell(schemas.merge({str(path): schemas.read(path) for path in data}), None, [], verbose, as_json)
        return
    names = [name.strip() for name in columns.split(",")] if columns else None
    with waiting():
        if against:
            suggested = own_tables.Suggestion(schemas.read(against), [])
            _same_target(target, suggested.schema)
        else:
            suggested = own_tables.schema_of(list(data), _named(target), client=client, kind=kind, columns=names)
        given, notes = suggested
        table = own_tables.read(list(data), given, client=client, columns=names)
    if constants:
        given = own_tables.constants(table)
        notes.append("center and scale are figures of these rows (mean and spread): whoever gets the schema knows them")
    _tell(given, table, notes, verbose, as_json)


def _refuse_words(data: tuple[Path, ...], others: object) -> None:
    from difnet.errors import ConfigError

    if others or not all(path.suffix == ".toml" for path in data):
        raise ConfigError("schemas (.toml) are merged as they are: give no tables beside them, and no --target, "
                          "--client, --kind, --columns, --constants or --against")  # fmt: skip


def _named(target: str | None) -> str:
    from difnet.errors import ConfigError

    if not target:
        raise ConfigError("no --target is given: which column is to be predicted?")
    return target


def _same_target(target: str | None, given: Schema) -> None:
    from difnet.errors import ConfigError

    if target and target != given.target.name:
        raise ConfigError(f"--target is {target!r}, and the schema's target is {given.target.name!r}; leave one away")


def _tell(schema: Schema, table: OwnTable | None, notes: list[str], verbose: bool, as_json: bool) -> None:
    """The schema on stdout, what is to be known of it on stderr."""
    from difnet.data.schema import to_toml
    from difnet.record.formatting import printable

    notes = notes + (table.cautions() if table else [])
    clients = {} if table is None else table.clients
    if as_json:
        rows = [{"client": name, **facts._asdict()} for name, facts in clients.items()]
        click.echo(json.dumps({"schema": schema.to_dict(), "inputs": schema.inputs, "clients": rows, "notes": notes},
                              indent=1))  # fmt: skip
        return
    click.echo(to_toml(schema), nl=False)
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)
    if clients:
        many = f"{len(clients)} client{'s' * (len(clients) != 1)}"
        click.echo(f"{many}, {sum(facts.rows for facts in clients.values())} rows, {len(schema.inputs)} "
                   f"input{'s' * (len(schema.inputs) != 1)}, {schema.outputs} output{'s' * (schema.outputs != 1)}",
                   err=True)  # fmt: skip
    if verbose and clients:
        lines = [["client", "rows", "gaps", *map(printable, schema.target.classes)]]
        lines += [[printable(name), *map(str, _figures(facts))] for name, facts in clients.items()]
        widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
        for line in lines:
            cells = [cell.rjust(width) if n else cell.ljust(width)
                     for n, (cell, width) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
            click.echo("  ".join(cells), err=True)


def _figures(facts: Any) -> list[int]:
    return [facts.rows, sum(facts.gaps.values()), *facts.targets.values()]
