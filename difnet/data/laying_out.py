"""How do objects of a Python session become files that the processes of a run read? In a private folder, for as long
as the run lasts; one that nobody lived to remove goes with the next run."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from difnet.data import Array, samples
from difnet.data.cache import KEPT_BESIDE
from difnet.data.own_arrays import PIECE, X, Y
from difnet.data.table_files import pyarrow
from difnet.errors import ConfigError, DataError, EnvironmentLacks
from difnet.system.folders import own_prefix, sweep_orphans
from difnet.system.progress import report_progress

OBJECTS = "difnet-objects-"
MOST_NAME_BYTES = 200
Write = Callable[[Path], None]


@contextmanager
def scratch(write: Write) -> Iterator[Path]:
    """A folder with what `write` puts there, for this user alone; it is removed in the end, whatever happens.

    Raises: EnvironmentLacks without room for it.
    """
    base = Path(tempfile.gettempdir())
    sweep_orphans(base, OBJECTS)
    try:
        folder = Path(tempfile.mkdtemp(prefix=own_prefix(OBJECTS)))
    except OSError as error:
        raise _no_room(base, error) from error
    try:
        own = folder / "own"
        try:
            own.mkdir()
            (folder / KEPT_BESIDE).mkdir()
            write(own)
        except OSError as error:
            raise _no_room(base, error) from error
        yield own
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def named(objects: Any, what: str) -> dict[str, Any]:
    """Objects by the names of their clients, which become names of files.

    Raises: ConfigError for names that cannot be, or none.
    """
    if not isinstance(objects, Mapping) or not objects:
        raise ConfigError(f"{what} are given as {type(objects).__name__}; give them by client: {{\"ash\": …, \"oak\": "
                          f"…}}, one at least")  # fmt: skip
    made: dict[str, Any] = {}
    for key, value in objects.items():
        name = str(key)
        wrong = ("is empty" if not name.strip() else "begins with a dot" if name.startswith(".") else
                 "holds a slash" if "/" in name else "holds control characters" if not name.isprintable() else
                 "is too long" if len(name.encode(errors="replace")) > MOST_NAME_BYTES else
                 "is there twice" if name in made else "")  # fmt: skip
        if wrong:
            raise ConfigError(f"a client's name, {name[:50]!r}, {wrong}; names become those of files: printable text "
                              f"without slashes")  # fmt: skip
        made[name] = value
    return made


def write_frames(frames: Mapping[str, Any], folder: Path) -> None:
    """Frames (of pandas, polars or pyarrow, or columns by name) as Parquet, without their index.

    Raises: DataError for what is no frame, or holds what Parquet does not.
    """
    arrow = pyarrow()
    for n, (name, frame) in enumerate(frames.items()):
        report_progress("writing tables", n, len(frames))
        try:
            if hasattr(frame, "iloc"):
                table = arrow.Table.from_pandas(frame, preserve_index=False)
            elif hasattr(frame, "to_arrow"):
                table = frame.to_arrow()
            else:
                table = frame if isinstance(frame, arrow.Table) else arrow.table(dict(frame))
            arrow.parquet.write_table(table, folder / f"{name}.parquet", row_group_size=2**16)
        except OSError:
            raise
        except Exception as error:  # what is no frame fails in any way
            said = " ".join(str(error).split())[:200]
            raise DataError(f"client {name!r}: a {type(frame).__name__} cannot be written as a table: {said}. Give a "
                            f"frame of pandas or polars, or columns by name, with numbers, texts, yes and no, or dates."
                            ) from error  # fmt: skip


def write_arrays(pairs: Mapping[str, Any], folder: Path) -> None:
    """Arrays or tensors (x, y) of each client, as x.npy and y.npy.

    Raises: DataError for what is no such pair.
    """
    for name, pair in pairs.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(f"client {name!r}: is a {type(pair).__name__}; it must be (x, y): inputs (n, …) and "
                            f"targets (n,), arrays or tensors")  # fmt: skip
        place = folder / name
        place.mkdir()
        for file, value in zip((X, Y), pair, strict=True):
            made = samples.array(value, f"client {name!r}, {file[0]}")
            if not made.ndim:
                raise DataError(f"client {name!r}, {file[0]}: is a single number; it must have one row for each sample")
            with (place / file).open("wb") as out:
                _head(out, made.dtype, made.shape)
                for begin in range(0, len(made), PIECE):
                    out.write(np.ascontiguousarray(made[begin : begin + PIECE]).tobytes())


def write_datasets(datasets: Mapping[str, samples.Dataset], folder: Path) -> None:
    """Data sets of each client, read item by item, as x.npy and y.npy."""
    for name, dataset in datasets.items():
        place = folder / name
        place.mkdir()
        write_dataset(dataset, place)


def write_dataset(dataset: samples.Dataset, place: Path) -> None:
    """A data set, as x.npy and y.npy."""
    goals: list[Array] = []
    with (place / X).open("wb") as out:
        _head(out, dataset.dtype, (len(dataset), *dataset.shape))
        for x, y in dataset.pieces():
            out.write(np.ascontiguousarray(x).tobytes())
            goals.append(y)
    targets = np.concatenate(goals)
    with (place / Y).open("wb") as out:
        _head(out, targets.dtype, targets.shape)
        out.write(np.ascontiguousarray(targets).tobytes())


def _head(out: BinaryIO, dtype: Any, shape: tuple[int, ...]) -> None:
    """The head of a .npy file. Rows follow by plain writing, which a full disk refuses; a mapped one would kill us."""
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, described)


def _no_room(base: Path, error: OSError) -> EnvironmentLacks:
    return EnvironmentLacks(f"the data cannot be written below {base}: {error.strerror or error}. Make room there, or "
                            f"name another folder in $TMPDIR.")  # fmt: skip
