"""The engine that the tests use: it is private, and nothing of it remains."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from difnet.errors import EnvironmentLacks
from tests.conftest import REPOSITORY, environment, until
from tests.places import engine as module
from tests.places.engine import Engine

pytestmark = pytest.mark.docker

ENDLESS = """
import os, sys, threading
from pathlib import Path
from tests.places.engine import engine
with engine(Path(sys.argv[1])) as running:
    assert running.docker("network", "create", "one").status == 0
    print(running.pid, flush=True)
    threading.Event().wait()
"""


def test_it_is_in_no_namespace_of_this_machine(engine: Engine) -> None:
    for kind in ("net", "mnt", "pid"):
        assert os.readlink(f"/proc/{engine.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert engine.docker("network", "ls", "--quiet").out.split()
    assert "docker0" not in os.listdir("/sys/class/net")


def test_what_a_test_forgets_in_it_is_named_and_removed(engine: Engine) -> None:
    assert engine.docker("network", "create", "--internal", "forgotten").status == 0
    assert engine.docker("volume", "create", "kept").status == 0
    volume, network = engine.left()
    assert volume == "volume kept" and network.startswith("network ")
    assert engine.left() == []


def test_nothing_of_it_outlives_a_killed_owner(engine: Engine, tmp_path: Path) -> None:
    folder = Path(os.environ["TMPDIR"]) / "e"
    owner = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(folder)], env=environment(), cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert owner.stdout is not None
        first = int(owner.stdout.readline())
        family = psutil.Process(owner.pid).children(recursive=True)
        assert first in [process.pid for process in family] and len(family) >= 4  # guard, unshare, daemon, containerd
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate(timeout=30)
    until(lambda: not any(process.is_running() for process in family) and not folder.exists(), "the end of all of it")
    until(lambda: not list(Path("/sys/fs/cgroup").glob(f"**/difnet-tests-{owner.pid}-*")), "the end of its cgroups")
    assert str(folder) not in Path("/proc/mounts").read_text()


def test_a_refusal_says_which_packages_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "SEARCHED", str(tmp_path))
    with pytest.raises(EnvironmentLacks, match=r"dockerd, .*: apt-get install debootstrap docker-compose "):
        with module.engine(tmp_path / "e"):
            pass
    assert not (tmp_path / "e").exists()


def test_a_refusal_says_who_may_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "geteuid", lambda: 10001)
    with pytest.raises(EnvironmentLacks, match="run by root, and this is user 10001"):
        with module.engine(tmp_path / "e"):
            pass


def test_a_daemon_that_does_not_start_is_quoted_and_leaves_nothing(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = tmp_path / "dockerd"
    daemon.write_text("#!/bin/sh\necho 'no overlay in this kernel' >&2; exit 1\n")
    daemon.chmod(0o755)
    monkeypatch.setattr(module, "SEARCHED", os.pathsep.join([str(tmp_path), module.SEARCHED]))
    folder = Path(os.environ["TMPDIR"]) / "e"
    with pytest.raises(EnvironmentLacks, match="last words: no overlay in this kernel"):
        with module.engine(folder):
            pass
    assert not folder.exists()
