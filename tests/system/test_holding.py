"""A folder has one holder at a time, which is known as long as it lives and not a moment longer."""

import json
import os
import platform
import signal
import subprocess
import sys

import pytest

from difnet.errors import RunFolderError
from difnet.system import holding
from difnet.system.folders import running_folder
from tests.conftest import environment, until

HOLD = """
import sys
from pathlib import Path
from difnet.system.holding import hold

with hold(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to hold; what is held is listed beside it."""
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def other(folder):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], env=environment(), text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def nothing(text):
    raise AssertionError(text)


def test_a_held_folder_is_refused_to_others_who_learn_whose_it_is(folder, other):
    told = holding.holder(folder)
    assert (told.pid, told.machine, told.is_here) == (other.pid, platform.node(), True)
    assert holding.held_here() == [folder]
    with pytest.raises(RunFolderError, match=f"in use by process {other.pid} of .*difnet stop"):
        with holding.hold(folder, nothing):
            pass


def test_a_folder_is_held_again_when_its_holder_has_ended(folder, other):
    """As a run is that goes on in its folder."""
    other.communicate()
    assert holding.holder(folder) is None and holding.held_here() == []
    with holding.hold(folder, nothing):
        assert holding.holder(folder).pid == os.getpid()
    assert not holding.is_held(folder) and not list(running_folder().iterdir())


def test_a_killed_holder_leaves_no_living_lock(folder, other):
    """Its words stay in the file, and its entry in the list, which is swept when somebody looks."""
    other.kill()
    other.wait()
    assert json.loads((folder / holding.LOCK).read_text())["pid"] == other.pid
    assert len(list(running_folder().iterdir())) == 1
    assert holding.holder(folder) is None and holding.held_here() == []
    assert not list(running_folder().iterdir())


def test_a_process_of_the_same_number_is_not_taken_for_the_holder(folder, other):
    """The file names a pid that has passed on to somebody else, who must get no signal."""
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        told = json.loads((folder / holding.LOCK).read_text())
        (folder / holding.LOCK).write_text(json.dumps(told | {"pid": bystander.pid}))
        with pytest.raises(RunFolderError, match="no process that can be seen from here"):
            holding.ask_to_end(folder, [signal.SIGTERM], 10)
        assert bystander.poll() is None and other.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_holder_on_another_machine_is_not_signalled(folder, other):
    told = json.loads((folder / holding.LOCK).read_text())
    (folder / holding.LOCK).write_text(json.dumps(told | {"machine": "elsewhere", "pid": os.getpid()}))
    with pytest.raises(RunFolderError, match=r"on elsewhere.*stop it there"):
        holding.ask_to_end(folder, [signal.SIGTERM], 10)


def test_who_is_asked_to_end_is_waited_for(folder, other):
    os.kill(other.pid, signal.SIGSTOP)  # so that it does not hear
    assert holding.ask_to_end(folder, [signal.SIGINT], 0.1) is False
    os.kill(other.pid, signal.SIGCONT)
    until(lambda: other.poll() is not None, "the end")
    with pytest.raises(RunFolderError, match="nothing runs in"):
        holding.ask_to_end(folder, [signal.SIGINT], 10)


def test_a_list_that_cannot_be_written_is_said_and_the_folder_held(folder, monkeypatch):
    monkeypatch.setenv("DIFNET_CACHE", "/dev/null/cache")
    said = []
    with holding.hold(folder, said.append):
        assert holding.is_held(folder)
    assert len(said) == 1 and "difnet ps" in said[0] and "Not a directory" in said[0]


def test_those_who_look_do_not_keep_others_from_holding(folder):
    """Whoever looks has the lock for an instant; a new holder waits for that."""
    fd = os.open(folder / holding.LOCK, os.O_CREAT | os.O_RDONLY)
    holding.fcntl.flock(fd, holding.fcntl.LOCK_SH)
    tried = []

    def lock(fd_, how, real=holding.fcntl.flock):
        tried.append(how)
        if len(tried) == 2:
            os.close(fd)
        return real(fd_, how)

    holding.fcntl.flock, before = lock, holding.fcntl.flock
    try:
        with holding.hold(folder, nothing):
            assert len(tried) >= 2
    finally:
        holding.fcntl.flock = before
