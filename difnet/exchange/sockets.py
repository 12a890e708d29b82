"""The ZeroMQ sockets of one agent: one ROUTER that listens, one DEALER for each neighbour that it dials.

Nothing here knows what a message means. A neighbour is named by its number, a connection that nobody has vouched for
yet by its routing id.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

import zmq
from zmq.utils.monitor import recv_monitor_message

from difnet.exchange.wire import HEADER_LIMIT

ZERO_COPY_BYTES = 2**16
Frames = list  # of bytes or buffers
MORE, LAST = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)  # plain numbers: pyzmq's flags take a microsecond each
Source = int | bytes  # a neighbour, or a stranger's routing id


class Sending(Enum):
    """What became of a message."""

    SENT = "sent"
    FULL = "full"  # no room, or not connected yet: try again later
    GONE = "gone"


def options(largest_frame: int) -> dict[int, int]:
    """Every option of a data socket in one place; a test reads them back.

    ZMTP heartbeats stay off: with a finite RCVHWM libzmq 4.3.5 can abort the process when one closes a frozen link.
    """
    return {
        zmq.LINGER: 0,
        zmq.HEARTBEAT_IVL: 0,
        zmq.TCP_MAXRT: 5000,
        zmq.SNDHWM: 4,
        zmq.RCVHWM: 16,
        zmq.MAXMSGSIZE: max(largest_frame, HEADER_LIMIT) + 1024,
        zmq.HANDSHAKE_IVL: 5000,
    }


LISTENING: dict[int, int] = {zmq.ROUTER_MANDATORY: 1}
DIALLING: dict[int, int] = {zmq.IMMEDIATE: 1, zmq.RECONNECT_IVL_MAX: 5000}


def readable(socket: zmq.Socket) -> bool:
    """Whether a whole message has arrived; cheaper than asking for one in vain."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)  # type: ignore[arg-type]


def dual(socket: zmq.Socket, endpoint: str) -> None:
    """Let a socket speak IPv6 where its endpoint has such an address: ZeroMQ wants to be told."""
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))


