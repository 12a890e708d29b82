"""What is one sample (x, y) of somebody's data set, as an array? Data sets are those of torch.utils.data, by index.

They are known by what they can do, so nothing here imports torch or Pillow.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from difnet.data import Array, Indices
from difnet.errors import ConfigError, DataError
from difnet.system.progress import report_progress

PROBED = 8  # samples that are read twice


class Rows(Protocol):
    """Samples' inputs, looked up: [indices (n,)] -> (n, ...). A NumPy array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


class Pair(NamedTuple):
    """The samples of one client."""

    inputs: Rows
    targets: Array  # (n,) or (n, numbers)


def array(value: Any, what: str) -> Array:
    """A tensor, array, picture or number as an array; pictures are uint8, (channels, height, width).

    Raises: DataError for anything else, which could not travel to another process.
    """
    if hasattr(value, "getbands") and hasattr(value, "convert"):  # a picture of Pillow
        from difnet.data.pictures import grey, pixels

        return pixels(value, 1 if grey(value) else 3, what)
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        made = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} cannot be made an array: {error}") from error
    if made.dtype.kind not in "biuf":
        raise DataError(f"{what} is of type {type(value).__name__} ({made.dtype}); it must be a tensor, an array, a "
                        f"picture of Pillow or a number, so that it can be handed to other processes. Give the data "
                        f"set a transform that makes one of it; classes are numbers from 0 on.")  # fmt: skip
    return made


def sample(dataset: Any, index: int, client: str) -> tuple[Array, Array]:
    """One sample (x, y).

    Raises: DataError, if it is none.
    """
    try:
        item = dataset[index]
    except Exception as error:
        raise DataError(f"{client}: its data set fails at item {index}: {type(error).__name__}: {error}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        of = f" of {len(item)}" if isinstance(item, tuple | list | dict) else ""
        raise DataError(f"{client}, item {index}: is a {type(item).__name__}{of}; it must be (x, y), an input and what "
                        f"is to be predicted. Wrap the data set in one whose __getitem__ gives that.")  # fmt: skip
    return array(item[0], f"{client}, item {index}, x"), array(item[1], f"{client}, item {index}, y")


def refuse_iterable(dataset: Any, client: str) -> None:
    """Raises: ConfigError for what is no data set by index."""
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return
    kind = type(dataset).__name__
    raise ConfigError(f"{client}: a {kind} has no length or no items by index, and tasks are drawn by index, the same "
                      f"ones in every process. Give a map-style data set (__len__ and __getitem__); for a stream, "
                      f"difnet.tasks.from_datasets({{{client!r}: list(stream)}}), if it ends.")  # fmt: skip


class Dataset:
    """A client's data set as rows that are read when they are asked for.

    Raises: ConfigError for one without items by index, or whose items change from one reading to the next; DataError,
        if an item is no (x, y).
    """

    def __init__(self, dataset: Any, client: str) -> None:
        refuse_iterable(dataset, client)
        self._dataset, self._client = dataset, client
        if not len(self):
            raise DataError(f"{client}: its data set is empty. Leave the client out.")
        probed = np.unique(np.linspace(0, len(self) - 1, PROBED).astype(np.int64))
        first = {int(n): sample(dataset, int(n), client) for n in probed}
        self.shape, self.dtype = first[0][0].shape, first[0][0].dtype
        for index, (x, y) in first.items():
            again = sample(dataset, index, client)
            if not (_equal(x, again[0]) and _equal(y, again[1])):
                raise ConfigError(f"{client}, item {index}: is another one when it is read again. Tasks are drawn "
                                  f"again when a run is repeated, simulated or resumed, so take what is random out of "
                                  f"the data set's transforms.")  # fmt: skip
        self._probed = {index: y for index, (_, y) in first.items()}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, rows: Indices) -> Array:
        return np.stack([self._fitting(int(n)) for n in rows]) if len(rows) else np.empty((0, *self.shape), self.dtype)

    def _fitting(self, index: int) -> Array:
        return self.checked(index, sample(self._dataset, index, self._client)[0])

    def checked(self, index: int, x: Array) -> Array:
        """The input of one item, if it is like the first one's."""
        if (x.shape, x.dtype) != (self.shape, self.dtype):
            raise DataError(f"{self._client}, item {index}: x is {x.dtype} {x.shape}, and that of item 0 {self.dtype} "
                            f"{self.shape}; all must be alike. Give the data set a transform that makes them so.")
        return x

    def pieces(self, size: int = 256) -> Iterator[tuple[Array, Array]]:
        """All inputs and targets, so many at a time, each item read once."""
        for begin in range(0, len(self), size):
            items = [sample(self._dataset, n, self._client) for n in range(begin, min(begin + size, len(self)))]
            report_progress(f"reading {self._client}", begin, len(self))
            xs = [self.checked(begin + n, x) for n, (x, _) in enumerate(items)]
            yield np.stack(xs), _stacked([y for _, y in items], self._client, begin)

    def targets(self) -> Array:
        """What is to be predicted for every item: as the data set tells it, if that is true, else read item by item."""
        told = _told(self._dataset)
        if told is not None and len(told) == len(self) and all(_equal(told[n], y) for n, y in self._probed.items()):
            return told
        return np.concatenate([y for _, y in self.pieces()])


def _told(dataset: Any) -> Array | None:
    """The targets that a data set of torch, or of torchvision, has as a whole; None, if it has none."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # a Subset
        whole = _told(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices, np.int64)]
    if hasattr(dataset, "datasets") and hasattr(dataset, "cumulative_sizes"):  # a ConcatDataset
        parts = [_told(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]
    found = getattr(dataset, "targets", None)
    if found is None and len(getattr(dataset, "tensors", ())) == 2:
        found = dataset.tensors[1]
    try:
        return None if found is None or callable(found) else array(found, "targets")
    except DataError:
        return None


def _stacked(targets: Sequence[Array], client: str, begin: int) -> Array:
    for n, y in enumerate(targets):
        if y.shape != targets[0].shape:
            raise DataError(f"{client}, item {begin + n}: y has shape {y.shape}, and that of item {begin} "
                            f"{targets[0].shape}; all must be alike")  # fmt: skip
    return np.stack(targets)


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f"))
