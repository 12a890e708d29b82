"""How is a launch model fitted to somebody's own few samples, a table of theirs or a CSV file of numbers?"""

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from difnet import config
from difnet.after_training.own_model import schema_of, told
from difnet.after_training.table_samples import Samples, table_samples
from difnet.errors import ConfigError, DataError, Diverged
from difnet.launch_models import LaunchModel
from difnet.maths.evaluate import accuracy_of
from difnet.maths.flat import FlatModel
from difnet.meta import Batch
from difnet.system.machine import torch_settings
from difnet.system.texts import NotText, read_text
from difnet.workload.building import make_algorithm

TARGETS = ("target", "label", "y")
SEPARATORS = (";", "\t", ",")


class Inputs(NamedTuple):
    """What one sample of a model's input is."""

    shape: tuple[int, ...]
    numbers: int | None  # inputs are whole numbers below this (of words, characters); None: any numbers


class SampleTable(NamedTuple):
    """A table of numbers, and where they stood."""

    path: Path
    names: list[str]  # of the inputs
    target: str
    inputs: list[list[float]]
    targets: list[float]
    lines: list[int]

    def wrong(self, row: int, column: str, what: str) -> DataError:
        return DataError(f"{self.path}, line {self.lines[row]}, column {column!r}: {what}")


@dataclass(frozen=True)
class Fitted:
    """A launch model fitted to a support set, and the figures on each set before and after."""

    learnt: LaunchModel  # with the fitted values in place of the launch model's, and what was done as metadata
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]  # set -> "before", "after" or "guess" -> loss, accuracy
    transductive: bool
    cautions: list[str]  # what of the samples may surprise


@torch_settings()
def fit(
    learnt: LaunchModel, support: Path, query: Path | None = None, *, steps: int, inner_lr: float | None = None,
    held_back: float | None = None,
) -> Fitted:  # fmt: skip
    """A launch model after some inner steps of its own run's algorithm on the samples in a file.

    Of task `table` that is a table of any kind, read by the model's schema; see `table_samples`. Else it is a CSV file
    of numbers: the loss is the mean squared error for a model with one output, whose targets are any numbers, and the
    cross entropy for a model with several, whose targets are classes, from 0 up. No data of the run's task family is
    needed.

    Args: `held_back`, of a table, the share of its rows to test on.
    Raises: DataError, naming file, line and column of a wrong cell; ConfigError, if the model takes no rows of numbers;
        Diverged, if the fitted model is no longer finite.
    """
    module, schema = learnt.module(), schema_of(learnt)
    flat = FlatModel(module, lambda: samples.batches["support"][0])
    if schema is not None:
        samples = table_samples(schema, learnt.w.dtype, support, query, held_back)
    elif held_back is not None:
        raise ConfigError(f"--held-back is for models of tables (--task table), and this one is of task "
                          f"{learnt.about['task']['name']!r}; give other samples as --query")  # fmt: skip
    else:
        samples = _of_numbers(learnt, module, flat, support, query)

    def loss(w: Tensor, batch: Batch) -> Tensor:
        return samples.loss(flat(w, batch[0]), batch[1])

    asked = config.load(settings=learnt.settings() | ({} if inner_lr is None else {"inner_lr": inner_lr}))
    algorithm = make_algorithm(asked, asked.algorithm.name, asked.algorithm.options, flat, loss)
    begun = learnt.carried(len(algorithm.init(learnt.w).w), inner_lr)
    fitted = algorithm.fit(begun, samples.batches["support"], steps)
    if not fitted.isfinite().all():
        raise Diverged(f"after {steps} inner steps on {support} the model is not finite; try a smaller --inner-lr")

    def measured(state: Tensor, batch: Batch) -> dict[str, float]:
        prediction = flat(algorithm.model(state), batch[0])
        more = {name: float(metric(prediction, batch[1])) for name, metric in samples.metrics.items()}
        return {"loss": float(samples.loss(prediction, batch[1])), **more}

    figures = {name: {"before": measured(begun, batch), "after": measured(fitted, batch),
                      **({"guess": samples.guesses[name]} if name in samples.guesses else {})}
               for name, batch in samples.batches.items()}  # fmt: skip
    rate = "learnt" if len(begun) > len(learnt.w) else asked.inner_lr
    counts = {name: len(y) for name, (_, y) in samples.batches.items()}
    scaling = {} if samples.scaling is None else {"scaling": told(samples.scaling)}
    done = {"steps": steps, "inner_lr": rate, "samples": counts, "figures": figures, **scaling}
    about = {**learnt.about, "fitted": done}
    about.pop("layout", None)
    return Fitted(replace(learnt, w=algorithm.model(fitted), about=about), figures, flat.is_transductive,
                  samples.cautions)  # fmt: skip


def _of_numbers(
    learnt: LaunchModel, module: nn.Module, flat: FlatModel, support: Path, query: Path | None
) -> Samples:
    """Samples of plain numbers."""
    inputs = inputs_of(learnt, module)
    sets = {"support": read_samples(support), **({"query": read_samples(query)} if query else {})}
    batches = {name: batch_of(cells, flat, learnt.w, inputs) for name, cells in sets.items()}
    if batches["support"][1].is_floating_point():
        return Samples(batches, mse_loss, {}, {}, [], None)
    return Samples(batches, cross_entropy, {"accuracy": accuracy_of}, {}, [], None)


def write(fitted: LaunchModel, path: Path) -> None:
    """Write a launch model in the layout of a run's own."""
    from safetensors.torch import save_file

    tensors = {"w": fitted.w.contiguous()} | ({} if fitted.rates is None else {"inner_lr": fitted.rates.contiguous()})
    save_file(tensors, path, fitted.metadata(tensors))


