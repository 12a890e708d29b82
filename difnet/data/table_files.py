"""Which files hold somebody's own tables, and what stands in their cells? Text (CSV, TSV, ";", "|") and Parquet.

A file is read a piece at a time, so that memory stays bounded however big it is. Errors name the file, the line and the
column, and never what stands in a cell: they travel to whoever started the network.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from difnet.data import Indices
from difnet.data.utf8 import Utf8
from difnet.errors import DataError, EnvironmentLacks
from difnet.system.progress import report_progress

TEXT, PARQUET = (".csv", ".tsv", ".psv", ".txt"), (".parquet", ".pq")
GAPS = ("", "NA", "N/A", "n/a", "na", "NaN", "nan", "NAN", "null", "NULL", "Null", "?", "-")
SEPARATORS = ("\t", ";", "|", ",")  # in this order: a decimal comma is no separator where there is another one
PIECE, SAMPLE, SEEN_LINES = 2**20, 2**18, 200
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
DATE = re.compile(r"\d{4}[-/]\d\d?[-/]\d\d?([T ].*)?|\d\d?\.\d\d?\.\d{4}")


Where = str | Path | Sequence[str | Path]  # a folder, a table, or several of them


class Found(NamedTuple):
    """The files of a folder, in the order of their names."""

    files: list[Path]
    left_out: list[str]  # names of what lies beside them and is no table


class Cells(NamedTuple):
    """Some rows of a table: arrays of pyarrow, of text as it stands or (from Parquet alone) float64."""

    columns: dict[str, Any]
    rows: Indices  # (n,): which rows of the file, from 0 on
    texts: dict[str, Any] = {}  # noqa: RUF012 - columns as text as it stands, where somebody asks for them


def pyarrow() -> Any:
    """The library that reads tables, imported when one is read.

    Raises: EnvironmentLacks without it.
    """
    try:
        import pyarrow as arrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentLacks("reading tables needs pyarrow; install it with: pip install 'difnet[tables]'") from error
    return arrow


def find(data: Where) -> Found:
    """The tables in a folder, not in folders below it; or the files of a list, or one file, as named.

    Raises: DataError, if there are none, or two would be one client; EnvironmentLacks, if a path is not there.
    """
    found, left_out = list[Path](), list[str]()
    for path in [Path(one).expanduser() for one in ([data] if isinstance(data, str | Path) else data)]:
        if path.is_dir():
            for entry in sorted(path.iterdir()):
                if not entry.name.startswith("."):
                    (found if entry.is_file() and _ending(entry) else left_out).append(entry)  # type: ignore[arg-type]
        elif path.exists():
            if not _ending(path):
                raise DataError(f"{path} is no table by its name: difnet reads {', '.join((*TEXT, *PARQUET))}, text "
                                f"also gzipped (.csv.gz)")  # fmt: skip
            found.append(path)
        else:
            raise EnvironmentLacks(f"there is no {path}; give a folder with one table for each client, or one table")
    if not found:
        raise DataError(f"{data} holds no table ({', '.join((*TEXT, *PARQUET))}, text also gzipped); it holds "
                        f"{len(left_out)} other entries")  # fmt: skip
    names = [client_name(path) for path in found]
    if twice := [name for name in names if names.count(name) > 1]:
        both = [str(path) for path in found if client_name(path) == twice[0]]
        raise DataError(f"{' and '.join(both)} are both of client {twice[0]!r}: a client is a file, and bears its "
                        f"name; rename one, or take it away")  # fmt: skip
    return Found(sorted(found, key=client_name), [Path(entry).name for entry in left_out])


def client_name(path: Path) -> str:
    """The client whose file this is: its name without the endings.

    >>> client_name(Path("clients/ward-3.csv.gz"))
    'ward-3'
    """
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return name[: len(name) - len(_ending(path))]


def open_table(path: Path, columns: Sequence[str] | None = None) -> "TableFile":
    """A table, its columns known and its cells not yet read.

    Args: `columns`, the names of the columns of a text that does not begin with them.
    Raises: EnvironmentLacks without pyarrow, DataError for a file that is no table.
    """
    return ParquetFile(path) if _ending(path) in PARQUET else TextFile(path, columns)


class TableFile:
    """What both kinds of files are."""

    path: Path
    names: list[str]
    made_up = False  # names are x1, x2, …, since the file has none
    decimal = "."

    def batches(self, wanted: Sequence[str]) -> Iterator[Cells]:
        """The cells of these columns, rows without any cell left out.

        Raises: DataError for what is no table.
        """
        raise NotImplementedError

    def every_row(self, wanted: Sequence[str], as_text: Sequence[str] = ()) -> Iterator[Cells]:
        """As `batches`, with every row in which the file has anything at all, in whatever column.

        Args: `as_text`, columns that are told as text too, as it stands there.
        """
        raise NotImplementedError

    def place(self, row: int) -> str:
        """Where a row stands, as an error says it."""
        raise NotImplementedError

    def wrong(self, row: int, column: str, what: str) -> DataError:
        """The error of one cell."""
        return DataError(f"{self.path}, {self.place(row)}, column {column!r}: {what}")

    def lacks(self, names: Sequence[str], also: str = "") -> None:
        """Raises: DataError, if the table lacks one of these columns."""
        if lacking := [name for name in names if name not in self.names]:
            from difnet.errors import did_you_mean

            told = ", ".join(self.names[:20]) + (", …" if len(self.names) > 20 else "")
            near = did_you_mean(lacking[0], self.names)
            raise DataError(f"{self.path} has no column {lacking[0]!r}{also}{near}. It has {told}. Rename the column, "
                            f"or take the file that has it.")  # fmt: skip


class TextFile(TableFile):
    """A table as text: quoted as in RFC 4180, its separator found by looking."""

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        pyarrow()
        self.path = path
        with Utf8(path) as raw:
            sample = io.BufferedReader(raw, SAMPLE).read(SAMPLE).decode("utf-8", "ignore")
        if not sample.strip():
            raise DataError(f"{path} is empty. Take it away, or put a table there.")
        lines = sample.splitlines(keepends=True)
        if not lines[0].strip():
            raise DataError(f"{path}, line 1 is empty; a table begins with the names of its columns, or with a row.")
        whole = lines[: max(1, len(lines) - (len(sample) >= SAMPLE))][:SEEN_LINES]
        self.separator, rows = _separator(whole)
        first = [cell.strip() for cell in rows[0]]
        self.headed = first == list(columns) if columns else _is_head(rows)
        self.names = self._named(first, columns)
        self.decimal = self._decimal(rows[1:] if self.headed else rows)

    def _named(self, first: list[str], columns: Sequence[str] | None) -> list[str]:
        if columns and len(columns) != len(first):
            raise DataError(f"{self.path}, line 1: {len(first)} columns, and {len(columns)} names are given for them; "
                            f"give one name for each column, in their order")  # fmt: skip
        self.made_up = not (columns or self.headed)
        names = list(columns) if columns else first if self.headed else [f"x{n + 1}" for n in range(len(first))]
        names = [name or f"x{n + 1}" for n, name in enumerate(names)]  # an index that pandas wrote has no name
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{self.path}, line 1: {names.count(twice[0])} columns are called {twice[0]!r}; rename "
                            f"all but one, or take them out")  # fmt: skip
        return names

    def _decimal(self, rows: list[list[str]]) -> str:
        commas = {cell.strip() for row in rows for cell in row if COMMA.fullmatch(cell.strip())}
        if self.separator == "," or not commas:
            return "."
        if all(THOUSANDS.fullmatch(cell) for cell in commas):
            raise DataError(f"{self.path}: all commas within its first numbers stand before three digits, so they may "
                            f"be decimal commas or thousands. Write decimals with a point and thousands without any "
                            f"sign.")  # fmt: skip
        return ","

    def batches(self, wanted: Sequence[str]) -> Iterator[Cells]:
        self.lacks(wanted)
        arrow, done = pyarrow(), 0
        text = {name: arrow.string() for name in self.names}
        with Utf8(self.path) as raw:
            try:
                reader = arrow.csv.open_csv(
                    arrow.PythonFile(raw, mode="r"),
                    read_options=arrow.csv.ReadOptions(column_names=self.names, skip_rows=int(self.headed),
                                                       block_size=PIECE),
                    parse_options=arrow.csv.ParseOptions(delimiter=self.separator, newlines_in_values=True),
                    convert_options=arrow.csv.ConvertOptions(column_types=text, include_columns=list(wanted),
                                                             strings_can_be_null=False),
                )  # fmt: skip
                for batch in reader:
                    raw.tell_progress()
                    columns = {name: batch.column(n) for n, name in enumerate(wanted)}
                    yield _without_blank(columns, np.arange(done, done + batch.num_rows))
                    done += batch.num_rows
            except arrow.ArrowInvalid as error:
                raise self._ragged(error) from error
            odd = raw.quotes % 2
        if odd:
            raise self._ragged(None)
        if not done:
            raise DataError(f"{self.path} has the names of {len(self.names)} columns and no row. Take it away, or put "
                            f"rows there.")  # fmt: skip

    def every_row(self, wanted: Sequence[str], as_text: Sequence[str] = ()) -> Iterator[Cells]:
        self.lacks([*wanted, *as_text])
        for columns, rows, _ in self.batches(self.names):
            yield Cells({name: columns[name] for name in wanted}, rows, {name: columns[name] for name in as_text})

    def place(self, row: int) -> str:
        return f"line {next(line for number, (line, _) in enumerate(self._rows()) if number == row)}"

    def wrong(self, row: int, column: str, what: str) -> DataError:
        try:
            return super().wrong(row, column, what)
        except (csv.Error, StopIteration):  # an open quotation mark has swallowed all that follows
            return self._ragged(None)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows with their lines, one by one: slow, and for errors alone."""
        with Utf8(self.path) as raw:
            text = io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8", newline="")
            reader, begins = csv.reader(text, delimiter=self.separator, strict=True), 1
            waiting = self.headed
            for cells in reader:
                if cells and not waiting:
                    yield begins, cells
                waiting, begins = waiting and not cells, reader.line_num + 1

    def _ragged(self, error: Exception | None) -> DataError:
        line, wanted = 1, len(self.names)
        try:
            for line, cells in self._rows():
                if len(cells) != wanted:
                    return DataError(f"{self.path}, line {line}: {len(cells)} columns; the first line has {wanted}. "
                                     f"Put what holds a separator between quotes, or mend the line.")  # fmt: skip
        except csv.Error:
            pass
        if error is None:
            return DataError(f"{self.path}, after line {line}: a quotation mark is opened and not closed, or stands "
                             f"alone in a cell. Close it; within quotes it is written twice.")  # fmt: skip
        return DataError(f"{self.path}, near line {line}: {' '.join(str(error).partition(':')[0].split())}. Mend the "
                         f"line, or save the table anew.")  # fmt: skip


