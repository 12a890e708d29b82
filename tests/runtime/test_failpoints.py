"""Wherever in its round an agent is killed, its successor comes back, nobody else is given up, no exchange is torn."""

import os

import pytest
from safetensors.numpy import load_file

from difnet.errors import CheckpointError
from difnet.record import checkpoints, events, finding
from tests.runtime.failpoints import LEAVING, POINTS, ROUND, VICTIM

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("point", POINTS)
def test_an_agent_that_is_killed_there_comes_back(difnet, tmp_path, point):
    done = difnet("launch", "--topology", "ring6", "--task", "tests.runtime.failpoints:sinusoid", "--iterations", "600",
                  "--engine", "traced", "--tasks", "2", "--eval-tasks", "4", "--eval-every", "200", "--name", "failed",
                  "--checkpoint-every", "20", "--set", "test_tasks=4", "--json", DIFNET_FAILPOINT=point)  # fmt: skip
    assert done.status == 0, done.err
    assert (tmp_path / "died").exists()
    summary, run = done.json(), finding.load(tmp_path / "runs" / "failed")
    assert (summary["lost_agents"], summary["returned_agents"], summary["edges_apart"]) == ([], [VICTIM], [])
    assert summary["one_sided_exchanges"] == 0 and summary["iterations"] == 600
    [lost] = [e for e in run.events if isinstance(e, events.AgentLost)]
    assert lost.status == "killed by SIGKILL; a new process takes its place"
    broken = {frozenset((e.agent, e.neighbour)) for e in run.events if isinstance(e, events.NeighbourLost)}
    assert broken == {frozenset((VICTIM, VICTIM - 1)), frozenset((VICTIM, VICTIM + 1))}
    told = {(e.agent, e.neighbour): e.used for e in run.events if isinstance(e, events.NeighbourLost)}
    latest = 599 if point == "in a checkpoint" else ROUND  # a thread writes those, and rounds go on
    assert all(ROUND - 2 <= told[l, VICTIM] <= latest for l in (2, 4)), told
    for path in (run.folder / "agents").glob("*/checkpoint-*"):
        with pytest.raises(CheckpointError, match="of another run"):  # so it is whole
            checkpoints.Shelf(path.parent, checkpoints.Manifest("", 0, 0, "", "", "", "", {})).read(
                int(path.stem.rpartition("-")[2]))
    assert not [name for _, _, names in os.walk(run.folder) for name in names if name.endswith(".part")]


def test_an_agent_that_returns_when_all_is_done_ends_with_what_it_came_back_with(difnet, tmp_path):
    """Nothing is left to do for its successor, which has a checkpoint of the last iteration: its first model it is not.

    Alone, so that nobody else's states could have made up for it. The simulator says what is right.
    """
    words = ("--topology", "ring6", "--strategy", "noncooperative", "--iterations", "40", "--engine", "traced",
             "--tasks", "2", "--eval-tasks", "4", "--eval-every", "20", "--set", "test_tasks=0")  # fmt: skip
    done = difnet("launch", *words, "--task", "tests.runtime.failpoints:sinusoid", "--checkpoint-every", "40", "--name",
                  "failed", "--json", DIFNET_FAILPOINT=LEAVING)  # fmt: skip
    assert done.status == 0, done.err
    summary = done.json()
    assert (tmp_path / "died").exists() and summary["returned_agents"] == [VICTIM] and summary["lost_agents"] == []
    whole = difnet("simulate", *words, "--name", "whole", "--quiet")
    assert whole.status == 0, whole.err
    states = [{path.parent.name: load_file(path)["w"].tobytes() for path in (tmp_path / "runs" / name).glob(
        "agents/*/state-000040.safetensors")} for name in ("failed", "whole")]  # fmt: skip
    assert len(states[0]) == 6 and states[0] == states[1]
