"""How is a report looked at while the run goes on, also in a container? A small server that keeps the page up to date.

The standard library's `http.server` is enough for a page that one team looks at from this machine: what it lacks
against rude clients (deadlines, limits) is a few lines here, and a web framework would be one more thing to trust. What
is served lies in memory under its name; nothing that is asked for becomes a path, so no other file can be reached.
"""

import errno
import io
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NamedTuple

from difnet.errors import ConfigError, DifnetError, EnvironmentLacks, RunFolderError
from difnet.record import finding
from difnet.record.costs import Target
from difnet.report import plots, writing
from difnet.report.page import Paragraph, Section, to_html
from difnet.system.folders import own_prefix, sweep_orphans
from difnet.system.lifetime import say_alive

PAGE = "report.html"
SCRATCH = "difnet-report-"
LOOK_S, PAUSE_S, SHARE = 1.0, 3.0, 4  # between two looks; after a drawing: so long, and so many times what it took
REFRESH_S = 5  # the browser asks again
TURN_S = 0.5  # waiting for a client
READ_S, SEND_S = 5.0, 30.0  # a client's request, our answer
HEAD_BYTES, CLIENTS, WAITING = 16_384, 16, 32
KINDS = {".html": "text/html", ".md": "text/markdown", ".csv": "text/csv", ".png": "image/png"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}  # fmt: skip


def serve(
    names: Sequence[str], home: str, at: str, targets: Sequence[Target] = (),
    say: Callable[[str], None] = lambda address: None,
) -> None:  # fmt: skip
    """Answer with the report of the runs that these words mean, made again as they grow, until we are asked to stop.

    "latest" may have no run yet, and means another run as soon as there is a newer one; nothing is written into a run.

    Args: `at`, HOST:PORT or a port of this machine alone; `say` hears the page's address once it can be asked for.
    Raises: ConfigError, for a word that means no run or no address; EnvironmentLacks, if the port is not to be had, or
        without matplotlib.
    """
    for name in names:
        if name != "latest":
            finding.resolve(name, home)
    host, port = parse(at)
    plots.new_figure(1, 1)  # what is missing is said now, and matplotlib is imported by this thread
    sweep_orphans(Path(tempfile.gettempdir()), SCRATCH)
    with tempfile.TemporaryDirectory(prefix=own_prefix(SCRATCH), ignore_cleanup_errors=True) as scratch:
        maker = Maker(names, home, targets, scratch)
        with until_asked_to_stop() as asked, listening(host, port, maker) as server, server.answering():
            say(server.url)
            while not asked:
                began = time.monotonic()
                least = PAUSE_S if maker.look() else LOOK_S
                time.sleep(max(least, SHARE * (time.monotonic() - began)))


@contextmanager
def until_asked_to_stop() -> Iterator[list[int]]:
    """A block that SIGINT or SIGTERM ends, also amid a drawing; the signals are told as well, should it go on.

    So it is the main thread that draws: a drawing in another one cannot be ended, and one that is under way when the
    interpreter ends makes its C++ code abort.
    """
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        asked.append(number)
        if len(asked) == 1:  # a second one must not disturb the tidying up
            raise KeyboardInterrupt

    previous = {sig: signal.signal(sig, stop) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    except KeyboardInterrupt:
        pass
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)


def parse(at: str) -> tuple[str, int]:
    """The host and the port of an address to listen at.

    Raises: ConfigError, if it is none.

    >>> parse("8000"), parse("0.0.0.0:8000"), parse("[::1]:0")
    (('127.0.0.1', 8000), ('0.0.0.0', 8000), ('::1', 0))
    """
    found = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[^:\s/\[\]]+):)?([0-9]{1,5})", at)
    if not found or int(found[2]) > 65535:
        raise ConfigError(f"cannot serve at {at!r}: it must be a port from 0 to 65535, or HOST:PORT, such as 8000 or "
                          "0.0.0.0:8000; port 0 takes any free one")  # fmt: skip
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


# What is shown


class Shown(NamedTuple):
    """What the server answers with until something newer is made."""

    files: Mapping[str, bytes]  # under their names; PAGE among them
    status: int = 200  # of the page
    final: bool = False  # whether the runs have ended, so that there is nothing to ask again for


def notice(title: str, text: str, status: int = 200) -> Shown:
    """A page of a few words in place of a report."""
    paragraphs = (Paragraph(text), Paragraph("This page looks again by itself."))
    return Shown({PAGE: to_html(title, [Section("What there is to see", paragraphs)]).encode()}, status)


def make(folders: Sequence[Path], targets: Sequence[Target], scratch: str | None = None) -> Shown:
    """The report of these runs; it is written into a temporary folder, inside `scratch`, which is gone afterwards.

    Raises: DifnetError or OSError, if a run cannot be read.
    """
    loaded = [finding.load(folder) for folder in dict.fromkeys(folders)]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        writing.write(loaded, folder, targets)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix in KINDS}
    return Shown(files, final=all(run.summary for run in loaded))


def state_of(folders: Sequence[Path]) -> list[tuple[str, int, int]]:
    """What changes whenever a file of a run's folder does: its path, time and size."""
    found = [entry for folder in folders for entry in os.scandir(folder) if entry.is_file()]
    return sorted((entry.path, entry.stat().st_mtime_ns, entry.stat().st_size) for entry in found)


