"""The report as a served page: what it shows while runs come, grow and break, and how it bears rude clients."""

import http.client
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from difnet.errors import ConfigError, EnvironmentLacks
from difnet.report import web_server, writing
from difnet.report.web_server import PAGE, Maker, Shown
from tests import fake_run
from tests.conftest import until

FILES = {PAGE: b"<p>page</p>", "loss.png": b"\x89PNG", "summary.csv": b"run\n", "report.md": b"# run\n"}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def title(self) -> str:
        found = re.search("<h1>(.*)</h1>", self.body.decode())
        assert found
        return found[1]


def ask(port: int, path: str = "/", method: str = "GET") -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())


def torn_off(folder: Path) -> None:
    """Take from a run what is written at its end."""
    (folder / "run.json").unlink()
    events = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    (folder / "events.jsonl").write_text("".join(events[:-2]) + events[-2][:30])


@pytest.fixture
def port() -> Iterator[int]:
    """Where a server of FILES listens."""
    with answering(SimpleNamespace(shown=Shown(FILES))) as number:
        yield number


@contextmanager
def answering(maker: object) -> Iterator[int]:
    """The port of a server in this process that shows what a maker has."""
    with web_server.listening("127.0.0.1", 0, maker) as server, server.answering():  # type: ignore[arg-type]
        yield server.server_address[1]


# What is answered


def test_the_page_and_its_files_are_answered_with_their_kinds(port):
    for path, name, kind in (("/", PAGE, "text/html; charset=utf-8"), ("/?again", PAGE, "text/html; charset=utf-8"),
                             ("/loss.png", "loss.png", "image/png"),
                             ("/summary.csv", "summary.csv", "text/csv; charset=utf-8"),
                             ("/report.md", "report.md", "text/markdown; charset=utf-8")):  # fmt: skip
        answer = ask(port, path)
        assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, FILES[name], kind)
        head = ask(port, path, "HEAD")
        assert head.body == b"" and head.headers["Content-Length"] == str(len(FILES[name]))


@pytest.mark.parametrize("path", ["/", "/nothing"])
def test_every_answer_forbids_scripts_sniffing_and_keeping(port, path):
    told = ask(port, path).headers
    assert "default-src 'none'" in told["Content-Security-Policy"] and "script" not in told["Content-Security-Policy"]
    assert told["X-Content-Type-Options"] == "nosniff" and told["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/../run.json", "/%2e%2e/run.json", "/..%2frun.json", "//etc/passwd", "/etc/passwd",
                                  "/./report.html", "/report.html/", "/report.html%00", "/.", "/%", "*"])  # fmt: skip
def test_nothing_else_is_answered(port, path):
    answer = ask(port, path)
    assert answer.status == 404 and b"/summary.csv" in answer.body, "it tells what there is"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_only_get_and_head_are_answered(port, method):
    assert ask(port, "/", method).status == 501


def test_a_request_that_is_too_long_is_refused(port):
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client:
        start = b"GET / HTTP/1.1\r\nX: "
        client.sendall(start + b"x" * (web_server.HEAD_BYTES + 1 - len(start)))
        assert client.recv(100).startswith(b"HTTP/1.0 431")
    assert ask(port).status == 200


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost:"], ids=["silent", "half a request"])
def test_clients_that_say_too_little_are_let_go_and_others_are_answered(port, monkeypatch, said):
    monkeypatch.setattr(web_server, "READ_S", 0.2)
    rude = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(web_server.CLIENTS + 4)]
    try:
        for client in rude:
            client.sendall(said)
        assert ask(port).status == 200
        assert [client.recv(1) for client in rude] == [b""] * len(rude)
        assert threading.active_count() < web_server.CLIENTS
    finally:
        for client in rude:
            client.close()


def test_a_client_that_goes_away_costs_nothing(port, capsys):
    for _ in range(3):
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it resets the connection
    assert ask(port).status == 200
    assert capsys.readouterr().err == ""


# What is made


def test_a_page_is_made_only_when_something_changed_and_nothing_is_written_into_the_run(tmp_path):
    folder = fake_run.write(tmp_path / "one", 6, iterations=50)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    maker = Maker(["one"], str(tmp_path), [])
    assert maker.look() and not maker.look()
    assert maker.shown.final and {"summary.csv", "report.md", "validation.png"} <= set(maker.shown.files)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "run.json").touch()
    assert maker.look()


@pytest.mark.slow
def test_latest_waits_for_the_first_run_and_goes_on_to_newer_ones(tmp_path):
    maker = Maker(["latest"], str(tmp_path / "runs"), [])
    maker.look()
    maker.look()
    assert b"<h1>No run yet" in maker.shown.files[PAGE] and maker.shown.status == 200
    for name, state in (("first", "unfinished"), ("second", "done")):
        fake_run.write(tmp_path / "runs" / name, 6, iterations=50)
        if state == "unfinished":
            torn_off(tmp_path / "runs" / name)
        (tmp_path / "next").symlink_to(name)
        (tmp_path / "next").replace(tmp_path / "runs" / "latest")
        assert maker.look() and f"<h1>{name}".encode() in maker.shown.files[PAGE]
        assert maker.shown.final == (state == "done")


