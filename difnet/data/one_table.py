"""What stands in one table that is read by a schema, used and forgotten? Its rows in order; nothing is kept of them.

For somebody's own table after training, to fit a model to or to predict: errors go to its owner alone, so they say what
stands in a wrong cell.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from difnet.data import Array
from difnet.data.own_tables import targets_of, values_of
from difnet.data.schema import Schema
from difnet.data.table_files import find, open_table
from difnet.errors import DataError


class OneTable(NamedTuple):
    """Rows of one table, in the order in which they stand there."""

    path: Path
    rows: Array  # (n, columns), float32: in the order of `schema.used`; NaN for gaps, a category is its number
    targets: Array  # (n,), float32; of classes the number; (0,) where none were asked for
    kept: dict[str, list[str | None]]  # further columns as text, as they stand there
    left_out: int  # rows without a target


def with_targets(path: Path, schema: Schema, columns: Sequence[str] | None = None) -> OneTable:
    """The rows of a table that have a target.

    Args: `columns`, names for a table that begins without them.
    Raises: DataError, naming file, line, column and cell, for what is not as the schema says, and for a table in which
        no row has a target, or a column holds gaps alone of which the schema says nothing.
    """
    file, target = _one(path), schema.target.name
    table = open_table(file, columns)
    wanted = [*(column.name for column in schema.used), target]
    table.lacks(wanted, _whose(table.made_up))
    values, targets = [], []
    for batch in table.batches(wanted):
        values.append(values_of(table, batch, schema, shown=True))
        targets.append(targets_of(table, batch, schema, shown=True))
    rows, goals = np.concatenate(values).astype(np.float32), np.concatenate(targets).astype(np.float32)
    there = ~np.isnan(goals)
    if not there.any():
        raise DataError(f"{file}: none of its {len(rows)} rows has a target {target!r}, so there is nothing to fit to. "
                        f"Fill it in; to predict it, take `difnet predict`.")  # fmt: skip
    rows = rows[there]
    for n, column in enumerate(schema.used):
        if np.isnan(rows[:, n]).all() and not column.gaps:
            raise DataError(f"{file}, column {column.name!r}: holds gaps alone, and the schema says nothing of gaps. "
                            f"Fill it in.")  # fmt: skip
    return OneTable(file, rows, goals[there], {}, int((~there).sum()))


def to_predict(
    path: Path, schema: Schema, keep: Sequence[str] | None = (), columns: Sequence[str] | None = None
) -> OneTable:
    """All rows of a table, which may have a target or not; only lines in which nothing stands at all are left out.

    Args: `keep`, further columns to be told as they stand; None: all of them, in their order.
    Raises: DataError, naming file, line, column and cell, for what is not as the schema says.
    """
    file = _one(path)
    table = open_table(file, columns)
    wanted = [column.name for column in schema.used]
    table.lacks(wanted, _whose(table.made_up))
    keep = table.names if keep is None else list(dict.fromkeys(keep))
    table.lacks(keep, ", which is to be kept")
    values, kept = [], dict[str, list[str | None]]({name: [] for name in keep})
    for batch in table.every_row(wanted, keep):
        values.append(values_of(table, batch, schema, shown=True))
        for name in keep:
            kept[name] += batch.texts[name].to_pylist()
    return OneTable(file, np.concatenate(values).astype(np.float32), np.empty(0, np.float32), kept, 0)


def _one(path: Path) -> Path:
    if path.is_dir():
        raise DataError(f"{path} is a folder; one table is wanted here: give the file")
    return find([path]).files[0]


def _whose(made_up: bool) -> str:
    return ", which the model's schema has" + (" (its first line holds no names: say them with --columns)" * made_up)
