"""How is a file parsed once, and then shared? As plain arrays on disk that every process of a host maps into memory.

A half-written entry is never seen: it is made in a scratch folder and renamed when it is whole. An entry is found by
what was read (path, size and time of every source file), by whom, and with which options.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from difnet.data import Array
from difnet.errors import EnvironmentLacks
from difnet.system.folders import cache_folder, own_prefix, sweep_orphans

VERSION = 1
READING = "reading-"
KEPT_BESIDE = ".difnet-kept"  # a folder above sources that are soon removed: what is read of them goes with them


class Kept(NamedTuple):
    """What a reader wrote: named arrays, memory-mapped and read only, facts, and a digest of the arrays' content."""

    arrays: dict[str, Array]
    facts: dict[str, Any]
    digest: str


class Writer:
    """Where a reader puts what it reads, a piece at a time, so that memory stays bounded however big the files are.

    Left without an exception, it has written all there is to know of the arrays.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._files, self._stack = folder, dict[str, BinaryIO](), ExitStack()
        self._shapes: dict[str, tuple[int, tuple[int, ...], str]] = {}
        self._digests: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    def add(self, name: str, array: Array) -> None:
        """Append rows to the array `name`; dtype and all sizes but the first are those of its first piece.

        Raises: EnvironmentLacks, if they cannot be written, for example because the disk is full.
        """
        piece = np.ascontiguousarray(array)
        if name not in self._files:
            self._shapes[name] = (0, piece.shape[1:], piece.dtype.str)
            self._digests[name] = hashlib.sha256(f"{piece.dtype.str}{piece.shape[1:]}".encode())
            with _room(self._folder):
                self._files[name] = self._stack.enter_context((self._folder / f"{name}.bin").open("wb"))
        rows, shape, dtype = self._shapes[name]
        assert (piece.shape[1:], piece.dtype.str) == (shape, dtype), f"{name}: pieces of one array differ"
        content = piece.reshape(-1).view(np.uint8).data
        with _room(self._folder):
            self._files[name].write(content)
        self._digests[name].update(content)
        self._shapes[name] = (rows + len(piece), shape, dtype)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with _room(self._folder) if kind is None else suppress(OSError):
            self._stack.close()
        if kind is None:
            digests = sorted((name, digest.hexdigest()) for name, digest in self._digests.items())
            digest = hashlib.sha256("".join(map("".join, digests)).encode()).hexdigest()[:16]
            about = json.dumps({"arrays": self._shapes, "facts": self.facts, "digest": digest})
            with _room(self._folder):
                (self._folder / "about.json").write_text(about)


def kept(
    reader: str, sources: Sequence[Path], read: Callable[[Writer], None], options: Mapping[str, Any] | None = None,
    private: bool = False,
) -> Kept:  # fmt: skip
    """What `read` makes of these files with these options: from the cache, or read now and kept.

    Args: `reader`, a name with a version, to be changed whenever the same files are read otherwise; `sources`, files,
        or folders, which stand for all files below them; `private`, whether this user alone may look at what is kept.
    Raises: whatever `read` raises, and EnvironmentLacks, if the cache cannot be written; then nothing is kept.
    """
    base = _base(sources)
    folder = base / f"{reader.partition(' ')[0]}-{_key(reader, sources, options or {})}"
    if not (folder / "about.json").is_file():
        with _room(base):
            base.mkdir(parents=True, exist_ok=True)
            sweep_orphans(base, READING)
            scratch = tempfile.TemporaryDirectory(dir=base, prefix=own_prefix(READING))
        with scratch as name:
            whole = Path(name) / "whole"
            whole.mkdir(mode=0o700 if private else 0o777)
            with Writer(whole) as writer:
                read(writer)
            try:
                os.rename(whole, folder)
            except OSError:
                if not (folder / "about.json").is_file():  # another process was first: its entry is as good
                    raise
    return _mapped(folder)


def _base(sources: Sequence[Path]) -> Path:
    """The user's folder, but for files of one run alone: nobody would ever find what is kept of these again."""
    above = sources[0].resolve().parents if sources else []
    beside = (folder / KEPT_BESIDE for folder in above)
    return next((folder for folder in beside if folder.is_dir()), cache_folder().parent / "data")


def _key(reader: str, sources: Sequence[Path], options: Mapping[str, Any]) -> str:
    seen = [about for source in sources for about in _seen(source.resolve())]
    described = json.dumps([VERSION, reader, seen, options], sort_keys=True, default=str)
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def _seen(source: Path | os.DirEntry[str]) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of a file, or of every file below a folder: a folder's own time says nothing of those."""
    if source.is_dir():
        with os.scandir(source) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                yield from _seen(entry)
    else:
        about = source.stat()
        yield str(source if isinstance(source, Path) else source.path), about.st_size, about.st_mtime_ns


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentLacks(f"what is read cannot be kept in {folder}: {error.strerror or error}. Make room there, "
                               f"or name another folder in $DIFNET_CACHE.") from error  # fmt: skip


def _mapped(folder: Path) -> Kept:
    about = json.loads((folder / "about.json").read_text())
    arrays: dict[str, Array] = {}
    for name, (rows, shape, dtype) in about["arrays"].items():
        if rows:  # nothing cannot be mapped
            mapped = np.memmap(folder / f"{name}.bin", dtype, mode="r", shape=(rows, *shape))
            arrays[name] = mapped.view(np.ndarray)  # whose rows are plain arrays: nobody flushes a look-up
        else:
            arrays[name] = np.empty((0, *shape), dtype)
    return Kept(arrays, about["facts"], about["digest"])
