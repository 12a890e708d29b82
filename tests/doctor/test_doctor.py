"""`difnet doctor` in worlds that have everything and in worlds that lack something: what it says is so, and what it
advises helps."""

import math
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import zmq

from difnet.doctor import capacity, engines, examination, folders, hardware, smoke, software
from difnet.system.energy import POWERCAP
from difnet.system.programs import ask
from difnet.topology.networks import load
from tests.conftest import DEADLINE_S, agents_of, environment, events, until

MIB = 2**20
NOBODY = 61_000 + os.getpid() % 1000  # a user who has no other process


def checks(document: dict) -> dict[str, dict]:
    """The checks of a `--json` document by name."""
    return {check["name"]: check for check in document["checks"]}


def scripts(folder: Path, **programs: str) -> Path:
    """A folder of made-up programs, name -> shell script."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return folder


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights to files, where we have them."""
    if os.getuid():
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


# the whole command


@pytest.mark.slow
def test_a_machine_that_runs_these_tests_can_run_two_agents(difnet, tmp_path):
    """What is seen is what others see; remedies are for what is not well; and nothing is made by looking."""
    done = difnet("doctor", "--agents", "2", "--json")
    said = checks(done.json())
    assert done.status == 0, done.out
    assert done.json()["state"] == ("warn" if "warn" in {check["state"] for check in said.values()} else "ok")
    assert all(bool(check["remedy"]) == (check["state"] != "ok") for check in said.values()), done.out
    assert platform.python_version() in said["Python"]["seen"]
    assert torch.__version__ in said["torch"]["seen"]
    assert f"libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}" in said["ZeroMQ"]["seen"]
    assert str(tmp_path / "runs") in said["runs"]["seen"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_shell_with_too_few_descriptors_is_told_which_limit_would_do(tmp_path):
    """On a pipe each check is one line, and the last one is the verdict."""
    line = f"ulimit -n 100 && exec {sys.executable} -m difnet doctor --topology ring100"
    short = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True,
                           timeout=DEADLINE_S)  # fmt: skip
    *lines, verdict = short.stdout.splitlines()
    [line] = [line for line in lines if line.split()[1] == "descriptors"]
    assert short.returncode == 3 and short.stderr == ""
    assert {line.split()[0] for line in lines} <= {"ok", "warn", "fail"}
    assert verdict.startswith("In the way of a run: descriptors.")
    assert line.startswith("fail") and re.search(r" -> have root raise the hard limit to 2\d\d ", line)


@pytest.mark.slow
def test_a_bare_container_is_warned_of_what_it_lacks_and_may_run(difnet, tmp_path):
    """No compiler, counters that lead nowhere, a daemon that is not there, no home to write to."""
    bare = scripts(tmp_path / "bin", docker="echo 'Cannot connect to the Docker daemon at unix:///x' >&2; exit 1")
    (tmp_path / "powercap").mkdir()
    (tmp_path / "powercap/intel-rapl").symlink_to("/nowhere/at/all")
    (tmp_path / "cache").write_text("a file in the way")
    done = difnet("doctor", "--json", PATH=str(bare), CXX="", DIFNET_POWERCAP=str(tmp_path / "powercap"),
                  DIFNET_CACHE=str(tmp_path / "cache"))  # fmt: skip
    said = checks(done.json())
    assert (done.status, done.json()["state"]) == (0, "warn"), done.out
    assert all(said[name]["state"] == "warn" for name in ("compiler", "energy", "docker", "cache")), done.out
    assert "traced" in said["compiler"]["seen"] and "g++" in said["compiler"]["remedy"]
    assert "masked" in said["energy"]["seen"]
    assert "Cannot connect to the Docker daemon" in said["docker"]["seen"] and "start it" in said["docker"]["remedy"]
    assert "Not a directory" in said["cache"]["seen"] and "DIFNET_CACHE" in said["cache"]["remedy"]
    assert said["Slurm"]["seen"] == "absent; only runs on a Slurm cluster need it"


