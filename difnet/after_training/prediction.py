"""What does a fitted model say of the rows of somebody's table?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from difnet.after_training.own_model import OwnModel, fit_first, is_fitted, own_model, schema_of
from difnet.data.one_table import to_predict
from difnet.data.schema import SCALED, Schema
from difnet.errors import ConfigError, DataError
from difnet.launch_models import LaunchModel
from difnet.maths.flat import FlatModel
from difnet.maths.scaling import NOTHING
from difnet.system.machine import torch_settings

PIECE = 2**16  # rows that are predicted in one call
FAR = 10.0  # standard deviations of the rows that a model was fitted to; farther from their mean it has seen nothing


class Predictions(NamedTuple):
    """A row for each row of the table, in its order: columns that were kept, then what is predicted."""

    columns: dict[str, list[Any]]
    cautions: list[str]


@torch_settings()
def predict(
    learnt: LaunchModel, path: Path, keep: Sequence[str] | None = (), columns: Sequence[str] | None = None
) -> Predictions:
    """What a fitted model says: "predicted TARGET", and for classes "probability CLASS" of each.

    Values are in the target's own unit, as float32.

    Args: `keep`, columns of the table to go before it; None: all; `columns`, names for a table that begins without.
    Raises: ConfigError for a model that was fitted to nobody's rows; DataError, as `one_table.to_predict`, and for a
        row whose prediction is not finite.
    """
    model, schema = own_model(learnt) if is_fitted(learnt) else None, schema_of(learnt)
    if schema is None or model is None:
        own_model(learnt)  # which says what else is wrong
        raise ConfigError(f"{learnt.path} is a launch model, which is where fitting begins and predicts little. "
                          f"{fit_first(learnt)}")  # fmt: skip
    own = to_predict(path, schema, keep, columns)
    raw = torch.from_numpy(own.rows)
    together = FlatModel(model.network).is_transductive
    with torch.no_grad():
        said = torch.cat([model(piece) for piece in ([raw] if together else raw.split(PIECE))]).float().numpy()
    if len(wild := np.flatnonzero(~np.isfinite(said).all(1))):
        raise DataError(f"{path}: the prediction of its row {wild[0] + 1} is not finite; a number in it is far beyond "
                        f"what the model was fitted to: mend it, or leave the cell empty")  # fmt: skip
    told = _told(said, schema)
    if twice := [name for name in told if name in own.kept]:
        raise DataError(f"{path} has a column {twice[0]!r}, and so has what is predicted; keep others, or rename it")
    many = ["batch normalisation: a prediction depends on the other rows of the file (transductive)"] * together
    return Predictions({**own.kept, **told}, [*_cautions(own.rows, model, schema), *many])


def _told(said: np.ndarray, schema: Schema) -> dict[str, list[Any]]:
    """Columns of what is predicted; numbers in the fewest digits that mean the same float32."""
    numbers = [[float(str(value)) for value in column] for column in said.T]
    if schema.target.kind == "regression":
        return {f"predicted {schema.target.name}": numbers[0]}
    words = schema.target.classes
    chosen = [words[n] for n in said.argmax(1)]
    return {f"predicted {schema.target.name}": chosen,
            **{f"probability {word}": column for word, column in zip(words, numbers, strict=True)}}  # fmt: skip


def _cautions(rows: np.ndarray, model: OwnModel, schema: Schema) -> list[str]:
    """Which columns hold what the model was not fitted to: with counts."""
    told = []
    center, scale = model.center.numpy(), model.scale.numpy()
    for n, column in enumerate(schema.used):
        cells = rows[:, n]
        there = cells[~np.isnan(cells)]
        if (gaps := len(cells) - len(there)) and not column.gaps:
            told.append(f"column {column.name!r} has {gaps} gaps, and had none when the schema was made: each counts "
                        f"as {'none of its categories' if column.kind == 'category' else 'the mean'}")  # fmt: skip
        if column.kind not in SCALED or not len(there):
            continue
        if scale[n] == NOTHING:
            told.append(f"column {column.name!r} was a gap in all rows that the model was fitted to: it is not looked "
                        f"at")  # fmt: skip
        elif far := int((np.abs(there - center[n]) > FAR * scale[n]).sum()):
            told.append(f"{far} of {len(there)} cells of {column.name!r} lie more than {FAR:g} standard deviations "
                        f"from the mean of the rows that it was fitted to: it has seen nothing like them")  # fmt: skip
    if empty := int(np.isnan(rows).all(1).sum()):
        told.append(f"{empty} rows hold gaps alone where the model looks: their predictions say nothing of them")
    return told
