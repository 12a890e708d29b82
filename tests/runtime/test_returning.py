"""Agents that die or stand still come back: with whose model, from which iteration on, and what the record says."""

import json
import os
import signal
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest
from safetensors.numpy import load_file

from difnet.record import finding
from difnet.report.away import course_of
from tests.conftest import agents_of, events, until
from tests.runtime.test_faults import FAILING
from tests.runtime.test_faults_of_a_star import HELD, WORDS

LONG = ("--iterations", "1000000", "--engine", "eager", "--tasks", "1", "--eval-tasks", "4", "--eval-every", "1000000",
        "--quiet")  # fmt: skip

PACED = """
import os, threading
from difnet.tasks.sinusoid import sinusoid

def paced(agents, shots, queries):
    family = sinusoid(agents=agents, shots=shots, queries=queries)
    draw = family.draw

    def draw_in_time(agent, count, rng):  # so that no machine is done with all iterations before it is let go
        if not os.path.exists("go"):
            threading.Event().wait(0.5)
        return draw(agent, count, rng)

    family.draw = draw_in_time
    return family
"""


def begin(running, tmp_path: Path, *words: str) -> tuple[Popen, dict[int, int]]:
    """A network that is some iterations under way, and its agents' processes."""
    launcher = running("launch", *words)
    until(lambda: [e for e in events(tmp_path, "Pulse") if e["iteration"] > 5], "some iterations")
    return launcher, agents_of(launcher.pid)


def stopped(launcher: Popen, tmp_path: Path) -> dict:
    """The summary of a run that is asked to end now."""
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 130
    return json.loads((tmp_path / "runs/latest/run.json").read_text())


def joined_again(tmp_path: Path) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """(agent, neighbour) -> the epochs that began again there, and from which iteration on."""
    back: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for e in events(tmp_path, "NeighbourBack"):
        back.setdefault((e["agent"], e["neighbour"]), []).append((e["epoch"], e["first"]))
    return back


@pytest.mark.slow
def test_a_killed_agent_is_replaced_and_begins_with_what_its_neighbours_have(running, tmp_path):
    """Both edges come back, at both ends in the same epoch and from the same iteration on; nobody is lost."""
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", *LONG)
    os.kill(pids[2], signal.SIGKILL)
    until(lambda: len(events(tmp_path, "NeighbourBack")) == 4 and events(tmp_path, "AgentReturned"), "its return")
    [back] = events(tmp_path, "AgentReturned")
    assert (back["agent"], back["incarnation"], back["left_out"]) == (2, 1, None) and back["iteration"] > 5
    assert back["model"].startswith("the mean of agents ")
    edges = joined_again(tmp_path)
    assert edges[1, 2] == edges[2, 1] and edges[3, 2] == edges[2, 3]
    until(lambda: events(tmp_path, "Pulse")[-1]["iteration"] > edges[3, 2][0][1] + 5, "rounds of all six")
    summary = stopped(launcher, tmp_path)
    assert (summary["lost_agents"], summary["returned_agents"], summary["edges_apart"]) == ([], [2], [])
    assert summary["one_sided_exchanges"] == 0 and summary["missed_exchanges"] > 0
    models = [load_file(p)["w"] for p in (tmp_path / "runs/latest").glob("agents/*/state-*.safetensors")]
    apart = np.linalg.norm(np.stack(models) - np.mean(models, axis=0), axis=1)
    assert len(models) == 6 and apart.max() < 0.2 * np.linalg.norm(models[0])


@pytest.mark.slow
def test_new_processes_between_new_ones_learn_from_them_what_the_living_have(running, tmp_path):
    """Seven of ten in a row, as when a host dies: none begins with its first model in a network that has learnt."""
    launcher, pids = begin(running, tmp_path, "--topology", "cycle_graph(n=10)", *LONG)
    killed = range(2, 9)
    for k in killed:
        os.kill(pids[k], signal.SIGKILL)
    until(lambda: {e["agent"] for e in events(tmp_path, "AgentReturned")} == {*killed}, "their return")
    back = {e["agent"]: e for e in reversed(events(tmp_path, "AgentReturned"))}
    assert all(e["model"].startswith("the mean of agents ") and e["iteration"] > 5 for e in back.values()), back
    until(lambda: events(tmp_path, "Pulse")[-1]["iteration"] > max(e["iteration"] for e in back.values()) + 5, "rounds")
    summary = stopped(launcher, tmp_path)
    assert (summary["lost_agents"], summary["edges_apart"]) == ([], []) and summary["one_sided_exchanges"] == 0


