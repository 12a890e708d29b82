"""What stands between a private engine and the process that wants it: it ends the engine when that process ends.

It is a process of its own because a test session can be killed, and then somebody has to remove what is left. Whoever
asked for the engine sends SIGTERM, or dies, which makes the kernel send it: there is one way to end.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event

import psutil

from difnet.system.lifetime import die_with_parent

CGROUPS = Path("/sys/fs/cgroup")
LAST_LINES = 12


def guard(parent: int, folder: Path, cgroup: str, command: list[str]) -> int:
    """Run `command`, which starts the engine in namespaces of its own, until told to stop; leave nothing.

    The first process of a namespace of processes takes all others with it, and with the last of them go the mounts, the
    network and its interfaces. Only files and cgroups have to be removed by hand.

    Returns: 1, with the engine's last words on standard error, when it ended by itself.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    daemon = None
    try:
        die_with_parent(parent, signal.SIGTERM)
        log = folder / "daemon.log"
        with log.open("wb") as stream:
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )  # fmt: skip
        daemon.wait()
        print(*log.read_text(errors="replace").splitlines()[-LAST_LINES:], sep="\n", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if daemon is not None:
            _end(daemon)
        _remove_cgroups(cgroup)
        shutil.rmtree(folder, ignore_errors=True)


def _end(unshare: subprocess.Popen) -> None:
    """Kill the namespaces' first process; `unshare` ends when the kernel has ended all others."""
    with suppress(psutil.NoSuchProcess):
        for first in psutil.Process(unshare.pid).children():
            first.kill()
    with suppress(subprocess.TimeoutExpired):
        unshare.wait(timeout=10)
    unshare.kill()
    unshare.wait()


def _remove_cgroups(name: str, timeout_s: float = 5.0) -> None:
    """Remove the engine's groups of every hierarchy; one stays busy for a moment after its last process has gone."""
    deadline = time.monotonic() + timeout_s
    while tops := [top for top in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")) if top.exists()]:
        for top in tops:
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
        if time.monotonic() > deadline:
            return
        Event().wait(0.02)  # nothing tells when the kernel is done


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
