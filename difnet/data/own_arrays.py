"""Which arrays have this process's own clients? A folder for each, with x.npy and y.npy, mapped into memory."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from difnet.data import Array
from difnet.data.cache import Writer, kept
from difnet.data.meaning import KINDS, Meaning, agreed, meaning_from
from difnet.data.samples import Pair
from difnet.errors import ConfigError, DataError, EnvironmentLacks
from difnet.system.progress import report_progress

SURVEYOR, DIGESTER = "own-arrays 1", "own-arrays-digest 1"
MOST_CLASSES = 1000  # that are taken for classes without being told
PIECE = 2**12  # samples that are looked at together
X, Y = "x.npy", "y.npy"


class Facts(NamedTuple):
    """What is to be known of one client's arrays: no value of a sample."""

    samples: int
    shape: tuple[int, ...]  # of one input
    dtype: str
    target_shape: tuple[int, ...]  # of one target
    whole: bool  # targets are whole numbers by their type
    highest: int  # of targets that may be classes; -1, where they cannot


class OwnArrays(NamedTuple):
    """All clients' arrays and what they are."""

    clients: dict[str, Pair]
    facts: dict[str, Facts]


def read(data: str | Path) -> OwnArrays:
    """The arrays below a folder: CLIENT/x.npy and CLIENT/y.npy, or x.npy and y.npy of one client.

    Raises: EnvironmentLacks, if nothing is there; DataError, naming the file, for what is no array of numbers, has
        another length than what it belongs to, or holds what is not finite.
    """
    root = Path(data).expanduser()
    if not root.is_dir():
        raise EnvironmentLacks(f"there is no folder {root}; give one with a folder of {X} and {Y} for each client")
    folders = {root.resolve().name: root} if (root / X).exists() else {
        entry.name: entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")}
    if not folders:
        raise DataError(f"{root} holds neither {X} nor folders of clients with {X} and {Y}; numpy.save writes them")
    clients = {name: Pair(_mapped(folder / X), _mapped(folder / Y)) for name, folder in folders.items()}

    def look(writer: Writer) -> None:
        writer.facts = {name: facts_of(pair, f"{folders[name]}/") for name, pair in clients.items()}

    sources = [folder / name for folder in folders.values() for name in (X, Y)]
    facts = kept(SURVEYOR, sources, look).facts
    return OwnArrays(clients, {name: Facts(n, tuple(shape), dtype, tuple(of), whole, highest)
                               for name, (n, shape, dtype, of, whole, highest) in facts.items()})  # fmt: skip


def facts_of(pair: Pair, where: str, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> Facts:
    """What a client's samples are, all of them looked at, but for inputs whose shape and dtype are given.

    Raises: DataError for what cannot be learnt from.
    """
    x, y = pair
    if len(x) != len(y) or not len(y):
        raise DataError(f"{where}: {len(x)} inputs and {len(y)} targets; there must be as many, and one at least")
    if shape is None:
        assert isinstance(x, np.ndarray)
        shape, dtype = x.shape[1:], x.dtype.str
        _refuse_infinite(x, f"{where}x")
    assert dtype is not None
    _refuse_infinite(y, f"{where}y")
    whole = y.dtype.kind in "biu"
    highest = int(y.max()) if whole and y.ndim == 1 and int(y.min()) >= 0 else -1
    return Facts(len(y), shape, dtype, y.shape[1:], whole, highest)


def meaning_of(
    facts: Mapping[str, Facts], kind: str | None = None, inputs: str | None = None, classes: int | None = None,
    ways: int | None = None,
) -> Meaning:  # fmt: skip
    """What these arrays suggest: whole numbers as targets are classes; uint8 are pixels, other numbers are numbers.

    Raises: ConfigError for what nobody can know without being told; DataError for clients that do not agree.
    """
    first, one = next(iter(facts.items()))
    for name, its in facts.items():
        for what, a, b in (("inputs of shape", one.shape, its.shape), ("inputs of type", one.dtype, its.dtype),
                           ("targets of shape", one.target_shape, its.target_shape)):  # fmt: skip
            if a != b:
                raise DataError(f"client {first!r} has {what} {a}, and {name!r} {b}; all must have the same")
    if kind not in (None, *KINDS):
        raise ConfigError(f"task.kind is {kind!r}; it must be {' or '.join(KINDS)}")
    shape = one.shape or (1,)
    inputs = inputs or _inputs_of(one.dtype)
    if ways is not None:
        if kind == "regression" or classes is not None:
            raise ConfigError("ways is for episodes of an owner's own classes; leave kind and classes away")
        kind = "classification"
    if kind is None and one.whole and one.target_shape:
        raise ConfigError(f"targets are whole numbers of shape {('n', *one.target_shape)}: classes, written as ones "
                          f"and noughts, or quantities? Give classes as numbers (n,), or say kind=\"regression\".")
    kind = kind or ("classification" if one.whole and one.target_shape == () else "regression")
    if kind == "classification":
        highest = max(its.highest for its in facts.values())
        if one.target_shape != () or any(its.highest < 0 for its in facts.values()):
            raise DataError(f"client {first!r}: targets are no classes: whole numbers from 0 on, one for each sample "
                            f"(n,); here they have shape {('n', *one.target_shape)}. Number the classes from 0, the "
                            f"same for all, or say kind = \"regression\".")  # fmt: skip
        if classes is None and ways is None and highest >= MOST_CLASSES:
            raise ConfigError(f"targets are whole numbers up to {highest}: {highest + 1} classes, or a quantity? Say "
                              f"classes={highest + 1}, or kind=\"regression\".")  # fmt: skip
        of: dict[str, Any] = {"ways": ways} if ways else {"kind": kind, "outputs": classes or highest + 1}
    else:
        if len(one.target_shape) > 1:
            raise DataError(f"client {first!r}: targets have shape {('n', *one.target_shape)}; they must be (n,) or "
                            f"(n, numbers)")  # fmt: skip
        of = {"kind": kind, "outputs": one.target_shape[0] if one.target_shape else 1}
    return meaning_from({"shape": list(shape), "inputs": inputs, **of}, "task arrays")


def digest_of(data: str | Path) -> str:
    """A hash of one data set's arrays: equal for equal data, wherever it lies.

    Raises: as `read`.
    """
    root = Path(data).expanduser()

    def look(writer: Writer) -> None:
        digest = hashlib.sha256()
        for name in (X, Y):
            found = _mapped(root / name)
            digest.update(f"{found.dtype.str}{found.shape}".encode())
            for begin in range(0, len(found), PIECE):
                report_progress(f"looking at {root / name}", begin, len(found))
                digest.update(np.ascontiguousarray(found[begin : begin + PIECE]).view(np.uint8).data)
        writer.facts = {"digest": digest.hexdigest()[:16]}

    return kept(DIGESTER, [root / X, root / Y], look).facts["digest"]


def check(facts: Mapping[str, Facts], meaning: Meaning) -> None:
    """Raises: DataError, naming the client, if arrays are not as the schema says."""
    for name, its in facts.items():
        if (its.shape or (1,)) != meaning.shape:
            raise DataError(f"client {name!r}: inputs have shape {its.shape}; the schema says {meaning.shape}")
        kind, wanted = np.dtype(its.dtype).kind, {"codes": "iu", "pixels": "u"}.get(meaning.inputs, "biuf")
        if kind not in wanted or (meaning.inputs == "pixels" and np.dtype(its.dtype).itemsize > 1):
            raise DataError(f"client {name!r}: inputs are {np.dtype(its.dtype)}; the schema says {meaning.inputs}")
        if meaning.kind == "classification":
            if its.target_shape != () or its.highest < 0 or (not meaning.ways and its.highest >= meaning.outputs):
                raise DataError(f"client {name!r}: targets are to be whole numbers from 0 to {meaning.outputs - 1}, "
                                f"one for each sample; there are others (up to {its.highest})")  # fmt: skip
        elif its.target_shape not in ((meaning.outputs,), () if meaning.outputs == 1 else (meaning.outputs,)):
            raise DataError(f"client {name!r}: targets have shape {('n', *its.target_shape)}; the schema says "
                            f"{meaning.outputs} numbers")  # fmt: skip


def given(
    data: str | Path | None, schema: Mapping[str, Any] | None, words: Mapping[str, Any]
) -> Meaning:  # fmt: skip
    """The meaning that a schema says; else what the arrays suggest, where `words` do not say it.

    Raises: ConfigError, if nothing or two things say it.
    """

    def suggest(**said: Any) -> Meaning:
        if data is None:
            raise ConfigError("task arrays: neither arrays nor a schema are here, so nobody knows their shape; say "
                              "--data DIR, or --schema FILE with shape, inputs, kind and outputs")  # fmt: skip
        return meaning_of(read(data).facts, **said)

    return agreed("arrays", schema, words, meaning_from, suggest)


def _inputs_of(dtype: str) -> str:
    kind = np.dtype(dtype)
    if kind == np.uint8:
        return "pixels"
    if kind.kind in "fb":
        return "numbers"
    raise ConfigError(f"inputs are {kind}: numbers, or codes of words or characters? Say inputs=\"numbers\" or "
                      f"inputs=\"codes\".")  # fmt: skip


def _mapped(path: Path) -> Array:
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}; a client's folder holds {X} (n, …) and {Y} (n,), as numpy.save writes "
                        f"them") from error  # fmt: skip
    except (ValueError, OSError) as error:
        empty = " of zero bytes, or" if path.exists() and not path.stat().st_size else ""
        raise DataError(f"{path} is no array of numbers that can be mapped:{empty} {error}. Write it with numpy.save."
                        ) from error  # fmt: skip
    if found.dtype.kind not in "biuf" or not found.ndim:
        raise DataError(f"{path} holds {found.dtype} {found.shape}; it must be an array of numbers with one row for "
                        f"each sample")  # fmt: skip
    return found.view(np.ndarray)


def _refuse_infinite(values: Array, where: str) -> None:
    """Raises: DataError for numbers that are not finite as float32."""
    if values.dtype.kind != "f":
        return
    for begin in range(0, len(values), PIECE):
        report_progress(f"looking at {where}", begin, len(values))
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(values[begin : begin + PIECE].astype(np.float32))
        if bad.any():
            row = begin + int(np.flatnonzero(bad.reshape(len(bad), -1).any(1))[0])
            raise DataError(f"{where}, row {row} (from 0): is not finite as float32. Take the sample out, or fill it "
                            f"in.")  # fmt: skip
