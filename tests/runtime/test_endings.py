"""Runs that are stopped, crash or lose somebody end soon, keep what they hold, and say truly what became of whom."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from safetensors import safe_open

from difnet.config import load
from difnet.exchange.hosts_seen import HostSeen
from difnet.exchange.registry import Registry
from difnet.record import comparing, finding
from difnet.record.recorder import Recorder
from difnet.runtime.launcher import Launch
from difnet.topology.networks import load as load_network
from tests.conftest import agents_of, environment, events, until
from tests.runtime.test_faults_of_a_star import BLOCK, HELD, WORDS

FACTS = {"engine": "eager", "parameters": 2, "length": 2, "flops": None, "server": None, "model": {"name": "mlp"},
         "pieces": [], "carriers": [0, 1], "transductive": False, "manifest": None, "judges": {}}  # fmt: skip
SMALL = ("--engine", "eager", "--tasks", "1", "--eval-tasks", "4", "--quiet")
RING = ("launch", "--topology", "ring6", *SMALL)
FOR_EVER = ("--iterations", "1000000", "--set", "test_tasks=0", "--eval-every", "1000000")


def told(folder: Path) -> dict:
    return json.loads((folder / "runs/latest/run.json").read_text())


def kept(folder: Path, file: str = "launch-model.safetensors") -> dict[str, str]:
    """What a file of a model says of it."""
    with safe_open(folder / "runs/latest" / file, "numpy") as model:
        return model.metadata()


def notes(folder: Path, words: str) -> list[str]:
    return [e["text"] for e in events(folder, "Note") if words in e["text"]]


def freeze(launcher: subprocess.Popen, folder: Path) -> None:
    """Stop all agents, some iterations after a measurement."""
    until(lambda: events(folder, "Measured"), "a measurement")
    for pid in agents_of(launcher.pid).values():
        os.kill(pid, signal.SIGSTOP)


@pytest.mark.slow
def test_one_interrupt_ends_a_run_whose_agents_are_all_frozen(running, tmp_path):
    """Nobody can answer: they are killed after ten seconds, are not called lost, and what they told of is kept."""
    launcher = running(*RING, *FOR_EVER, "--set", "measure_every=5")
    freeze(launcher, tmp_path)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(40) == 130
    run = told(tmp_path)
    assert (run["state"], run["reason"], run["lost_agents"], run["losses"]) == ("stopped", "SIGINT", [], [])
    assert notes(tmp_path, "agents 0-5 did not stop within 10 s and are killed")
    measured = events(tmp_path, "Measured")[-1]["iteration"]
    assert run["iterations"] >= measured > 0 and kept(tmp_path)["iteration"] == str(measured)
    states = sorted(p for p in (tmp_path / "runs/latest").glob("agents/*/state-*"))
    assert len(states) == 6 and all(kept(tmp_path, p)["state"] == "unfinished" for p in states)


@pytest.mark.slow
def test_a_second_interrupt_ends_it_at_once_and_invents_no_losses(running, tmp_path):
    launcher = running(*RING, *FOR_EVER, "--set", "measure_every=5")
    freeze(launcher, tmp_path)
    launcher.send_signal(signal.SIGINT)
    until(lambda: notes(tmp_path, "stopping"), "the first interrupt's note")
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(30) == 130
    run = told(tmp_path)
    assert (run["state"], run["lost_agents"], run["losses"]) == ("stopped", [], [])
    assert not notes(tmp_path, "did not stop within") and kept(tmp_path)["iteration"] > "0"


@pytest.mark.slow
def test_one_interrupt_ends_a_run_in_which_one_agent_is_in_a_long_step(running, tmp_path):
    """A client draws its tasks for ever; it was told apart from the others that wait, once, and recorded."""
    (tmp_path / "held.py").write_text(HELD)
    launcher = running("launch", *WORDS, "--eval-every", "16")
    until((tmp_path / "held").exists, f"round {BLOCK}")
    until(lambda: notes(tmp_path, "waiting for agent 1: in one step for "), "the one that all wait for")
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(40) == 130
    run = told(tmp_path)
    assert (run["state"], run["lost_agents"], run["iterations"]) == ("stopped", [], BLOCK)
    assert kept(tmp_path)["iteration"] == str(BLOCK) and len(notes(tmp_path, "waiting for")) == 1


CRASHES = """
import ctypes, os, sys
def crashes(agents, shots, queries):
    ctypes.string_at(0)
