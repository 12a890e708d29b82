"""A run that is killed at any moment goes on to the bits of one that nothing stopped; the simulator says which."""

import json
import os
import random
import signal
import subprocess
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from difnet.config import load
from difnet.record import comparing, events, finding
from difnet.runtime.simulation import simulate
from tests.conftest import agents_of, until

pytestmark = pytest.mark.slow
SMALL = {"tasks": 2, "eval_tasks": 8, "test_tasks": 8, "engine": "traced", "iterations": 400, "eval_every": 40}
STAR = {"topology": "star_graph(n=4)"}
CASES = {
    "diffusion with Adam": {"topology": "ring6"},
    "combine first, double precision, heavy ball": {"topology": "ring6", "strategy": "cta", "dtype": "float64",
                                                    "optimizer": "momentum"},
    "several local steps on a graph that is not regular": {"topology": "paper6", "local_steps": 2, "init": "separate"},
    "a directed graph": {"topology": "directed-ring10", "optimizer": "yogi"},
    "everybody alone": {"topology": "ring6", "strategy": "noncooperative"},
    "one learner": {"topology": "ring6", "strategy": "centralised"},
    "DSGD, all hear all": {"topology": "ring6", "strategy": "fully-connected", "algorithm": "dsgd"},
    "FedMeta, inner rates learnt, some clients": {**STAR, "algorithm": "fedmeta", "algorithm.inner": "meta-sgd",
                                                  "server.clients": 2},
    "FedAvg, local steps, Adam at the hub": {**STAR, "algorithm": "fedavg", "algorithm.server": "adam",
                                             "algorithm.server_lr": 0.01, "local_steps": 3},
    "iMAML on a star": {**STAR, "algorithm": "imaml", "iterations": 60, "eval_every": 20},
    "Meta-Backward": {**STAR, "algorithm": "meta-backward", "offline_steps": 50},
    "Meta-Backward on a ring": {"topology": "ring6", "algorithm": "meta-backward", "offline_steps": 50},
    "an offline start of FedAvg": {**STAR, "algorithm": "fedavg", "offline_steps": 50},
}  # fmt: skip
FORGET = ("fedmeta", "fedavg", "imaml")  # on a star: clients that carry nothing on, their counts neither


def words(settings: dict) -> list[str]:
    """Settings as a command line has them."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def measured(folder: Path) -> list[str]:
    """The measurements that a run has recorded, those before it was resumed among them."""
    record = folder / "events.jsonl"
    return [line for line in record.read_text().splitlines() if '"Measured"' in line] if record.exists() else []


def kill_at(running, folder: Path, iteration: int, *command: str) -> None:
    """Run a launch until it has recorded so many iterations, then kill it, its host and its agents at once."""
    launcher, record, told = running(*command, "--quiet"), folder / "runs" / "latest" / "events.jsonl", b""
    until(record.exists, "a record")
    with record.open("rb") as file:
        def reached() -> bool:
            nonlocal told
            told += file.readline()
            if not told.endswith(b"\n"):
                return False
            event, told = json.loads(told), b""
            return event.get("iteration", 0) >= iteration

        until(lambda: reached() or launcher.poll() is not None, f"iteration {iteration}")
    kill_all(launcher)


def kill_all(launcher: subprocess.Popen) -> None:
    """A launcher, its host and its agents, at once."""
    try:
        family = [launcher, *psutil.Process(launcher.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    launcher.wait(20)
    psutil.wait_procs(family[1:], 20)


def same_in_all(got: Path, want: Path, whole: bool = True) -> None:
    """The launch model, every agent's own state, and every measurement are the same bits.

    Args: `whole`, whether every agent has checkpoints and counts on from there.
    """
    a, b = finding.load(got), finding.load(want)
    is_same = comparing.same_bits(a, b)
    assert is_same
    for path in sorted(want.glob("agents/*/state-*.safetensors")):
        ours, theirs = load_file(got / path.relative_to(want)), load_file(path)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name], equal_nan=True) for name in theirs), path
    for one, other in ((a.consensus(), b.consensus()), (a.metrics(), b.metrics())):
        for name in one.keys() - {"seconds", "spent_seconds", "spent_joules", "spent_cpu_s"}:
            assert np.array_equal(one[name], other[name], equal_nan=True), name
    sent, wanted = (one.summary["bytes"]["payload"] for one in (a, b))
    assert sent == wanted or not whole


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(running, difnet, tmp_path, case):
    settings = SMALL | CASES[case]
    want = Path(simulate(load(settings={**settings, "runs": str(tmp_path / "oracle")}))["folder"])
    moment = random.Random(case).randrange(settings["iterations"] // 10, settings["iterations"] - 10)
    kill_at(running, tmp_path, moment, "launch", *words(settings), "--checkpoint-every", "7", "--name", "killed")
    done = difnet("resume", "killed", "--json")
    assert done.status == 0, done.err
    run = finding.load(tmp_path / "runs" / "killed")
    [resumed] = [e for e in run.events if isinstance(e, events.Resumed)]
    assert resumed.iteration % 7 == 0 and 0 < resumed.iteration <= moment + 50
    same_in_all(run.folder, want, whole=settings.get("algorithm") not in FORGET)


@pytest.mark.parametrize("moment", range(int(os.environ.get("DIFNET_MOMENTS", "2"))))
def test_at_whatever_moment_all_are_killed_nothing_is_lost_but_time(running, difnet, tmp_path, moment):
    """Also in the midst of a checkpoint, before the first round, and twice; 20 moments as docs/reliability.md says."""
    rng, settings = random.Random(moment), SMALL | {"topology": "ring6", "optimizer": "yogi"}
    want = Path(simulate(load(settings={**settings, "runs": str(tmp_path / "oracle")}))["folder"])
    folder = tmp_path / "runs" / "killed"
    for command in (("launch", *words(settings), "--checkpoint-every", "3", "--name", "killed"), ("resume", "killed")):
        launcher = running(*command, "--quiet")
        until(lambda: (folder / "events.jsonl").exists() and "RunStarted" in (folder / "events.jsonl").read_text(),
              "a beginning")  # fmt: skip
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(rng.uniform(0.0, 9.0))
        kill_all(launcher)
    if not (folder / "run.json").exists():
        assert difnet("resume", "killed", "--quiet").status == 0
    same_in_all(folder, want)


@pytest.fixture
def ended(difnet, tmp_path) -> Path:
    """A ring's run that is done, after 40 of the iterations that somebody wants."""
    settings = SMALL | {"topology": "ring6", "iterations": 40, "eval_every": 20}
    done = difnet("launch", *words(settings), "--name", "ended", "--quiet")
    assert done.status == 0, done.err
    return tmp_path / "runs" / "ended"


