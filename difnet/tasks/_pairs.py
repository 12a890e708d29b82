"""Owners whose samples are inputs and targets by index, wherever these lie: arrays, pictures, data sets."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from difnet.data import Array, Indices
from difnet.data.meaning import Meaning
from difnet.data.samples import Pair
from difnet.maths.evaluate import accuracy_of
from difnet.meta import Batch, Tasks
from difnet.tasks._owned import Owned, Samples

CONVOLVED = 16  # the smallest edge of pictures in colour that conv4's four poolings leave something of


class Pairs(Owned):
    """Owners of samples by index. `meaning` says what they are."""

    meaning: Meaning


def owned(
    clients: Mapping[str, Pair], meaning: Meaning, *, cautions: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] | None = None, **rest: Any,
) -> Pairs:  # fmt: skip
    """A family of these clients' samples.

    Inputs are float32 (pixels from 0 to 1, numbers as they are) or, for codes, int64; targets classes, int64 (n,), or
    for regression float32 (n, numbers). In episodes classes are numbered 0 to ways - 1, in order.

    Args: `names` of the classes, by client; else their numbers; `rest`, as `Owned` takes it.
    """
    look = _LookUp(clients, meaning)
    counts = {name: _counts(pair.targets, names[name] if names else None, meaning) for name, pair in clients.items()}
    units, sizes = None, {name: len(pair.targets) for name, pair in clients.items()}
    if meaning.ways:
        units = {name: [f"{name}/{word}" for word, n in its.items() if n] for name, its in counts.items()}
        sizes = {f"{name}/{word}": n for name, its in counts.items() for word, n in its.items() if n}
    numbers = {f"{name}/{word}": (name, c) for name, its in counts.items() for c, word in enumerate(its)}

    def rows_of(unit: str) -> Indices:
        if not meaning.ways:
            return look.rows(unit)
        name, number = numbers[unit]
        return look.rows(name)[np.asarray(clients[name].targets) == number]

    shown = {name: its for name, its in counts.items() if its} if not meaning.ways else {}
    samples = Samples(look.tasks, look.example, rows_of, sizes, shown, [*cautions, *_one_sided(counts, meaning)], units)
    model, words = default_model(meaning)
    is_regression = meaning.kind == "regression"
    family = Pairs(samples, ways=meaning.ways, loss=mse_loss if is_regression else cross_entropy, default_model=model,
                   model_words=words, **rest)  # fmt: skip
    family.meaning = meaning
    if is_regression:
        family.metrics = {"absolute error": _absolute_error}
    else:
        family.accuracy = accuracy_of
    return family


def default_model(meaning: Meaning) -> tuple[str, dict[str, Any]]:
    """The model for such inputs, and what it is built with: conv4 for squares of numbers or pixels, else mlp."""
    shape = meaning.shape
    if len(shape) == 3 and shape[1] == shape[2] and meaning.inputs != "codes":
        small = {"strided": True} if shape[1] < CONVOLVED else {}
        return "conv4", {"channels": shape[0], "size": shape[1], "outputs": meaning.outputs, **small}
    return "mlp", {"inputs": shape[-1], "outputs": meaning.outputs}


def change(inputs: Array, meaning: Meaning) -> Tensor:
    """Inputs as a model takes them."""
    if meaning.inputs == "codes":
        return torch.from_numpy(inputs.astype(np.int64))
    values = torch.from_numpy(np.ascontiguousarray(inputs, np.float32))
    return values / 255 if meaning.inputs == "pixels" else values


class _LookUp:
    """Tasks of rows, which are counted through all clients."""

    def __init__(self, clients: Mapping[str, Pair], meaning: Meaning) -> None:
        self._pairs, self._meaning = list(clients.values()), meaning
        ends = np.cumsum([0, *(len(pair.targets) for pair in self._pairs)])
        self._first, self._ranges = ends[:-1], dict(zip(clients, pairwise(ends), strict=True))

    def rows(self, client: str) -> Indices:
        """One client's rows."""
        return np.arange(*self._ranges[client])

    def tasks(self, support: Indices, query: Indices) -> Tasks:
        """Tasks of rows (T, n) and (T, m)."""
        return Tasks(self._batch(support), self._batch(query))

    def example(self, count: int, shots: int, queries: int, rng: np.random.Generator) -> Tasks:
        """Tasks of nobody's: pixels and numbers at random, codes 0."""
        m = self._meaning

        def batch(each: int) -> Batch:
            n = each * (m.ways or 1)
            shape = (count, n, *m.shape)
            x = np.zeros(shape, np.int64) if m.inputs == "codes" else rng.random(shape) if m.inputs == "pixels" else (
                rng.normal(size=shape))  # fmt: skip
            if m.kind == "regression":
                y: Array = rng.normal(size=(count, n, m.outputs)).astype(np.float32)
            else:
                y = rng.integers(m.outputs, size=(count, n))
            inputs = torch.from_numpy(x if m.inputs == "codes" else x.astype(np.float32))
            return inputs, _numbered(count, n, m.ways) if m.ways else torch.from_numpy(y)

        return Tasks(batch(shots), batch(queries))

    def _batch(self, rows: Indices) -> Batch:
        m, flat = self._meaning, rows.ravel()
        which = np.searchsorted(self._first, flat, side="right") - 1
        x: Array | None = None
        y: Array | None = None
        for number in np.unique(which):
            its, pair = which == number, self._pairs[number]
            places = flat[its] - self._first[number]
            got, goals = np.asarray(pair.inputs[places]), np.asarray(pair.targets[places])
            x = np.empty((len(flat), *got.shape[1:]), got.dtype) if x is None else x
            y = np.empty((len(flat), *goals.shape[1:]), goals.dtype) if y is None else y
            x[its], y[its] = got, goals
        assert x is not None and y is not None, "a task has a sample"
        inputs = change(x, m).reshape(*rows.shape, *m.shape)
        if m.ways:
            return inputs, _numbered(len(rows), rows.shape[1], m.ways)
        if m.kind == "regression":
            return inputs, torch.from_numpy(y.astype(np.float32)).reshape(*rows.shape, m.outputs)
        return inputs, torch.from_numpy(y.astype(np.int64)).reshape(rows.shape)


def _numbered(count: int, n: int, ways: int) -> Tensor:
    """Classes of episodes, whose samples stand in the order of their classes."""
    return torch.arange(ways).repeat_interleave(n // ways).repeat(count, 1)


def _counts(targets: Array, names: Sequence[str] | None, meaning: Meaning) -> dict[str, int]:
    """How many samples of each class; {} for regression."""
    if meaning.kind == "regression":
        return {}
    least = 0 if meaning.ways else meaning.outputs
    counts = np.bincount(np.asarray(targets).astype(np.int64), minlength=len(names) if names else least)
    words = names or [str(c) for c in range(len(counts))]
    return dict(zip(words, counts.tolist(), strict=True))


def _one_sided(counts: Mapping[str, Mapping[str, int]], meaning: Meaning) -> list[str]:
    """Clients with a single class."""
    if meaning.ways or meaning.kind == "regression":
        return []
    return [f"{name}: the target is the same in all {sum(its.values())} samples" for name, its in counts.items()
            if sum(n > 0 for n in its.values()) == 1]  # fmt: skip


def _absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean()
