"""What does a cell mean: a number, a gap, a date, yes or no? Whole columns at a time, as arrays of pyarrow."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from difnet.data import Array
from difnet.data.table_files import GAPS, pyarrow

YES, NO = ("yes", "true", "y", "t"), ("no", "false", "n", "f")
NUMERIC = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
WITH_COMMA = r"^[+-]?\d+,\d+([eE][+-]?\d+)?$"
GROUPED = r"^[+-]?\d{1,3}([., '’]\d{3})+([.,]\d+)?$"  # 1,234.5 and 1.234,5 and 1 234
DATED = r"^(\d{4}[-/]\d\d?[-/]\d\d?([T ]\d\d?:\d\d.*)?|\d\d?\.\d\d?\.\d{4})$"
SLASHED = r"^\d\d?/\d\d?/\d{2,4}$"
LARGEST = float(np.finfo(np.float32).max)
DAY_US = 86_400_000_000


class Wrong(Exception):
    """A cell that is not what its column holds: its row within the array, and what it is instead."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row, self.what = row, what


def without_gaps(column: Any, keep: Sequence[str] = ()) -> Any:
    """The cells without the spaces around them; what means that there is nothing is null.

    Args: `keep`, words that mean something here, whatever they mean elsewhere.
    """
    arrow, compute = pyarrow(), pyarrow().compute
    if arrow.types.is_floating(column.type):
        return compute.if_else(compute.is_nan(column), None, column)
    text = compute.utf8_trim_whitespace(column)
    gaps = compute.is_in(text, value_set=arrow.array([gap for gap in GAPS if gap not in keep]))
    return compute.if_else(gaps, None, text)


def numbers(column: Any, decimal: str = ".") -> Array:
    """The numbers, float64 (n,), NaN for gaps.

    Raises: Wrong for the first that is none, or is too large for float32.
    """
    arrow, compute = pyarrow(), pyarrow().compute
    if not arrow.types.is_floating(column.type):
        try:
            plain = column if decimal == "." else _with_points(column)
            column = compute.cast(plain, arrow.float64())
        except arrow.ArrowInvalid:
            row = _first_wrong(plain, lambda part: compute.cast(part, arrow.float64()))
            raise Wrong(row, _why_no_number(column[row], decimal)) from None
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    if len(wide := np.flatnonzero(np.abs(values) > LARGEST)):
        raise Wrong(int(wide[0]), "is infinite, or too large for float32; leave the cell empty, or mend it")
    return values


def dates(column: Any) -> Array:
    """Days since the first of January 1970, with fractions, float64 (n,), NaN for gaps; zones are turned into UTC.

    Raises: Wrong for the first that is no date.
    """
    arrow, compute = pyarrow(), pyarrow().compute

    def cast(part: Any) -> Any:
        try:
            stamps = compute.cast(part, arrow.timestamp("us"))
        except arrow.ArrowInvalid:
            stamps = compute.cast(part, arrow.timestamp("us", "UTC"))
        return compute.cast(stamps, arrow.int64())

    if not arrow.types.is_string(column.type):
        raise Wrong(0, "is a number where a date should be; write dates as 2026-11-28")
    column = compute.replace_substring_regex(column, r"^(\d\d?)\.(\d\d?)\.(\d{4})$", r"\3-\2-\1")
    column = compute.replace_substring_regex(column, r"^(\d{4})/(\d\d?)/(\d\d?)", r"\1-\2-\3")
    column = compute.replace_substring_regex(column, r"-(\d)(-|$|[T ])", r"-0\1\2")
    column = compute.replace_substring_regex(column, r"-(\d)($|[T ])", r"-0\1\2")
    try:
        us = cast(column)
    except arrow.ArrowInvalid:
        raise Wrong(_first_wrong(column, cast), "is no date, or has a zone where others have none; dates are "
                                                "2026-11-28, 2026-11-28 14:30 or 28.11.2026") from None  # fmt: skip
    return us.to_numpy(zero_copy_only=False).astype(np.float64) / DAY_US