class Maker:
    """Brings `shown` up with the runs' folders; who asks is answered with the last one, and waits for no picture."""

    def __init__(self, names: Sequence[str], home: str, targets: Sequence[Target], scratch: str | None = None) -> None:
        self.shown = notice("The report is being made", "It takes a few seconds.")
        self._names, self._home, self._targets, self._scratch = names, home, targets, scratch
        self._made_of: object = None
        self._in_doubt = False

    def look(self) -> bool:
        """Make the report if there is something new, and tell what stands in the way; whether it was made."""
        try:
            try:
                folders = [finding.resolve(name, self._home) for name in self._names]
            except RunFolderError as error:
                return self._tell(notice("No run yet", f"Nothing to show so far: {error}."))
            if (state := state_of(folders)) == self._made_of:
                return False
            self.shown = make(folders, self._targets, self._scratch)
        except Exception as error:  # whatever a damaged folder makes of us, the server lives on and says so
            text = str(error) if isinstance(error, DifnetError | OSError) else f"{type(error).__name__}: {error}"
            return self._tell(notice("This run cannot be shown", f"Its folder is damaged or out of reach: {text}", 503))
        self._made_of, self._in_doubt = state, False
        return True

    def _tell(self, trouble: Shown) -> bool:
        """Show it at the second look: at the first, somebody may have been amid writing."""
        if self._in_doubt:
            self.shown = trouble
        self._made_of, self._in_doubt = None, True
        return False


# Who asks


class Server(ThreadingMixIn, TCPServer):
    """Takes clients one after another, each in a thread; when all threads are taken, they wait in the kernel."""

    allow_reuse_address = True  # a second start finds the port free at once
    daemon_threads = True
    request_queue_size = WAITING
    timeout = TURN_S

    def __init__(self, address: tuple[Any, ...], family: int, maker: Maker) -> None:
        self.address_family, self.maker = family, maker
        self._free = threading.BoundedSemaphore(CLIENTS)
        super().__init__(address, Handler)

    @property
    def url(self) -> str:
        """The page's address."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}/" if ":" in str(host) else f"http://{host!s}:{port}/"

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Take clients in a thread, for as long as the block lasts; while it does, the process says that it lives."""
        leave = threading.Event()

        def turn() -> None:
            while not leave.is_set():
                say_alive()
                self._turn()

        thread = threading.Thread(target=turn, name="clients", daemon=True)
        thread.start()
        try:
            yield
        finally:
            leave.set()
            thread.join(4 * TURN_S)

    def _turn(self) -> None:
        """Take the next client, if one comes within a moment and there is a thread for it."""
        if self._free.acquire(timeout=TURN_S):
            self._free.release()
            self.handle_request()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; anything else costs a line and that one answer."""
        error = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"difnet: could not answer {client_address}: {error!r}", file=sys.stderr)


def listening(host: str, port: int, maker: Maker) -> Server:
    """A server that listens at an address.

    Raises: EnvironmentLacks, if it is not to be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return Server(address, family, maker)
    except OSError as error:
        why, remedy = _refusal(error, port)
        raise EnvironmentLacks(f"cannot serve at {host}:{port}: {why}; {remedy}") from error


def _refusal(error: OSError, port: int) -> tuple[str, str]:
    other = f"take another port, such as --serve {port + 1 if 1023 < port < 65535 else 8000}, or 0 for any free one"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "that is no address of this machine", "127.0.0.1 is for this machine alone, 0.0.0.0 for every network"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by another program", f"end that program, or {other}"
    if error.errno == errno.EACCES:
        return f"port {port} is not open to ordinary users", other
    return str(error.strerror or error), other


class Handler(BaseHTTPRequestHandler):
    """Answers one request: the page, or one of the report's files."""

    server: Server
    server_version, sys_version = "difnet", ""
    error_content_type, error_message_format = "text/plain; charset=utf-8", "%(explain)s\n"

    def handle(self) -> None:
        """One request for each connection, and none from a client that cannot say it in time."""
        head = self._head()
        self.connection.settimeout(SEND_S)
        self.rfile = io.BytesIO(head[:HEAD_BYTES])
        if len(head) > HEAD_BYTES:
            self.command = self.requestline = self.request_version = ""
            self.send_error(431, explain=f"a request has at most {HEAD_BYTES} bytes here")
        else:
            self.handle_one_request()

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Who looked at what is nobody's concern."""

    def _head(self) -> bytes:
        """The request up to its empty line, or more bytes than it may have; nothing of one that comes too late."""
        until, head = time.monotonic() + READ_S, b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= HEAD_BYTES:
            if (left := until - time.monotonic()) <= 0:
                return b""
            self.connection.settimeout(left)
            if not (piece := self.connection.recv(HEAD_BYTES + 1 - len(head))):  # TimeoutError: see handle_error
                return b""
            head += piece
        return head

    def _answer(self, with_body: bool) -> None:
        shown = self.server.maker.shown
        name = self.path.partition("?")[0].removeprefix("/") or PAGE
        if (content := shown.files.get(name)) is None:
            there = ", ".join(sorted(f"/{file}" for file in shown.files))
            self.send_error(404, explain=f"there is no such page here; there are {there}")
            return
        self.send_response(shown.status if name == PAGE else 200)
        kind = KINDS[Path(name).suffix]
        self.send_header("Content-Type", kind if kind == "image/png" else f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if name == PAGE and not shown.final:
            self.send_header("Refresh", str(REFRESH_S))
        self.end_headers()
        if with_body:
            self.wfile.write(content)
