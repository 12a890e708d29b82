"""What stands in a table of text, row by row? Plain, gzipped or in a zip; with commas, tabs, ";", "|" or "::"."""

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

from difnet.data.stream import REMEDY
from difnet.errors import DataError
from difnet.system.texts import LONGEST, NotText, encoding_of

OWN = "Correct it there; with letters that cannot be read, save it as UTF-8"  # the remedy for somebody's own table
OLD = (".dat", ".data")
SEPARATORS = ("::", ",", "\t", ";", "|")


class Row(NamedTuple):
    """The wanted values of one line."""

    line: int  # from 1 on, the head included
    values: list[str]


@contextmanager
def table(
    source: Path, names: Sequence[str] = (), plain: Sequence[str] = (), remedy: str = REMEDY
) -> Iterator["Rows"]:
    """The table in a file, or in a zip's first file that has one of these names, in whatever folder of it.

    The text is UTF-8, or UTF-16 by its byte-order mark; that of MovieLens' older files (ratings.dat, u.data) Latin-1.

    Args: `plain`, the columns' names, to be used where the first line begins with a number, and so is none of names;
        `remedy`, what to do about a damaged one.
    Raises: DataError, here and while rows are read, if it is damaged, empty or no text.
    """
    with ExitStack() as stack:
        with _undamaged(str(source), remedy):
            file, inside = _opened(source, names, stack)
            old = (inside or source.name).removesuffix(".gz").endswith(OLD)
            begin = file.peek(LONGEST)[:LONGEST]  # type: ignore[attr-defined]
            encoding = "latin-1" if old else encoding_of(begin)
            lines = io.TextIOWrapper(file, encoding=encoding, newline="")
            stack.callback(lines.close)
            head = lines.readline()
        where = f"{source}, {inside}" if inside else str(source)
        if not head.strip():
            raise DataError(f"{where} is empty, or begins with an empty line; a table begins with the names of its "
                            f"columns. {remedy}.")  # fmt: skip
        yield Rows(where, lines, head, plain, remedy)


class Rows:
    """A table that is open. Everything is text; what quotes enclose may hold the separator."""

    def __init__(self, where: str, lines: IO[str], head: str, plain: Sequence[str], remedy: str) -> None:
        self.where, self._lines, self._remedy = where, lines, remedy
        self._separator = "::" if "::" in head else max(SEPARATORS, key=head.count)
        names = [name.strip() for name in next(self._split([head]))]
        headed = not (plain and names[0].isdigit())
        self.columns = names if headed else list(plain)[: len(names)]
        self._first = [] if headed else [head]

    def __call__(self, *columns: str) -> Iterator[Row]:
        """The values in these columns, of every line in which anything stands, without the spaces around them.

        Raises: DataError for a column that there is not, and for a line with other columns than the first.
        """
        if missing := [column for column in columns if column not in self.columns]:
            raise DataError(f"{self.where}, line 1: no column {missing[0]!r} among {', '.join(self.columns)}; say what "
                            f"the columns are called, or take the file that has them")  # fmt: skip
        places = [self.columns.index(column) for column in columns]
        begin = 1 if self._first else 2
        lines = self._split(line for part in (self._first, self._lines) for line in part)
        with _undamaged(self.where, self._remedy):
            for number, values in enumerate(lines, start=begin):
                if not any(map(str.strip, values)):  # an empty line, or as spreadsheets save one: ,,,
                    continue
                if len(values) == len(self.columns):
                    yield Row(number, [values[place].strip() for place in places])
                else:
                    raise DataError(f"{self.where}, line {number}: {len(values)} columns; the first line has "
                                    f"{len(self.columns)}. {self._remedy}.")  # fmt: skip

    def _split(self, lines: Iterator[str] | list[str]) -> Iterator[list[str]]:
        if self._separator == "::":
            return (line.rstrip("\r\n").split("::") if line.strip() else [] for line in lines)
        return csv.reader(lines, delimiter=self._separator, strict=True)


def _opened(source: Path, names: Sequence[str], stack: ExitStack) -> tuple[IO[bytes], str]:
    if source.suffix != ".zip":
        file = stack.enter_context(source.open("rb"))
        return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if source.suffix == ".gz" else file, ""
    archive = stack.enter_context(zipfile.ZipFile(source))
    inside = [member for name in names for member in archive.namelist() if member.rpartition("/")[2] == name]
    if not inside:
        raise DataError(f"{source} holds no {' nor '.join(names)}. {REMEDY}.")
    return stack.enter_context(archive.open(inside[0])), inside[0]


@contextmanager
def _undamaged(where: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except NotText as error:
        raise DataError(f"{where}: {error}. {remedy}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is no text in UTF-8: {error.reason} near byte {error.start} of a block. {remedy}."
                        ) from error  # fmt: skip
    except (zipfile.BadZipFile, zlib.error, csv.Error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{where} is damaged, cut off or no table: {error}. {remedy}.") from error
