"""Kill, freeze, interrupt, garble: the rest goes on, says so, and nothing is left behind."""

import json
import os
import signal
import socket
import subprocess

import pytest

from tests.conftest import agents_of, events, until

LONG = ("--iterations", "1000000", "--engine", "eager", "--tasks", "1", "--eval-tasks", "4", "--eval-every", "1000000",
        "--quiet")  # fmt: skip

FAILING = """
# agent 1 fails after its first draw
from difnet.tasks.sinusoid import Sinusoid

class Mine(Sinusoid):
    def draw(self, agent, count, rng):
        if agent == 1 and rng.bit_generator.state["state"]["counter"][2] > 0:
            raise KeyError("sample 17 is missing")
        return super().draw(agent, count, rng)

def mine(agents, shots, queries):
    return Mine(agents, shots, queries, (1.0, 2.0), (0.0, 1.0))
"""


def begin(running, tmp_path, *words: str):
    """A network that is under way, and its agents' processes."""
    launcher = running("launch", *words)
    until(lambda: events(tmp_path, "Ready"), "the start")
    return launcher, agents_of(launcher.pid)


def test_a_killed_agent_is_missed_by_its_neighbours_and_nobody_hangs(running, tmp_path):
    """kill -9: both neighbours go on without it, the run ends on time, and the exit status tells the truth."""
    launcher, pids = begin(running, tmp_path, "--topology", "cycle_graph(n=4)", "--iterations", "100", "--engine",
                           "eager", "--on-failure", "continue", "--tasks", "1", "--set", "test_tasks=0",
                           "--eval-every", "100", "--eval-tasks", "4", "--quiet")  # fmt: skip
    until(lambda: events(tmp_path, "Pulse") and events(tmp_path, "Pulse")[-1]["iteration"] > 5, "some iterations")
    os.kill(pids[2], signal.SIGKILL)
    assert launcher.wait(60) == 1
    summary = json.loads((tmp_path / "runs/latest/run.json").read_text())
    assert summary["state"] == "failed" and summary["lost_agents"] == [2] and summary["iterations"] == 100
    assert summary["one_sided_exchanges"] == 0 and summary["missed_exchanges"] > 0
    assert {(e["agent"], e["neighbour"]) for e in events(tmp_path, "NeighbourLost")} == {(1, 2), (3, 2)}
    [lost] = events(tmp_path, "AgentLost")
    assert lost["agent"] == 2 and lost["status"] == "killed by SIGKILL"
    assert (tmp_path / "runs/latest/launch-model.safetensors").exists()


@pytest.mark.slow
def test_a_frozen_agent_is_left_behind(running, tmp_path):
    """SIGSTOP is seen by no transport: beats are missed, the others go on, and the frozen process is ended.

    One lost agent is what --max-lost 1 bears: the run counts as done.
    """
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", "--iterations", "150", "--engine", "eager",
                           "--eval-tasks", "4", "--set", "silence_s=1.0", "--max-lost", "1", "--quiet")  # fmt: skip
    os.kill(pids[4], signal.SIGSTOP)
    assert launcher.wait(60) == 0
    summary = json.loads((tmp_path / "runs/latest/run.json").read_text())
    assert summary["state"] == "done" and summary["lost_agents"] == [4]
    reasons = {(e["agent"], e["neighbour"]): e["reason"] for e in events(tmp_path, "NeighbourLost")}
    assert set(reasons) == {(3, 4), (5, 4)} and all("silent" in reason for reason in reasons.values())


@pytest.mark.slow
@pytest.mark.parametrize(("sig", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_stops_everybody_after_the_same_iteration(running, tmp_path, sig, status):
    """Ctrl-C once: agents end together, everything is written."""
    launcher, pids = begin(running, tmp_path, "--topology", "paper6", *LONG)
    launcher.send_signal(sig)
    assert launcher.wait(30) == status
    summary = json.loads((tmp_path / "runs/latest/run.json").read_text())
    assert summary["state"] == "stopped" and summary["lost_agents"] == [] and summary["iterations"] > 0
    ended = [p.name for p in sorted((tmp_path / "runs/latest").glob("agents/*/state-*.safetensors"))]
    assert len(ended) == 6 and len(set(ended)) == 1
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids.values())


@pytest.mark.slow
def test_two_interrupts_kill(running, tmp_path):
    """Ctrl-C twice ends at once."""
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", *LONG)
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)  # so that nobody can answer the first one
    launcher.send_signal(signal.SIGINT)
    until(lambda: any("stopping" in e["text"] for e in events(tmp_path, "Note")), "the first interrupt's note")
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(30) == 130


@pytest.mark.slow
def test_nothing_outlives_a_killed_launcher(running, tmp_path):
    """SIGKILL of the launcher ends its host, its agents and their sockets (the fixture looks for all three)."""
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", *LONG)
    launcher.kill()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids.values()), "the agents' end", 20)


@pytest.mark.slow
def test_nothing_outlives_a_launcher_killed_while_kernels_are_compiled(running, tmp_path, monkeypatch):
    """Neither a process, a compiler's among them, nor the folder of sockets (the fixture looks)."""
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))
    launcher = running("launch", "--topology", "cycle_graph(n=3)", "--quiet")
    until(lambda: any("compiling" in e["text"] for e in events(tmp_path, "Note")), "the compiler")
    launcher.kill()


