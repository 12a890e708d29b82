"""How does an encoded picture become pixels? And which pictures lie in a zip, or in the folder that came out of it?"""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from difnet.data import Array
from difnet.errors import DataError, EnvironmentLacks

BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError)


class Picture(NamedTuple):
    """One picture as it lies there."""

    name: str  # its path inside the zip, or below the folder that the folder of pictures is in, with "/"
    content: bytes
    where: str  # for an error


@contextmanager
def shelf(source: Path, *suffixes: str) -> Iterator[dict[str, Callable[[], Picture]]]:
    """The pictures in a zip or below a folder, by their names in ascending order; each is read when it is called.

    Their names end in one of the suffixes, in small letters or capitals.

    What systems leave beside pictures (`__MACOSX/`, `._name`) is passed over.

    Raises: DataError, here and on a call, if the zip is damaged, or what lies there cannot be read.
    """
    if source.is_dir():
        paths = {path.relative_to(source.parent).as_posix(): path for path in source.rglob("*.*")}
        yield {n: _reading(n, paths[n].read_bytes, source, str(paths[n]))
               for n in sorted(paths) if _is_picture(n, suffixes)}  # fmt: skip
        return
    with _undamaged(source, str(source)):
        archive = zipfile.ZipFile(source)
    with archive:
        names = sorted(n for n in archive.namelist() if _is_picture(n, suffixes))
        yield {n: _reading(n, lambda n=n: archive.read(n), source, f"{source}, {n}") for n in names}  # type: ignore[misc]


def pictures(source: Path, suffix: str) -> Iterator[Picture]:
    """The pictures in a zip or below a folder, one after another in the order of their names.

    Raises: DataError, if the zip is damaged.
    """
    with shelf(source, suffix) as found:
        for take in found.values():
            yield take()


def decode(picture: Picture, mode: str, size: int) -> Array:
    """A picture's pixels, uint8, (size, size) for mode "L", (size, size, 3) for "RGB"; another size is resampled.

    By Lanczos' filter, which the published MAML experiments ask for as well; their drawings, of two colours, Pillow
    resamples by the nearest pixel all the same, so that its strokes have gaps that these have not.

    Raises: DataError, if it is no picture; EnvironmentLacks without Pillow.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise EnvironmentLacks("reading pictures needs Pillow; install it with: pip install 'difnet[data]'") from error
    broken = (UnidentifiedImageError, Image.DecompressionBombError, OSError, EOFError, SyntaxError, ValueError)
    try:
        with Image.open(io.BytesIO(picture.content)) as file:
            image = file.convert(mode)
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.LANCZOS)
            return np.asarray(image)
    except broken as error:
        why = "it is empty" if not picture.content else str(error).partition(" <")[0]  # Pillow tells an address
        raise DataError(f"{picture.where} is no picture that can be read: {why}. Fetch it anew.") from error


def _is_picture(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes) and "__MACOSX/" not in name and not name.rpartition("/")[2].startswith("._")


def _reading(name: str, content: Callable[[], bytes], source: Path, where: str) -> Callable[[], Picture]:
    def read() -> Picture:
        with _undamaged(source, where):
            return Picture(name, content(), where)

    return read


@contextmanager
def _undamaged(source: Path, where: str) -> Iterator[None]:
    try:
        yield
    except BROKEN_ZIP as error:
        raise DataError(f"{where} cannot be read, {source.name} is damaged or no zip: {error}. `difnet data check` "
                        f"compares it with what its owner published; fetch it anew.") from error  # fmt: skip
