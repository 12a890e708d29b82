"""Machines in small: network namespaces of their own, joined by a bridge, each with an empty runs folder of its own.

A namespace lives as long as the process that holds it, and that process dies with the tests; nothing has to be removed
by name, and nothing can be left behind.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from difnet.errors import EnvironmentLacks
from difnet.system.lifetime import die_with_parent
from tests.conftest import environment, until

NET = "10.77.0"
NOBODY = "02:00:00:00:00:01"  # a card that no machine has
CAPTURE = """
import select, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**26)
print("begun", flush=True)
with open(sys.argv[1], "wb") as file:
    while True:
        ready, _, _ = select.select([wire, sys.stdin], [], [])
        if wire in ready:
            file.write(wire.recv(2**17))
        elif not sys.stdin.read(1):
            break
"""
PROGRAMS = ("ip", "unshare", "nsenter", "mount")


class Machine:
    """One of them."""

    def __init__(self, number: int, holder: subprocess.Popen[bytes], folder: Path) -> None:
        self.address, self._holder, self._folder = f"{NET}.{number + 1}", holder, folder

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start `difnet WORDS…` on it."""
        return subprocess.Popen(
            [*_inside(self._holder), "env", "--chdir", str(self._folder), sys.executable, "-m", "difnet", *words],
            text=True, env=environment(**variables), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, preexec_fn=partial(die_with_parent, os.getpid()),
        )  # fmt: skip

    def cover(self, *folders: Path) -> None:
        """Hide folders from it: it sees empty ones."""
        for folder in folders:
            _do(*_inside(self._holder), "mount", "-t", "tmpfs", "none", str(folder))

    def capture(self, into: Path) -> subprocess.Popen[str]:
        """Begin to write every packet that its cards see into a file; the first word that is printed says that it has
        begun, and it ends when its input does."""
        return subprocess.Popen(
            [*_inside(self._holder), sys.executable, "-c", CAPTURE, str(into)], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, preexec_fn=partial(die_with_parent, os.getpid()),
        )  # fmt: skip

    def unplug(self) -> None:
        """Take its network away: no packet comes or goes, and nobody is told."""
        _do(*_inside(self._holder), "ip", "link", "set", "eth0", "down")

    def hide(self, other: "Machine") -> None:
        """Let whatever it sends to another one vanish on the way, and tell nobody: its address leads to no card."""
        self._at_card_of(other, "replace", "lladdr", NOBODY, "nud", "permanent")

    def find(self, other: "Machine") -> None:
        """The end of that."""
        self._at_card_of(other, "del")

    def _at_card_of(self, other: "Machine", verb: str, *words: str) -> None:
        _do(*_inside(self._holder), "ip", "neigh", verb, other.address, *words, "dev", "eth0")


@contextmanager
def machines(count: int, folder: Path) -> Iterator[list[Machine]]:
    """So many machines that see the same files but for `folder/runs`, which the first one alone has.

    Raises: EnvironmentLacks, where this user or this kernel cannot make them.
    """
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if os.geteuid() or missing:
        raise EnvironmentLacks(f"network namespaces need root and {', '.join(PROGRAMS)} (Debian: iproute2, util-linux)")
    (folder / "runs").mkdir()
    with ExitStack() as stack:
        switch = stack.enter_context(_held())
        _do(*_inside(switch), "ip", "link", "add", "switch", "type", "bridge")
        _do(*_inside(switch), "ip", "link", "set", "switch", "up")
        made = []
        for number in range(count):
            holder = stack.enter_context(_held())
            _plug_in(number, holder, switch)
            if number:
                _do(*_inside(holder), "mount", "-t", "tmpfs", "none", str(folder / "runs"))
            made.append(Machine(number, holder, folder))
        yield made


@contextmanager
def _held() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a network and with mounts of its own."""
    holder = subprocess.Popen(
        ["unshare", "--net", "--mount", "sleep", "600"], preexec_fn=partial(die_with_parent, os.getpid())
    )
    try:
        name = Path(f"/proc/{holder.pid}/comm")  # `sleep`, once its mounts are no longer ours
        until(lambda: holder.poll() is not None or name.read_text() == "sleep\n", "namespaces", 10)
        if holder.poll() is not None:
            raise EnvironmentLacks("this kernel, or this container, lets nobody make a network namespace")
        yield holder
    finally:
        holder.kill()
        holder.wait()


def _plug_in(number: int, holder: subprocess.Popen[bytes], switch: subprocess.Popen[bytes]) -> None:
    port = f"port{number}"
    _do(*_inside(switch), "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
    _do(*_inside(switch), "ip", "link", "set", port, "master", "switch", "up")
    for words in (["link", "set", "lo", "up"], ["link", "set", "eth0", "up"],
                  ["addr", "add", f"{NET}.{number + 1}/24", "dev", "eth0"]):  # fmt: skip
        _do(*_inside(holder), "ip", *words)


def _inside(holder: subprocess.Popen[bytes]) -> Sequence[str]:
    return ["nsenter", f"--net=/proc/{holder.pid}/ns/net", f"--mount=/proc/{holder.pid}/ns/mnt"]


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise EnvironmentLacks(f"{' '.join(command)}: {done.stderr.strip()}")