def inputs_of(learnt: LaunchModel, module: nn.Module) -> Inputs:
    """What a model takes, as its options say, else as its first layer with parameters does.

    Raises: ConfigError, if neither says it.
    """
    options = learnt.model.options
    if isinstance(options.get("inputs"), int):
        return Inputs((options["inputs"],), None)
    first = next(layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None)
    if isinstance(first, nn.Embedding):
        return Inputs((int(options.get("length", -1)),), first.num_embeddings)
    if isinstance(first, nn.Conv2d) and isinstance(options.get("size"), int):
        return Inputs((first.in_channels, options["size"], options["size"]), None)
    if isinstance(first, nn.Linear):
        return Inputs((first.in_features,), None)
    raise ConfigError(
        f"model {learnt.model.name!r} does not say how a row of numbers becomes its input: it has no option 'inputs' "
        f"or 'size', and its first layer is a {type(first).__name__}. From Python: difnet.load(RUN).launch_model()"
    )


def read_samples(path: Path) -> SampleTable:
    """The numbers in a CSV file with a header; the column target, label or y is the target, else the last one is.

    Cells are separated by semicolons, tabs or commas, whichever the header has first in this order; unless by commas, a
    number may have one in the place of its point. Lines in which nothing stands are passed over.

    Raises: DataError, naming file, line and column.
    """
    try:
        text = read_text(path)
        head = next((line for line in text.split("\n") if line.strip()), "")
        separator = next((mark for mark in SEPARATORS if mark in re.sub('"[^"]*"', "", head)), ",")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give the path of a CSV file") from error
    except (csv.Error, NotText) as error:
        raise DataError(f"{path} is no CSV file: {error}; needed is text in UTF-8, separated by commas") from error
    if len(rows) < 2:
        raise DataError(f"{path} has {len(rows)} line{'s' * (len(rows) != 1)}; expected a header, and a line for every "
                        f"sample: inputs, then the target, separated by commas")  # fmt: skip
    (_, header), *lines = rows
    names = [name.strip() for name in header]
    if all(_is_number(name) for name in names):
        raise DataError(f"{path}, line 1: only numbers; the first line must name the columns, e.g. x,y")
    if len(names) < 2:
        raise DataError(f"{path}, line 1: one column, {names[0]!r}; expected inputs and a target, separated by commas")
    at = next((i for name in TARGETS for i, own in enumerate(names) if own.lower() == name), len(names) - 1)
    if separator != ",":
        lines = _with_points(path, lines)
    values = []
    for line, row in lines:
        if len(row) != len(names):
            raise DataError(f"{path}, line {line}: {len(row)} cells, but the header has {len(names)} columns; a line "
                            f"needs one cell for each")  # fmt: skip
        values.append([_number(path, line, name, cell) for name, cell in zip(names, row, strict=True)])
    return SampleTable(path, names[:at] + names[at + 1 :], names[at], [v[:at] + v[at + 1 :] for v in values],
                 [v[at] for v in values], [line for line, _ in lines])  # fmt: skip


def batch_of(cells: SampleTable, flat: FlatModel, w: Tensor, inputs: Inputs) -> Batch:
    """Samples as a model takes them: inputs (n, ...), targets (n, 1) of w's dtype, or classes (n,), int64.

    Raises: DataError, naming the cell that the model cannot take.
    """
    wanted = math.prod(inputs.shape) if inputs.shape != (-1,) else len(cells.names)
    if len(cells.names) != wanted:
        picture = f", a picture of {' x '.join(map(str, inputs.shape))}, row by row" if len(inputs.shape) > 1 else ""
        raise DataError(f"{cells.path}, line 1: {len(cells.names)} columns beside the target {cells.target!r}, but the "
                        f"model takes {wanted} inputs{picture}")  # fmt: skip
    if inputs.numbers is not None:
        for row, values in enumerate(cells.inputs):
            for name, value in zip(cells.names, values, strict=True):
                if value != int(value) or not 0 <= value < inputs.numbers:
                    raise cells.wrong(row, name, f"{value:g} is no whole number from 0 to {inputs.numbers - 1}")
    x = torch.tensor(cells.inputs, dtype=w.dtype if inputs.numbers is None else torch.int64)
    x = x.reshape(len(x), *inputs.shape)
    shape = tuple(flat(w, x).shape)
    if math.prod(shape) == len(x):
        return x, torch.tensor(cells.targets, dtype=w.dtype).reshape(shape)
    if len(shape) != 2:
        raise ConfigError(f"the model makes outputs of shape {shape[1:]} of a sample, for which one target is too few")
    for row, value in enumerate(cells.targets):
        if value != int(value) or not 0 <= value < shape[1]:
            raise cells.wrong(row, cells.target, f"{value:g} is no class; the model has {shape[1]} outputs, so it must "
                                                 f"be a whole number from 0 to {shape[1] - 1}")  # fmt: skip
    return x, torch.tensor(cells.targets, dtype=torch.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _with_points(path: Path, lines: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Lines whose numbers may have decimal commas, with points in place of these.

    Raises: DataError, where numbers have points as well, so that a comma may stand between thousands.
    """
    commas = [line for line, row in lines if any("," in cell for cell in row)]
    points = [line for line, row in lines if any("." in cell for cell in row)]
    if commas and points:
        raise DataError(f"{path}, line {commas[0]}: a number with a comma, and line {points[0]} has one with a point; "
                        f"write all with points, and nothing between thousands")  # fmt: skip
    return [(line, [cell.replace(",", ".") for cell in row]) for line, row in lines]


def _number(path: Path, line: int, column: str, cell: str) -> float:
    if not _is_number(cell) or not math.isfinite(float(cell)):
        raise DataError(f"{path}, line {line}, column {column!r}: {cell!r} is no finite number; write it as 3 or 0.25")
    return float(cell)
