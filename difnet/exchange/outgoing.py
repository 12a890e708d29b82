"""How does a message leave over a link? At once, or when there is room; and what must arrive is kept until it has.

What was handed to a connection may go under with it. So what the other end needs in order to go on is kept, without a
copy, until what it says shows that it has got it; `mending.py` sends again what it lacks.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from difnet.exchange import wire
from difnet.exchange.links import ACTIVE, DONE, Counters, Link, Told
from difnet.exchange.sockets import Frames, Sending, Sockets


class Outgoing:
    """All that an agent sends to its neighbours, and counts.

    Args: `in_step`, whether every round is waited for; else the newest state alone is of use. `gone` hears of a link in
        use whose connection broke.
    """

    def __init__(self, sockets: Sockets, in_step: bool, gone: Callable[[Link], None]) -> None:
        self._sockets, self._in_step, self._on_gone = sockets, in_step, gone
        self.counters = Counters()

    def send(self, link: Link, kind: str, body: bytes | memoryview = b"", must: bool = False, **fields: Any) -> bool:
        """Send now; a message that must arrive waits in the link's outbox while there is no room for it.

        Of a link whose connection is broken nothing is sent. Returns: whether it was.
        """
        return link.cut_at is None and self.push(link, [wire.pack(kind, **fields), body], must)

    def tell(
        self, link: Link, kind: str, step: int, body: bytes | memoryview, must: bool = True, *, round_: int,
        **more: int,
    ) -> None:  # fmt: skip
        """Send what the other end needs to go on, and keep it: if the connection breaks, it is sent once more."""
        told = Told(step, [wire.pack(kind, epoch=link.epoch, round=round_, **more), body])
        link.keep(told, alone=not self._in_step)
        if link.cut_at is None:
            self.deliver(link, told, must)

    def deliver(self, link: Link, told: Told, must: bool = True) -> None:
        """Send something that is kept, perhaps not for the first time."""
        if self.push(link, told.message, must):
            self._count(link, told)

    def flush(self, link: Link) -> None:
        """Send what waits, in order, as far as there is room by now."""
        waiting, link.outbox = link.outbox, deque()
        for message in waiting:
            if link.cut_at is None and self.push(link, message, must=True):
                for told in link.told:
                    if told.message is message:
                        self._count(link, told)

    def push(self, link: Link, message: Frames, must: bool = False) -> bool:
        """Hand a message to the link's connection, whatever is known of that. Returns: whether it took it."""
        if must and link.outbox:  # nothing overtakes what waits
            link.outbox.append(message)
            return False
        sending = self._sockets.send(link.neighbour, message)
        if sending is Sending.SENT:
            link.sent_at = time.monotonic()
            for total in (self.counters, link.sent):
                total.messages += 1
                total.wire_bytes += len(message[0]) + len(message[1])
                total.payload_bytes += len(message[1])
                total.states += bool(len(message[1]))
        elif sending is Sending.FULL and must:
            link.outbox.append(message)
        elif sending is Sending.GONE and link.phase in (ACTIVE, DONE):
            self._on_gone(link)
        return sending is Sending.SENT

    def _count(self, link: Link, told: Told) -> None:
        if told.sends and len(told.message[1]):
            self.counters.resent += 1
            link.sent.resent += 1
        told.sends += 1
