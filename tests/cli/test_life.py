"""The life of runs: which go on, what their agents print, and how they are stopped."""

import json
import os
import signal
from select import select

import pytest

from difnet.record import finding
from tests import fake_run
from tests.conftest import DEADLINE_S, agents_of, events, until

LONG = ("--iterations", "1000000", "--engine", "eager", "--tasks", "1", "--eval-tasks", "2", "--eval-every", "1000000",
        "--quiet")  # fmt: skip
TALKS = """
from difnet.tasks.sinusoid import Sinusoid

drawn = 0

class Talking(Sinusoid):
    def draw(self, agent, count, rng):
        global drawn
        drawn += 1
        print("\\x1b[31mI draw", agent, drawn, flush=True)
        return super().draw(agent, count, rng)

def talks(agents, shots, queries):
    return Talking(agents, shots, queries, (0.1, 5.0), (0.0, 3.1), None)
"""


def begin(running, folder, *words):
    """A run called "long" that is under way."""
    launcher = running("launch", "--topology", "cycle_graph(n=3)", "--name", "long", *LONG, *words)
    until(lambda: events(folder, "Pulse"), "the start")
    return launcher


def test_a_run_that_goes_on_is_listed_refused_to_another_and_stopped(running, difnet, tmp_path):
    """From another folder, too; a second launch of its name is refused, and gets a folder of its own afterwards."""
    launcher = begin(running, tmp_path, "--runs", str(tmp_path / "runs"))
    listed = [run for run in difnet("ps", "--json", "--runs", "nowhere").json()["runs"] if run["pid"] == launcher.pid]
    [run] = listed
    assert (run["run"], run["agents"], run["iterations"]) == ("long", 3, 1000000)
    assert run["folder"] == str(tmp_path / "runs/long") and run["iteration"] >= 0
    assert str(launcher.pid) in difnet("ps").out
    second = difnet("simulate", "--topology", "ring6", "--name", "long", *LONG)
    assert second.status == 2 and "in use by process" in second.err and "Traceback" not in second.err
    stopped = difnet("stop", "long", "--runs", "nowhere")
    assert stopped.status == 0 and stopped.out.startswith("long: stopped after "), stopped.err
    assert launcher.wait(30) == 130
    again = difnet("stop", "long")
    assert again.status == 2 and "nothing runs in" in again.err
    third = difnet("simulate", "--topology", "ring6", "--name", "long", *LONG[2:], "--iterations", "2")
    assert third.status == 0 and len(list((tmp_path / "runs").glob("long_*"))) == 1


def test_stop_now_is_two_interrupts(running, difnet, tmp_path):
    """Nobody can answer the first one."""
    launcher = begin(running, tmp_path)
    for pid in agents_of(launcher.pid).values():
        os.kill(pid, signal.SIGSTOP)
    patient = difnet("stop", "long", "--patience", "0.2")
    assert patient.status == 1 and "--now" in patient.err
    assert difnet("stop", "latest", "--now").status == 0
    assert launcher.wait(30) == 130
    assert finding.load(tmp_path / "runs/long").state == "stopped"


def test_what_agents_print_is_followed_until_the_run_ends(running, difnet, tmp_path):
    """Without what it would do to a terminal."""
    (tmp_path / "mine.py").write_text(TALKS)
    launcher, log = begin(running, tmp_path, "--task", "mine:talks"), tmp_path / "runs/long/agents/001/log.txt"
    until(lambda: log.is_file() and log.stat().st_size, "what agent 1 prints")
    following = running("logs", "long", "1", "-f")
    assert following.stdout is not None
    assert select([following.stdout], [], [], DEADLINE_S)[0], "the first lines"
    size = log.stat().st_size
    until(lambda: log.stat().st_size > size, "more of them")
    launcher.send_signal(signal.SIGINT)
    out, _ = following.communicate(timeout=DEADLINE_S)
    assert following.returncode == 0 and launcher.wait(DEADLINE_S) == 130
    assert "[31mI draw" in out and "\x1b" not in out and "\x1b" in log.read_text()
    assert out == log.read_text().replace("\x1b", " ")
    everybody = difnet("logs", "long").out.splitlines()
    assert {line.split()[0] for line in everybody} == {"000", "001", "002"}


def test_logs_of_a_finished_run_name_what_is_not_there(difnet, tmp_path):
    folder = fake_run.write(tmp_path / "runs" / "done", 2)
    silent = difnet("logs", "done")
    assert (silent.status, silent.out) == (0, "") and "nothing was printed by any agent" in silent.err
    (folder / "agents/001/log.txt").write_text("one\n  two, and no end")
    assert difnet("logs", "done", "1").out == "one\n  two, and no end\n"
    assert difnet("logs", "done").out == "001 one\n001   two, and no end\n"
    lacking = difnet("logs", "done", "7")
    assert lacking.status == 2 and "has no agent 7; it has agents 0 to 1" in lacking.err


@pytest.mark.slow
def test_a_killed_launcher_leaves_nothing_that_seems_to_live(running, difnet, tmp_path):
    launcher = begin(running, tmp_path)
    launcher.kill()
    launcher.wait()
    listed = difnet("ps", "--json").json()["runs"]
    assert not [run for run in listed if run["folder"] == str(tmp_path / "runs/long")]
    assert json.loads((tmp_path / "runs/long/lock.json").read_text())["pid"] == launcher.pid
    assert difnet("stop", "long").status == 2
    assert difnet("logs", "long", "-f").status == 0