def exits(agents, shots, queries):
    sys.exit(7)
def leaves(agents, shots, queries):
    print("farewell")
    os._exit(7)
def raises(agents, shots, queries):
    {}["sample 17"]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("factory", "words"), [
    ("crashes", ["killed by SIGSEGV", "Segmentation fault", "in crashes"]),
    ("exits", ["called exit(7)", "in exits"]),
    ("leaves", ["exit status 7", "it printed last:\nfarewell"]),
    ("raises", ["KeyError: 'sample 17'", "in raises"]),
])  # fmt: skip
def test_a_task_that_ends_the_host_while_it_prepares_is_the_reason_on_screen_and_in_the_record(
    difnet, tmp_path, factory, words
):
    (tmp_path / "mine.py").write_text(CRASHES)
    done = difnet(*RING, "--task", f"mine:{factory}")
    run = told(tmp_path)
    assert done.status == 1 and "Traceback" not in done.err
    assert all(word in done.err and word in run["reason"] for word in words)
    assert (run["state"], run["iterations"], run["lost_agents"], run["losses"]) == ("failed", 0, [], [])


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "most", "words"), [
    (resource.RLIMIT_NOFILE, 16, ["too few file descriptors", "ulimit -n"]),
    (resource.RLIMIT_NOFILE, 24, ["too few file descriptors", "ulimit -n"]),
    (resource.RLIMIT_AS, 300 * 2**20, ["too little memory", "ulimit -v"]),
])  # fmt: skip
def test_a_limit_that_is_too_low_is_named_with_its_remedy(tmp_path, limit, most, words):
    done = subprocess.run(
        [sys.executable, "-m", "difnet", *RING], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=60, preexec_fn=lambda: resource.setrlimit(limit, (most, most)),
    )  # fmt: skip
    assert done.returncode in (1, 3) and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert (told(tmp_path)["state"], told(tmp_path)["lost_agents"]) == ("failed", [])


@pytest.mark.slow
def test_no_further_process_ends_those_that_were_started_and_the_launcher_is_told(monkeypatch):
    """fork fails at the third of four agents, as where `ulimit -u` or a container's pids.max is reached."""
    from difnet.runtime import host

    forks, fork = [], os.fork

    def fork_twice() -> int:
        forks.append(1)
        if len(forks) > 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    with Registry("tcp://127.0.0.1:*", "secret", {0: []}) as registry:
        registry.run = {"run": "sines", "life": "sines", "version": "0", "config": {}, "topology": {"hub": None}}
        assignment = SimpleNamespace(registry=registry.endpoint, run="sines", life="sines", incarnations={})
        monkeypatch.setattr(host, "run_agent", lambda *_: signal.pause())
        monkeypatch.setattr(os, "fork", fork_twice)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(host.Refused, match=r"only 2 of 4 agents could be started: .*`ulimit -u`"):
                host._forked(host.HostSettings(range(4), registry.endpoint, "secret"), assignment)
        finally:
            signal.signal(signal.SIGTERM, handler)
        [(kind, body, _)] = until(lambda: [*registry.listen(0.01)], "the host's word", 10)
    assert kind == "failed" and body["exit_code"] == 3 and not psutil.Process().children()


@pytest.mark.slow
def test_an_interrupt_before_the_start_loses_nobody(running, tmp_path):
    launcher = running(*RING)
    until(lambda: events(tmp_path, "RunStarted"), "the host's beginning")
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(30) == 130
    run = told(tmp_path)
    assert (run["state"], run["iterations"], run["lost_agents"]) == ("stopped", 0, [])


