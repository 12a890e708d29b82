"""MNIST in its own files (idx, gzipped or not), and who wrote each digit by QMNIST's table: a writer is a client.

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits"; Yadav, Bottou, "Cold Case: The Lost MNIST
Digits", 2019, for the table (column 0: the digit, 2: the writer in NIST Special Database 19).
"""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from difnet.data import Array, Table
from difnet.data.cache import Writer, kept
from difnet.data.home import find
from difnet.data.sources import RAW
from difnet.data.stream import REMEDY, pieces
from difnet.errors import ConfigError, DataError

PARTS = ("train", "test")
STEMS = {"train": ("train", "qmnist-train"), "test": ("t10k", "qmnist-test")}
DTYPES: dict[int, np.dtype[Any]] = {8: np.dtype("u1"), 12: np.dtype(">i4")}


def read(place: Path, part: str = "train", writers: bool = False) -> Table:
    """The digits of "train" (60000, of 539 writers) or "test" (10000, of 297 others), grouped by writer.

    Inputs (n, 28, 28), uint8, 255 for ink; targets the digits. Without QMNIST's table they are one group, "unknown", in
    the order of the file. Files lie in the folder itself, or in raw or MNIST/raw, where torchvision leaves them.

    Args: `writers`, whether it must be known who wrote each.
    Raises: EnvironmentLacks, if a file is missing; DataError, if one is damaged or does not fit the others.
    """
    if part not in PARTS:
        raise ConfigError(f"task.part is {part!r}; MNIST has the parts {' and '.join(PARTS)}")
    stem, table = STEMS[part]
    names = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte", f"{table}-labels-idx2-int")
    files = [[f"{folder}{name}{packed}" for folder in RAW for packed in (".gz", "")] for name in names]
    images, labels = (find(place, *wanted) for wanted in files[:2])
    has_table = writers or any((place / name).is_file() for name in files[2])
    table_of = [find(place, *files[2])] if has_table else []

    def parse(writer: Writer) -> None:
        x, y = read_idx(images, 3), read_idx(labels, 1)
        _check(images, x, labels, y)
        who = np.zeros((len(y), 3), np.int32)
        for path in table_of:
            who = read_idx(path, 2)[: len(y)]  # QMNIST's test table goes on beyond MNIST's 10000
            _check_writers(path, who, labels, y)
        order = np.argsort(who[:, 2], kind="stable")
        ids, first, sizes = np.unique(who[order, 2], return_index=True, return_counts=True)
        for name, array in (("inputs", x[order]), ("targets", y[order].astype(np.int64)),
                            ("first", first.astype(np.int64)), ("sizes", sizes.astype(np.int64))):  # fmt: skip
            writer.add(name, array)
        writer.facts = {"names": [f"writer-{i}" for i in ids] if table_of else ["unknown"]}

    entry = kept("mnist 1", [images, labels, *table_of], parse, {"part": part})
    a = entry.arrays
    return Table(a["inputs"], a["targets"], a["first"], a["sizes"], entry.facts["names"], entry.digest, {})


def read_idx(path: Path, dimensions: int) -> Array:
    """The array in an idx file, gzipped or not; big-endian numbers as this machine's.

    Raises: DataError, naming the place in the (unpacked) file where it is not what it should be.
    """
    content = b"".join(pieces(path))
    head = 4 + 4 * dimensions
    if len(content) < head:
        raise DataError(f"{path} ends at byte {len(content)}, within its head of {head} bytes. {REMEDY}.")
    zeros, kind, sizes = struct.unpack(">HBB", content[:4])
    if zeros or kind not in DTYPES or sizes != dimensions:
        raise DataError(f"{path} is no idx file of {dimensions} dimensions: it begins with {content[:4].hex(' ')}, and "
                        f"that would be 00 00 08 or 0c, then {dimensions:02x}. {REMEDY}.")  # fmt: skip
    shape = struct.unpack(f">{dimensions}I", content[4:head])
    dtype = DTYPES[kind]
    wanted = head + math.prod(shape) * dtype.itemsize
    if len(content) != wanted:
        raise DataError(f"{path} has {len(content)} bytes; its head announces {' x '.join(map(str, shape))} values, so "
                        f"it should have {wanted}. {REMEDY}.")  # fmt: skip
    return np.frombuffer(content, dtype, offset=head).reshape(shape).astype(dtype.newbyteorder("="))


def _check(images: Path, x: Array, labels: Path, y: Array) -> None:
    if not len(y):
        raise DataError(f"{labels} holds no labels: its head announces none. {REMEDY}.")
    if len(beyond := np.flatnonzero(y > 9)):
        raise DataError(f"{labels}, row {beyond[0]}: label {y[beyond[0]]}; it must be a digit from 0 to 9. {REMEDY}.")
    if len(x) != len(y):
        raise DataError(f"{images} has {len(x)} images, {labels} {len(y)} labels; they must be as many. {REMEDY}.")


def _check_writers(writers: Path, who: Array, labels: Path, y: Array) -> None:
    if who.shape[1] < 3:
        raise DataError(f"{writers} has {who.shape[1]} columns; the digit must be in the first, the writer in the "
                        f"third of QMNIST's eight. {REMEDY}.")  # fmt: skip
    if len(y) != len(who):
        raise DataError(f"{labels} has {len(y)} labels, {writers} {len(who)} rows; they must be as many. {REMEDY}.")
    if len(differing := np.flatnonzero(who[:, 0] != y)):
        raise DataError(f"{writers}, row {differing[0]}: digit {who[differing[0], 0]}, but {labels} says "
                        f"{y[differing[0]]}; they belong to different sets. {REMEDY}.")  # fmt: skip
