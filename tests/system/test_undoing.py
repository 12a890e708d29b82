"""What was done to another process is undone, also when whoever did it is killed in the middle."""

import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from difnet.system.tampering import forbid_writing, stop
from difnet.system.undoing import Undoing
from tests.conftest import environment, until

WRITER = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    try:
        with open(line.strip(), "ab") as file:
            file.write(b"more")
        print("written", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""
DOER = """
import os, sys
from functools import partial
from difnet.system.tampering import forbid_writing, stop
from difnet.system.undoing import Undoing
with Undoing() as undoing:
    undoing.add(partial(forbid_writing, int(sys.argv[1])))
    undoing.add(partial(stop, int(sys.argv[1])))
    print("done", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def victim():
    process = subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env=environment())  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def answer(victim: subprocess.Popen, path: Path) -> str:
    victim.stdin.write(f"{path}\n")
    victim.stdin.flush()
    return victim.stdout.readline().strip()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_disk_that_takes_nothing_is_as_it_was_afterwards(victim, tmp_path):
    """EFBIG while it lasts, also for root; the limit is the one that there was."""
    before = resource.prlimit(victim.pid, resource.RLIMIT_FSIZE)
    with Undoing() as undoing:
        undoing.add(partial(forbid_writing, victim.pid))
        assert answer(victim, tmp_path / "file") == "27"
    assert resource.prlimit(victim.pid, resource.RLIMIT_FSIZE) == before
    assert answer(victim, tmp_path / "file") == "written"


def test_who_was_stopped_goes_on_afterwards_also_after_an_error(victim, tmp_path):
    with pytest.raises(RuntimeError), Undoing() as undoing:
        undoing.add(partial(stop, victim.pid))
        until(lambda: state(victim.pid) == "T", "its stop", 10)
        raise RuntimeError
    assert answer(victim, tmp_path / "file") == "written"


def test_all_of_it_is_undone_after_a_kill(victim, tmp_path):
    """SIGKILL of who did it, while its victim is stopped and may not write."""
    before = resource.prlimit(victim.pid, resource.RLIMIT_FSIZE)
    with subprocess.Popen([sys.executable, "-c", DOER, str(victim.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, env=environment()) as doer:  # fmt: skip
        assert doer.stdout.readline() == "done\n"
        until(lambda: state(victim.pid) == "T", "its stop", 10)
        assert resource.prlimit(victim.pid, resource.RLIMIT_FSIZE)[0] == 0
        os.kill(doer.pid, signal.SIGKILL)
    until(lambda: state(victim.pid) != "T", "its going on", 10)
    assert resource.prlimit(victim.pid, resource.RLIMIT_FSIZE) == before
    assert answer(victim, tmp_path / "file") == "written"
