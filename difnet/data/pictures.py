"""How does any picture that Pillow reads become pixels of one size, 8 bits each, grey or in colour?

The right way up, as its EXIF says; the first of several frames; on white, where it is transparent; the middle square.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from difnet.data import Array
from difnet.errors import DataError, DifnetError, EnvironmentLacks

GREY = ("1", "L", "LA", "La", "F")  # and I, I;16, I;16B, …
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
STUBS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # which Pillow leaves to other programs
WIDE = ("PNG", "PPM", None)  # formats whose mode "I" has 16 bits
WHITE_16 = 65535


def pillow() -> Any:
    """The library that reads pictures, imported when one is read.

    Raises: EnvironmentLacks without it.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise EnvironmentLacks("reading pictures needs Pillow; install it with: pip install 'difnet[data]'") from error
    Image.init()
    return Image, ImageOps


def endings() -> frozenset[str]:
    """How names of pictures end, in small letters."""
    image, _ = pillow()
    return frozenset(ending for ending, format in image.registered_extensions().items()
                     if format in image.OPEN and format not in STUBS)  # fmt: skip


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A picture, its header read and its pixels not yet; it is closed afterwards.

    Raises: DataError, if it is none, or damaged, here or when its pixels are asked for.
    """
    image, _ = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; those of pictures too large are errors
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with image.open(path, formats=sorted(set(image.OPEN) - STUBS)) as picture:
                yield picture
    except (image.DecompressionBombError, image.DecompressionBombWarning) as error:
        raise DataError(f"{path} has more than {image.MAX_IMAGE_PIXELS:,} pixels") from error
    except DifnetError:
        raise
    except Exception as error:  # its readers raise what they like at bytes that they did not expect
        raise DataError(f"{path} is no picture that can be read") from error


def grey(picture: Any) -> bool:
    """Whether a picture has no colours, by its mode or its palette."""
    if picture.mode in GREY or picture.mode.startswith("I"):
        return True
    if picture.mode in ("P", "PA"):
        palette = np.array(picture.getpalette() or [0, 0, 1]).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return False


def pixels(picture: Any, channels: int, what: str) -> Array:
    """A picture's pixels, uint8, (channels, height, width).

    Raises: DataError for numbers whose range nobody knows.
    """
    mode = "L" if channels == 1 else "RGB"
    made = np.asarray(_plain(picture, mode, what))
    return made[None] if channels == 1 else np.ascontiguousarray(made.transpose(2, 0, 1))


def square(picture: Any, size: int, channels: int, what: str) -> Array:
    """The same of its middle square, resampled by Lanczos' filter: (channels, size, size)."""
    image, ops = pillow()
    plain = _plain(picture, "L" if channels == 1 else "RGB", what)
    if plain.size != (size, size):
        plain = ops.fit(plain, (size, size), image.Resampling.LANCZOS)
    return pixels(plain, channels, what)


def brightest_16(picture: Any) -> int | None:
    """The largest value of a picture of 16 bits; None for another one."""
    return int(np.asarray(picture).max()) if picture.mode.startswith("I") else None


def _plain(picture: Any, mode: str, what: str) -> Any:
    image, ops = pillow()
    format, made = picture.format, ops.exif_transpose(picture)
    if made.mode == "F" or made.mode.startswith("I"):
        made = image.fromarray(_from_16(made, format, what))
    elif made.mode in TRANSPARENT or "transparency" in made.info:
        rgba = made.convert("RGBA")
        made = image.alpha_composite(image.new("RGBA", rgba.size, "white"), rgba)
    return made.convert(mode)


def _from_16(picture: Any, format: str | None, what: str) -> Array:
    """The 8 upper bits of 16, rounded; Pillow itself would take whatever is above 255 for white."""
    values = np.asarray(picture).astype(np.float64)
    if picture.mode == "F" or (picture.mode == "I" and format not in WIDE) or not 0 <= values.min() <= values.max() <= (
            WHITE_16):  # fmt: skip
        raise DataError(f"{what} holds numbers of 32 bits, and nobody knows which is white; save it with 8 or 16 bits")
    return np.rint(values * (255 / WHITE_16)).astype(np.uint8)
