"""What happens to the bytes of a link that is led through here? They are delayed, held back, garbled, or go no farther.

A proxy in user space for the Unix sockets of one machine: it listens in an agent's place and hands on every connection
to the agent, both ways, unharmed but for the links that it is told to harm. No thread: `turn` does what there is to do.
"""

import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from difnet.system.tampering import REAL, dialled_by

PIECE, MOST_HELD = 2**16, 2**24  # bytes
SPOILT = 16  # bytes one after the other, so that a whole number of any type is among them

Edge = frozenset[int]


class Harm(NamedTuple):
    """What is done to the bytes of an edge, in both directions."""

    delay_s: float = 0.0
    is_silent: bool = False  # nothing is handed on; it comes later, as TCP would send it again
    cut_after: int | None = None  # the connection is broken after so many bytes, and so is every new one
    share: float = 0.0  # of the pieces, which are garbled
    flips: int = 0  # bits that are flipped in such a piece; 0: sixteen bytes of ones, which is no number that is finite


NONE = Harm()


def garbled(piece: bytes, harm: Harm, rng: random.Random) -> bytes:
    """A piece of a stream after what happens to it.

    >>> garbled(b"0123456789abcdefgh", Harm(share=1.0), random.Random(0)).count(0xff)
    16
    >>> garbled(bytes(4), Harm(share=1.0, flips=1), random.Random(0)).hex()
    '00000008'
    """
    if not harm.share or rng.random() >= harm.share:
        return piece
    spoilt = bytearray(piece)
    if not harm.flips:
        first = int(rng.random() * max(1, len(piece) - SPOILT))
        spoilt[first : first + SPOILT] = b"\xff" * len(spoilt[first : first + SPOILT])
    for _ in range(harm.flips):
        spoilt[int(rng.random() * len(spoilt))] ^= 1 << int(rng.random() * 8)
    return bytes(spoilt)


@dataclass(slots=True)
class Stream:
    """One direction of a connection."""

    source: socket.socket
    sink: socket.socket
    held: deque[tuple[float, bytes]] = field(default_factory=deque)  # (when it is due, piece)
    size: int = 0
    has_ended: bool = False
    is_stuck: bool = False  # its reader takes no more at the moment

    def read(self, due: float, harm: Harm, rng: random.Random) -> int:
        """Take in what has come. Returns how many bytes."""
        try:
            piece = self.source.recv(PIECE)
        except BlockingIOError:
            return 0
        except OSError:
            piece = b""
        if piece:
            self.held.append((due, garbled(piece, harm, rng)))
            self.size += len(piece)
        self.has_ended = not piece
        return len(piece)

    def write(self, now: float) -> None:
        """Hand on what is due."""
        self.is_stuck = False
        while self.held and self.held[0][0] <= now:
            due, piece = self.held[0]
            try:
                done = self.sink.send(piece)
            except BlockingIOError:
                self.is_stuck = True
                return
            except OSError:
                self.held.clear()
                self.has_ended = True
                return
            self.size -= done
            if done < len(piece):
                self.held[0] = due, piece[done:]
            else:
                self.held.popleft()


@dataclass(slots=True, eq=False)
class Passage:
    """A connection that is led through here."""

    edge: Edge | None  # None: nobody knows who dials
    streams: tuple[Stream, Stream]
    passed: int = 0  # bytes since its harm began

    @property
    def is_over(self) -> bool:
        return any(stream.has_ended and not stream.held for stream in self.streams)

    def close(self) -> None:
        """Break it, at both ends."""
        for stream in self.streams:
            stream.source.close()


