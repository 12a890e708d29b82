"""What do the tables of this process's own clients hold? Rows as float32, memory-mapped, and whose they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from difnet.data import Array, Indices, cells
from difnet.data.cache import Kept, Writer, kept
from difnet.data.schema import SCALED, Column, Schema, from_dict
from difnet.data.survey import Suggestion, suggest
from difnet.data.table_files import Cells, Found, TableFile, Where, client_name, find, open_table, pyarrow
from difnet.errors import DataError

READER, SURVEYOR = "own-tables 1", "own-survey 1"
MOST_NAMED, MOST_TOLD = 5, 20  # columns or classes in one line; lines of one kind
MOST_SHOWN = 60  # characters of a cell in an error
DIGITS = 2**-17  # of a number: float32 has 2^-24; a column that differs by less than this of its size keeps few digits


class ClientFacts(NamedTuple):
    """What may be told of one client: counts, and no value of a row."""

    rows: int
    targets: dict[str, int]  # class -> rows; {} for regression
    gaps: dict[str, int]  # column -> cells
    constant: list[str]  # columns that are the same in all its rows; the target too
    left_out: int  # rows without a target


@dataclass(frozen=True)
class OwnTable:
    """The rows of all clients. Columns are those of `schema.used`, in that order; a gap is NaN, a category its number.

    Arrays are read only and memory-mapped: all processes of a host share one copy.
    """

    rows: Array  # (rows, columns), float32
    targets: Array  # (rows,), float32; of classes the number
    clients: Mapping[str, ClientFacts]  # by name, in the order of the names
    schema: Schema
    digest: str
    notes: list[str]
    _order: Array | None  # (rows,): rows client by client, where they lie mixed
    _first: Mapping[str, int]

    def rows_of(self, client: str) -> Indices:
        """The numbers of one client's rows, in the order in which they stand in its file."""
        places = np.arange(self._first[client], self._first[client] + self.clients[client].rows)
        return places if self._order is None else np.asarray(self._order[places])

    def cautions(self) -> list[str]:
        """What may surprise whoever learns from these rows: by client, with counts and without any value of a row."""
        told = dict[str, list[str]]()
        for name, facts in self.clients.items():
            lacking = [word for word, n in facts.targets.items() if not n]
            if facts.left_out:
                told.setdefault("target", []).append(f"{name}: {facts.left_out} rows without a target are left out")
            if facts.gaps:
                cells_of = ", ".join(f"{n} of {column!r}" for column, n in sorted(facts.gaps.items())[:MOST_NAMED])
                more = f" and of {len(facts.gaps) - MOST_NAMED} more columns" if len(facts.gaps) > MOST_NAMED else ""
                told.setdefault("gaps", []).append(f"{name}: gaps in {facts.rows} rows: {cells_of}{more}")
            if self.schema.target.name in facts.constant:
                told.setdefault("constant", []).append(f"{name}: the target is the same in all {facts.rows} rows")
            elif lacking:
                told.setdefault("lacking", []).append(f"{name} has no row of {len(lacking)} of {len(facts.targets)} "
                                                      f"classes: {', '.join(map(repr, lacking[:MOST_NAMED]))}")
            if same := [column for column in facts.constant if column != self.schema.target.name]:
                told.setdefault("same", []).append(f"{name}: the same in all {facts.rows} rows: "
                                                   f"{', '.join(map(repr, same[:MOST_NAMED]))}")  # fmt: skip
        return [*self.notes, *(line for lines in told.values() for line in _few(lines))]


def _few(lines: list[str]) -> list[str]:
    """The first of many alike, and how many more there are."""
    more = len(lines) - MOST_TOLD
    return lines if more <= 0 else [*lines[:MOST_TOLD], f"{more} more clients, as the {MOST_TOLD} before"]


def schema_of(
    data: Where, target: str, *, client: str | None = None, kind: str | None = None,
    columns: Sequence[str] | None = None,
) -> Suggestion:  # fmt: skip
    """`survey.suggest`, whose answer is kept as long as the files do not change.

    Raises: as `table_files.find` and `survey.suggest`.
    """
    found = find(data)

    def look(writer: Writer) -> None:
        schema, notes = suggest(found, target, client=client, kind=kind, columns=columns)
        writer.facts = {"schema": schema.to_dict(), "notes": notes}

    options = {"target": target, "client": client, "kind": kind, "columns": columns, "beside": found.left_out}
    facts = kept(SURVEYOR, found.files, look, options, private=True).facts
    return Suggestion(from_dict(facts["schema"]), facts["notes"])