def test_a_run_that_is_done_may_do_more(difnet, ended, tmp_path):
    """From the checkpoint that every agent writes at its end; what it was tested with then is no longer its test."""
    settings = SMALL | {"topology": "ring6", "iterations": 90, "eval_every": 20, "runs": str(tmp_path / "oracle")}
    want = Path(simulate(load(settings=settings))["folder"])
    assert difnet("resume", "ended", "--iterations", "90", "--json").json()["iterations"] == 90
    same_in_all(ended, want)
    assert load(ended / "config.toml").iterations == 90
    told = difnet("watch", "ended")
    assert "resumed after iteration 40 of 90" in told.out and told.status == 0
    assert [e.iteration for e in finding.load(ended).events if isinstance(e, events.Tested)] == [90, 90]


def test_a_run_that_was_stopped_goes_on_twice_and_counts_on(running, difnet, tmp_path):
    settings = SMALL | {"topology": "ring6", "iterations": 900}
    want = Path(simulate(load(settings={**settings, "runs": str(tmp_path / "oracle")}))["folder"])
    folder, seconds = tmp_path / "runs" / "stopped", 0.0
    for command in (("launch", *words(settings), "--name", "stopped"), ("resume", "stopped")):
        launcher = running(*command, "--quiet")
        began = len(measured(folder))
        until(lambda n=began: len(measured(folder)) > n + 5, "measurements")
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(60) == 130
        summary = json.loads((folder / "run.json").read_text())
        assert summary["state"] == "stopped" and summary["seconds"] > seconds
        seconds = summary["seconds"]
    assert difnet("resume", "stopped", "--quiet").status == 0
    same_in_all(folder, want)


def test_a_run_that_is_begun_anew_keeps_its_new_checkpoints_and_no_old_ones(difnet, ended):
    """From 0, though everybody has one of iteration 40: what was of later iterations goes, and outlasts nothing."""
    done = difnet("resume", "ended", "--from", "0", "--iterations", "60", "--json")
    assert done.status == 0 and done.json()["iterations"] == 60, done.err
    assert {path.name for path in ended.glob("agents/*/checkpoint-*")} == {"checkpoint-000060.safetensors"}


@pytest.mark.parametrize(("words_", "reason"), [
    (("ended",), "it has done all its 40 iterations; give more of them with --iterations"),
    (("ended", "--iterations", "30"), "it was to do 40 iterations; they may be raised, and 30 are fewer"),
    (("ended", "--iterations", "90", "--from", "35"), "have no checkpoint of iteration 35 that can be used"),
    (("nothing",), "no run called 'nothing'"),
])  # fmt: skip
def test_what_cannot_go_on_is_left_as_it_was(difnet, ended, words_, reason):
    before = {path: path.read_bytes() for path in ended.rglob("*") if path.is_file() and path.name != "lock.json"}
    done = difnet("resume", *words_)
    assert done.status == 2 and reason in done.err, done
    after = {path: path.read_bytes() for path in before}
    assert {p.name for p in before if before[p] != after[p]} <= {"events.jsonl"}  # which may hold a note of it
    assert finding.load(ended).state == "done"


