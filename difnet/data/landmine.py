"""Landmine detection from radar: 29 fields, each a small task of telling mines from clutter; a field is a client.

Source: Xue, Liao, Carin, Krishnapuram, "Multi-Task Learning for Classification with Dirichlet Process Priors", 2007.
"""

from pathlib import Path
from typing import Any

import numpy as np

from difnet.data import Array, Table
from difnet.data.cache import Writer, kept
from difnet.data.home import find
from difnet.errors import DataError, EnvironmentLacks
from difnet.system.progress import report_progress

FILE, FEATURES = "LandmineData.mat", 9
REMEDY = "`difnet data check` compares it with what its owner published, `difnet data get landmine` fetches it anew"


def read(place: Path) -> Table:
    """The samples of every field, in the file's order.

    Inputs (n, 9), float32, as they are; targets 1 for a mine, else 0.

    Raises: EnvironmentLacks, if the file or SciPy is missing; DataError, if it is damaged or another.
    """
    path = find(place, FILE)

    def parse(writer: Writer) -> None:
        report_progress(f"reading {path.name}", 0)
        features, labels = (_cells(path, name) for name in ("feature", "label"))
        if len(features) != len(labels) or not len(features):
            raise DataError(f"{path}: {len(features)} cells in 'feature', {len(labels)} in 'label'; they must be as "
                            f"many, one for each field. {REMEDY}.")  # fmt: skip
        for number, (x, y) in enumerate(zip(features, labels, strict=True), start=1):
            _check(path, number, x, y)
            writer.add("inputs", x.astype(np.float32))
            writer.add("targets", y.ravel().astype(np.int64))
        sizes = np.array([len(x) for x in features])
        writer.add("sizes", sizes)
        writer.add("first", np.cumsum(sizes) - sizes)
        writer.facts = {"names": [f"field-{number}" for number in range(1, len(features) + 1)]}

    entry = kept("landmine 1", [path], parse)
    a = entry.arrays
    return Table(a["inputs"], a["targets"], a["first"], a["sizes"], entry.facts["names"], entry.digest, {})


def _cells(path: Path, name: str) -> list[Array]:
    """The arrays in the cells of one variable of a MATLAB file."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise EnvironmentLacks("reading .mat files needs SciPy; install it with: pip install 'difnet[data]'") from error
    try:
        value: Any = loadmat(path, variable_names=[name]).get(name)
    except Exception as error:  # of a garbled file SciPy raises whatever its bytes lead to
        raise DataError(f"{path} is damaged or no MATLAB 5 file: {error or type(error).__name__}. {REMEDY}.") from error
    if not isinstance(value, np.ndarray) or value.dtype != object:
        raise DataError(f"{path} has no cells called {name!r}; a {FILE} has 'feature' and 'label'. {REMEDY}.")
    return list(value.ravel())


def _check(path: Path, number: int, x: Any, y: Any) -> None:
    where = f"{path}, cell {number}"
    shapes = [getattr(array, "shape", None) for array in (x, y)]
    if shapes[0] != (shapes[0][0] if shapes[0] else 0, FEATURES) or shapes[1] != (len(x), 1):
        raise DataError(f"{where}: features {shapes[0]} and labels {shapes[1]}; they must be (n, {FEATURES}) and "
                        f"(n, 1). {REMEDY}.")  # fmt: skip
    if not (np.issubdtype(x.dtype, np.number) and np.isfinite(x).all()):
        raise DataError(f"{where}: not all features are finite numbers. {REMEDY}.")
    if len(other := np.flatnonzero(~np.isin(y, (0, 1)))):
        raise DataError(f"{where}, row {other[0] + 1}: label {y[other[0], 0]}; it must be 0 or 1. {REMEDY}.")
