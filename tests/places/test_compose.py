"""A network in real containers: the same bits as here, few rights, losses that are told, and nothing left behind."""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY, Result, strict_json, until
from tests.places.engine import Engine

pytestmark = pytest.mark.docker

READY_S = 150.0  # five processes that load torch at a time, on cores that others use too
SHORT = ["--iterations", "40", "--engine", "traced", "--tasks", "2", "--eval-tasks", "4", "--set", "test_tasks=4"]
PORT = "8765"
LOOK = f"from urllib.request import urlopen; print(urlopen('http://127.0.0.1:{PORT}/', timeout=20).read().decode())"
NEXT = """
from difnet.config import load
from difnet.places.compose import compose
with compose(load(), 2): pass
"""


class Project:
    """One compose file in use; what it started ends with it."""

    def __init__(self, engine: Engine, image: str, folder: Path) -> None:
        self.engine, self.folder, self._image = engine, folder, image
        self._containers: dict[str, str] = {}  # by service: Compose takes long to say so

    def compose(self, *words: str, timeout_s: float = 90.0) -> Result:
        told = {"DIFNET_IMAGE": self._image, "DIFNET_PORT": PORT}
        return self.engine.compose("-p", "ring", *words, cwd=self.folder, timeout_s=timeout_s, **told)

    def up(self, *services: str) -> None:
        started = self.compose("up", "--detach", "--no-build", *services)
        assert started.status == 0, started.err

    def container(self, service: str) -> str:
        if service not in self._containers:
            self._containers[service] = self.compose("ps", "--quiet", service).out.strip()
        return self._containers[service]

    def inspect(self, service: str) -> dict[str, Any]:
        (described,) = json.loads(self.engine.docker("inspect", self.container(service)).out)
        return described

    def said(self, service: str) -> str:
        done = self.engine.docker("logs", self.container(service))
        return done.out + done.err

    def status(self, service: str) -> int:
        """What a service's container ended with, once it has."""
        return int(self.engine.docker("wait", self.container(service), timeout_s=READY_S).out)

    def run(self) -> Path:
        """The recorded run, copied out of the volume."""
        place = self.folder / "copied"
        shutil.rmtree(place, ignore_errors=True)
        copied = self.engine.docker("cp", f"{self.container('dashboard')}:/runs", place)
        assert copied.status == 0, copied.err
        return place / os.readlink(place / "latest")


