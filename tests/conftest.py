"""What every test may use: a command run with a deadline, and a check that no process outlives its test."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # several tests at a time share the cores already
REPOSITORY = Path(__file__).parent.parent
DEADLINE_S = 90.0


def strict_json(text: str) -> dict[str, Any]:
    """A JSON document, as a reader sees it that is not Python's."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


class Result(NamedTuple):
    """What a command ended with."""

    status: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Its standard output as one JSON document, without the NaN and Infinity that JSON does not have."""
        return strict_json(self.out)


def environment(**extra: str) -> dict[str, str]:
    """The environment of a command under test: this checkout, no colours, no terminal width of the tester's."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "120", **extra}


@pytest.fixture
def difnet(tmp_path: Path) -> Callable[..., Result]:
    """Run `difnet ARGUMENTS…` in an empty folder; it has a deadline."""

    def run(*arguments: str, timeout_s: float = DEADLINE_S, **extra: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "difnet", *map(str, arguments)], cwd=tmp_path, env=environment(**extra),
            capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start `difnet ARGUMENTS…` and go on; whatever is left of it is killed after the test."""
    started: list[subprocess.Popen] = []

    def run(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "difnet", *map(str, arguments)], cwd=tmp_path, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def pause() -> None:
    """Let others compute for a moment between two looks at something that is waited for."""
    threading.Event().wait(0.005)


def until(truth: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Wait for something to become true, with a deadline; returns it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := truth():
            return value
        pause()
    raise AssertionError(f"waited {timeout_s} s in vain for {what}")


def agents_of(launcher: int) -> dict[int, int]:
    """Agent -> pid, of a launcher's run: the children of its host, in the order they were forked."""
    try:
        hosts = psutil.Process(launcher).children()
        children = sorted(hosts[0].children(), key=lambda p: (p.create_time(), p.pid)) if hosts else []
    except psutil.NoSuchProcess:
        return {}
    return {k: child.pid for k, child in enumerate(children)}


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind that a run has recorded so far."""
    path = folder / "runs" / "latest" / "events.jsonl"
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [event for event in map(strict_json, lines) if event["event"] == kind]


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No process and no temporary file of a command outlives the test that ran it.

    Each test's commands carry a mark of their own in their environment, and have a folder of their own for what is
    temporary (a short one: a socket's path has at most 107 bytes).
    """
    scratch, mark = tempfile.mkdtemp(prefix="dn"), secrets.token_hex(8)
    monkeypatch.setenv("TMPDIR", scratch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DIFNET_TEST", mark)
    before = set(psutil.pids())  # whoever is new is looked at more closely
    yield

    def left() -> list[psutil.Process]:
        found = []
        for pid in set(psutil.pids()) - before:
            with suppress(psutil.Error):
                if (process := psutil.Process(pid)).environ().get("DIFNET_TEST") == mark:
                    found.append(process)
        return found

    deadline = time.monotonic() + 10
    while (survivors := left()) and time.monotonic() < deadline:
        pause()
    for process in survivors:
        os.kill(process.pid, signal.SIGKILL)
    made = os.listdir(scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    assert not survivors, f"processes left behind: {survivors}"
    assert not made, f"files left behind: {made}"


settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes comes first, so that no worker waits at the end for another one's long last test."""
    items.sort(key=lambda item: {"difnet", "running"}.isdisjoint(getattr(item, "fixturenames", ())))