def read(
    data: Where, schema: Schema, *, client: str | None = None, columns: Sequence[str] | None = None
) -> OwnTable:
    """All rows of these tables by a schema. What was read once is kept as long as neither files nor schema change.

    Args: `data`, a folder with a table for each client, or tables; `client`, the column that says whose a row is, where
        it is not the file; `columns`, names for tables that begin without them.
    Raises: DataError, naming file, line and column, for what is not as the schema says; EnvironmentLacks without
        pyarrow, or if what is read cannot be kept.
    """
    found = find(data)

    def parse(writer: Writer) -> None:
        _Reading(schema, client, columns, writer).all(found)

    read_by = schema.to_dict()  # how numbers are scaled later changes nothing of what is read
    read_by.pop("scale")
    options = {"schema": read_by, "client": client, "columns": columns}
    entry = kept(READER, found.files, parse, options, private=True)
    return _opened(entry, schema, found)


def _opened(entry: Kept, schema: Schema, found: Found) -> OwnTable:
    clients = {name: ClientFacts(*facts) for name, facts in entry.facts["clients"].items()}
    firsts = np.cumsum([0, *(facts.rows for facts in clients.values())]).tolist()
    notes = [f"{name} beside the tables is left out" for name in found.left_out]
    return OwnTable(entry.arrays["rows"], entry.arrays["targets"], clients, schema, entry.digest,
                    notes + entry.facts["notes"], entry.arrays.get("order"),
                    dict(zip(clients, firsts, strict=False)))  # fmt: skip


class _Counts:
    """What is counted of one client while its rows come by."""

    def __init__(self, columns: int, classes: int) -> None:
        self.rows, self.left_out = 0, 0
        self.targets, self.gaps = np.zeros(classes, np.int64), np.zeros(columns, np.int64)
        self.low, self.high = np.full(columns + 1, np.inf), np.full(columns + 1, -np.inf)

    def add(self, values: Array, targets: Array) -> None:
        """Rows (n, columns) and their targets (n,), both float64."""
        self.rows += len(values)
        self.gaps += np.isnan(values).sum(0)
        if len(self.targets):
            self.targets += np.bincount(targets.astype(np.int64), minlength=len(self.targets))
        both = np.column_stack([values, targets])
        self.low = np.fmin(self.low, np.fmin.reduce(both, axis=0, initial=np.inf))
        self.high = np.fmax(self.high, np.fmax.reduce(both, axis=0, initial=-np.inf))


class _Reading:
    """One reading of all files by a schema."""

    def __init__(self, schema: Schema, client: str | None, columns: Sequence[str] | None, writer: Writer) -> None:
        self._schema, self._client, self._columns, self._writer = schema, client, columns, writer
        self._counts: dict[str, _Counts] = {}
        self._owners: list[Array] = []  # of each piece of rows, which client's they are, where a column says it
        self._beside: set[str] = set()

    def all(self, found: Found) -> None:
        """Read every file, or raise."""
        schema = self._schema
        wanted = [*(column.name for column in schema.used), schema.target.name]
        wanted += [self._client] if self._client and self._client not in wanted else []
        for path in found.files:
            table = open_table(path, self._columns)
            made_up = " (its first line holds no names)" if table.made_up else ""
            table.lacks(wanted, f", which the schema has{made_up}")
            known = {*wanted, *(column.name for column in schema.columns)}
            self._beside |= {name for name in table.names if name not in known}
            if not self._client:
                self._owner(client_name(path))
            for batch in table.batches(wanted):
                self._take(table, batch)
            if not self._client:
                self._refuse_empty(table, self._counts[client_name(path)])
        self._finish()

    def _owner(self, name: str) -> _Counts:
        if name not in self._counts:
            classes = len(self._schema.target.classes)
            self._counts[name] = _Counts(len(self._schema.used), classes)
        return self._counts[name]

    def _take(self, table: TableFile, batch: Cells) -> None:
        values, targets = values_of(table, batch, self._schema), targets_of(table, batch, self._schema)
        there = ~np.isnan(targets)
        if self._client:
            owners, names = self._owners_of(table, batch)
            for number, name in enumerate(names):
                counts, its = self._owner(name), owners == number
                counts.left_out += int((its & ~there).sum())
                counts.add(values[its & there], targets[its & there])
            places = {name: n for n, name in enumerate(self._counts)}
            self._owners.append(np.array([places[name] for name in names], np.int32)[owners[there]])
        else:
            counts = self._owner(client_name(table.path))
            counts.left_out += int((~there).sum())
            counts.add(values[there], targets[there])
        self._writer.add("rows", values[there].astype(np.float32))
        self._writer.add("targets", targets[there].astype(np.float32))

    def _owners_of(self, table: TableFile, batch: Cells) -> tuple[Array, list[str]]:
        """Which of the clients named here each row is of."""
        assert self._client
        text = cells.without_gaps(batch.columns[self._client])
        if not pyarrow().types.is_string(text.type):
            text = cells.as_words(text)
        if text.null_count:
            row = int(batch.rows[text.is_null().index(True).as_py()])
            raise table.wrong(row, self._client, "is empty, so the row is nobody's; name its client, or take it out")
        coded = text.dictionary_encode()
        return coded.indices.to_numpy(zero_copy_only=False), coded.dictionary.to_pylist()

    def _refuse_empty(self, table: TableFile, counts: _Counts) -> None:
        if not counts.rows:
            raise DataError(f"{table.path}: none of its {counts.left_out} rows has a target "
                            f"{self._schema.target.name!r}. Take the file away, or fill the target in.")  # fmt: skip
        for column, gaps in zip(self._schema.used, counts.gaps, strict=True):
            if gaps == counts.rows and not column.gaps:
                raise DataError(f"{table.path}, column {column.name!r}: holds gaps alone, and the schema says nothing "
                                f"of gaps. Fill it in, or say gaps = true or kind = \"ignored\" there.")  # fmt: skip

    def _finish(self) -> None:
        names, columns = sorted(self._counts), [column.name for column in self._schema.used]
        if self._client:
            order = {name: n for n, name in enumerate(names)}
            ranks = np.array([order[name] for name in self._counts], np.int32)
            owners = np.concatenate(self._owners)
            self._writer.add("order", np.argsort(ranks[owners], kind="stable"))
        classes = self._schema.target.classes
        told, notes = {}, [f"column {name!r} is not in the schema, and not read" for name in sorted(self._beside)]
        for name in names:
            c = self._counts[name]
            constant = [column for column, low, high in zip([*columns, self._schema.target.name], c.low, c.high,
                                                            strict=True) if low == high]  # fmt: skip
            told[name] = ClientFacts(c.rows, dict(zip(classes, c.targets.tolist(), strict=True)),
                                     {column: int(n) for column, n in zip(columns, c.gaps, strict=True) if n},
                                     constant, c.left_out)  # fmt: skip
            for column, low, high in zip(self._schema.used, c.low, c.high, strict=False):
                if column.kind in ("number", "date") and 0 < high - low < DIGITS * max(abs(low), abs(high)):
                    notes.append(f"{name}: the values of {column.name!r} differ by less than a hundred-thousandth of "
                                 f"their size, and seven digits are kept; subtract something from them")  # fmt: skip
        self._writer.facts = {"clients": told, "notes": notes}


