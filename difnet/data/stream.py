"""How is a file read a piece at a time, gzipped or not? A damaged one is one clear error; progress is told in bytes."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

from difnet.errors import DataError, EnvironmentLacks
from difnet.system.progress import report_progress
from difnet.system.texts import LONGEST, NotText, encoding_of

PIECE = 2**16
REMEDY = "`difnet data check` compares it with what its owner published; fetch it anew"


def pieces(path: Path) -> Iterator[bytes]:
    """A file's bytes, unpacked if its name ends in .gz.

    Raises: EnvironmentLacks, if it is not there; DataError, if it is damaged, naming the unpacked byte.
    """
    done = 0
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(open(path, "rb"))
            whole = path.stat().st_size
            packed = path.suffix == ".gz"
            file = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=raw))) if packed else raw
            while piece := file.read(PIECE):
                done += len(piece)
                report_progress(f"reading {path.name}", raw.tell(), whole)
                yield piece
    except (FileNotFoundError, IsADirectoryError) as error:
        raise EnvironmentLacks(f"there is no file {path}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut off after unpacked byte {done}: {error}. {REMEDY}.") from error


def utf8_pieces(path: Path) -> Iterator[bytes]:
    """A text's bytes in UTF-8, without a byte-order mark; one that is UTF-16 by its mark is written anew.

    Raises: as `pieces`, and DataError, if it is UTF-16 without a mark, or cut off.
    """
    decoder, done = None, 0
    try:
        for piece in pieces(path):
            if not done and (encoding := encoding_of(piece[:LONGEST])) != "utf-8":
                piece = piece.removeprefix(codecs.BOM_UTF8)
                decoder = None if encoding == "utf-8-sig" else codecs.getincrementaldecoder(encoding)()
            done += len(piece)
            yield decoder.decode(piece).encode() if decoder else piece
        if decoder:
            decoder.decode(b"", final=True)
    except NotText as error:
        raise DataError(f"{path}: {error}. {REMEDY}.") from error
    except UnicodeError as error:
        raise DataError(f"{path} is damaged or cut off after unpacked byte {done}: {error}. {REMEDY}.") from error


def lines(path: Path) -> Iterator[str]:
    """A file's lines without their ends (LF or CRLF), read as UTF-8, or as Latin-1 where a line is none.

    One with a byte-order mark for UTF-16 is read as that.

    Raises: as `utf8_pieces`.
    """
    rest = b""
    for piece in utf8_pieces(path):
        *whole, rest = (rest + piece).split(b"\n")
        yield from map(_text, whole)
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    line = line.removesuffix(b"\r")
    try:
        return line.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        return line.decode("latin-1")