def test_a_run_that_goes_on_elsewhere_is_not_resumed(running, difnet, tmp_path):
    running("launch", *words(SMALL | {"topology": "ring6", "iterations": 10**6}), "--name", "alive", "--quiet")
    until(lambda: measured(tmp_path / "runs" / "alive"), "iterations")
    done = difnet("resume", "alive")
    assert done.status == 2 and "is in use by process" in done.err


def test_simulations_and_runs_without_checkpoints_say_so(difnet, tmp_path):
    small = words(SMALL | {"topology": "ring6", "iterations": 10, "eval_every": 10})
    for command in (("simulate",), ("launch", "--checkpoint-every", "0")):
        assert difnet(*command, *small, "--name", command[0], "--quiet").status == 0
    assert "`difnet simulate` keeps no checkpoints" in difnet("resume", "simulate", "--iterations", "20").err
    assert "checkpoint_every = 0" in difnet("resume", "launch", "--iterations", "20").err
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_a_plan_for_so_many_iterations_is_not_stretched(difnet):
    settings = SMALL | CASES["Meta-Backward on a ring"] | {"iterations": 10, "eval_every": 10}
    assert difnet("launch", *words(settings), "--name", "plan", "--quiet").status == 0
    done = difnet("resume", "plan", "--iterations", "20")
    assert done.status == 2 and "plans its steps by the number of iterations" in done.err


def test_a_changed_configuration_and_a_lost_checkpoint_are_named(difnet, ended):
    """The learning rate in config.toml; then one agent's file."""
    told = (ended / "config.toml").read_text()
    (ended / "config.toml").write_text(told.replace("outer_lr = 0.001", "outer_lr = 0.002"))
    done = difnet("resume", "ended", "--iterations", "50")
    assert done.status == 2 and done.err.count("it is of another settings") == 6
    assert "everybody had a checkpoint of iteration 40" in done.err and "--from 0" in done.err
    (ended / "config.toml").write_text(told)
    (ended / "agents" / "003" / "checkpoint-000040.safetensors").unlink()
    done = difnet("resume", "ended", "--iterations", "50")
    assert done.status == 2 and "agent 3 has none" in done.err and finding.load(ended).state == "done"


def test_time_decides_where_nobody_gives_a_number(difnet, tmp_path):
    """Everybody writes one of the same iteration, then the next; they are as many as time allows, not more."""
    small = words(SMALL | {"topology": "ring6", "iterations": 3000, "eval_every": 1000, "checkpoint_s": 1.0})
    assert difnet("launch", *small, "--name", "timed", "--quiet").status == 0
    run = finding.load(tmp_path / "runs" / "timed")
    told = [e for e in run.events if isinstance(e, events.Checkpointed)]
    assert len(told) > 1 and told[-1].iteration == 3000
    for one, after in pairwise(told[:-1]):
        assert after.seconds - one.seconds > 1.0
    for k in range(6):
        names = sorted(path.name for path in (run.folder / "agents" / f"{k:03d}").glob("checkpoint-*"))
        assert names == [f"checkpoint-{e.iteration:06d}.safetensors" for e in told[-2:]]


def test_an_agent_without_neighbours_that_dies_goes_on_from_its_own_checkpoint(running, tmp_path):
    """It is exact: nobody else was concerned. The record says where its model is from."""
    settings = SMALL | {"topology": "ring6", "strategy": "noncooperative", "iterations": 1500, "eval_every": 500}
    want = Path(simulate(load(settings={**settings, "runs": str(tmp_path / "oracle")}))["folder"])
    folder = tmp_path / "runs" / "alone"
    launcher = running("launch", *words(settings), "--name", "alone", "--checkpoint-every", "10", "--quiet")
    until(lambda: len(list(folder.glob("agents/002/checkpoint-*"))) > 3, "checkpoints of agent 2")
    os.kill(agents_of(launcher.pid)[2], signal.SIGKILL)
    launcher.communicate(timeout=90)
    assert launcher.returncode == 0
    run = finding.load(folder)
    [back] = [e for e in run.events if isinstance(e, events.AgentReturned)]
    assert back.agent == 2 and back.iteration >= 30
    assert back.model == f"its own checkpoint of iteration {back.iteration}"
    is_same = comparing.same_bits(run, finding.load(want))
    assert is_same
