"""What can one process do to another one of the same user, from outside, and how is it undone?

Signals, a limit on what it may write, its connections, and the paths at which it listens. Each is undone by a *deed*,
plain values that say how, so that somebody else can do it as well: `undoing.py` has somebody.
"""

import ctypes
import errno
import os
import resource
import signal
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from difnet.errors import EnvironmentLacks
from difnet.system.holding import born

Deed = tuple[str, ...]  # how something is undone
REAL, PROXY = ".real", ".proxy"  # beside a path that is taken over: who listened there, and who does now
PIDFD_GETFD = 438


def stop(pid: int) -> Deed:
    """Stop a process as SIGSTOP does.

    Raises: ProcessLookupError, if there is none.
    """
    deed = ("continue", str(pid), str(born(pid)))
    os.kill(pid, signal.SIGSTOP)
    return deed


def forbid_writing(pid: int) -> Deed:
    """Let a process write no byte more to any file, as if its disk were full; also root, whom no permission stops.

    Sockets, pipes and terminals are no files, so it goes on talking. Python's processes get an error (EFBIG) for it.

    Raises: ProcessLookupError, if there is none.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    deed = ("limit", str(pid), str(born(pid)), str(soft))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    return deed


def take_over(path: str, listener: socket.socket) -> Deed:
    """Listen at the path of a Unix socket in place of whoever did, who is from now on at `path` + ".real".

    Whoever dials finds either of them at any moment; connections that are there already stay. To be called again when
    a new process has taken the path back, by then with the same listener.

    Raises: OSError, if nobody listens there.
    """
    real, ours, aside = Path(path + REAL), Path(path + PROXY), path + PROXY + "~"
    if not ours.exists():
        listener.bind(str(ours))
        listener.listen(64)
    real.unlink(missing_ok=True)
    os.link(path, real)
    os.link(ours, aside)
    os.replace(aside, path)
    return ("path", path)


def is_taken(path: str) -> bool:
    """Whether who dials a path reaches the proxy that has taken it over."""
    try:
        return os.path.samefile(path, path + PROXY)
    except FileNotFoundError:
        return False


def undo(deed: Deed) -> None:
    """Undo what one of the functions above did; whoever is gone needs nothing undone."""
    what, *told = deed
    with suppress(ProcessLookupError):
        if what == "path":
            _give_back(told[0])
        elif born(int(told[0])) != int(told[1]):  # its number is another process's by now
            return
        elif what == "continue":
            os.kill(int(told[0]), signal.SIGCONT)
        elif what == "limit":
            _, hard = resource.prlimit(int(told[0]), resource.RLIMIT_FSIZE)
            resource.prlimit(int(told[0]), resource.RLIMIT_FSIZE, (int(told[2]), hard))


def _give_back(path: str) -> None:
    """Whoever listened there does again; who has come there since, or has ended, is left alone."""
    if is_taken(path):
        with suppress(FileNotFoundError):  # the run's folder may be going at this moment
            os.replace(path + REAL, path)
    for ours in (path + REAL, path + PROXY, path + PROXY + "~"):
        with suppress(FileNotFoundError):
            os.unlink(ours)


def dialled_by(connection: socket.socket) -> int:
    """The process at the other end of a Unix socket that has accepted it."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def break_connections(pid: int, path: str, dialers: Collection[int]) -> int:
    """Break the connections that a process has accepted at a path from some others. Returns how many there were.

    Raises: EnvironmentLacks, if this machine lets nobody look into a process.
    """
    broken = 0
    for connection in _sockets(pid):
        with connection:
            if connection.family != socket.AF_UNIX or connection.type != socket.SOCK_STREAM:
                continue
            with suppress(OSError):  # it listens, or has ended
                if connection.getsockname() == path and dialled_by(connection) in dialers:
                    connection.shutdown(socket.SHUT_RDWR)
                    broken += 1
    return broken


def _sockets(pid: int) -> Iterator[socket.socket]:
    """Another process's sockets, each as one of our own."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                if not os.readlink(f"/proc/{pid}/fd/{entry}").startswith("socket:"):
                    continue
                if (fd := call(PIDFD_GETFD, process, int(entry), 0)) >= 0:
                    yield socket.socket(fileno=fd)
                elif (number := ctypes.get_errno()) in (errno.EPERM, errno.ENOSYS):
                    raise EnvironmentLacks(_cannot_look(pid, number))
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return
    finally:
        os.close(process)


def _cannot_look(pid: int, number: int) -> str:
    return (f"the connections of process {pid} cannot be broken from outside: {os.strerror(number)} (pidfd_getfd). It "
            f"takes Linux 5.6 and the right to trace one's own processes: `sysctl kernel.yama.ptrace_scope=0`, in a "
            f"container `--cap-add SYS_PTRACE`. Or begin with the run: `difnet chaos` that is there before the agents "
            f"are breaks nothing")  # fmt: skip