class Proxy:
    """Listeners in the place of agents, and what is led through them; use as a context manager.

    Args: `who` tells which agent a process is; None: none that is known.
    """

    def __init__(self, who: Callable[[int], int | None], seed: int = 0) -> None:
        self._who, self._rng = who, random.Random(seed)
        self._listeners: dict[int, tuple[int, str, socket.socket]] = {}  # by descriptor: agent, path
        self._passages: list[Passage] = []
        self._harms: dict[Edge, Harm] = {}

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *exception: object) -> None:
        for passage in self._passages:
            passage.close()
        for _, _, listener in self._listeners.values():
            listener.close()

    def listener(self, agent: int, path: str) -> socket.socket:
        """The socket that listens in the place of an agent whose own path this is; `tampering.take_over` binds it."""
        for known, _, listener in self._listeners.values():
            if known == agent:
                return listener
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        self._listeners[listener.fileno()] = agent, path, listener
        return listener

    def led(self) -> set[Edge]:
        """The edges of which a connection is led through here."""
        return {passage.edge for passage in self._passages if passage.edge is not None}

    def harm(self, harms: Mapping[Edge, Harm]) -> None:
        """From now on this is done to these edges; `NONE` to have it end."""
        self._harms |= harms
        for passage in [*self._passages]:
            if passage.edge in harms:
                passage.passed = 0
                self._cut(passage)

    def turn(self, timeout_s: float) -> None:
        """Do what there is to do, waiting for so long at the most."""
        poll, readers, writers = select.poll(), dict[int, tuple[Passage, Stream]](), dict[int, tuple[Passage, Stream]]()
        now, wanted = time.monotonic(), dict.fromkeys(self._listeners, select.POLLIN)
        for passage in self._passages:
            if self._harm_of(passage).is_silent:
                continue
            for stream in passage.streams:
                if not stream.has_ended and stream.size < MOST_HELD:
                    readers[stream.source.fileno()] = passage, stream
                    wanted[stream.source.fileno()] = wanted.get(stream.source.fileno(), 0) | select.POLLIN
                if stream.is_stuck:
                    writers[stream.sink.fileno()] = passage, stream
                    wanted[stream.sink.fileno()] = wanted.get(stream.sink.fileno(), 0) | select.POLLOUT
                elif stream.held:
                    timeout_s = min(timeout_s, max(0.0, stream.held[0][0] - now))
        for fd, what in wanted.items():
            poll.register(fd, what)
        ready = [fd for fd, _ in poll.poll(timeout_s * 1000)]
        now = time.monotonic()
        for fd in ready:
            if fd in self._listeners:
                self._accept(*self._listeners[fd])
            if fd in readers:
                self._read(*readers[fd], now)
            if fd in writers:
                writers[fd][1].is_stuck = False
        for passage in [*self._passages]:
            self._hand_on(passage, now)

    def _read(self, passage: Passage, stream: Stream, now: float) -> None:
        harm = self._harm_of(passage)
        due = max(now + harm.delay_s, stream.held[-1][0] if stream.held else 0.0)  # nothing overtakes what came before
        passage.passed += stream.read(due, harm, self._rng)

    def _hand_on(self, passage: Passage, now: float) -> None:
        if self._harm_of(passage).is_silent:
            return
        for stream in passage.streams:
            if stream.held and not stream.is_stuck:
                stream.write(now)
        if passage.is_over:
            passage.close()
            self._passages.remove(passage)
        else:
            self._cut(passage)

    def _cut(self, passage: Passage) -> None:
        harm = self._harm_of(passage)
        if harm.cut_after is not None and passage.passed >= harm.cut_after:
            passage.close()
            self._passages.remove(passage)

    def _harm_of(self, passage: Passage) -> Harm:
        return NONE if passage.edge is None else self._harms.get(passage.edge, NONE)

    def _accept(self, agent: int, path: str, listener: socket.socket) -> None:
        try:
            near, _ = listener.accept()
        except OSError:  # it has gone again
            return
        dialer = self._who(dialled_by(near))
        edge = None if dialer is None else frozenset((dialer, agent))
        if edge in self._harms and self._harms[edge].cut_after is not None:
            near.close()
            return
        far = socket.socket(socket.AF_UNIX)
        for end in (near, far):
            end.setblocking(False)
        try:
            far.connect(path + REAL)
        except OSError:  # whoever listened has ended; so does whoever dials, who will try again
            near.close()
            far.close()
            return
        self._passages.append(Passage(edge, (Stream(near, far), Stream(far, near))))