class Sockets:
    """The sockets of one agent and what arrives on them; `close` them, whatever happens."""

    def __init__(self, largest_frame: int) -> None:
        self._options = options(largest_frame)
        self._context = zmq.Context()
        self._router = self._socket(zmq.ROUTER, LISTENING)
        self._dealers: dict[int, zmq.Socket] = {}
        self._routes: dict[int, bytes] = {}  # neighbour -> routing id
        self._neighbours: dict[bytes, int | None] = {}  # and back; None: of what it said before, which counts no more
        self._replaced: dict[int, bytes] = {}  # neighbour -> its last routing id before
        self._dialled: dict[zmq.Socket, int] = {}  # and back
        self._monitors: dict[int, zmq.Socket] = {}
        self._watched: list[Callable[[], None]] = []
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)

    def close(self, linger_ms: int = 0) -> None:
        """Close every socket; what was sent last has so long to leave."""
        for neighbour, dealer in self._dealers.items():
            self._unwatch(neighbour, dealer)
        self._context.destroy(linger=linger_ms)

    def bind(self, endpoint: str) -> str:
        """Listen at an endpoint ("tcp://127.0.0.1:*" finds its own port); returns the one that was bound."""
        dual(self._router, endpoint)
        self._router.bind(endpoint)
        return self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    def dial(self, neighbour: int, endpoint: str) -> None:
        """Connect to a neighbour, at a number and not a name, and go on trying until `hang_up`."""
        dealer = self._socket(zmq.DEALER, DIALLING | {zmq.RECONNECT_IVL: 100 + random.SystemRandom().randrange(50)})
        self._monitors[neighbour] = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._dealers[neighbour], self._dialled[dealer] = dealer, neighbour
        self._poller.register(dealer, zmq.POLLIN)
        dual(dealer, endpoint)
        dealer.connect(endpoint)

    def adopt(self, stranger: bytes, neighbour: int) -> None:
        """From now on this connection is that neighbour's; what is still to be read of its last one is dropped."""
        self._neighbours.pop(self._replaced.pop(neighbour, b""), None)
        if (before := self._routes.get(neighbour)) is not None:
            self._replaced[neighbour], self._neighbours[before] = before, None
        self._routes[neighbour], self._neighbours[stranger] = stranger, neighbour

    def watch(self, handle: Callable[[], None]) -> None:
        """Let `handle` look at a socket of its own whenever `broken_off` is asked, four times a second."""
        self._watched.append(handle)

    def send(self, to: Source, message: Frames) -> Sending:
        """Send without waiting; large frames travel without a copy and must never be written to again."""
        dealer = self._dealers.get(to) if isinstance(to, int) else None
        route = self._routes.get(to, b"") if isinstance(to, int) else to
        if dealer is None and not route:
            return Sending.GONE
        if isinstance(to, int) and dealer is not None and readable(self._monitors[to]):
            return Sending.GONE  # else ZeroMQ's next connection would be taken for this one
        *head, body = message if dealer is not None else (route, *message)
        socket = dealer or self._router
        try:
            for frame in head:
                socket.send(frame, MORE)
            socket.send(body, LAST, copy=len(body) < ZERO_COPY_BYTES)
        except zmq.Again:
            return Sending.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sending.GONE
            raise
        return Sending.SENT

    def receive(self, timeout_s: float) -> Iterator[tuple[Source, Frames]]:
        """What has arrived, (source, frames), waiting for so long at the most.

        Of each connection at most one message or so is read at a time; asking whether there is more costs more than
        coming back for it.
        """
        for socket, _ in self._poller.poll(int(timeout_s * 1000) + 1):
            if socket is self._router:
                yield from self._read_router()
            elif not socket.closed:
                yield self._dialled[socket], socket.recv_multipart()

    def _read_router(self) -> Iterator[tuple[Source, Frames]]:
        for _ in range(max(1, len(self._routes))):
            try:
                sender, *frames = self._router.recv_multipart(LAST)
            except zmq.Again:
                return
            if (source := self._neighbours.get(sender, sender)) is not None:
                yield source, frames

    def rest(self, neighbour: int) -> Iterator[Frames]:
        """What a dialled neighbour has said that is not read yet, as far as it is here."""
        dealer = self._dealers.get(neighbour)
        while dealer is not None and not dealer.closed and readable(dealer):
            yield dealer.recv_multipart()

    def broken_off(self) -> list[int]:
        """The dialled neighbours whose connection has broken; and let those be served whose sockets are watched.

        These are asked for from time to time rather than waited for, to keep the wait of a fast round short.
        """
        for handle in self._watched:
            handle()
        broken = []
        for neighbour, monitor in self._monitors.items():
            while readable(monitor):
                if recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED:
                    broken.append(neighbour)
        return broken

    def hang_up(self, neighbour: int) -> None:
        """End the connection to a neighbour; a goodbye on its way has a moment to leave."""
        self._neighbours.pop(self._routes.pop(neighbour, b""), None)
        if dealer := self._dealers.pop(neighbour, None):
            del self._dialled[dealer]
            self._poller.unregister(dealer)
            self._unwatch(neighbour, dealer)
            dealer.close(linger=200)

    def _unwatch(self, neighbour: int, dealer: zmq.Socket) -> None:
        """Stop the monitor, then close its reader: an event without a reader blocks ZeroMQ's own thread for ever."""
        monitor = self._monitors.pop(neighbour)
        dealer.monitor(None, 0)
        monitor.close(linger=0)

    def _socket(self, kind: int, extra: Mapping[int, int]) -> zmq.Socket:
        socket = self._context.socket(kind)
        for option, value in {**self._options, **extra}.items():
            socket.setsockopt(option, value)
        return socket
