"""Which rows of somebody's own table is a launch model fitted to, which are held back, and what is to be known of them?

Rows are read by the launch model's schema and scaled by the rows that it is fitted to, as it was trained.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from difnet.data import Indices
from difnet.data.one_table import OneTable, with_targets
from difnet.data.schema import SCALED, Schema
from difnet.errors import ConfigError
from difnet.maths.seeding import data_generator
from difnet.meta import Batch
from difnet.tasks.table_ import Rows, Scaling, Tables, table

SUPPORT, HELD_BACK, QUERY = "support", "held back", "query"
SHARE, ENOUGH = 0.3, 20  # what is held back unless told, where there are so many rows
LEAST = 2  # rows that say something of a column's spread


class Samples(NamedTuple):
    """Sets of samples as a launch model takes them, "support" first."""

    batches: dict[str, Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]]  # further figures of a prediction and its targets
    guesses: Mapping[str, Mapping[str, float]]  # set -> metric -> what the support's mean or most frequent class has
    cautions: list[str]
    scaling: Scaling | None  # of tables


def table_samples(
    schema: Schema, dtype: torch.dtype, support: Path, query: Path | None = None, held_back: float | None = None
) -> Samples:
    """The rows of a table to fit to, those of it that are held back at random, and those of another.

    Args: `held_back`, the share that is; None: SHARE of ENOUGH rows or more, if there is no `query`. The same rows of a
        table of as many rows are, whenever it is asked.
    Raises: DataError, as `one_table.with_targets`; ConfigError for a share that leaves too few rows.
    """
    own = with_targets(support, schema)
    fitted, back = _cut(len(own.rows), held_back, query is not None, support)
    sets = {SUPPORT: (own, fitted)} | ({HELD_BACK: (own, back)} if len(back) else {})
    if query is not None:
        others = with_targets(query, schema)
        sets[QUERY] = (others, np.arange(len(others.rows)))
    if len(fitted) < LEAST and schema.scale == "support":
        raise ConfigError(f"{support} has {len(fitted)} row to fit to, which has no spread that numbers could be "
                          f"scaled by; give {LEAST} or more")  # fmt: skip
    raw = {name: (torch.from_numpy(t.rows[which]), torch.from_numpy(t.targets[which]))
           for name, (t, which) in sets.items()}  # fmt: skip
    rows = Rows(schema)
    by = rows.scaling(*raw[SUPPORT])
    made = {name: rows.batch(x, y, by) for name, (x, y) in raw.items()}
    batches = {name: (x.to(dtype), y.to(dtype) if y.is_floating_point() else y) for name, (x, y) in made.items()}
    family: Tables = table(1, LEAST, 1, here=[], schema=schema.to_dict())  # for its loss and figures: it has no rows
    metrics = getattr(family, "metrics", {}) or {"accuracy": family.accuracy}
    guess = _guess(batches[SUPPORT][1], schema)
    guesses = {name: {metric: float(of(guess.expand(len(y), -1), y)) for metric, of in metrics.items()}
               for name, (_, y) in batches.items() if name != SUPPORT}  # fmt: skip
    cautions = [*_cautions(own, fitted, schema), *_of_parts(len(own.rows), len(back), held_back, query)]
    return Samples(batches, family.loss, metrics, guesses, cautions, by)


def _cut(rows: int, share: float | None, has_query: bool, path: Path) -> tuple[Indices, Indices]:
    """Which rows are fitted to, and which are held back; each ascending."""
    if share is None:
        share = SHARE if rows >= ENOUGH and not has_query else 0.0
    if not 0 <= share < 1:
        raise ConfigError(f"--held-back is {share}; it must be a share of the rows, 0 or more and below 1")
    back = max(1, int(share * rows + 0.5)) if share else 0
    if back and rows - back < LEAST:
        raise ConfigError(f"--held-back {share} of the {rows} rows of {path} leaves {rows - back} to fit to; hold "
                          f"fewer back, or give other rows as --query")  # fmt: skip
    order = data_generator(0, rows).permutation(rows)
    return np.sort(order[back:]), np.sort(order[:back])


def _guess(targets: Tensor, schema: Schema) -> Tensor:
    """What is predicted without any model: the support's mean, or its most frequent class, (outputs,)."""
    if schema.target.kind == "regression":
        return targets[:, :1].mean(0)
    return torch.bincount(targets, minlength=schema.outputs).double()


def _cautions(own: OneTable, fitted: Indices, schema: Schema) -> list[str]:
    """What of the rows that it is fitted to may surprise."""
    told = [f"{own.path}: {own.left_out} rows without a target are left out"] if own.left_out else []
    rows, targets = own.rows[fitted], own.targets[fitted]
    for n, column in enumerate(schema.used):
        there = rows[:, n][~np.isnan(rows[:, n])]
        if not len(there):
            told.append(f"column {column.name!r} is a gap in all rows that the model is fitted to: whatever it is "
                        f"elsewhere, the model will not see it")  # fmt: skip
        elif column.kind in SCALED and schema.scale == "support" and there.min() == there.max():
            told.append(f"column {column.name!r} is the same in all rows that the model is fitted to: nobody knows how "
                        f"to scale it, and rows where it differs may be predicted badly")  # fmt: skip
    if schema.target.kind == "regression":
        same = targets.min() == targets.max()
        return told + (["the target is the same in all rows that the model is fitted to"] if same else [])
    lacking = [word for n, word in enumerate(schema.target.classes) if not (targets == n).any()]
    return told + [f"no row that the model is fitted to is of class {word!r}" for word in lacking]


def _of_parts(rows: int, back: int, asked: float | None, query: Path | None) -> list[str]:
    if back or query is not None or asked is not None:
        return []
    return [f"none of {rows} rows is held back, since they are fewer than {ENOUGH}: nothing says how good the model is "
            f"on rows that it has not seen; give such rows as --query, or --held-back SHARE"]  # fmt: skip