@pytest.mark.slow
def test_several_at_once_cut_a_ring_into_pieces_that_join_again_without_a_round_left_out(running, tmp_path):
    """Three of twelve, so that the pieces between run at their own pace; whoever is ahead waits for the others."""
    launcher, pids = begin(running, tmp_path, "--topology", "cycle_graph(n=12)", *LONG)
    for k in (1, 5, 6):
        os.kill(pids[k], signal.SIGKILL)
    until(lambda: {e["agent"] for e in events(tmp_path, "AgentReturned")} == {1, 5, 6}, "their return")
    until(lambda: len(events(tmp_path, "NeighbourBack")) >= 10, "their edges, also that between two new processes")
    reached = events(tmp_path, "Pulse")[-1]["iteration"]
    until(lambda: events(tmp_path, "Pulse")[-1]["iteration"] > reached + 30, "rounds of all twelve")
    summary = stopped(launcher, tmp_path)
    assert (summary["lost_agents"], summary["returned_agents"], summary["edges_apart"]) == ([], [1, 5, 6], [])
    assert summary["one_sided_exchanges"] == 0


@pytest.mark.slow
def test_an_agent_that_stood_still_leaves_iterations_out_and_its_edges_heal(running, tmp_path):
    """SIGSTOP beyond the others' patience, then SIGCONT: it goes on where they are, with what they have."""
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", "--set", "silence_s=1.0", *LONG)
    os.kill(pids[4], signal.SIGSTOP)
    until(lambda: len(events(tmp_path, "NeighbourLost")) == 2, "its neighbours to go on without it")
    gone_on = events(tmp_path, "Progress") or max(e["iteration"] for e in events(tmp_path, "NeighbourLost"))
    os.kill(pids[4], signal.SIGCONT)
    until(lambda: len(events(tmp_path, "NeighbourBack")) == 4 and events(tmp_path, "AgentReturned"), "its return")
    [back] = events(tmp_path, "AgentReturned")
    assert (back["agent"], back["incarnation"]) == (4, 0) and back["left_out"] > 0 and back["iteration"] > gone_on
    edges = joined_again(tmp_path)
    assert edges[3, 4] == edges[4, 3] and edges[5, 4] == edges[4, 5]
    summary = stopped(launcher, tmp_path)
    assert (summary["lost_agents"], summary["returned_agents"], summary["edges_apart"]) == ([], [4], [])
    assert summary["one_sided_exchanges"] == 0


@pytest.mark.slow
def test_a_ring_that_falls_into_pieces_says_so_and_when_it_is_whole_again(running, tmp_path):
    """Two of six that stand still, not side by side; they come back, and the run ends well and tells of it."""
    (tmp_path / "paced.py").write_text(PACED)
    words = [word if word != "1000000" else "1000" for word in LONG if word != "--quiet"]
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", "--task", "paced:paced", *words)
    for k in (1, 4):
        os.kill(pids[k], signal.SIGSTOP)
    fallen = [[0, 5], [2, 3], [1], [4]]
    until(lambda: fallen in [e["pieces"] for e in events(tmp_path, "Pieces")], "the pieces")
    for k in (1, 4):
        os.kill(pids[k], signal.SIGCONT)
    until(lambda: len(events(tmp_path, "Pieces")[-1]["pieces"]) == 1, "one piece")
    (tmp_path / "go").touch()
    _, err = launcher.communicate(timeout=90)
    assert launcher.returncode == 0, err
    assert events(tmp_path, "Pieces")[-1]["pieces"] == [[0, 1, 2, 3, 4, 5]]
    lines = err.splitlines()
    at = lines.index("the network is in 4 pieces: 0, 5 | 2, 3 | alone: 1, 4")
    assert "the network is in one piece again" in lines[at:]
    run = finding.load(tmp_path / "runs/latest")
    absences = course_of(run).absences
    assert {a.agent for a in absences} == {1, 4} and all(a.ended and a.ended > a.began for a in absences)
    assert run.state == "done" and run.summary["edges_apart"] == []


@pytest.mark.slow
def test_a_pause_of_all_agents_at_once_costs_no_edge(running, tmp_path):
    """As when a machine sleeps: everybody was stopped for longer than their patience, and nobody is left behind for it.

    What each finds when it wakes is that its neighbours were silent; that it was stopped itself explains it.
    """
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", "--set", "silence_s=1.0", *LONG)
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    reached = events(tmp_path, "Pulse")[-1]["iteration"]
    until(lambda: len([e for e in events(tmp_path, "Pulse") if e["rounds_per_s"] == 0]) > 2, "a standstill")
    for pid in pids.values():
        os.kill(pid, signal.SIGCONT)
    until(lambda: events(tmp_path, "Pulse")[-1]["iteration"] > reached + 20, "rounds")
    assert not events(tmp_path, "NeighbourLost")
    assert stopped(launcher, tmp_path)["missed_exchanges"] == 0