class ParquetFile(TableFile):
    """A table in Parquet. Numbers are float64; what is true or false, and dates, are told as text."""

    def __init__(self, path: Path) -> None:
        arrow = pyarrow()
        self.path = path
        try:
            file = arrow.parquet.ParquetFile(path)
        except (arrow.ArrowInvalid, OSError) as error:
            said = getattr(error, "strerror", None) or "damaged, or no Parquet file"
            raise DataError(f"{path} cannot be read: {said}. Write it anew.") from error
        self.names, self._rows = [field.name.strip() for field in file.schema_arrow], file.metadata.num_rows
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise DataError(f"{path}: {self.names.count(twice[0])} columns are called {twice[0]!r}; rename all but one")
        if not self._rows:
            raise DataError(f"{path} has {len(self.names)} columns and no row. Take it away, or put rows there.")

    def batches(self, wanted: Sequence[str]) -> Iterator[Cells]:
        for columns, rows, _ in self.every_row(wanted):
            yield _without_blank(columns, rows)

    def every_row(self, wanted: Sequence[str], as_text: Sequence[str] = ()) -> Iterator[Cells]:
        read = list(dict.fromkeys([*wanted, *as_text]))
        self.lacks(read)
        arrow, done = pyarrow(), 0
        try:
            file = arrow.parquet.ParquetFile(self.path)
            written = {name: file.schema_arrow[self.names.index(name)].name for name in read}
            for batch in file.iter_batches(batch_size=2**16, columns=list(written.values())):
                report_progress(f"reading {self.path.name}", done, self._rows)
                its = {name: batch.column(batch.schema.get_field_index(written[name])) for name in read}
                yield Cells({name: self._plain(name, its[name]) for name in wanted},
                            np.arange(done, done + batch.num_rows),
                            {name: self._text(name, its[name]) for name in as_text})  # fmt: skip
                done += batch.num_rows
        except (arrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{self.path} is damaged after row {done}. Write it anew.") from error

    def place(self, row: int) -> str:
        return f"row {row + 1}"

    def _text(self, name: str, column: Any) -> Any:
        """A column as text, whole numbers to the last digit."""
        arrow = pyarrow()
        column = column.dictionary_decode() if arrow.types.is_dictionary(column.type) else column
        try:
            return arrow.compute.cast(column, arrow.string())
        except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
            raise DataError(f"{self.path}, column {name!r}: holds {column.type}, which cannot be written as text. Do "
                            f"without it, or take it out.") from error  # fmt: skip

    def _plain(self, name: str, column: Any) -> Any:
        arrow, types = pyarrow(), pyarrow().types
        kind = column.type
        if types.is_dictionary(kind):
            column, kind = column.dictionary_decode(), kind.value_type
        if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
            return arrow.compute.cast(column, arrow.float64(), safe=False)
        if types.is_timestamp(kind):
            column = arrow.compute.cast(column, arrow.timestamp("us", kind.tz), safe=False)
        if any(fits(kind) for fits in (types.is_null, types.is_boolean, types.is_date, types.is_timestamp,
                                       types.is_large_string)):  # fmt: skip
            return arrow.compute.cast(column, arrow.string())
        if types.is_string(kind):
            return column
        raise DataError(f"{self.path}, column {name!r}: holds {kind}, and no numbers, texts or dates. Take the column "
                        f"out of the file, or spread it over several.")  # fmt: skip


def _ending(path: Path) -> str:
    name = path.name.lower()
    return next((e for e in (*TEXT, *PARQUET) if name.removesuffix(".gz" if e in TEXT else "").endswith(e)), "")


def _separator(lines: list[str]) -> tuple[str, list[list[str]]]:
    """By which sign the first lines have all as many columns, two at least; else the one that stands in the first."""
    rows = {}
    for sign in SEPARATORS:
        try:
            rows[sign] = [row for row in csv.reader(lines, delimiter=sign) if row]
        except csv.Error:
            continue
        if len({*map(len, rows[sign])}) == 1 and len(rows[sign][0]) > 1:
            return sign, rows[sign]
    if not rows:
        return ",", [[line.strip()] for line in lines]
    best = max(rows, key=lambda sign: len(rows[sign][0]))
    best = best if len(rows[best][0]) > 1 else ","
    return best, rows.get(best) or [[line.strip()] for line in lines]


def _is_head(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: none of it is a number, or a word stands above numbers alone."""
    first, rest = [cell.strip() for cell in rows[0]], rows[1:]
    if not any(_is_value(cell) or (cell in GAPS and n) for n, cell in enumerate(first)):
        return True
    for n, name in enumerate(first):
        below = [row[n].strip() for row in rest if n < len(row) and row[n].strip() not in GAPS]
        if name not in GAPS and not _is_value(name) and below and all(map(_is_value, below)):
            return True
    return False


def _is_value(cell: str) -> bool:
    return bool(NUMBER.fullmatch(cell) or COMMA.fullmatch(cell) or DATE.fullmatch(cell))


def _without_blank(columns: dict[str, Any], rows: Indices) -> Cells:
    """Without the rows in which nothing stands, such as those that a spreadsheet leaves at the end."""
    arrow = pyarrow()
    blank = None
    for column in columns.values():
        empty = arrow.compute.is_null(column, nan_is_null=True)
        if arrow.types.is_string(column.type):
            empty = arrow.compute.or_kleene(empty, arrow.compute.equal(column, ""))
        blank = empty if blank is None else arrow.compute.and_(blank, empty)
        if not arrow.compute.any(blank).as_py():
            return Cells(columns, rows)
    keep = arrow.compute.invert(blank)
    return Cells({name: column.filter(keep) for name, column in columns.items()}, rows[keep.to_numpy(False)])
