"""Who hears how far something long has come? Readers and downloads say it; their caller decides what is shown."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Hear = Callable[[str, int, int | None], None]  # (what is done, how much of it, of how much: None where unknown)

_hear: ContextVar[Hear] = ContextVar("hear", default=lambda what, done, whole: None)


def progress(what: str, done: int, whole: int | None = None) -> None:
    """Say how far it has come; cheap, so say it often."""
    _hear.get()(what, done, whole)


@contextmanager
def heard_by(hear: Hear) -> Iterator[None]:
    """Within the block, `hear` is told.

    >>> with heard_by(lambda what, done, whole: print(f"{what}: {done} of {whole}")):
    ...     progress("reading train-images", 3, 10)
    reading train-images: 3 of 10
    """
    token = _hear.set(hear)
    try:
        yield
    finally:
        _hear.reset(token)


def spoken(say: Callable[[str], object], every_s: float = 2.0) -> Hear:
    """What is heard as lines of text, so often at most, and none of what is soon over."""
    last = {"at": time.monotonic()}

    def hear(what: str, done: int, whole: int | None) -> None:
        if time.monotonic() - last["at"] > every_s:
            last["at"] = time.monotonic()
            say(f"{what}: {done:,}" + (f" of {whole:,}" if whole else ""))

    return hear
