"""Is anybody still there to listen at an endpoint? A knock: connect, let go, and see whether the system refused it.

Who listens at all is refused by nobody, however busy or stopped it is; a process that has ended refuses at once. Where
neither is said (a wire that is silent, a name that nobody knows, a path that is not there) nobody can tell.
"""

import errno
import select
import socket

from difnet.exchange.addresses import Lookup, parse

KNOCK_S = 0.1  # between two knocks


class Knock:
    """Knocks at one endpoint, again and again, and never waits; `close` it."""

    def __init__(self, endpoint: str) -> None:
        self._lookup = Lookup(endpoint) if endpoint else None  # of some neighbours it is not known
        self._underway: socket.socket | None = None
        self._next_at = 0.0

    def is_refused(self, now: float) -> bool:
        """Whether the newest knock was refused: then nobody listens there. False as long as that is not known."""
        if self._underway is None:
            return self._lookup is not None and now >= self._next_at and self._begin(now)
        poll = select.poll()
        poll.register(self._underway, select.POLLOUT)
        if not poll.poll(0):
            return False
        number = self._underway.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.close()
        return number == errno.ECONNREFUSED

    def close(self) -> None:
        """Let go of a knock that was not answered yet."""
        if self._underway is not None:
            self._underway.close()
            self._underway = None

    def _begin(self, now: float) -> bool:
        try:
            assert self._lookup is not None, "only a known endpoint is knocked at"
            if (endpoint := self._lookup.answer()) is None:
                return False
            self._next_at = now + KNOCK_S
            family, address = _address(endpoint)
            self._underway = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # a name without a number, or no descriptor is left
            return False
        self._underway.setblocking(False)
        number = self._underway.connect_ex(address)
        if number != errno.EINPROGRESS:
            self.close()
        return number == errno.ECONNREFUSED


def _address(endpoint: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    """What the system calls an endpoint whose host is a number.

    >>> _address("ipc:///tmp/x/3")[1], _address("tcp://[::1]:40")[1], _address("tcp://127.0.0.1:40")[1]
    ('/tmp/x/3', ('::1', 40), ('127.0.0.1', 40))
    """
    if endpoint.startswith("ipc://"):
        path = endpoint.removeprefix("ipc://")
        return socket.AF_UNIX, f"\0{path[1:]}" if path.startswith("@") else path
    host, port = parse(endpoint)
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, port)
