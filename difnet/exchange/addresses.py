"""Where is a name right now, and from where are we seen? Looked up here, with deadlines, and never by ZeroMQ.

A name that no server answers for would stop ZeroMQ's own thread, where libzmq resolves, and every healthy link with it.
"""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

from difnet.errors import ConfigError, EnvironmentLacks

LOOKUP_S, TRY_S, PAUSE_S, SAY_S = 1.0, 2.0, 0.25, 5.0
ANYWHERE = "203.0.113.1"  # an address that nobody has (RFC 5737): asked for the way there, not spoken to


class Reached(NamedTuple):
    """A registry that answers."""

    endpoint: str  # with a number in place of a name
    local: str  # the address that we have towards it; "" where the transport needs none


def parse(endpoint: str) -> tuple[str, int]:
    """The host and the port of a TCP endpoint.

    Raises: ConfigError, if it has no such form.

    >>> parse("tcp://dashboard:5600"), parse("tcp://[fd00::2]:5600")
    (('dashboard', 5600), ('fd00::2', 5600))
    """
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(f"{endpoint!r} is no address of a registry or an agent; it looks like tcp://HOST:PORT, e.g. "
                          f"tcp://10.0.0.1:5600")  # fmt: skip
    return host.strip("[]"), int(port)


def endpoint_of(host: str, port: int | str) -> str:
    """The TCP endpoint of a host and a port.

    >>> endpoint_of("fd00::2", 5600)
    'tcp://[fd00::2]:5600'
    """
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


class Lookup:
    """The number that the name in an endpoint has at this moment, looked up while its user does something else.

    Endpoints without a name, others than TCP's among them, are their own answer.

    >>> Lookup("tcp://127.0.0.1:5600").answer(), Lookup("ipc:///tmp/x/3").answer()
    ('tcp://127.0.0.1:5600', 'ipc:///tmp/x/3')
    """

    def __init__(self, endpoint: str, timeout_s: float = LOOKUP_S) -> None:
        self._endpoint, self._timeout_s, self._began = endpoint, timeout_s, time.monotonic()
        self._found, self._wrong = list[str](), list[OSError]()
        self._host, self._port = parse(endpoint) if endpoint.startswith("tcp://") else ("", 0)
        if self._host and not _is_number(self._host):
            threading.Thread(target=self._ask, name="name lookup", daemon=True).start()
        else:
            self._found.append(endpoint)

    def answer(self) -> str | None:
        """The endpoint with its number; None as long as nobody has said it.

        Raises: OSError, if the name has none, or nobody says so in time.
        """
        if self._found:
            return self._found[0]
        if self._wrong:
            raise self._wrong[0]
        if time.monotonic() - self._began > self._timeout_s:
            raise TimeoutError(f"nobody answered for the name {self._host!r} within {self._timeout_s:.0f} s")
        return None

    def _ask(self) -> None:
        try:
            answers = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
            number = str(min(answers, key=lambda a: a[0] != socket.AF_INET)[4][0])
            self._found.append(endpoint_of(number, self._port))
        except OSError as error:
            self._wrong.append(error)


def _is_number(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def numeric(endpoint: str, timeout_s: float = LOOKUP_S) -> str:
    """The same endpoint with the number that its name has at this moment; others than TCP's stay as they are.

    Raises: OSError, if the name has none, or nobody says so in time.
    """
    lookup = Lookup(endpoint, timeout_s)
    while (answer := lookup.answer()) is None:
        time.sleep(0.005)
    return answer


def reach(endpoint: str, patience_s: float, say: Callable[[str], None]) -> Reached:
    """Wait until something listens at a registry's endpoint.

    Args: `say` is told now and then what is waited for, and why.
    Raises: ConfigError, if it is no endpoint; EnvironmentLacks, if nothing listens there in time, with the reason.
    """
    if endpoint.startswith("ipc://"):
        return Reached(endpoint, "")
    parse(endpoint)
    deadline, said_at = time.monotonic() + patience_s, time.monotonic()
    while True:
        try:
            return _try(endpoint)
        except OSError as error:
            reason = _in_words(error)
        if time.monotonic() > deadline:
            raise EnvironmentLacks(
                f"the registry at {endpoint} was not reached within {patience_s:.0f} s: {reason}. Is the launcher "
                f"running, is this its address, and does no firewall stand between? Then start this host again."
            )
        if time.monotonic() - said_at > SAY_S:
            said_at = time.monotonic()
            say(f"waiting for the registry at {endpoint}: {reason}")
        time.sleep(PAUSE_S)


def _try(endpoint: str) -> Reached:
    number = numeric(endpoint)
    with socket.create_connection(parse(number), timeout=TRY_S) as towards:
        return Reached(number, str(towards.getsockname()[0]))


def _in_words(error: OSError) -> str:
    """Why, as a person says it.

    >>> _in_words(ConnectionRefusedError(111, "Connection refused"))
    'connection refused'
    """
    if isinstance(error, TimeoutError) and not error.strerror:
        return str(error) or "no answer"
    return (error.strerror or str(error) or type(error).__name__).lower()


def advertised(bound: str, name: str) -> str:
    """The endpoint that others are told of: what was bound, under the name by which they know this host.

    >>> advertised("tcp://0.0.0.0:41000", "agent-3"), advertised("ipc:///tmp/x/3", "")
    ('tcp://agent-3:41000', 'ipc:///tmp/x/3')
    """
    return endpoint_of(name, bound.rpartition(":")[2]) if name and bound.startswith("tcp://") else bound


def own() -> str:
    """The address that this machine has towards the rest of the world, or else towards its neighbours."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        try:
            towards.connect((ANYWHERE, 9))  # a datagram socket sends nothing by this
            return str(towards.getsockname()[0])
        except OSError:
            known = [a.address for of in psutil.net_if_addrs().values() for a in of if a.family == socket.AF_INET]
            return next((address for address in known if not address.startswith("127.")), "127.0.0.1")
