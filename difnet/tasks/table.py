"""People's own tables (CSV, TSV, Parquet) as clients: a file is an owner, and so is an agent, or a part of one."""

from collections.abc import Mapping, Sequence
from typing import Any

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
from difnet.meta import Tasks
from difnet.tasks._owned import Make, Owned


class Tables(Owned):
    """Owners of tables. `schema` says what their columns mean."""

    schema: Schema


def table(
    agents: int, shots: int, queries: int, *, data: Where,
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
    own = read(data, made, client=client, columns=columns)
    regression = made.target.kind == "regression"
    family = Tables(
        _maker(own), own.rows_of, {name: facts.rows for name, facts in own.clients.items()}, agents=agents, here=here,
        shots=shots, queries=queries, keeps=keeps, loss=_scaled_loss if regression else cross_entropy,
        default_model="mlp", model_words={"inputs": len(made.inputs), "outputs": made.outputs},
        cautions=[*notes, *own.cautions()], targets={name: facts.targets for name, facts in own.clients.items()},
        **options,
    )  # fmt: skip
    family.schema = made
    if regression:
        unit = made.target.unit or f"as {made.target.name!r}"
        family.metrics = {f"absolute error ({unit})": _absolute_error}
    else:
        family.accuracy = accuracy_of
    return family


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


def _maker(own: OwnTable) -> Make:
    """Tasks of rows of a table: scaled by each task's support rows, or by the schema's constants."""
    schema, shape = own.schema, layout(own.schema)
    fixed = schema.scale == "constants"
    given, given_target = given_constants(schema.used), given_constants([schema.target])

    def rows(numbers: Indices) -> Tensor:
        return torch.from_numpy(own.rows[numbers])

    def goals(numbers: Indices) -> Tensor:
        values = torch.from_numpy(own.targets[numbers])
        return values.long() if schema.target.kind == "classification" else values.unsqueeze(-1)

    def make(support: Indices, query: Indices) -> Tasks:
        raw, y, unseen = rows(support), goals(support), goals(query)
        by = given if fixed else constants(raw)
        if schema.target.kind == "regression":
            unit = given_target if fixed else constants(y)
            y, unseen = (_with_unit(values, unit) for values in (y, unseen))
        return Tasks((inputs(raw, by, shape), y), (inputs(rows(query), by, shape), unseen))

    return make


def _with_unit(targets: Tensor, by: Constants) -> Tensor:
    """Targets (..., n, 1) scaled, and beside them what 1 is in their own unit: (..., n, 2)."""
    small = scaled(targets, by)
    return torch.cat([small, by.scale.unsqueeze(-2).expand_as(small)], dim=-1)


def _scaled_loss(prediction: Tensor, target: Tensor) -> Tensor:
    return mse_loss(prediction, target[..., :1])


def _absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target[..., :1]).abs() * target[..., 1:]).mean()
