"""Who is asked to end, who ends with its parent, and what is tidied up after those who could not do it themselves."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def die_with_parent(parent: int, sig: int = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent ends (Linux; elsewhere its parent has to)."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, int(sig), 0, 0, 0)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def owned(prefix: str) -> str:
    """A prefix for a temporary folder that says whose it is, so that `sweep` can tell when nobody needs it."""
    return f"{prefix}{os.getpid()}-"


def sweep(folder: Path, prefix: str) -> None:
    """Remove the temporary folders that processes made with `owned` and did not live to remove."""
    for left in folder.glob(f"{prefix}*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that grows by one signal each time somebody asks us to stop."""
    asked: list[int] = []
    previous = {}
    for sig in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[sig] = signal.signal(sig, lambda number, frame: asked.append(number))
        except ValueError:  # not in the main thread: whoever runs us there handles signals
            pass
    try:
        yield asked
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)