@pytest.mark.slow
def test_a_half_written_file_is_told_only_when_it_stays_so(tmp_path):
    folder = fake_run.write(tmp_path / "one", 6, iterations=50)
    maker = Maker(["one"], str(tmp_path), [])
    maker.look()
    good, whole = maker.shown, (folder / "run.json").read_bytes()
    (folder / "run.json").write_bytes(whole[:100])
    maker.look()
    assert maker.shown is good
    maker.look()
    assert maker.shown.status == 503 and b"run.json is damaged" in maker.shown.files[PAGE] and not maker.shown.final
    (folder / "run.json").write_bytes(whole)
    assert maker.look() and maker.shown.files == good.files


@pytest.mark.parametrize("damage", ['{"state": 7, "energy": [1], "test": 3, "target": "x"}', "[]", "\x00"])
def test_no_damage_ends_the_maker(tmp_path, damage):
    folder = fake_run.write(tmp_path / "one", 6, iterations=50)
    (folder / "run.json").write_text(damage)
    maker = Maker(["one"], str(tmp_path), [])
    maker.look()
    maker.look()
    assert maker.shown.status == 503 and b"This run cannot be shown" in maker.shown.files[PAGE]


def test_a_slow_drawing_keeps_nobody_waiting(tmp_path, monkeypatch):
    fake_run.write(tmp_path / "one", 6, iterations=50)
    drawing, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        drawing.set()
        go_on.wait(30)

    monkeypatch.setattr(writing, "write", slow)
    maker = Maker(["one"], str(tmp_path), [])
    looking = threading.Thread(target=maker.look)
    with answering(maker) as port:
        looking.start()
        try:
            assert drawing.wait(30)
            assert ask(port).title == "The report is being made"
        finally:
            go_on.set()
            looking.join(30)


# Where it listens


@pytest.mark.parametrize("at", ["", "x", "70000", "host:", "::1:80", "a b:80", "http://x:80", "-1"])
def test_a_wrong_address_is_refused(at):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        web_server.parse(at)


def test_a_port_in_use_and_a_foreign_address_cost_one_line_that_helps():
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = other.getsockname()[1]
        with pytest.raises(EnvironmentLacks, match=f"port {taken} is in use by another program; end .* or 0 for any"):
            web_server.listening("127.0.0.1", taken, SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(EnvironmentLacks, match=r"no address of this machine; 127\.0\.0\.1 is for this machine"):
        web_server.listening("192.0.2.1", 0, SimpleNamespace())  # type: ignore[arg-type]


# The command


@pytest.fixture
def served(running: Callable[..., subprocess.Popen]) -> Callable[..., tuple[subprocess.Popen, int]]:
    """Start `difnet report --serve` and wait until it listens: the process and its port."""

    def start(*words: str) -> tuple[subprocess.Popen, int]:
        process = running("report", "--serve", *words)
        assert process.stdout
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", line := process.stdout.readline())
        assert found, line
        return process, int(found[1])

    return start


@pytest.mark.slow
def test_a_server_waits_for_the_first_run_and_goes_on_to_newer_ones(served, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFNET_ALIVE", str(tmp_path / "alive"))
    process, port = served("0")
    waiting = until(lambda: (a := ask(port)).title == "No run yet" and a, "the page without a run")
    assert waiting.status == 200 and waiting.headers["Refresh"] == "5" and b"difnet launch" in waiting.body

    home = tmp_path / "runs"
    fake_run.write_events(home / "first", list(fake_run.events(6, run="first", iterations=100))[:8])
    (home / "latest").symlink_to("first")
    growing = until(lambda: (a := ask(port)).title == "first" and a, "the first run's page")
    assert growing.status == 200 and growing.headers["Refresh"] == "5"

    fake_run.write(home / "second", 6, iterations=50)
    (home / "next").symlink_to("second")
    (home / "next").replace(home / "latest")
    ended = until(lambda: (a := ask(port)).title == "second" and a, "the second run's page")
    assert "Refresh" not in ended.headers and ask(port, "/validation.png").body.startswith(b"\x89PNG")

    touched = (tmp_path / "alive").stat().st_mtime_ns
    until(lambda: (tmp_path / "alive").stat().st_mtime_ns > touched, "the next sign of life")
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    assert sorted(os.listdir(home)) == ["first", "latest", "second"] and os.listdir(home / "first") == ["events.jsonl"]
    process.terminate()
    assert process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_asked_to_stop_has_done_its_work_and_frees_its_port(served, tmp_path, sig):
    fake_run.write(tmp_path / "runs" / "one", 6, iterations=50)
    process, port = served("0", "one")
    process.send_signal(sig)  # amid its first drawing
    assert process.wait(30) == 0 and process.stderr.read() == ""
    again, same = served(str(port), "one")
    assert same == port
    again.terminate()
    assert again.wait(30) == 0


def test_the_command_refuses_what_it_cannot_serve(difnet):
    for words, status, said in (
        (("--serve", "0", "zebra"), 2, "no run called 'zebra'"), (("--serve", "x"), 2, "HOST:PORT"),
        (("--serve", "0", "-o", "page"), 2, "--output has no meaning"),
    ):  # fmt: skip
        result = difnet("report", *words)
        assert result.status == status and said in result.err and "Traceback" not in result.err
