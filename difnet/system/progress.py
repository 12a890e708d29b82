"""Who hears how far something long has come? Readers and downloads say it; their caller decides what is shown."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int | None], None]  # (what is done, how much of it, of how much: None where unknown)

_hear: ContextVar[Listener] = ContextVar("hear", default=lambda what, done, whole: None)


def report_progress(what: str, done: int, whole: int | None = None) -> None:
    """Say how far it has come; cheap, so say it often."""
    _hear.get()(what, done, whole)


@contextmanager
def progress_to(hear: Listener) -> Iterator[None]:
    """Within the block, `hear` is told.

    >>> with progress_to(lambda what, done, whole: print(f"{what}: {done} of {whole}")):
    ...     report_progress("reading train-images", 3, 10)
    reading train-images: 3 of 10
    """
    token = _hear.set(hear)
    try:
        yield
    finally:
        _hear.reset(token)


def as_lines(say: Callable[[str], object], every_s: float = 2.0) -> Listener:
    """What is heard as lines of text, so often at most, and none of what is soon over."""
    last = {"at": time.monotonic()}

    def hear(what: str, done: int, whole: int | None) -> None:
        if time.monotonic() - last["at"] > every_s:
            last["at"] = time.monotonic()
            say(f"{what}: {done:,}" + (f" of {whole:,}" if whole else ""))

    return hear
