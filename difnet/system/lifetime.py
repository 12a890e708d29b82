"""Who is alive, who is asked to end, and who ends with its parent?"""

import os
import resource
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ALIVE_S = 1.0
AGENT = "agent "  # what the name of an agent's process begins with; its number follows
CRASH, LAST_LINES, LINES_KEPT = "Fatal Python error", 12, 60
_touched_at = -ALIVE_S


def say_alive() -> None:
    """Say that this process's loop still turns, about once a second: the file named by $DIFNET_ALIVE gets a new time.

    What watches a container reads that time, at no cost worth naming. Without the variable nothing is written.
    """
    global _touched_at
    path = os.environ.get("DIFNET_ALIVE")
    if path and time.monotonic() - _touched_at >= ALIVE_S:
        _touched_at = time.monotonic()
        with suppress(OSError):
            Path(path).touch()


def die_with_parent(parent: int, sig: int = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent ends (Linux; elsewhere its parent has to)."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, int(sig), 0, 0, 0)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), sig)


def name_process(name: str) -> None:
    """Give this process a name of at most 15 bytes, by which `ps` and `top` show it (Linux; elsewhere it has none)."""
    with suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(15, name.encode()[:15] + bytes(1), 0, 0, 0)  # PR_SET_NAME


def raise_file_limit() -> None:
    """Let this process, and those it starts, open as many files as it may at all: the usual 1024 is soon used up."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def how_it_ended(status: int) -> str:
    """How a process ended, in words, from its exit status, or minus the signal that killed it.

    >>> how_it_ended(-9), how_it_ended(1)
    ('killed by SIGKILL', 'exit status 1')
    """
    if status >= 0:
        return f"exit status {status}"
    named = {s.value: s.name for s in signal.Signals}
    return f"killed by {named.get(-status, f'signal {-status}')}"


def last_words(lines: Iterable[str]) -> str:
    """The last lines that a process printed; where it crashed, the first of those in which Python says where.

    >>> last_words(["one", "two", "why", "Fatal Python error: Aborted", *["  File ..."] * 40]).splitlines()[:3]
    ['two', 'why', 'Fatal Python error: Aborted']
    """
    told = [*lines]
    crashes = [n for n, line in enumerate(told) if line.startswith(CRASH)]
    return "\n".join(told[max(0, crashes[-1] - 2) :][:LAST_LINES] if crashes else told[-LAST_LINES:])


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that grows by one signal each time somebody asks us to stop.

    A terminal that closes asks too, unless `nohup` has us ignore it; both the kernel and a shell tell of it, so that it
    counts once.
    """
    asked: list[int] = []
    previous = {}

    def ask(number: int, frame: object) -> None:
        if number != signal.SIGHUP or not asked:
            asked.append(number)

    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if sig == signal.SIGHUP and signal.getsignal(sig) == signal.SIG_IGN:
            continue
        try:
            previous[sig] = signal.signal(sig, ask)
        except ValueError:  # not in the main thread: whoever runs us there handles signals
            pass
    try:
        yield asked
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)
