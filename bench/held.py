"""What does a stranger make a launcher hold, that nobody reads for a while?

Each speaks ZMTP by hand over one TCP connection, as ZeroMQ's own sockets would not, and sends as much as it is let.
"""

import argparse
import socket
import time
from collections.abc import Callable
from pathlib import Path

import figures
from figures import say
from forked import forked

from difnet.exchange.addresses import parse
from difnet.exchange.registry import Registry

PIECE, SETTLED_S, PATIENCE_S = 4 * 2**20, 1.0, 60.0
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
MORE, LAST, COMMAND = 3, 2, 4  # a long frame with more behind it, a long one without, a short command


def frame(flags: int, size: int, body: bytes) -> bytes:
    """A long frame that announces `size` bytes."""
    return bytes([flags]) + size.to_bytes(8, "big") + body


STRANGERS: dict[str, Callable[[int], list[bytes]]] = {  # -> what is sent, given how many pieces
    "a message never ended, frames of 4 MiB": lambda n: [frame(MORE, PIECE, bytes(PIECE))] * n,
    "messages of 4 MiB": lambda n: [frame(MORE, 5, b"guess") + frame(LAST, PIECE, bytes(PIECE))] * n,
    "a frame of 2 GiB, announced": lambda n: [frame(LAST, 2**31 - 1, b"x")],
}


def measure(words: argparse.Namespace) -> figures.Document:
    """Memory and addresses before and after, while the registry reads nothing."""
    pieces = 5 if words.quick else 50
    return figures.document([row(what, make(pieces)) for what, make in STRANGERS.items()], {}, [
        f"As many as {pieces} pieces of 4 MiB are sent, or as few as are taken. libzmq bounds the frames of a message "
        "and the messages of a connection, and not the length of one message."])  # fmt: skip


def row(what: str, told: list[bytes]) -> figures.Row:
    """What one stranger costs."""
    with figures.scratch() as folder:

        def work(k: int, wait_for_start: Callable[[], None]) -> dict[str, float]:
            return hold(folder, wait_for_start) if k == 0 else flood(folder, told, wait_for_start)

        held = forked(2, work)[0]
    say(f"held: {what}: {held['memory']:.0f} MiB")
    return {"what": what, "memory, MiB": held["memory"], "addresses, MiB": held["addresses"]}


def hold(folder: Path, wait_for_start: Callable[[], None]) -> dict[str, float]:
    """A launcher that is busy otherwise, until what it holds grows no more."""
    with Registry("tcp://127.0.0.1:*", "secret", {0: [1], 1: [0]}) as registry:
        (folder / "endpoint").write_text(registry.endpoint)
        before = taken()
        wait_for_start()
        deadline = time.monotonic() + PATIENCE_S
        while not (folder / "sent").exists():
            assert time.monotonic() < deadline, f"nothing was sent in {PATIENCE_S:.0f} s"
            time.sleep(0.05)
        time.sleep(SETTLED_S)  # for what is still in the system's buffers
        now = taken()
        (folder / "over").touch()
    return {name: (now[name] - before[name]) / 2**10 for name in now}


def flood(folder: Path, told: list[bytes], wait_for_start: Callable[[], None]) -> dict[str, float]:
    """A stranger, who stays until all is measured."""
    wait_for_start()
    with socket.create_connection(parse((folder / "endpoint").read_text()), PATIENCE_S) as stranger:
        stranger.sendall(GREETING)
        stranger.recv(len(GREETING), socket.MSG_WAITALL)
        stranger.sendall(bytes([COMMAND, len(READY)]) + READY)
        stranger.recv(2**10)
        stranger.settimeout(SETTLED_S)
        try:
            for piece in told:
                stranger.sendall(piece)
        except OSError:  # nothing more is taken, or the connection was ended
            pass
        (folder / "sent").touch()
        while not (folder / "over").exists():
            time.sleep(0.05)
    return {}


def taken() -> dict[str, int]:
    """KiB of memory, and of addresses, of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"memory": int(lines["VmRSS"].split()[0]), "addresses": int(lines["VmSize"].split()[0])}


if __name__ == "__main__":
    figures.main(measure)