def test_a_host_whose_launcher_was_killed_before_it_could_look_tidies_up_for_it(difnet, tmp_path):
    """Importing takes seconds, in which nobody watches the launcher."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    sockets = tmp_path / "difnet-1-abc"
    sockets.mkdir()
    (sockets / "registry").write_text("")
    done = difnet("host", "--agents", "0", "--registry", f"ipc://{sockets}/registry", "--token", "sesame",
                  "--bound-to", str(ended.pid))  # fmt: skip
    assert done.status == 143 and not sockets.exists(), done.err


@pytest.mark.slow
def test_nothing_outlives_a_killed_host(running, tmp_path):
    """SIGKILL of the host ends its agents; the launcher says what it has lost and exits with status 1."""
    import psutil

    launcher, pids = begin(running, tmp_path, "--topology", "ring6", *LONG)
    psutil.Process(launcher.pid).children()[0].kill()
    assert launcher.wait(30) == 1
    assert json.loads((tmp_path / "runs/latest/run.json").read_text())["lost_agents"] == list(range(6))
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids.values()), "the agents' end", 20)


@pytest.mark.slow
def test_strangers_bytes_are_refused_and_counted(running, tmp_path):
    """Random bytes on an agent's port, and on the registry's, change nothing."""
    import psutil

    launcher, pids = begin(running, tmp_path, "--topology", "ring6", "--set", "transport=tcp", "--iterations", "60",
                           "--engine", "eager", "--eval-tasks", "4", "--quiet")  # fmt: skip
    for pid in (launcher.pid, *pids.values()):
        for listening in psutil.Process(pid).net_connections("tcp"):
            if listening.status == psutil.CONN_LISTEN:
                with socket.create_connection(("127.0.0.1", listening.laddr.port), timeout=5) as stranger:
                    stranger.sendall(b"\x01\x00" + os.urandom(600))
    assert launcher.wait(60) == 0


@pytest.mark.slow
def test_divergence_is_said_and_no_state_that_is_not_finite_travels(difnet):
    """An absurd outer rate: exit status 1, and the reason with its remedy in the log."""
    done = difnet("launch", "--topology", "ring6", "--iterations", "50", "--engine", "eager", "--optimizer", "sgd",
                  "--outer-lr", "1e30", "--eval-tasks", "4", "--json")  # fmt: skip
    assert done.status == 1
    assert done.json()["state"] == "failed" and len(done.json()["lost_agents"]) == 6
    assert "no longer finite" in done.err and "--outer-lr" in done.err


@pytest.mark.slow
def test_an_error_in_a_users_own_task_is_shown_with_its_last_lines(difnet, tmp_path):
    """Agent 1's own code fails in the middle: which agent, how it ended, and the traceback's end."""
    (tmp_path / "mine.py").write_text(FAILING)
    done = difnet("launch", "--topology", "ring6", "--task", "mine:mine", "--iterations", "60", "--engine", "eager",
                  "--on-failure", "continue", "--eval-tasks", "4", "--json")  # fmt: skip
    assert done.status == 1
    assert done.json()["lost_agents"] == [1] and done.json()["iterations"] == 60
    assert "agent 1" in done.err and "sample 17 is missing" in done.err


@pytest.mark.slow
def test_a_neighbour_whose_state_is_far_too_long_is_named_once_by_each_who_hears_it(difnet, tmp_path):
    """Agent 1's own tasks have targets a billion times too large: its first state is finite, and not like the others'.

    Nobody else is named, and the run goes on.
    """
    (tmp_path / "mine.py").write_text(
        "from difnet.tasks.sinusoid import Sinusoid\n"
        "class Mine(Sinusoid):\n"
        "    def draw(self, agent, count, rng):\n"
        "        support, query = super().draw(agent, count, rng)\n"
        "        return support, (query[0], query[1] * (1e9 if agent == 1 else 1))\n"
        "def mine(agents, shots, queries):\n"
        "    return Mine(agents, shots, queries, (1.0, 2.0), (0.0, 1.0))\n"
    )
    done = difnet("launch", "--topology", "ring6", "--task", "mine:mine", "--iterations", "2", "--engine", "eager",
                  "--optimizer", "sgd", "--eval-tasks", "2", "--combine", "median", "--quiet")  # fmt: skip
    assert done.status == 0, done.err
    told = [e["text"] for e in events(tmp_path, "Note") if "of norm" in e["text"]]
    assert sorted(text.split(":")[0] for text in told) == ["agent 0, iteration 1", "agent 2, iteration 1"]
    assert all("neighbour 1 sent" in text and "'median' bounds" in text for text in told)


def test_a_second_agent_of_the_same_number_is_refused(tmp_path):
    """The registry names the agent that is there already; a message without the token is not even read."""
    from difnet.errors import DifnetError
    from difnet.exchange.control import Control
    from difnet.exchange.registry import Registry

    with Registry("tcp://127.0.0.1:*", "secret", {0: [1], 1: [0]}) as registry:
        with Control(registry.endpoint, "secret") as first, Control(registry.endpoint, "secret") as second:
            with Control(registry.endpoint, "guess") as intruder:
                for control in (first, second, intruder):
                    control.say("register", {"agent": 0, "incarnation": 0, "endpoint": "tcp://127.0.0.1:1", "pid": 1})
                    until(lambda: [*registry.listen(0.01)] or registry.registered, "a registration", 10)
                until(lambda: [*registry.listen(0.01)] or registry.refused, "the refusal of the intruder", 10)
                with pytest.raises(DifnetError, match="agent 0: it is registered already"):
                    second.expect("peers", 5)


@pytest.mark.slow
def test_divergence_in_the_simulator_fails_as_it_does_in_the_network(difnet):
    done = difnet("simulate", "--topology", "ring6", "--iterations", "50", "--engine", "eager", "--optimizer", "sgd",
                  "--outer-lr", "1e30", "--eval-tasks", "4", "--json")  # fmt: skip
    assert done.status == 1 and done.json()["state"] == "failed"
    assert "no longer finite" in done.json()["reason"] and "--outer-lr" in done.err
