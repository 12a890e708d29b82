"""Which schema do somebody's own tables suggest? One look through all cells; what was decided and why is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from difnet.data import cells
from difnet.data.schema import Column, Schema, Target, from_dict, in_order
from difnet.data.table_files import Found, TableFile, open_table, pyarrow
from difnet.errors import ConfigError, DataError

MOST_WORDS, FEW_CLASSES = 100, 20  # categories of a column at most; whole numbers that may be classes
CLASSIFICATION, REGRESSION = "classification", "regression"


class Suggestion(NamedTuple):
    """A schema, and what was decided about columns without being told."""

    schema: Schema
    notes: list[str]


class At(NamedTuple):
    """A cell, for an error."""

    table: TableFile
    row: int


@dataclass
class Seen:
    """What has been seen of one column."""

    name: str
    rows: int = 0
    gaps: int = 0
    numbers: int = 0
    whole: int = 0  # numbers without decimals
    counting: int = 0  # numbers that are their predecessor in the file plus one
    flags: int = 0
    dates: int = 0
    slashed: int = 0
    words: set[str] = field(default_factory=set)  # different ones, MOST_WORDS + 1 at most
    text: At | None = None  # the first cell that is no number
    grouped: At | None = None  # the first number with thousands or a comma
    files: dict[str, str] = field(default_factory=dict)  # file -> "numbers" or "text", where it holds one alone

    def add(self, column: Any, table: TableFile, rows: Any) -> None:
        """Look at some of its cells."""
        arrow = pyarrow()
        text = cells.without_gaps(column)
        there = arrow.compute.is_valid(text).to_numpy(zero_copy_only=False)
        self.rows, self.gaps = self.rows + len(text), self.gaps + int((~there).sum())
        if not there.any():
            return
        try:
            values = cells.numbers(text, table.decimal)
        except cells.Wrong as wrong:
            if wrong.what.startswith("is infinite"):
                raise table.wrong(int(rows[wrong.row]), self.name, wrong.what) from None
            self._add_text(text, table, rows, there)
        else:
            self._add_numbers(values[there], text, table)

    def _add_numbers(self, values: Any, text: Any, table: TableFile) -> None:
        self.numbers += len(values)
        self.whole += int((values == np.floor(values)).sum())
        self.counting += int((np.diff(values) == 1).sum()) + 1
        self._file(table, "numbers")
        if len(self.words) <= MOST_WORDS:
            self._learn(text if pyarrow().types.is_string(text.type) else cells.as_words(text))

    def _add_text(self, text: Any, table: TableFile, rows: Any, there: Any) -> None:
        decimal = cells.NUMERIC if table.decimal == "." else f"({cells.WITH_COMMA})|(^[+-]?\\d+$)"
        numeric = cells.share(text, decimal)
        self.numbers += int(numeric.sum())
        grouped = (cells.share(text, cells.GROUPED) | cells.share(text, cells.WITH_COMMA)) & ~numeric
        if grouped.any():
            self.grouped = self.grouped or At(table, int(rows[grouped.argmax()]))
        words = there & ~numeric
        self.text = self.text or At(table, int(rows[words.argmax()]))
        self.dates += int(cells.share(text, cells.DATED).sum())
        self.slashed += int(cells.share(text, cells.SLASHED).sum())
        known = pyarrow().array([*cells.YES, *cells.NO])
        compute = pyarrow().compute
        self.flags += int(compute.sum(compute.is_in(compute.utf8_lower(text), value_set=known)).as_py() or 0)
        self._file(table, "mixed" if numeric.any() else "text")
        if len(self.words) <= MOST_WORDS:
            self._learn(text)

    def _file(self, table: TableFile, what: str) -> None:
        before = self.files.setdefault(str(table.path), what)
        if before != what:
            self.files[str(table.path)] = "mixed"

    def _learn(self, text: Any) -> None:
        for word in pyarrow().compute.unique(text).to_pylist():
            if word is not None and len(self.words) <= MOST_WORDS:
                self.words.add(word)


def suggest(
    found: Found, target: str, *, client: str | None = None, kind: str | None = None,
    columns: Sequence[str] | None = None,
) -> Suggestion:  # fmt: skip
    """The schema that all these tables suggest together.

    Args: `target`, the column to be predicted; `client`, the one that says whose a row is; `kind` of the target,
        "classification" or "regression", where it is known; `columns`, names for tables that begin without them.
    Raises: DataError for what cannot be read or does not fit together; ConfigError for a `kind` that there is not.
    """
    if kind not in (None, CLASSIFICATION, REGRESSION):
        raise ConfigError(f"kind is {kind!r}; it must be {CLASSIFICATION} or {REGRESSION}")
    seen, notes = _look(found, target, client, columns)
    made = []
    for name in sorted(seen.keys() - {target}):
        column, note = _column(seen[name])
        made.append(column)
        notes += [note] if note else []
    if all(column.kind == "ignored" for column in made):
        raise DataError(f"{found.files[0]}: no column beside the target {target!r} can be an input: "
                        f"{'; '.join(notes) or 'there is none'}. Give columns of numbers, categories, flags or dates.")
    about, note = _target(seen[target], kind)
    schema = Schema(tuple(made), about)
    return Suggestion(from_dict(schema.to_dict()), [*notes, note])


def _look(
    found: Found, target: str, client: str | None, columns: Sequence[str] | None
) -> tuple[dict[str, Seen], list[str]]:
    """Every cell of every file; and notes about names."""
    seen: dict[str, Seen] = {}
    notes = [f"{name} beside the tables is left out" for name in found.left_out]
    first: TableFile | None = None
    for path in found.files:
        table = open_table(path, columns)
        made_up = " (its first line holds no names: say them with --columns)" if table.made_up else ""
        table.lacks([target, *([client] if client else [])], made_up)
        wanted = [name for name in table.names if name != client]
        if first is not None:
            table.lacks([name for name in first.names if name != client], f", which {first.path} has")
            first.lacks(wanted, f", which {table.path} has")
        else:
            first, seen = table, {name: Seen(name) for name in wanted}
        if table.made_up:
            notes.append(f"{path.name} has no names of columns: they are called x1 to x{len(table.names)}")
        for batch in table.batches(wanted):
            for name in wanted:
                seen[name].add(batch.columns[name], table, batch.rows)
    return seen, notes


def _column(seen: Seen) -> tuple[Column, str]:
    """What a column is, and a note where that may surprise."""
    ignored, gaps = Column(seen.name, "ignored"), seen.gaps > 0
    there = seen.rows - seen.gaps
    if not there:
        return ignored, f"column {seen.name!r} is ignored: it holds gaps alone"
    if seen.numbers == there:
        if seen.counting == there and there > 2 and seen.whole == there:
            return ignored, f"column {seen.name!r} is ignored: it counts the rows"
        return Column(seen.name, "number", gaps=gaps), ""
    _refuse_mixture(seen, there)
    if seen.flags == there:
        return Column(seen.name, "flag", gaps=gaps), ""
    if seen.dates == there:
        return Column(seen.name, "date", gaps=gaps), ""
    if seen.slashed == there:
        return ignored, (f"column {seen.name!r} is ignored: dates such as 3/4/2026 can be read in two ways; write "
                         f"2026-04-03")  # fmt: skip
    if len(seen.words) > MOST_WORDS or 2 * len(seen.words) > there:
        many = f"more than {MOST_WORDS}" if len(seen.words) > MOST_WORDS else len(seen.words)
        return ignored, f"column {seen.name!r} is ignored: {many} different texts in {there} cells, no categories"
    return Column(seen.name, "category", categories=in_order(seen.words), gaps=gaps), ""


def _refuse_mixture(seen: Seen, there: int) -> None:
    """Raises: DataError, where numbers and text stand in one column, or numbers are written in several ways."""
    if seen.grouped:
        table, row = seen.grouped
        raise table.wrong(row, seen.name, f"is a number with thousands, or decimals, set off otherwise than by the "
                                          f"'{table.decimal}' of the other numbers; write decimals all alike, and "
                                          f"thousands without any sign")  # fmt: skip
    assert seen.text
    table, row = seen.text
    if seen.files[str(table.path)] == "mixed" and 2 * seen.numbers >= there:
        raise table.wrong(row, seen.name, "is text among numbers; leave the cell empty if it is not known, or mend it")
    if plain := next((file for file, what in seen.files.items() if what == "numbers"), None):
        raise table.wrong(row, seen.name, f"is text, and {plain} has numbers in this column; give every client the "
                                          f"same kind, and leave cells empty that are not known")  # fmt: skip


def _target(seen: Seen, kind: str | None) -> tuple[Target, str]:
    """What the target is, and how that was decided."""
    there = seen.rows - seen.gaps
    if not there:
        raise DataError(f"the target {seen.name!r} holds gaps alone, so there is nothing to learn; take another column")
    words, numeric = {word.strip() for word in seen.words}, seen.numbers == there
    if numeric:
        words = set(cells.as_words(pyarrow().array(sorted(words))).to_pylist())  # 1.0 is 1
    few = numeric and seen.whole == there and len(words) <= FEW_CLASSES and 2 * len(words) <= there
    if not numeric:
        _refuse_mixture(seen, there)
    chosen = kind or (REGRESSION if numeric and not few else CLASSIFICATION)
    how = "as told" if kind else (f"because it holds {'whole numbers, few of them different' if few else 'numbers'}"
                                  if numeric else "because it holds text")  # fmt: skip
    if chosen == REGRESSION:
        if not numeric:
            assert seen.text
            raise seen.text.table.wrong(seen.text.row, seen.name, "is text, and regression predicts numbers; take "
                                                                  "another target, or --kind classification")
        return Target(seen.name, REGRESSION), f"the target {seen.name!r} is for regression, {how}"
    if len(words) > MOST_WORDS:
        raise DataError(f"the target {seen.name!r} has more than {MOST_WORDS} different values, too many for classes: "
                        f"is it a text or an identifier? Take another, or --kind regression for numbers.")  # fmt: skip
    if len(words) < 2:
        raise DataError(f"the target {seen.name!r} is the same in all {there} rows, so there is nothing to learn; give "
                        f"the tables of somebody who has other classes too, or a schema with all of them")  # fmt: skip
    note = f"the target {seen.name!r} has {len(words)} classes, {how}; --kind {REGRESSION} makes it a number"
    return Target(seen.name, CLASSIFICATION, in_order(words)), note if numeric else note.partition(";")[0]
