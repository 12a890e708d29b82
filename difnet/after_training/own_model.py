"""What is a model of somebody's own tables? A network that takes raw rows and answers in the target's own words.

It holds what its network alone does not: by what numbers are scaled, which number a category is, and the target's unit.
So what is predicted, and what is exported, is right wherever it is run.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from difnet.data.schema import Column, Schema, from_dict
from difnet.errors import ConfigError, RunFolderError
from difnet.launch_models import LaunchModel
from difnet.maths.scaling import Constants, in_unit, inputs
from difnet.tasks.table_ import Rows, Scaling, layout

TASK = "table"


class OwnModel(nn.Module):
    """Raw rows in, probabilities or values in the target's own unit out."""

    center: Tensor  # (columns,), as scale
    scale: Tensor
    target_center: Tensor  # (1,), as target_scale; of regression
    target_scale: Tensor

    def __init__(self, network: nn.Module, schema: Schema, by: Scaling) -> None:
        super().__init__()
        self.network, self._layout = network, layout(schema)
        self.dtype = next(network.parameters()).dtype
        self.register_buffer("center", by.inputs.center.clone())
        self.register_buffer("scale", by.inputs.scale.clone())
        if by.target is not None:
            self.register_buffer("target_center", by.target.center.clone())
            self.register_buffer("target_scale", by.target.scale.clone())
        self._regression = by.target is not None

    def forward(self, raw: Tensor) -> Tensor:
        """Probabilities (n, classes), or values (n, 1), of raw rows.

        Args: `raw`, float32 (n, columns), in the order of the schema's `used`: numbers as they are; 1 and 0 for yes and
            no; days since 1970; of a category the number of its word, from 0 on; NaN for gaps.
        """
        said = self.network(inputs(raw, Constants(self.center, self.scale), self._layout).to(self.dtype))
        if self._regression:
            return in_unit(said, Constants(self.target_center, self.target_scale))
        return torch.softmax(said, dim=-1)


def schema_of(learnt: LaunchModel) -> Schema | None:
    """What the tables' columns mean that a model learnt from; None for a model of another task."""
    if learnt.about["task"]["name"] != TASK:
        return None
    told = learnt.about["task"].get("options", {}).get("schema")
    if told is None:
        raise RunFolderError(f"{learnt.path} is of task {TASK!r} and says nothing of a schema; copy it again, or take "
                             f"the run's own file")  # fmt: skip
    return from_dict(told, f"the schema in {learnt.path}")


def own_model(learnt: LaunchModel) -> OwnModel:
    """The model that somebody's table was fitted to, for raw rows; or a launch model by its schema's constants.

    Raises: ConfigError for a model of another task, and for one that nobody's rows have scaled.
    """
    schema = schema_of(learnt)
    if schema is None:
        raise ConfigError(f"{learnt.path} is of task {learnt.about['task']['name']!r}, which has no schema of a table; "
                          f"its network is had from Python: difnet.launch_models.read(FILE).module()")  # fmt: skip
    by = _kept(learnt, schema) if is_fitted(learnt) else Rows(schema).given
    if by is None:
        raise ConfigError(f"{learnt.path} is a launch model whose numbers are scaled by somebody's own rows, and it "
                          f"was fitted to none. {fit_first(learnt)}")  # fmt: skip
    return OwnModel(learnt.module(), schema, by).eval()


def facts(schema: Schema) -> dict[str, Any]:
    """What goes in and comes out, for whoever has the exported network and nothing of difnet's, as plain values.

    >>> schema = from_dict({"target": {"name": "cost", "kind": "regression", "unit": "EUR"},
    ...                     "columns": {"ward": {"kind": "category", "categories": ["north", "south"]}}})
    >>> facts(schema)["columns"][0]["cells"]
    '0: north, 1: south; NaN: a gap'
    >>> facts(schema)["outputs"]
    ['cost, in EUR']
    """
    columns = [{"name": column.name, "kind": column.kind, "unit": column.unit, "categories": list(column.categories),
                "cells": f"{_cells(column)}; NaN: a gap"} for column in schema.used]  # fmt: skip
    target = schema.target
    outputs = [f"probability of {target.name} = {word}" for word in target.classes] if target.classes else [
        f"{target.name}, in {target.unit or 'its own unit'}"]  # fmt: skip
    return {"columns": columns, "target": target.name, "classes": list(target.classes), "unit": target.unit,
            "outputs": outputs}  # fmt: skip


def _cells(column: Column) -> str:
    """What a cell of a raw column is."""
    if column.kind == "category":
        return ", ".join(f"{n}: {word}" for n, word in enumerate(column.categories))
    return {"flag": "1: yes, 0: no", "date": "days since 1970-01-01"}.get(column.kind, column.unit or "a number")


def is_fitted(learnt: LaunchModel) -> bool:
    """Whether somebody's own rows have had a part in it, by which it is scaled."""
    return "scaling" in learnt.about.get("fitted", {})


def fit_first(learnt: LaunchModel) -> str:
    """What to do with a launch model before it is of use."""
    return f"Fit it first: difnet fit {learnt.path} --support ROWS.csv -o mine.safetensors"


def told(by: Scaling) -> dict[str, Any]:
    """Constants as plain values, as the metadata of a fitted model holds them: to the last bit."""
    target = {} if by.target is None else {"target": {name: t.tolist() for name, t in by.target._asdict().items()}}
    return {**{name: t.tolist() for name, t in by.inputs._asdict().items()}, **target}


def _kept(learnt: LaunchModel, schema: Schema) -> Scaling:
    """The inverse of `told`.

    Raises: RunFolderError, if they are not those of the schema.
    """
    kept = learnt.about["fitted"]["scaling"]
    regression = schema.target.kind == "regression"
    try:
        target = _constants(kept["target"], 1) if regression else None
        return Scaling(_constants(kept, len(schema.used)), target)
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{learnt.path}: the constants in its metadata are damaged; fit it again") from error


def _constants(kept: Mapping[str, Any], count: int) -> Constants:
    made = Constants(*(torch.tensor(kept[name], dtype=torch.float32) for name in Constants._fields))
    if any(t.shape != (count,) or not t.isfinite().all() for t in made) or not (made.scale > 0).all():
        raise ValueError("not as many as columns, or not finite")
    return made