@pytest.mark.slow
def test_without_torch_the_other_checks_are_made_all_the_same(difnet, tmp_path):
    """Its place is taken by something that cannot be imported."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    (tmp_path / "runs").write_text("a file in the way")
    path = environment()["PYTHONPATH"]
    done = difnet("doctor", PYTHONPATH=f"{tmp_path / 'broken'}{os.pathsep}{path}")
    said = {line.split()[1]: line for line in done.out.splitlines()}
    assert (done.status, done.err) == (3, "")
    assert said["torch"].startswith("fail") and "libtorch_cpu.so" in said["torch"] and "pip install" in said["torch"]
    assert said["runs"].startswith("fail") and "Not a directory" in said["runs"] and "--runs DIR" in said["runs"]
    assert said["ZeroMQ"].startswith("ok") and said["memory"].startswith(("ok", "warn"))
    assert done.out.splitlines()[-1].startswith("In the way of a run: torch, runs.")


@pytest.mark.parametrize(
    ("words", "parts"),
    [(("--topology", "ring4O"), ["'ring4O'", "ring40"]), (("--topology", "ring6", "--agents", "7"), ["ring6 has 6"])],
    ids=["a name that is none", "more agents than there are"],
)
def test_a_network_that_cannot_be_is_refused(difnet, words, parts):
    done = difnet("doctor", *words)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("difnet: ") and all(part in done.err for part in parts), done.err


@pytest.mark.slow
def test_two_agents_run_and_leave_nothing(difnet, tmp_path):
    """The first time it compiles."""
    done = difnet("doctor", "--agents", "2", "--smoke", "--json", timeout_s=300.0)
    assert done.status == 0, done.out
    assert "20 of 20 rounds, engine " in checks(done.json())["smoke"]["seen"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_agents_that_cannot_run_say_why(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    state, seen, remedy = smoke.two_agents(("--task", "nonsense"))
    assert state == "fail" and "no task called 'nonsense'" in seen and "difnet launch" in remedy


@pytest.mark.slow
def test_two_agents_that_take_too_long_are_ended(monkeypatch, tmp_path):
    """Nothing of them is left, which the fixture of every test looks for."""
    monkeypatch.chdir(tmp_path)
    state, seen, _ = smoke.two_agents(("--iterations", "1000000", "--engine", "eager"), timeout_s=2.0)
    assert (state, seen) == ("fail", "two agents did not run: no answer within 2 s")


# what agents take


@pytest.mark.slow
@pytest.mark.parametrize("network", ["ring6", "star_graph(n=7)"])
def test_real_processes_take_what_is_planned_and_not_much_less(running, tmp_path, network):
    """Descriptors and threads of launcher, host and agents, as the kernel counts them, and the memory of them all.

    They are allowed no more descriptors than that.
    """
    topology = load(network)
    planned = capacity.descriptors_for(topology, topology.agents)
    most = max(planned.values())
    launcher = running("launch", "--topology", network, "--iterations", "1000000", "--engine", "eager", "--quiet")
    resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, (most, most))
    until(lambda: events(tmp_path, "Ready"), "the start")
    host = psutil.Process(launcher.pid).children()[0]
    agents = agents_of(launcher.pid)
    everybody = [psutil.Process(pid) for pid in (launcher.pid, host.pid, *agents.values())]
    descriptors = {p.pid: p.num_fds() for p in everybody}
    threads = sum(p.num_threads() for p in everybody)
    memory = sum(p.memory_full_info().pss for p in everybody)
    launcher.terminate()
    launcher.wait(60)
    taken = {"launcher": descriptors[launcher.pid], "host": descriptors[host.pid],
             list(planned)[2]: max(descriptors[pid] for pid in agents.values())}  # fmt: skip
    assert all(taken[name] <= planned[name] <= taken[name] + capacity.SPARE_DESCRIPTORS + 2 for name in planned), taken
    assert threads <= capacity.tasks_for(topology.agents) <= threads + 4
    assert capacity.bytes_for(topology.agents) / 2 <= memory <= capacity.bytes_for(topology.agents)


def test_the_busiest_agent_is_who_dials_most():
    """In a ring the higher number dials the lower; in a star the rim dials the hub, who then only accepts."""
    assert capacity.links(load("cycle_graph(n=4)")) == {0: (2, 0), 1: (1, 1), 2: (1, 1), 3: (0, 2)}
    assert capacity.links(load("star_graph(n=3)")) == {0: (3, 0), 1: (0, 1), 2: (0, 1), 3: (0, 1)}


@pytest.mark.slow
def test_more_neighbours_than_zeromq_can_dial_fail_whatever_the_limit():
    """How many it can is tried out: sockets with monitors until there is no more room."""
    with zmq.Context() as context:
        context.socket(zmq.ROUTER).close(0)
        assert (context.get(zmq.MAX_SOCKETS) - 1) // 3 == capacity.MOST_DIALLED
    state, seen, remedy = capacity.descriptors(load("complete_graph(n=345)"), 345, 10**6)
    assert state == "fail" and "344 neighbours" in seen and "smaller degree" in remedy


@pytest.mark.parametrize(
    ("available", "state", "words"),
    [(640 * MIB, "warn", "at most 10 agents"), (639 * MIB, "fail", "at most 9 agents"), (10**12, "ok", ""),
     (100 * MIB, "fail", "not even one")],
    ids=["just enough", "just too little", "plenty", "nothing"],
)  # fmt: skip
def test_ten_agents_take_four_hundred_and_ten_times_twenty_four_mebibytes(available, state, words):
    found = capacity.memory(10, available)
    assert found.state == state and words in found.remedy


@pytest.mark.parametrize(
    ("of_user", "of_group", "state", "remedy"),
    [(None, None, "ok", ""), (70, None, "ok", ""), (69, None, "fail", "ulimit -u"), (None, 69, "fail", "pids.max"),
     (10**6, 5, "fail", "pids.max")],
    ids=["no limit", "just enough", "the user's", "the group's", "the tighter"],
)  # fmt: skip
def test_ten_agents_are_seventy_threads(of_user, of_group, state, remedy):
    found = capacity.processes(10, of_user, of_group)
    assert found.state == state and remedy in found.remedy


def test_the_tightest_of_nested_control_groups_counts(tmp_path):
    """Version 2, where the outer group has less left, and the page cache can be had back; version 1 beside it."""

    def group(path: str, **files: str) -> None:
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / path / name.replace("__", ".")).write_text(text)

    group("outer", memory__max="1000\n", memory__current="700\n", memory__stat="anon 5\ninactive_file 200\n")
    group("outer/inner", memory__max="max\n", memory__current="600\n", pids__max="50\n", pids__current="8\n")
    group("pids/one", pids__max="30\n", pids__current="1\n")
    two, one, free = tmp_path / "two", tmp_path / "one", tmp_path / "free"
    two.write_text("0::/outer/inner\n")
    one.write_text("8:pids:/one/gone\n4:memory:/\n0::/\n")
    free.write_text("0::/\n")
    assert capacity.left_in_control_groups("memory", two, tmp_path) == 500
    assert capacity.left_in_control_groups("pids", two, tmp_path) == 42
    assert capacity.left_in_control_groups("pids", one, tmp_path) == 29
    assert capacity.left_in_control_groups("memory", free, tmp_path) is None
    assert capacity.left_in_control_groups("memory", tmp_path / "no such file", tmp_path) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be a user without other processes")
def test_a_further_process_of_the_user_leaves_room_for_one_less():
    """Of the limit of a user who is not root."""
    with as_nobody():
        before, _ = capacity.tasks_left()
        further = subprocess.Popen(["sleep", "60"])
        after, _ = capacity.tasks_left()
    further.kill()
    further.wait()
    if before is None:
        pytest.skip("users have no limit here; ulimit -u 10000 sets one")
    assert before - after == 1
    assert capacity.tasks_left()[0] is None


# what makes it fast, and what measures it


def test_a_torch_outside_the_bounds_fails():
    found = software.torch_here("torch<=1.13,>=1.0")
    assert found.state == "fail" and "torch<=1.13,>=1.0" in found.remedy


def test_the_bounds_are_those_of_the_project():
    """As `pyproject.toml` has them, in whatever order the installed package lists them."""
    assert {*software.requirement("torch").removeprefix("torch").split(",")} == {">=2.6", "<=2.13.0"}


def test_a_compiler_that_does_not_work_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(scripts(tmp_path / "bin", cxx="echo broken >&2; exit 1") / "cxx"))
    found = hardware.compiler()
    assert found.state == "warn" and "broken" in found.seen and "g++" in found.remedy


def counters(folder: Path) -> Path:
    """A made-up powercap tree with one package; returns the file of its count."""
    zone = folder / "intel-rapl/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in {"name": "package-0", "max_energy_range_uj": "262143328850", "energy_uj": "12345"}.items():
        (zone / name).write_text(text)
    return zone / "energy_uj"


def test_counters_that_root_alone_may_read_are_told_with_what_root_can_do(tmp_path):
    """Since 2020 the kernel gives them to root alone."""
    counters(tmp_path).chmod(0o400 if not os.getuid() else 0o000)
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        if os.stat(folder).st_uid == os.getuid() and folder != Path("/tmp"):
            folder.chmod(0o755)
    with as_nobody():
        found = hardware.powercap(tmp_path)
    assert found.state == "warn" and "no permission" in found.seen and "chmod a+r" in found.remedy


def test_counters_that_can_be_read_are_named(tmp_path):
    found = hardware.powercap(tmp_path, read=lambda root: ({"package 0": None, "DRAM 0": None}, {}))
    assert found == ("ok", "RAPL counts package 0, DRAM 0", "")


def test_a_folder_mounted_over_the_counters_masks_them(tmp_path):
    """As docker does it: an empty read-only tmpfs."""
    (tmp_path / "mountinfo").write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "96 22 0:52 / /sys/devices/virtual/powercap ro,relatime - tmpfs tmpfs ro,inode64\n"
    )
    found = hardware.powercap(Path(POWERCAP), lambda root: ({}, {}), tmp_path / "mountinfo")
    assert found.state == "warn" and "masked" in found.seen
    (tmp_path / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    found = hardware.powercap(Path(POWERCAP), lambda root: ({}, {}), tmp_path / "mountinfo")
    assert found.state == "ok" and "no RAPL" in found.seen and "10 W" in found.seen


# engines


@pytest.mark.parametrize(
    ("programs", "state", "seen"),
    [
        ({}, "ok", "absent; only --place compose needs it"),
        ({"docker": "case $1 in version) echo 20.10.24;; *) exit 1;; esac", "docker_compose": "echo 1.29.2"},
         "ok", "docker 20.10.24, docker-compose 1.29.2"),
        ({"docker": "case $1 in version) echo 28.1.0;; *) echo 2.35.1;; esac"},
         "ok", "docker 28.1.0, docker compose 2.35.1"),
        ({"docker": "case $1 in version) echo 28.1.0;; *) exit 1;; esac"}, "warn", "docker 28.1.0, no compose"),
        ({"docker": "echo permission denied >&2; exit 1"}, "warn", "no compose; the daemon: permission denied"),
        ({"docker": "/bin/sleep 600 & wait"}, "warn", "no compose; the daemon: no answer within 0 s"),
    ],
    ids=["absent", "first generation", "second generation", "no compose", "refused", "hanging"],
)  # fmt: skip
def test_docker_is_told_as_it_is(monkeypatch, tmp_path, programs, state, seen):
    """A daemon that hangs, in a process of the program's own, costs no more than the deadline and leaves nothing."""
    monkeypatch.setenv("PATH", str(scripts(tmp_path / "bin", **programs)))
    found = engines.docker(partial(ask, timeout_s=0.3 if state == "warn" else 10.0))
    assert (found.state, found.seen) == (state, seen)
    assert bool(found.remedy) == (state == "warn")


