"""What has arrived at a socket that strangers can reach, and whose is it? Whole messages, within bounds."""

import hmac
import time

import zmq

from difnet.exchange.sockets import readable

MOST_QUEUED = 16  # messages of one connection that wait to be read; more wait with whoever sends them
MOST_FRAMES = 10_000  # of a message: 40 GB of launch model


class Inbox:
    """The reading side of a ROUTER. A message of somebody who is known begins with the token."""

    def __init__(self, router: zmq.Socket, token: str) -> None:
        self._router, self._token = router, token.encode()
        self.unread = False  # whether the message that was read last has more frames than are wanted of it
        router.setsockopt(zmq.RCVHWM, MOST_QUEUED)

    def has_more(self) -> bool:
        """Whether there is anything to read, or to skip."""
        return readable(self._router)

    def receive(self) -> tuple[bytes, list[bytes]]:
        """Who speaks next, and the frames: of a stranger's two, behind which there is nothing to look for."""
        sender, frames = self._router.recv(), list[bytes]()
        self.unread = bool(self._router.getsockopt(zmq.RCVMORE))
        while self.unread and len(frames) < (MOST_FRAMES if self.is_known(frames) else 2):
            frames.append(self._router.recv())
            self.unread = bool(self._router.getsockopt(zmq.RCVMORE))
        return sender, frames

    def skip(self, until: float) -> None:
        """Drop the rest of a message, for as long as a turn may last: a million frames are 2 MB, and take seconds."""
        while self.unread and time.monotonic() < until:
            self._router.recv()
            self.unread = bool(self._router.getsockopt(zmq.RCVMORE))

    def is_known(self, frames: list[bytes]) -> bool:
        """Whether whoever sent these frames has the token."""
        return len(frames) > 1 and hmac.compare_digest(frames[0], self._token)