@pytest.fixture
def project(engine: Engine, image: str, tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """Write a compose file with `difnet export compose WORDS…` and use it."""
    made: list[Project] = []

    def make(*words: str) -> Project:
        written = here(engine, tmp_path, "export", "compose", *words, "-o", "docker-compose.yml")
        assert written.status == 0, written.err
        made.append(Project(engine, image, tmp_path))
        return made[0]

    yield make
    for each in made:
        each.compose("down", "--volumes", "--timeout", "1")


def here(engine: Engine, folder: Path, *words: str, **extra: str) -> Result:
    """Run `difnet WORDS…` on this machine, where the engine's networks are."""
    told = {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "120", **extra}
    return engine.inside(sys.executable, "-m", "difnet", *words, cwd=folder, timeout_s=READY_S, **told)


def launch_model(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "launch-model.safetensors")


def assert_same_bits(one: Path, other: Path) -> None:
    left, right = launch_model(one), launch_model(other)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@contextmanager
def attached(project: Project, service: str, rows: int, columns: int) -> Iterator[int]:
    """A terminal of that size, attached to a service with `docker attach`, as a person's would be."""
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    client = subprocess.Popen(
        ["nsenter", f"--net=/proc/{project.engine.pid}/ns/net", "--", "docker", "attach", project.container(service)],
        env=project.engine.environment(), stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
    )  # fmt: skip
    try:
        yield outside
        os.write(outside, b"\x10\x11")  # Ctrl-P Ctrl-Q: go away, and leave the launcher alone
        client.wait(timeout=20)
    finally:
        client.kill()
        client.wait()
        os.close(inside)
        os.close(outside)


def shown(terminal: int, words: str, timeout_s: float = 30.0) -> str:
    """What a terminal shows, up to these words."""
    seen = b""

    def read() -> bool:
        nonlocal seen
        while select.select([terminal], [], [], 0)[0]:
            seen += os.read(terminal, 65536)
        return words.encode() in seen

    until(read, f"{words!r} on the terminal", timeout_s)
    return seen.decode(errors="replace")


def test_a_ring_of_containers_ends_with_the_bits_of_a_run_here(
    project: Callable[..., Project], engine: Engine, tmp_path: Path
) -> None:
    """Also: what they may do, how healthy they are, what a terminal and a browser see, and how they go."""
    words = ["--topology", "cycle_graph(n=5)", *SHORT]
    ring = project(*words)
    early = [f"agent-{k}" for k in range(4)]
    ring.compose("up", "--detach", "--no-build", "--no-deps", "report", "dashboard", *early)  # and wait for agent-4
    until(lambda: "4/5 agents here" in ring.said("dashboard"), "four agents", READY_S)

    for service in ("report", "dashboard", "agent-2"):
        contained(ring.inspect(service), published=service == "report")
    with attached(ring, "dashboard", 30, 100) as terminal:
        assert "\x1b[" in shown(terminal, "4/5 agents here")
    for service in ("report", "dashboard", "agent-2"):
        until(lambda: ring.inspect(service)["State"]["Health"]["Status"] == "healthy", f"health of {service}", 60)  # noqa: B023

    ring.up("agent-4")
    assert ring.status("dashboard") == 0, ring.said("dashboard")
    assert {ring.status(service) for service in early} == {0}
    assert here(engine, tmp_path, "launch", *words).status == 0
    assert_same_bits(ring.run(), tmp_path / "runs" / "latest")

    name = ring.run().name
    until(lambda: name in engine.inside(sys.executable, "-c", LOOK).out, "the page of the run", 60)

    gone = ring.compose("down", "--volumes", timeout_s=15)
    assert gone.status == 0, gone.err


def contained(told: dict[str, Any], published: bool) -> None:
    """The rights of a container, in the engine's own words."""
    limits = told["HostConfig"]
    assert told["Config"]["User"] == "10001:10001"
    assert limits["ReadonlyRootfs"] and not limits["Privileged"]
    assert limits["CapDrop"] == ["ALL"] and not limits["CapAdd"]
    assert limits["SecurityOpt"] == ["no-new-privileges:true"]
    assert limits["Memory"] > 0 and limits["PidsLimit"] > 0
    assert limits["RestartPolicy"]["MaximumRetryCount"] <= 3 and limits["RestartPolicy"]["Name"] != "always"
    ports = [port for bound in told["NetworkSettings"]["Ports"].values() for port in bound or []]
    assert ports == ([{"HostIp": "127.0.0.1", "HostPort": PORT}] if published else [])


def test_when_a_container_is_killed_the_others_finish_and_say_so(project: Callable[..., Project]) -> None:
    ring = project("--topology", "cycle_graph(n=4)", *SHORT[2:], "--iterations", "2500", "--eval-every", "2500")
    ring.up("dashboard")
    until(lambda: "ready after" in ring.said("dashboard"), "the start", READY_S)
    assert ring.engine.docker("kill", ring.container("agent-2")).status == 0
    assert ring.status("dashboard") == 1
    assert "agent 2 lost" in ring.said("dashboard")
    told = strict_json((ring.run() / "run.json").read_text())
    assert (told["lost_agents"], told["state"], told["iterations"]) == ([2], "failed", 2500)
    assert {ring.status(f"agent-{k}") for k in (0, 1, 3)} == {0}


def test_a_network_whose_containers_were_all_killed_goes_on_in_the_words_of_the_docs(
    project: Callable[..., Project],
) -> None:
    """Checkpoints are in their volume, the run in its own."""
    words = ["--topology", "cycle_graph(n=4)", *SHORT[2:], "--engine", "eager", "--iterations", "2500", "--eval-every",
             "2500", "--set", "checkpoint_every=100"]  # fmt: skip
    ring = project(*words)
    ring.up("dashboard")
    until(lambda: "ready after" in ring.said("dashboard"), "the start", READY_S)
    until(lambda: (ring.run() / "events.jsonl").read_text().count('"Checkpointed"') > 1, "two checkpoints", READY_S)
    killed = ring.compose("kill")
    assert killed.status == 0 and not (ring.run() / "run.json").exists(), killed.err
    ring.up(*(f"agent-{k}" for k in range(4)))
    done = ring.compose("run", "-T", "--rm", "--use-aliases", "dashboard", "resume", "latest", "--runs", "/runs",
                        timeout_s=2 * READY_S)  # fmt: skip
    assert done.status == 0, done.out + done.err
    told = [json.loads(line) for line in (ring.run() / "events.jsonl").read_text().splitlines()]
    [resumed] = [event for event in told if event["event"] == "Resumed"]
    assert 200 <= resumed["iteration"] < 2500 and told[-1]["state"] == "done"


def test_a_launch_in_containers_ends_with_the_bits_of_a_run_here_and_leaves_nothing(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    words = ["launch", "--topology", "path_graph(n=3)", "--agents-per-host", "2", *SHORT, "--json"]
    done = here(engine, tmp_path, *words, "--place", "compose", DIFNET_IMAGE=image)
    assert done.status == 0, done.err
    assert here(engine, tmp_path, *words).status == 0
    assert_same_bits(Path(done.json()["folder"]), tmp_path / "runs" / "latest")
    assert done.json()["folder"] != str((tmp_path / "runs" / "latest").resolve())
    # What is left in the engine or in the folder for what is temporary, the fixtures of every test find.


def test_what_a_killed_launcher_leaves_ends_by_itself_or_with_the_next_launch(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    words = ["launch", "--topology", "path_graph(n=2)", "--place", "compose", "--iterations", "999999"]
    told = {"PYTHONPATH": str(REPOSITORY), "DIFNET_IMAGE": image}
    launcher = engine.started(sys.executable, "-m", "difnet", *words, cwd=tmp_path, **told)
    try:
        until(lambda: len(engine.docker("ps", "--quiet").out.split()) == 2, "two containers", READY_S)
        family = psutil.Process(launcher.pid).children(recursive=True)
    finally:
        os.kill(launcher.pid, signal.SIGKILL)
        launcher.communicate(timeout=30)
    until(lambda: not engine.docker("ps", "--quiet").out.split(), "the end of the containers", 60)
    until(lambda: not any(process.is_running() for process in family), "the end of Compose")
    assert len(engine.docker("network", "ls", "--quiet", "--filter", "label=difnet.launcher").out.split()) == 1

    done = engine.inside(sys.executable, "-c", NEXT, cwd=tmp_path, **told)
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    "told, reason",
    [({"DIFNET_IMAGE": "missing:1"}, "docker build -f launch/places/Dockerfile -t missing:1 ."),
     ({"DOCKER_HOST": "unix:///nowhere/sock"}, "DOCKER_HOST")],
    ids=["no image", "no daemon"],
)  # fmt: skip
def test_what_the_engine_lacks_is_told_before_anything_is_begun(
    told: dict[str, str], reason: str, engine: Engine, tmp_path: Path
) -> None:
    refused = here(engine, tmp_path, "launch", "--topology", "path_graph(n=2)", "--place", "compose", **told)
    assert refused.status == 3 and reason in refused.err and "Traceback" not in refused.err
    assert not os.listdir(tmp_path)


def test_an_engine_elsewhere_is_left_to_a_launcher_in_a_container(
    engine: Engine, image: str, difnet: Callable[..., Result]
) -> None:
    """Its networks are not on this machine: so it is from outside of the engine's own network."""
    words = ["launch", "--topology", "path_graph(n=2)", "--place", "compose"]
    there = {name: engine.environment()[name] for name in ("PATH", "DOCKER_HOST")}
    refused = difnet(*words, DIFNET_IMAGE=image, **there)
    assert refused.status == 3 and "difnet export compose" in refused.err and "Traceback" not in refused.err


def test_an_image_without_difnet_is_told_in_the_engines_words(engine: Engine, base: str, tmp_path: Path) -> None:
    words = ["launch", "--topology", "path_graph(n=2)", "--place", "compose"]
    failed = here(engine, tmp_path, *words, DIFNET_IMAGE=base)
    assert failed.status == 1 and "exec host failed" in failed.err and "Traceback" not in failed.err
