"""Which process holds a folder while it works in it? A lock that ends with its holder, and a list of what is held here.

The lock is the kernel's, on a file of the folder: a killed process leaves none, and a later process of the same number
is not taken for it. What the file says of its holder is for those who find it locked.
"""

import fcntl
import json
import os
import platform
import pwd
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from difnet.errors import RunFolderError
from difnet.system.folders import running_folder

LOCK = "lock.json"
PEEK_S = 1.0  # whoever looks has the lock for an instant, and whoever has just got it soon says who it is


class Holder(NamedTuple):
    """Who holds a folder, as the lock's file tells it."""

    pid: int
    born: int  # when the process began, in the kernel's ticks since the machine started: with `pid` it is unique
    user: str
    machine: str
    since: str  # ISO 8601

    @property
    def is_here(self) -> bool:
        """Whether it is a process that this one can see, and not one of another machine, or of the same number."""
        return self.machine == platform.node() and born(self.pid) == self.born

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.machine}, since {self.since}"


@contextmanager
def hold(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Within the block, nobody else can hold this folder; it may be new, or that of a run that goes on.

    Args: `say` hears why the folder cannot be listed among those that are held here, if so.
    Raises: RunFolderError, if somebody holds it, or its file system knows no locks.
    """
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)  # closed on exec, so that no program we start holds it
    try:
        _lock(fd, folder)
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(_myself()._asdict()).encode(), 0)
        with _listed(folder, say):
            yield
    finally:
        os.close(fd)


def holder(folder: Path) -> Holder | None:
    """Who holds a folder; None for nobody.

    Raises: RunFolderError, if that cannot be told.
    """
    deadline, told = time.monotonic() + PEEK_S, None
    while is_held(folder):
        with suppress(ValueError, TypeError, FileNotFoundError):
            told = Holder(**json.loads((folder / LOCK).read_text(encoding="utf-8")))
            if told.is_here or told.machine != platform.node():
                return told
        if time.monotonic() > deadline:  # it is of another container, or never said who it is
            if told is None:
                raise RunFolderError(f"{folder} is held by a process that does not say who it is: {folder / LOCK} is "
                                     f"damaged; `fuser {folder / LOCK}` names it")  # fmt: skip
            return told
        time.sleep(0.01)
    return None


def is_held(folder: Path) -> bool:
    """Whether some process holds a folder.

    Raises: RunFolderError, if that cannot be told.
    """
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise RunFolderError(f"cannot tell whether {folder} is in use: {error.strerror}: {error.filename}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def held_here() -> list[Path]:
    """The folders that processes of this user hold on this machine, wherever they lie; what is left of others goes."""
    found = []
    with suppress(FileNotFoundError):
        for entry in sorted(running_folder().iterdir()):
            folder = Path(os.readlink(entry))
            if is_held(folder):
                found.append(folder)
            else:
                entry.unlink(missing_ok=True)
    return list(dict.fromkeys(found))


def ask_to_end(folder: Path, signals: Sequence[signal.Signals], patience_s: float) -> bool:
    """Send signals to the process that holds a folder, and wait until it holds it no more. Returns whether that came.

    Raises: RunFolderError, if nobody holds it, or it is not a process that we may signal.
    """
    if (told := holder(folder)) is None:
        raise RunFolderError(f"nothing runs in {folder}; `difnet ps` lists what does")
    deadline = time.monotonic() + patience_s
    try:
        process = os.pidfd_open(told.pid)
    except OSError:
        raise RunFolderError(_elsewhere(folder, told)) from None
    try:
        if not told.is_here:  # asked with the process in hand, so that its number can no longer pass on
            raise RunFolderError(_elsewhere(folder, told))
        for each in signals:
            signal.pidfd_send_signal(process, each)
        while (held := is_held(folder)) and time.monotonic() < deadline:
            wait([process], 0.05)
        return not held
    except ProcessLookupError:
        return not is_held(folder)
    except PermissionError as error:
        raise RunFolderError(f"{folder} is held by {told}: only {told.user} can stop it") from error
    finally:
        os.close(process)


def _elsewhere(folder: Path, told: Holder) -> str:
    return (f"{folder} is held by {told}, which is no process that can be seen from here ({platform.node()}): stop it "
            f"there, on that machine or in that container")  # fmt: skip


def _lock(fd: int, folder: Path) -> None:
    deadline = time.monotonic() + PEEK_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RunFolderError(in_use(folder)) from None
        except OSError as error:
            raise RunFolderError(f"cannot lock {folder}: {error.strerror}; give --runs DIR on a file system that knows "
                                 f"locks") from error  # fmt: skip
        time.sleep(0.01)


def in_use(folder: Path) -> str:
    """Why nothing else may run in a folder that is held."""
    return f"{folder} is in use by {holder(folder)}; give another --name, or end that run first: difnet stop {folder}"


@contextmanager
def _listed(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Within the block, `held_here` knows the folder."""
    home = running_folder()
    entry = home / f"{os.getpid()}-{secrets.token_hex(4)}"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry.symlink_to(folder.resolve())
    except OSError as error:
        say(f"`difnet ps` finds this run with --runs alone: cannot write {home}: {error.strerror}")
    try:
        yield
    finally:
        with suppress(OSError):
            entry.unlink()


def _myself() -> Holder:
    pid, uid = os.getpid(), os.getuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = f"user {uid}"
    return Holder(pid, born(pid), user, platform.node(), datetime.now(UTC).isoformat(timespec="seconds"))


def born(pid: int) -> int:
    """When a process began, in ticks since the machine started; 0 where there is none of this number.

    >>> born(os.getpid()) > 0
    True
    """
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 0
