"""How is something shown on a terminal that may take nothing for a while, and nobody waits for it?

Ctrl-S, a pipe whose reader sleeps, a slow line: a thread writes, and what it cannot write waits within bounds. It has
the descriptors themselves, so that no buffer and no lock of Python's streams is held by it when the process ends.
"""

import io
import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self, TextIO

MOST_WAITING = 1000  # lines, or pieces of a drawing
PATIENCE_S, LONGEST_S = 1.0, 10.0  # at the end: for a terminal that takes nothing, and for one that is slow
AT_ONCE = 4096  # bytes: a pipe takes so many whole or not at all
LEFT_OUT = "[difnet: {} left out here: for a while this took nothing more]\n"


class Outlet:
    """Stands in for `sys.stdout` and `sys.stderr`: who prints goes on at once. What is printed keeps its order.

    Lines for which there is no room are left out, and it is said how many once all before them is written. A stream
    that cannot be written to any more leads nowhere from then on, and its first error is kept. Streams without a
    descriptor, as tests have them, cannot block and stay as they are.
    """

    def __init__(self) -> None:
        self._failures: dict[int, OSError] = {}  # by descriptor
        self._waiting = deque[tuple[int, bytes]]()
        self._left_out = self._left_out_of = 0
        self._is_busy = self._is_over = False
        self._moved_at = 0.0  # when a byte was taken last, or could first have been
        self._changed = threading.Condition()  # reentrant: a signal's handler may draw
        self._thread = threading.Thread(target=self._write_all, name="screen", daemon=True)
        self._before: tuple[TextIO, TextIO] | None = None

    def __enter__(self) -> Self:
        self._before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = map(self._in_place_of, self._before)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give what is left a moment; what a terminal has not taken by then stays with the thread, and ends with it."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Words):
                stream.flush()
        self.wait()
        assert self._before
        sys.stdout, sys.stderr = self._before
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def wait(self, patience_s: float = PATIENCE_S, longest_s: float = LONGEST_S) -> bool:
        """Wait until all is written, but not longer than `patience_s` for one byte. Returns whether it is."""
        began = time.monotonic()
        with self._changed:
            while self._is_busy or self._waiting or self._left_out:
                left_s = min(self._moved_at + patience_s, began + longest_s) - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def failure(self) -> OSError | None:
        """Why what was printed on stdout is not there, if so."""
        return self._failures.get(sys.stdout.fileno()) if isinstance(sys.stdout, _Words) else None

    def deliver(self, text: str) -> None:
        """Write a line of data to stdout itself, which takes as long as its reader does: that is no screen.

        Raises: OSError, if it cannot be written.
        """
        self.wait()
        assert self._before
        print(text, file=self._before[0], flush=True)

    def put(self, fd: int, piece: bytes) -> None:
        """Have something written, if there is room for it."""
        with self._changed:
            if self._left_out or len(self._waiting) >= MOST_WAITING:
                self._left_out, self._left_out_of = self._left_out + 1, fd
                return
            if not (self._waiting or self._is_busy):
                self._moved_at = time.monotonic()
            self._waiting.append((fd, piece))
            self._changed.notify_all()

    def _in_place_of(self, stream: TextIO) -> TextIO:
        if stream is None:  # it was closed before we began
            return stream
        try:
            fd = stream.fileno()
            stream.flush()
        except OSError:  # it has no descriptor, or fails already: whoever prints hears of it
            return stream
        return _Words(_Pieces(self, fd), encoding=stream.encoding, errors=stream.errors, line_buffering=True)

    def _write_all(self) -> None:
        while piece := self._next():
            fd, data = piece
            try:
                while data:
                    data = data[os.write(fd, data[:AT_ONCE]) :]
                    self._moved_at = time.monotonic()
            except OSError as error:
                self._failures.setdefault(fd, error)
                with open(os.devnull, "wb") as nowhere, suppress(OSError):
                    os.dup2(nowhere.fileno(), fd)

    def _next(self) -> tuple[int, bytes] | None:
        """What is to be written now, once there is something; None at the end."""
        with self._changed:
            self._is_busy = False
            while not (self._waiting or self._left_out or self._is_over):
                self._changed.notify_all()
                self._changed.wait()
            if self._waiting:
                piece = self._waiting.popleft()
            elif self._left_out:
                told = f"{self._left_out} line{'s' if self._left_out > 1 else ''}"
                piece, self._left_out = (self._left_out_of, LEFT_OUT.format(told).encode()), 0
            else:
                return None
            self._is_busy, self._moved_at = True, time.monotonic()
            return piece


class _Pieces(io.RawIOBase):
    """A descriptor that takes bytes at once, and an outlet that writes them."""

    name = "screen"

    def __init__(self, outlet: Outlet, fd: int) -> None:
        self._outlet, self._fd = outlet, fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, piece: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        if piece:
            self._outlet.put(self._fd, bytes(piece))
        return len(piece)


class _Words(io.TextIOWrapper):
    """Text on its way to an outlet."""
