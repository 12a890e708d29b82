"""Small files that stand in for data sets, and what every reader owes to a broken one."""

import gzip
import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from difnet.errors import DataError
from difnet.system.folders import cache_folder


def entries() -> set[str]:
    """What lies in the cache of parsed data."""
    return {path.name for path in (cache_folder().parent / "data").glob("*")}


def refused(read: Callable[[], object], *said: object) -> None:
    """Reading ends with one DataError of one line that says all this, and leaves the cache as it was."""
    before = entries()
    with pytest.raises(DataError) as error:
        read()
    message = str(error.value)
    assert all(str(part) in message for part in said), message
    assert "\n" not in message and len(message) > 40
    assert entries() == before


def png(pixels: np.ndarray) -> bytes:
    """A picture in PNG, of one channel or three."""
    return encoded(pixels, "PNG")


def jpg(pixels: np.ndarray) -> bytes:
    """A picture in JPEG: of one colour, so that it is the same afterwards within a little."""
    return encoded(pixels, "JPEG", quality=95)


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    image, buffer = pytest.importorskip("PIL.Image"), io.BytesIO()
    image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A zip of these files, compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def laid_out(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """The same files below a folder."""
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def gz(path: Path, content: bytes) -> Path:
    """A gzipped file."""
    path.write_bytes(gzip.compress(content, mtime=0))
    return path


def scrambled(content: bytes) -> bytes:
    """The same with its middle third overwritten."""
    third = len(content) // 3
    return content[:third] + bytes(255 - b for b in content[third : 2 * third]) + content[2 * third :]