def test_a_program_that_does_not_heed_the_first_signal_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr("difnet.system.programs.GRACE_S", 0.2)
    program = scripts(tmp_path / "bin", deaf="trap '' TERM\nwhile :; do /bin/sleep 0.1; done") / "deaf"
    assert ask([str(program)], timeout_s=0.3).status is None


def test_a_program_that_is_none_is_an_answer(tmp_path):
    assert ask([str(tmp_path / "nothing")]) == (126, f"{tmp_path / 'nothing'}: No such file or directory")


# where things are written


def test_a_folder_of_somebody_elses_cannot_be_written_to(tmp_path):
    """Neither one that may be looked at, nor one inside a folder that may not."""
    (tmp_path / "theirs").mkdir(mode=0o500)
    with as_nobody():
        found = folders.folder(tmp_path / "theirs/inside/runs", "fail", "run elsewhere")
    assert found.state == "fail" and "Permission denied" in found.seen and "run elsewhere" in found.remedy
    assert folders.refusal(tmp_path / "ours/inside") == ""


def test_a_disk_that_is_nearly_full_warns_and_one_that_is_full_fails(monkeypatch, tmp_path):
    for free, state in ((2 * 2**30, "ok"), (2**29, "warn"), (10**6, "fail")):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(folders.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert folders.folder(tmp_path, "fail", "").state == state


def test_a_temporary_folder_with_too_long_a_name_for_sockets_fails(monkeypatch, tmp_path):
    """The system's own bound, and a name that is one byte too long for it."""
    assert folders.SOCKET_PATH_BYTES == zmq.IPC_PATH_MAX_LEN
    most = zmq.IPC_PATH_MAX_LEN - len("/difnet-4194304-abcdefgh/registry")
    inside = Path(os.environ["TMPDIR"])  # a short name, which the test tidies up
    for length, state in ((most, "ok"), (most + 1, "fail")):
        folder = inside / "x".ljust(length - len(str(inside)) - 1, "x")
        folder.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        found = folders.temporary()
        folder.rmdir()
        assert found.state == state, found


def test_a_check_that_fails_itself_is_a_warning():
    found = examination.looked_at(lambda: math.sqrt("no number"))
    assert found.state == "warn" and "TypeError" in found.seen and found.remedy