@pytest.mark.slow
def test_a_run_in_which_nobody_ended_well_is_not_done_however_many_may_be_lost(difnet, tmp_path):
    done = difnet(*RING, "--iterations", "9", "--optimizer", "sgd", "--outer-lr", "1e30", "--max-lost", "6")
    assert done.status == 1 and told(tmp_path)["state"] == "failed"
    assert all("no longer finite" in loss["log_tail"] for loss in told(tmp_path)["losses"])


def test_a_launcher_that_was_away_for_long_takes_nobody_for_silent(monkeypatch, tmp_path):
    """Ctrl-Z for an hour: what was said meanwhile comes a little later than the launcher looks at its clock."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    here = HostSeen("here", [0, 1], b"", clock[0], supervises=True)

    class Listened:
        started, hosts, turn = True, {"here": here}, 0

        def begin(self, first: int) -> None:
            assert first == 0

        def save(self, iteration: int) -> None:
            assert iteration > 0  # of a checkpoint, which the long absence makes due

        def listen(self, timeout_s: float):
            self.turn += 1
            if self.turn == 1:
                yield "prepared", {"host": "here", "agents": [0, 1], "environment": {}, "facts": FACTS,
                                  "checkpoints": {}}, []
            elif self.turn == 2:
                clock[0] += 3600.0
            else:
                for k in (0, 1):
                    yield "Finished", {"agent": k, "iteration": 7, "state": "done"}, [np.ones(2, np.float32)]
                    yield "exited", {"agent": k, "incarnation": 0, "status": "exit status 0", "log_tail": "",
                                     "returns": False}, []  # fmt: skip

        refused, refusals = 0, SimpleNamespace(news=lambda over: "")

        def forget(self, agent: int, incarnation: int, for_good: bool) -> None: ...
        def ask_where(self) -> None: ...
        def end(self) -> None: ...
        def score(self, models: dict, tensors: list) -> None: ...

    config = load(settings={"topology": "path_graph(n=2)", "runs": str(tmp_path)})
    recorder = Recorder(config, load_network("path_graph(n=2)"), "launch", lambda event: None)
    place = SimpleNamespace(poll=lambda: None, stop=lambda at_once: None)
    run = Launch(config, recorder, Listened(), place, []).until_done()
    assert (run["state"], run["lost_agents"], run["iterations"]) == ("done", [], 7)
    assert run["untested"] == "no host was left to test it"


@pytest.mark.slow
def test_a_host_that_is_killed_is_the_cause_and_the_iterations_are_those_of_the_record(running, tmp_path):
    launcher = running(*RING, *FOR_EVER, "--set", "measure_every=5")
    until(lambda: len(events(tmp_path, "Measured")) > 1, "two measurements")
    psutil.Process(launcher.pid).children()[0].kill()
    assert launcher.wait(40) == 1
    run = told(tmp_path)
    assert run["lost_agents"] == list(range(6)) and run["state"] == "failed"
    assert "the host of agents 0-5 ended: killed by SIGKILL" in run["reason"]
    assert run["losses"][5]["status"] == "ended with its host (killed by SIGKILL)"
    measured = events(tmp_path, "Measured")[-1]["iteration"]
    assert run["iterations"] >= measured >= 10 and kept(tmp_path)["iteration"] == str(measured)
    assert max(e["iteration"] for e in events(tmp_path, "AgentLost")) == run["iterations"]


@pytest.mark.slow
def test_a_hub_that_is_killed_leaves_its_newest_model(running, tmp_path):
    """Not that of its last validation, which was the first, but that of the last snapshot."""
    (tmp_path / "held.py").write_text(HELD)
    launcher = running("launch", *WORDS, "--eval-every", "1000", "--set", "measure_every=16", "--on-failure",
                       "continue")  # fmt: skip
    until((tmp_path / "held").exists, f"round {BLOCK}")
    until(lambda: [e for e in events(tmp_path, "Measured") if e["iteration"] == BLOCK], "its snapshot")
    os.kill(agents_of(launcher.pid)[0], signal.SIGKILL)
    (tmp_path / "go").touch()
    assert launcher.wait(60) == 1
    run = told(tmp_path)
    assert kept(tmp_path)["iteration"] == str(BLOCK) == str(run["iterations"])
    hub, *clients = sorted(run["losses"], key=lambda loss: loss["agent"])
    assert (hub["agent"], hub["status"], hub["iteration"]) == (0, "killed by SIGKILL", BLOCK)
    assert all("the hub, agent 0, is gone" in loss["log_tail"] for loss in clients)


UNTESTED = """
import os, pathlib, signal
from difnet.tasks.sinusoid import sinusoid
host = os.getpid()