@pytest.mark.slow
def test_a_crash_loop_ends_as_lost_with_its_traceback(running, tmp_path):
    """Three new processes, with growing pauses, and no fourth; the others go on."""
    (tmp_path / "mine.py").write_text(FAILING)
    launcher = running("launch", "--topology", "ring6", "--task", "mine:mine", *LONG)
    until(lambda: len(events(tmp_path, "AgentLost")) == 4, "the last of four deaths")
    lost = events(tmp_path, "AgentLost")
    assert all("sample 17 is missing" in e["log_tail"] for e in lost)
    assert ["takes its place" in e["status"] for e in lost] == [True, True, True, False]
    reached = events(tmp_path, "Pulse")[-1]["iteration"]
    until(lambda: events(tmp_path, "Pulse")[-1]["iteration"] > reached + 10, "the others' rounds")
    assert stopped(launcher, tmp_path)["lost_agents"] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "quorum", "victims"), [
    (signal.SIGKILL, 5, [0, 1]),
    (signal.SIGSTOP, 3, [1, 4]),  # they live, and the others are two and two
])  # fmt: skip
def test_too_few_agents_together_for_too_long_end_the_run_as_failed(running, tmp_path, fault, quorum, victims):
    """All that are left end after the same iteration, or, of pieces that know nothing of each other, soon."""
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", "--on-failure", "continue", *LONG,
                           "--quorum", str(quorum), "--set", "return_s=2")  # fmt: skip
    for k in victims:
        os.kill(pids[k], fault)
    assert launcher.wait(60) == 1
    summary = json.loads((tmp_path / "runs/latest/run.json").read_text())
    assert (summary["state"], summary["lost_agents"]) == ("failed", victims)
    assert f"fewer than {quorum} agents, which is the quorum, were together" in summary["reason"]
    assert sum("fewer than the quorum" in e["text"] for e in events(tmp_path, "Note")) == 1
    ended = [p for p in (tmp_path / "runs/latest").glob("agents/*/state-*.safetensors")
             if int(p.parent.name) not in victims]  # fmt: skip
    assert len(ended) == 4 and len({p.name for p in ended}) <= 2


@pytest.mark.slow
def test_agents_that_come_back_in_time_make_up_the_quorum_again(running, tmp_path):
    """Successors are there within a second; more is borne than they take, and less than the test goes on."""
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", "--quorum", "6", *LONG, "--set", "return_s=6")
    os.kill(pids[2], signal.SIGKILL)
    until(lambda: events(tmp_path, "AgentReturned"), "its successor")
    back = until(lambda: len(events(tmp_path, "NeighbourBack")) >= 2 and events(tmp_path, "Pulse")[-1], "its edges")
    until(lambda: events(tmp_path, "Pulse")[-1]["seconds"] > back["seconds"] + 7, "more time than is borne")
    assert stopped(launcher, tmp_path)["reason"] == "SIGINT"


@pytest.mark.slow
def test_agents_that_end_well_one_after_the_other_are_not_missed(difnet, tmp_path):
    """All six are the quorum, and not a moment without one of them is borne."""
    done = difnet("launch", "--topology", "ring6", "--quorum", "6", *LONG, "--set", "return_s=0", "--set",
                  "test_tasks=0", "--iterations", "300", "--mode", "async")  # fmt: skip
    assert done.status == 0, done.err


@pytest.mark.slow
def test_with_on_failure_stop_the_others_end_and_the_run_has_failed(running, tmp_path):
    launcher, pids = begin(running, tmp_path, "--topology", "ring6", "--on-failure", "stop", *LONG)
    os.kill(pids[3], signal.SIGKILL)
    assert launcher.wait(60) == 1
    summary = json.loads((tmp_path / "runs/latest/run.json").read_text())
    assert (summary["state"], summary["lost_agents"]) == ("failed", [3])
    assert "agent 3 was lost (killed by SIGKILL), and on_failure is stop" in summary["reason"]
    ended = [p for p in (tmp_path / "runs/latest").glob("agents/*/state-*.safetensors") if p.parent.name != "003"]
    assert len(ended) == 5 and len({p.name for p in ended}) == 1  # of agent 3 there is what it had told last


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_the_hub_and_a_client_of_a_star_come_back(running, tmp_path, victim):
    """The hub begins with the newest model that its clients were called with; a client with its next call."""
    (tmp_path / "held.py").write_text(HELD)
    (tmp_path / "go").touch()
    words = [word if word != "40" else "1000000" for word in WORDS]
    launcher, pids = begin(running, tmp_path, *words, "--eval-every", "1000000")
    os.kill(pids[victim], signal.SIGKILL)
    until(lambda: events(tmp_path, "AgentReturned"), "its return")
    [back] = events(tmp_path, "AgentReturned")
    assert (back["agent"], back["incarnation"]) == (victim, 1) and back["iteration"] > 5
    until(lambda: events(tmp_path, "Pulse")[-1]["iteration"] > back["iteration"] + 20, "rounds after that")
    summary = stopped(launcher, tmp_path)
    assert (summary["lost_agents"], summary["returned_agents"], summary["edges_apart"]) == ([], [victim], [])
    models = [load_file(p)["w"].tobytes() for p in (tmp_path / "runs/latest").glob("agents/*/state-*.safetensors")]
    assert len(models) == 5 and len(set(models)) == 1
