"""What are a file's bytes as UTF-8? UTF-16 is turned into it, gzip unpacked; what is no text is refused by line."""

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import Any

from difnet.errors import DataError
from difnet.system.progress import report_progress

PIECE = 2**16


class Utf8(io.RawIOBase):
    """A file's bytes as UTF-8, unpacked and without a byte order mark.

    Raises: DataError while it is read, naming the line, if that is no text.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.quotes, self._line, self._rest = path, 0, 1, b""
        self._ended = False
        try:
            self._raw = open(path, "rb")  # noqa: SIM115 - closed with this one
            self._whole = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}. See that this user may read it.") from error
        self._file: Any = gzip.GzipFile(fileobj=self._raw) if path.suffix == ".gz" else self._raw
        start = self._some(4)
        wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        self._decode = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
        self._wide = wide
        self._start = start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """As much as there is, up to the buffer's size: less only at the end, as who reads from this expects it."""
        while len(self._rest) < len(buffer) and not self._ended:
            piece, self._start = self._start or self._some(max(PIECE, len(buffer))), b""
            self._ended = not piece
            self._rest += self._checked(piece, last=self._ended)
        n = min(len(buffer), len(self._rest))
        buffer[:n], self._rest = self._rest[:n], self._rest[n:]
        return n

    def tell_progress(self) -> None:
        """Say how far it has come: by whoever reads, since a library may do so in a thread that nobody listens to."""
        report_progress(f"reading {self.path.name}", self._raw.tell(), self._whole)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

    def _some(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path} is damaged or cut off after line {self._line}: {error}. Get it anew, or pack "
                            f"it again.") from error  # fmt: skip

    def _checked(self, piece: bytes, last: bool) -> bytes:
        try:
            text = self._decode.decode(piece, last)
        except UnicodeDecodeError as error:
            line = self._line + piece[: error.start].count(b"\n")
            raise DataError(
                f"{self.path}, line {line}: is no text in UTF-8, maybe in Latin-1 or Windows-1252, which cannot be "
                f"told from each other. Save it as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
            ) from error
        if "\0" in text:
            raise DataError(f"{self.path}, line {self._line + text.partition(chr(0))[0].count(chr(10))}: holds a zero "
                            f"byte, so it is binary and no text. Save the table as CSV in UTF-8.")  # fmt: skip
        out = text.encode() if self._wide else piece.removeprefix(codecs.BOM_UTF8) if self._line == 1 else piece
        self._line += out.count(b"\n")
        self.quotes += out.count(b'"')
        return out