def {name}(agents, shots, queries):
    family = sinusoid(agents, shots, queries)
    draw = family.draw

    def draw_until_all_is_over(agent, count, rng):
        if os.getpid() == host and list(pathlib.Path("runs/latest").resolve().glob("agents/*/state-*")):
            {fault}
        return draw(agent, count, rng)

    object.__setattr__(family, "draw", draw_until_all_is_over)
    return family
"""


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "words"), [
    ("os.kill(host, signal.SIGKILL)", ["/0-5 ended: killed by SIGKILL"]),
    ("raise KeyError('sample 17')", ["KeyError: 'sample 17'", "draw_until_all_is_over"]),
])  # fmt: skip
def test_a_final_test_that_fails_says_which_host_and_how(difnet, tmp_path, fault, words):
    """What was learnt is kept, and nothing pretends that it was tested."""
    (tmp_path / "mine.py").write_text(UNTESTED.format(name="mine", fault=fault))
    done = difnet(*RING, "--task", "mine:mine", "--iterations", "5")
    run = told(tmp_path)
    assert (done.status, run["state"], run["test"], run["lost_agents"]) == (0, "done", {}, [])
    assert all(word in run["untested"] for word in words), run["untested"]
    assert notes(tmp_path, "the launch model was not tested: ") and kept(tmp_path)["iteration"] == "5"


AWAY = (
    HELD
    + """
from difnet.exchange.control import Control
from difnet.runtime import reporter

reporter.LEAVE_S = 0.2
say = Control.say
asked = []

def say_and_count(self, kind, body, tensors=()):
    if kind == "leave":
        asked.append(kind)
        if len(asked) == 3:
            open(f"waiting-{os.getpid()}", "w").close()
    return say(self, kind, body, tensors)

Control.say = say_and_count
"""
)


@pytest.mark.slow
def test_what_agents_end_with_waits_for_a_launcher_that_was_stopped(running, difnet, tmp_path):
    """Ctrl-Z just before the end: all agents finish, ask three times in vain, and are still there when it goes on."""
    (tmp_path / "held.py").write_text(AWAY)
    launcher = running("launch", *WORDS, "--name", "away")
    until((tmp_path / "held").exists, f"round {BLOCK}")
    pids = agents_of(launcher.pid)
    launcher.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    until(lambda: all((tmp_path / f"waiting-{pid}").exists() for pid in pids.values()), "all agents' last words")
    launcher.send_signal(signal.SIGCONT)
    assert launcher.wait(60) == 0
    assert difnet("launch", *WORDS, "--name", "there").status == 0
    away, there = (finding.load(tmp_path / "runs" / name) for name in ("away", "there"))
    assert (away.state, away.summary["iterations"], away.summary["lost_agents"]) == ("done", 40, [])
    assert comparing.same_bits(away, there) and away.summary["bytes"]["payload"] == there.summary["bytes"]["payload"]
    files = [sorted(p.name for p in run.folder.glob("agents/*/state-*")) for run in (away, there)]
    assert files[0] == files[1] and len(files[0]) == 5