def values_of(table: TableFile, batch: Cells, schema: Schema, *, shown: bool = False) -> Array:
    """The cells of a piece of a table as numbers, float64 (n, columns), in the order of `schema.used`; NaN for gaps.

    Args: `shown`, whether an error may say what stands in a cell: where it goes to nobody but the owner.
    Raises: DataError for the first cell that is not as the schema says.
    """
    return np.column_stack([_values(table, batch, column, "categories", shown) for column in schema.used])


def targets_of(table: TableFile, batch: Cells, schema: Schema, *, shown: bool = False) -> Array:
    """The targets likewise, float64 (n,); of classes the number."""
    target = schema.target
    goal = Column(target.name, "category" if target.classes else "number", target.classes)
    return _values(table, batch, goal, "classes", shown)


def _values(table: TableFile, batch: Cells, column: Column, words: str, shown: bool) -> Array:
    try:
        text = cells.without_gaps(batch.columns[column.name], column.categories)
        if column.kind == "category":
            return cells.codes(text, column.categories, words)
        if column.kind == "number":
            return cells.numbers(text, table.decimal)
        return cells.flags(text) if column.kind == "flag" else cells.dates(text)
    except cells.Wrong as wrong:
        cell = f"{str(batch.columns[column.name][wrong.row])[:MOST_SHOWN]!r} " if shown else ""
        raise table.wrong(int(batch.rows[wrong.row]), column.name, cell + wrong.what) from None


def constants(table: OwnTable) -> Schema:
    """The schema with the mean and the standard deviation of all these rows as constants of every number.

    They are figures of these rows: who is shown them knows them.
    """

    def of(part: Any, values: Any) -> Any:
        values = np.asarray(values, np.float64)
        values = values[~np.isnan(values)]
        spread = float(values.std()) if len(values) else 0.0
        return replace(part, center=float(values.mean()) if len(values) else 0.0, scale=spread or 1.0)

    schema, places = table.schema, {column.name: n for n, column in enumerate(table.schema.used)}
    columns = tuple(of(column, table.rows[:, places[column.name]]) if column.kind in SCALED else column
                    for column in schema.columns)  # fmt: skip
    target = of(schema.target, table.targets) if schema.target.kind == "regression" else schema.target
    return replace(schema, columns=columns, target=target, scale="constants")