def flags(column: Any) -> Array:
    """1 for yes and 0 for no, in English words or as digits, float64 (n,), NaN for gaps.

    Raises: Wrong for the first that is neither.
    """
    arrow, compute = pyarrow(), pyarrow().compute
    if arrow.types.is_floating(column.type):
        column = as_words(column)
    text = compute.utf8_lower(column)
    yes = compute.is_in(text, value_set=arrow.array([*YES, "1"]))
    no = compute.is_in(text, value_set=arrow.array([*NO, "0"]))
    there = compute.is_valid(text).to_numpy(zero_copy_only=False)
    yes, no = (mask.to_numpy(zero_copy_only=False) for mask in (yes, no))
    if len(other := np.flatnonzero(there & ~yes & ~no)):
        raise Wrong(int(other[0]), "is neither yes nor no (true, false, y, n, t, f, 1, 0)")
    return np.where(there, yes.astype(np.float64), np.nan)


def codes(column: Any, words: Sequence[str], what: str) -> Array:
    """Which of the words each cell is, from 0 on, float64 (n,), NaN for gaps; "2.0" is the word "2".

    Args: `what` they are, "categories" or "classes".
    Raises: Wrong for the first that is none of them.
    """
    arrow, compute = pyarrow(), pyarrow().compute
    text = as_words(column) if arrow.types.is_floating(column.type) else column
    known = arrow.array(list(words), arrow.string())
    found = compute.index_in(text, value_set=known)
    there = compute.is_valid(text).to_numpy(zero_copy_only=False)
    if found.null_count > len(text) - there.sum():
        found = compute.coalesce(found, compute.index_in(_shortened(text), value_set=known))
    values = found.to_numpy(zero_copy_only=False).astype(np.float64)
    values[~there] = np.nan
    if len(other := np.flatnonzero(there & np.isnan(found.to_numpy(zero_copy_only=False).astype(np.float64)))):
        raise Wrong(int(other[0]), f"is none of the {len(words)} {what} of the schema; add it there (for everybody, "
                                   f"and before training), or mend the cell")  # fmt: skip
    return values


def as_words(column: Any) -> Any:
    """Numbers of Parquet as the words they would be in a text; whole ones without a point."""
    arrow, compute = pyarrow(), pyarrow().compute
    return _shortened(compute.cast(column, arrow.string()))


def share(column: Any, pattern: str) -> Array:
    """Which cells a pattern matches, bool (n,)."""
    matched = pyarrow().compute.match_substring_regex(column, pattern)
    return matched.fill_null(False).to_numpy(zero_copy_only=False)


def _shortened(text: Any) -> Any:
    return pyarrow().compute.replace_substring_regex(text, r"^([+-]?\d+)\.0*$", r"\1")


def _with_points(text: Any) -> Any:
    compute = pyarrow().compute
    comma = compute.match_substring_regex(text, WITH_COMMA)
    dotted = compute.match_substring(text, ".")
    text = compute.if_else(comma, compute.replace_substring(text, ",", "."), text)
    return compute.if_else(dotted, compute.binary_join_element_wise(text, "x", ""), text)  # no number any more


def _why_no_number(cell: Any, decimal: str) -> str:
    one = pyarrow().array([cell.as_py()])
    if share(one, GROUPED)[0] or (share(one, WITH_COMMA)[0] and decimal == ".") or (
        share(one, NUMERIC)[0] and decimal == ","
    ):  # fmt: skip
        return (f"has thousands, or decimals, set off otherwise than by the '{decimal}' of this file's other numbers; "
                f"write decimals all alike, and thousands without any sign")  # fmt: skip
    return "is text where a number should be; leave the cell empty if it is not known, or say kind = \"category\""


def _first_wrong(column: Any, cast: Callable[[Any], Any]) -> int:
    """The first row that cannot be cast, by halves."""
    arrow, low, high = pyarrow(), 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cast(column.slice(low, middle - low))
            low = middle
        except arrow.ArrowInvalid:
            high = middle
    return low
