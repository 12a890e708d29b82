"""A star whose hub or clients are killed, frozen, held up or interrupted: it goes on or ends, and says which."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.conftest import agents_of, events, until

BLOCK = 32  # rounds whose tasks are drawn together: agent 1 is held up in its first draw after these
WORDS = ("--topology", "star_graph(n=4)", "--algorithm", "fedmeta", "--task", "held:held", "--iterations", "40",
         "--engine", "eager", "--tasks", "1", "--eval-tasks", "4", "--set", "test_tasks=0", "--quiet")  # fmt: skip

HELD = """
import os, threading
from difnet.tasks.sinusoid import sinusoid

def held(agents, shots, queries):
    family = sinusoid(agents=agents, shots=shots, queries=queries)
    draw = family.draw

    def draw_when_let_go(agent, count, rng):
        if agent == 0 and rng.bit_generator.state["state"]["counter"][2] > 0:
            open("held", "w").close()
            while not os.path.exists("go"):
                threading.Event().wait(0.01)
        return draw(agent, count, rng)

    family.draw = draw_when_let_go
    return family
"""


class Run(NamedTuple):
    """A star in its 33rd round, in which agent 1, the first client, draws its tasks until somebody lets it go."""

    launcher: Popen
    pids: dict[int, int]
    folder: Path

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def end(self, status: int) -> dict:
        """Its summary, once it has ended with this exit status."""
        assert self.launcher.wait(60) == status
        return json.loads((self.folder / "runs/latest/run.json").read_text())

    def launch_models(self) -> dict[int, tuple[str, bytes]]:
        """Agent -> the file in which it left what it ended with, and the bytes of its launch model."""
        files = sorted((self.folder / "runs/latest").glob("agents/*/state-*.safetensors"))
        return {int(p.parent.name): (p.name, load_file(p)["w"].tobytes()) for p in files}

    def log(self, k: int) -> str:
        return (self.folder / f"runs/latest/agents/{k:03d}/log.txt").read_text()


@pytest.fixture
def held(running: Callable[..., Popen], tmp_path: Path) -> Callable[..., Run]:
    """Start a star and wait until it is held up."""

    def begin(*words: str) -> Run:
        (tmp_path / "held.py").write_text(HELD)
        launcher = running("launch", *WORDS, *words)
        until((tmp_path / "held").exists, f"round {BLOCK}")
        return Run(launcher, agents_of(launcher.pid), tmp_path)

    return begin


@pytest.mark.slow
def test_a_killed_client_is_missed_and_the_others_do_all_rounds(held, tmp_path):
    """kill -9: the hub goes on with those who are left, and the exit status tells the truth."""
    run = held("--on-failure", "continue")
    os.kill(run.pids[2], signal.SIGKILL)
    run.let_go()
    summary = run.end(1)
    assert (summary["state"], summary["lost_agents"], summary["iterations"]) == ("failed", [2], 40)
    assert [(e["agent"], e["neighbour"]) for e in events(tmp_path, "NeighbourLost")] == [(0, 2)]
    [lost] = events(tmp_path, "AgentLost")
    assert (lost["agent"], lost["status"]) == (2, "killed by SIGKILL")
    models = run.launch_models()
    assert list(models) == [0, 1, 3, 4] and len(set(models.values())) == 1
    assert summary["server"]["abandoned_rounds"] == 0 and (run.folder / "runs/latest/launch-model.safetensors").exists()


@pytest.mark.slow
def test_without_its_hub_every_client_ends_and_says_why(held):
    """The hub is killed: nobody waits for it, neither those that have answered nor the one that still computes.

    What it had learnt by its last validation is kept.
    """
    run = held("--eval-every", "16", "--on-failure", "continue")
    os.kill(run.pids[0], signal.SIGKILL)
    run.let_go()
    summary = run.end(1)
    assert (summary["state"], summary["lost_agents"]) == ("failed", [0, 1, 2, 3, 4])
    assert all("the hub, agent 0, is gone" in run.log(k) for k in (1, 2, 3, 4))
    with safe_open(run.folder / "runs/latest/launch-model.safetensors", "numpy") as kept:
        assert kept.metadata()["iteration"] == str(BLOCK) and kept.get_tensor("w").shape == (1761,)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in run.pids.values())


@pytest.mark.slow
def test_an_interrupt_ends_all_clients_with_the_hubs_model(held, tmp_path):
    """Ctrl-C in the middle of a round: it is ended, the last call goes to everybody, all have the same bits."""
    run = held("--iterations", "100000")
    run.launcher.send_signal(signal.SIGINT)
    until(lambda: any("stopping" in e["text"] for e in events(tmp_path, "Note")), "the interrupt's note")
    run.let_go()
    summary = run.end(130)
    assert (summary["state"], summary["reason"], summary["lost_agents"]) == ("stopped", "SIGINT", [])
    models = run.launch_models()
    assert list(models) == [0, 1, 2, 3, 4] and len(set(models.values())) == 1
    assert BLOCK < summary["iterations"] < 100000
    assert models[0][0] == f"state-{summary['iterations']:06d}.safetensors"
    assert load_file(run.folder / "runs/latest/launch-model.safetensors")["w"].tobytes() == models[0][1]


@pytest.mark.slow
def test_a_client_that_is_too_slow_for_its_deadline_is_late_counted_and_takes_part_again(held, tmp_path):
    """The hub goes on without it for two rounds; what it then sends is of a round that is over.

    The mean of a round holds what the hub heard of it in time: all uploads but the late ones.
    """
    run = held("--set", "server.deadline_s=1.0", "--eval-every", str(BLOCK + 2))
    until(lambda: [e for e in events(tmp_path, "Validated") if e["iteration"] == BLOCK + 2], "two rounds without it")
    run.let_go()
    summary = run.end(0)
    assert (summary["state"], summary["lost_agents"], summary["iterations"]) == ("done", [], 40)
    late, uploads = summary["server"]["late"], summary["communication"]["uploads"]
    heard = events(tmp_path, "Validated")[-1]["spent"]["uploads"]
    assert late >= 1 and summary["missed_exchanges"] >= 2 and summary["refused_messages"] == 0
    assert heard == 4 * 40 - summary["missed_exchanges"] == uploads - late == 40 * summary["server"]["per_round"]
    assert summary["server"]["abandoned_rounds"] == 0 and len(set(run.launch_models().values())) == 1


@pytest.mark.slow
def test_a_client_that_is_slower_than_the_whole_run_ends_with_the_hubs_model(held, tmp_path):
    """The hub is done and gone before the client has computed its step: its last call is waiting there."""
    run = held("--set", "server.deadline_s=0.5", "--set", "server.quorum=1", "--iterations", str(BLOCK + 2))
    until(lambda: not os.path.exists(f"/proc/{run.pids[0]}"), "the hub's end", 30)
    run.let_go()
    summary = run.end(0)
    assert summary["lost_agents"] == [] and summary["iterations"] == BLOCK + 2
    models = run.launch_models()
    assert list(models) == [0, 1, 2, 3, 4] and len(set(models.values())) == 1


@pytest.mark.slow
def test_a_frozen_client_is_left_behind_while_rounds_go_on(held, tmp_path):
    """SIGSTOP: rounds end at their deadline without it, until the hub's patience with it ends; one lost is borne."""
    run = held("--set", "server.deadline_s=0.25", "--set", "silence_s=1.0", "--max-lost", "1")
    os.kill(run.pids[3], signal.SIGSTOP)
    run.let_go()
    summary = run.end(0)
    assert (summary["state"], summary["lost_agents"], summary["iterations"]) == ("done", [3], 40)
    [lost] = events(tmp_path, "NeighbourLost")
    assert (lost["agent"], lost["neighbour"]) == (0, 3) and "silent" in lost["reason"]
    assert BLOCK + 1 < lost["iteration"] < 40 and summary["missed_exchanges"] >= 2
    assert set(run.launch_models()) == {0, 1, 2, 4}
