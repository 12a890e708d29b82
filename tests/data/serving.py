"""A server of files on this machine, which can be told to misbehave."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """What it serves at each path, how it behaves there, and what it was asked."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.serves: dict[str, bytes] = {}
        self.breaks_after: dict[str, int] = {}  # the bytes of each answer, after which the connection ends
        self.ignores_ranges: set[str] = set()
        self.hangs: set[str] = set()  # it never answers there,
        self.falls_silent: set[str] = set()  # or not to the end
        self.asked: list[tuple[str, str | None]] = []
        self.done = threading.Event()


@contextmanager
def serving() -> Iterator[Server]:
    """A server on this machine, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, wanted = self.path.lstrip("/"), self.headers["Range"]
            told.asked.append((path, wanted))
            if path in told.hangs:
                told.done.wait(60)
                return
            if path not in told.serves:
                self.send_error(404)
                return
            content, start = told.serves[path], 0
            if wanted and path not in told.ignores_ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + told.breaks_after.get(path, len(content))])
            if path in told.falls_silent:
                told.done.wait(60)

        def log_message(self, *arguments: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told = Server(f"http://127.0.0.1:{listening.server_port}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield told
    finally:
        told.done.set()
        listening.shutdown()
        listening.server_close()
        thread.join()
