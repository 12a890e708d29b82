"""People's own tables (CSV, TSV, Parquet) as clients: a file is an owner, and so is an agent, or a part of one."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from difnet.data import Indices
from difnet.data.own_tables import OwnTable, read, schema_of
from difnet.data.schema import Column, Schema, Target, from_dict
from difnet.data.table_files import Where
from difnet.errors import ConfigError
from difnet.maths.evaluate import accuracy_of
from difnet.maths.scaling import Constants, Layout, constants, inputs, scaled
from difnet.meta import Batch, Tasks
from difnet.tasks._owned import Owned, Samples


class Tables(Owned):
    """Owners of tables. `schema` says what their columns mean."""

    schema: Schema


def table(
    agents: int, shots: int, queries: int, *, data: Where = (),
    here: Sequence[int] | None = None, keeps: bool = True, schema: Mapping[str, Any] | None = None,
    target: str | None = None, client: str | None = None, kind: str | None = None,
    columns: Sequence[str] | None = None, **options: Any,
) -> Tables:  # fmt: skip
    """The tables in `data` as clients, dealt to the agents `here` in the order of their names.

    Inputs are float32, as `difnet.maths.scaling.inputs` makes them of a task's rows: by the figures of its own support
    rows, or by the schema's constants, never by those of anybody else. Targets are classes, int64 (n,); or for
    regression float32 (n, 2): the target scaled like an input, and how much 1 of it is in the target's own unit. The
    loss of regression is the mean square of scaled errors, so 1 is what the support's mean would have; the metric
    "absolute error" is in the target's unit.

    Args: `schema`, as plain values (a run's [task.schema]); else it is derived from `data` for `target` (of `kind`,
        "classification" or "regression"); `client`, the column that says whose a row is, where it is not the file;
        `columns`, names for tables that begin without them; `options`, those of `Owned`: support (0.5), kept (0.1),
        least (10), data_seed (0).
    Raises: ConfigError for a schema or options that cannot be, and for fewer clients than agents; DataError and
        EnvironmentLacks as `difnet.data.own_tables.read`.
    """
    made, notes = _schema(data, schema, target, client, kind, columns)
    if made.scale == "support" and shots < 2:
        raise ConfigError(f"{shots} shot: a support set of one row has no spread that numbers could be scaled by; give "
                          f"--shots 2 or more, or a schema with scale = \"constants\"")  # fmt: skip
    regression = made.target.kind == "regression"
    family = Tables(
        _samples(data, made, client, columns, notes), agents=agents, here=here, shots=shots, queries=queries,
        keeps=keeps, loss=_scaled_loss if regression else cross_entropy, default_model="mlp",
        model_words={"inputs": len(made.inputs), "outputs": made.outputs}, **options,
    )  # fmt: skip
    family.schema = made
    if regression:
        unit = made.target.unit or f"as {made.target.name!r}"
        family.metrics = {f"absolute error ({unit})": _absolute_error}
    else:
        family.accuracy = accuracy_of
    return family


def _samples(
    data: Where, schema: Schema, client: str | None, columns: Sequence[str] | None, notes: Sequence[str]
) -> Samples:
    """What the files hold; nothing, where there are none, as at a hub."""
    maker = _Maker(schema)
    if not data:
        return Samples(maker.nothing, maker.example, lambda client: np.empty(0, np.int64), {}, {}, notes)
    own = read(data, schema, client=client, columns=columns)
    sizes = {name: facts.rows for name, facts in own.clients.items()}
    targets = {name: facts.targets for name, facts in own.clients.items()}
    return Samples(partial(maker.of, own), maker.example, own.rows_of, sizes, targets, [*notes, *own.cautions()])


def _schema(
    data: Where, schema: Mapping[str, Any] | None, target: str | None, client: str | None, kind: str | None,
    columns: Sequence[str] | None,
) -> tuple[Schema, list[str]]:  # fmt: skip
    """The schema that is given, else the one that the data suggests, and what was decided without being told."""
    if schema is None:
        if target is None:
            raise ConfigError("task table: neither a target nor a schema is given, so nobody knows what is to be "
                              "predicted; say --set task.target=NAME, or give the schema that `difnet data describe "
                              "DATA --target NAME` writes")  # fmt: skip
        suggestion = schema_of(data, target, client=client, kind=kind, columns=columns)
        return suggestion.schema, suggestion.notes
    made = from_dict(schema, "task.schema")
    if target is not None and target != made.target.name:
        raise ConfigError(f"task.target is {target!r}, and the schema's target is {made.target.name!r}; leave one away")
    return made, []


def layout(schema: Schema) -> Layout:
    """What each raw column is, as `difnet.maths.scaling` takes it."""
    return Layout(tuple(len(column.categories) if column.kind == "category" else 0 for column in schema.used),
                  tuple(column.gaps for column in schema.used))  # fmt: skip


def given_constants(parts: Sequence[Column | Target]) -> Constants:
    """The constants in a schema, of its columns (`schema.used`) or of its target: float32 (columns,)."""
    center = [0.0 if part.center is None else part.center for part in parts]
    scale = [1.0 if part.scale is None else part.scale for part in parts]
    return Constants(torch.tensor(center), torch.tensor(scale))


class Scaling(NamedTuple):
    """By what raw rows are scaled, and for regression their targets."""

    inputs: Constants  # (..., columns)
    target: Constants | None  # (..., 1)


class Rows:
    """Raw rows as a model takes them, by a schema: scaled by a support set's own figures, or by the schema's."""

    def __init__(self, schema: Schema) -> None:
        self.layout, self._regression = layout(schema), schema.target.kind == "regression"
        unit = given_constants([schema.target]) if self._regression else None
        self.given = Scaling(given_constants(schema.used), unit) if schema.scale == "constants" else None

    def scaling(self, raw: Tensor, goals: Tensor) -> Scaling:
        """By what a task is scaled of which these are the support rows (..., n, columns) and their targets (..., n)."""
        unit = constants(goals.unsqueeze(-1)) if self._regression and not self.given else None
        return self.given or Scaling(constants(raw), unit)

    def batch(self, raw: Tensor, goals: Tensor, by: Scaling) -> Batch:
        """Inputs (..., n, inputs), and targets as `table` has them, of raw rows and their targets."""
        y = goals.long() if by.target is None else _with_unit(goals.unsqueeze(-1), by.target)
        return inputs(raw, by.inputs, self.layout), y


class _Maker:
    """Tasks by a schema."""

    def __init__(self, schema: Schema) -> None:
        self._rows, self._target = Rows(schema), schema.target

    def of(self, own: OwnTable, support: Indices, query: Indices) -> Tasks:
        """Tasks of rows of a table."""
        raw, goals = (torch.from_numpy(values) for values in (own.rows[support], own.targets[support]))
        unseen, wanted = (torch.from_numpy(values) for values in (own.rows[query], own.targets[query]))
        return self._tasks(raw, goals, unseen, wanted)

    def example(self, count: int, shots: int, queries: int, rng: np.random.Generator) -> Tasks:
        """Tasks of rows that are nobody's: standard normal numbers, any categories and classes."""

        def rows(n: int) -> tuple[Tensor, Tensor]:
            columns = [rng.integers(words, size=(count, n)) if words else rng.normal(size=(count, n))
                       for words in self._rows.layout.categories]  # fmt: skip
            goals = rng.integers(max(1, len(self._target.classes)), size=(count, n))
            return torch.from_numpy(np.stack(columns, axis=-1)).float(), torch.from_numpy(goals).float()

        return self._tasks(*rows(shots), *rows(queries))

    def nothing(self, support: Indices, query: Indices) -> Tasks:
        raise AssertionError("nobody draws where there is no data")

    def _tasks(self, raw: Tensor, goals: Tensor, unseen: Tensor, wanted: Tensor) -> Tasks:
        by = self._rows.scaling(raw, goals)
        return Tasks(self._rows.batch(raw, goals, by), self._rows.batch(unseen, wanted, by))


def _with_unit(targets: Tensor, by: Constants) -> Tensor:
    """Targets (..., n, 1) scaled, and beside them what 1 is in their own unit: (..., n, 2)."""
    small = scaled(targets, by)
    return torch.cat([small, by.scale.unsqueeze(-2).expand_as(small)], dim=-1)


def _scaled_loss(prediction: Tensor, target: Tensor) -> Tensor:
    return mse_loss(prediction, target[..., :1])


def _absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target[..., :1]).abs() * target[..., 1:]).mean()
