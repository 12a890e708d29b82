"""`difnet chaos` breaks a run as it was told to, mends it, and a synchronous run is as good as the faults allow."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.numpy

from difnet.exchange.proxy import PIECE
from difnet.runtime.victims import Victims
from tests.conftest import Result, agents_of, events, until

slow = pytest.mark.slow
WORDS = ("--topology", "ring6", "--engine", "eager", "--tasks", "1", "--eval-tasks", "2", "--set", "test_tasks=0",
         "--quiet")  # fmt: skip
ENDLESS = ("--iterations", "1000000", "--eval-every", "1000000")
HELD = """
# agent 5 joins as soon as the edge between 0 and 1 is led through the proxy
import threading
from pathlib import Path
from difnet.runtime import agent_process
from difnet.tasks.sinusoid import Sinusoid

meet = agent_process._meet

def late(me, assignment, control, transport):
    led = Path(assignment.listen.removeprefix("ipc://").format(agent="0.proxy"))
    while me.agent == 5 and not led.exists():
        threading.Event().wait(0.005)
    return meet(me, assignment, control, transport)

def mine(agents, shots, queries):
    while not Path("go").exists():
        threading.Event().wait(0.005)
    agent_process._meet = late
    return Sinusoid(agents, shots, queries, (1.0, 2.0), (0.0, 1.0))
"""


def begin(running, tmp_path: Path, *words: str):
    """A network that is under way."""
    launcher = running("launch", *WORDS, *(words or ENDLESS))
    until(lambda: [pulse for pulse in events(tmp_path, "Pulse") if pulse["iteration"] > 2], "some iterations")
    return launcher


def break_it(difnet, tmp_path: Path, plan: str) -> Result:
    (tmp_path / "plan.toml").write_text(plan)
    done = difnet("chaos", "latest", "--plan", "plan.toml", "--json")
    assert done.status == 0, done.err
    return done


def end(launcher, tmp_path: Path) -> dict:
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=60)
    return json.loads((tmp_path / "runs/latest/run.json").read_text())


def recorded(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "runs/latest/chaos.jsonl").read_text().splitlines()]


def sockets(launcher) -> list[str]:
    [folder] = Path(os.environ["TMPDIR"]).glob(f"difnet-{launcher.pid}-*")
    return sorted(os.listdir(folder))


@slow
def test_who_is_killed_or_stopped_comes_back_and_the_run_says_so(difnet, running, tmp_path):
    """Agents bear their numbers, so the right ones are hit, a successor too; what was done is kept with its time."""
    launcher = begin(running, tmp_path)
    done = break_it(difnet, tmp_path, """fault = [
        {at_s = 0, kind = "kill", agents = [2]}, {at_s = 3, kind = "kill", agents = [2]},
        {at_s = 3, kind = "stop", agents = [4], for_s = 4.5},
        {at_s = 4, kind = "slow", agents = [4], for_s = 1, share = 0.5},
        {at_s = 4, kind = "disk", for_s = 2}]""")  # fmt: skip
    until(lambda: {e["agent"] for e in events(tmp_path, "AgentReturned")} >= {2, 4}, "their return")
    summary = end(launcher, tmp_path)
    assert summary["state"] == "stopped" and summary["lost_agents"] == summary["edges_apart"] == []
    assert summary["returned_agents"] == [2, 4] and summary["lost_records"] > 0
    assert {e["agent"] for e in events(tmp_path, "AgentLost")} == {2}
    told = [(e["kind"], e["phase"]) for e in recorded(tmp_path)]
    assert sorted(told) == sorted([(kind, phase) for kind in ("kill", "kill", "stop", "disk")
                                   for phase in ("begun", "ended")])  # fmt: skip
    assert done.json()["done"] == recorded(tmp_path)
    assert done.json()["left_out"] == ["slow agents 4 share 0.5 for_s 1: something is done to agent 4 already"]
    assert "stop agents 4 for_s 4.5: begun" in done.err


@slow
def test_a_delayed_edge_changes_no_bit_of_a_synchronous_run(difnet, running, tmp_path):
    """Led through the proxy before the first round, it loses no exchange; the oracle is the simulator."""
    (tmp_path / "mine.py").write_text(HELD)
    words = [*WORDS, "--task", "mine:mine", "--iterations", "40", "--eval-every", "40"]
    launcher = running("launch", *words, "--name", "delayed")
    until(lambda: (tmp_path / "runs/delayed/topology.json").exists(), "the run's folder")
    (tmp_path / "plan.toml").write_text('fault = [{at_s=0, kind="delay", edges=[[0, 1]], for_s=600, delay_ms=20}]')
    chaos = running("chaos", "delayed", "--plan", "plan.toml", "--json")
    assert "as soon as agents listen" in chaos.stderr.readline()
    (tmp_path / "go").touch()
    assert launcher.wait(90) == 0
    out, err = chaos.communicate(timeout=30)
    assert chaos.returncode == 0 and json.loads(out)["left_out"] == [], err
    assert [e["kind"] for e in recorded(tmp_path)] == ["delay", "delay"], err
    summary = json.loads((tmp_path / "runs/delayed/run.json").read_text())
    assert summary["missed_exchanges"] == 0
    assert summary["seconds"] >= 40 * 0.02
    assert difnet("simulate", *words, "--name", "simulated").status == 0
    models = [safetensors.numpy.load_file(tmp_path / "runs" / name / "launch-model.safetensors")["w"]
              for name in ("delayed", "simulated")]  # fmt: skip
    assert np.array_equal(*models)


@slow
def test_a_cut_edge_is_lost_at_both_ends_and_comes_back(difnet, running, tmp_path):
    """A connection that was there before is broken once, to be led; that is said and kept, and costs nothing."""
    launcher = begin(running, tmp_path)
    break_it(difnet, tmp_path, 'fault = [{at_s=0.5, kind="cut", edges=[[2, 3]], for_s=3}]')
    told = [(e["kind"], e["edges"]) for e in recorded(tmp_path)]
    assert told.count(("cut", [[2, 3]])) == 2 and told[0] == ("proxy", [[2, 3]])
    assert sockets(launcher) == ["0", "1", "2", "3", "4", "5", "registry"]
    lost = len(events(tmp_path, "NeighbourLost"))
    assert lost >= 2
    assert {e["neighbour"] for e in events(tmp_path, "LinkHealed")} >= {2, 3}
    until(lambda: len(events(tmp_path, "NeighbourBack")) >= len(events(tmp_path, "NeighbourLost")), "the edge")
    summary = end(launcher, tmp_path)
    assert summary["edges_apart"] == summary["lost_agents"] == []
    assert {frozenset((e["agent"], e["neighbour"])) for e in events(tmp_path, "NeighbourLost")} == {frozenset((2, 3))}


@slow
def test_a_silent_edge_is_noticed_in_time_and_comes_back_when_it_ends(running, tmp_path):
    """Within silence_s and a second, by the clock of who misses it; it was led before, so nothing else broke it."""
    launcher = begin(running, tmp_path, *ENDLESS, "--set", "silence_s=3")
    (tmp_path / "plan.toml").write_text("""fault = [{at_s=0.5, kind="silence", edges=[[2, 3]], for_s=8},
        {at_s=300, kind="delay", edges=[[2, 3]], for_s=1, delay_ms=1}]""")
    chaos = running("chaos", "latest", "--plan", "plan.toml")

    def silent() -> list[dict]:
        return [e for e in events(tmp_path, "NeighbourLost") if "silent for" in e["reason"]]

    until(lambda: {e["agent"] for e in silent()} == {2, 3}, "the notice")
    assert all(3 <= float(e["reason"].split()[2]) <= 4 for e in silent())
    epoch = max(e["epoch"] for e in silent())
    until(lambda: len([e for e in events(tmp_path, "NeighbourBack") if e["epoch"] > epoch]) == 2, "its return", 30)
    assert [e["phase"] for e in recorded(tmp_path) if e["kind"] == "silence"] == ["begun", "ended"]
    chaos.send_signal(signal.SIGINT)
    assert chaos.wait(30) == 130
    assert sockets(launcher) == ["0", "1", "2", "3", "4", "5", "registry"]
    assert end(launcher, tmp_path)["lost_agents"] == []


@slow
def test_garbled_messages_are_refused_and_no_state_that_is_not_finite_is_used(difnet, running, tmp_path):
    launcher = begin(running, tmp_path)
    break_it(difnet, tmp_path, 'fault = [{at_s=0, kind="corrupt", edges=[[2, 3]], for_s=3, share=0.3}]')
    until(lambda: len(events(tmp_path, "NeighbourBack")) >= len(events(tmp_path, "NeighbourLost")), "the edge")
    summary = end(launcher, tmp_path)
    assert summary["refused_messages"] > 0 and summary["lost_agents"] == []
    for path in (tmp_path / "runs/latest").glob("agents/*/state-*.safetensors"):
        assert all(np.isfinite(values).all() for values in safetensors.numpy.load_file(path).values())
    assert PIECE > 4 * 1761  # a message is a piece, so that states were hit and not headers alone


@slow
@pytest.mark.parametrize(("sig", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_everything_is_mended_when_chaos_is_ended_itself(running, tmp_path, sig, status):
    """Ctrl-C, and a SIGKILL: who was stopped goes on, paths are given back, the disk takes everything again."""
    import resource

    launcher = begin(running, tmp_path)
    (tmp_path / "plan.toml").write_text("""fault = [{at_s=0, kind="stop", agents=[4], for_s=600},
        {at_s=0, kind="disk", for_s=600}, {at_s=0, kind="silence", edges=[[0, 1]], for_s=600}]""")
    before, pids = resource.prlimit(launcher.pid, resource.RLIMIT_FSIZE), agents_of(launcher.pid)
    chaos = running("chaos", "latest", "--plan", "plan.toml")
    until(lambda: psutil.Process(pids[4]).status() == psutil.STATUS_STOPPED
          and resource.prlimit(launcher.pid, resource.RLIMIT_FSIZE)[0] == 0, "the faults")  # fmt: skip
    assert "0.proxy" in sockets(launcher)
    chaos.send_signal(sig)
    assert chaos.wait(30) == status
    until(lambda: sockets(launcher) == ["0", "1", "2", "3", "4", "5", "registry"], "its tidying up", 10)
    assert psutil.Process(pids[4]).status() != psutil.STATUS_STOPPED
    assert resource.prlimit(launcher.pid, resource.RLIMIT_FSIZE) == before
    pulses = len(events(tmp_path, "Pulse"))
    until(lambda: len(events(tmp_path, "Pulse")) > pulses + 2, "what the launcher writes")
    assert end(launcher, tmp_path)["lost_agents"] == []


@slow
def test_a_killed_host_ends_the_run_and_chaos_with_it(difnet, running, tmp_path):
    launcher = begin(running, tmp_path)
    break_it(difnet, tmp_path, 'fault = [{at_iteration=5, kind="kill-host"}, {at_s=600, kind="kill", agents=[0]}]')
    assert launcher.wait(30) == 1


@slow
def test_agents_bear_their_numbers_as_names(running, tmp_path):
    """Those of the first processes, in the order in which they were forked."""
    launcher = begin(running, tmp_path)
    assert Victims((tmp_path / "runs/latest").resolve()).agents() == agents_of(launcher.pid)


def test_only_a_run_that_goes_on_with_agents_of_its_own_can_be_broken(difnet, tmp_path):
    """Exit status 2, and what to do; a plan can be drawn for any run."""
    assert difnet("simulate", *WORDS, "--iterations", "2", "--eval-every", "2").status == 0
    over = difnet("chaos", "latest", "--seed", "1")
    assert over.status == 2 and "nothing runs in" in over.err and "difnet ps" in over.err
    drawn = difnet("chaos", "latest", "--seed", "1", "--faults", "3", "--print-plan")
    assert drawn.status == 0 and drawn.out.count("[[fault]]") == 3
    neither = difnet("chaos", "latest")
    assert neither.status == 2 and "--plan FILE or --seed N" in neither.err
    absent = difnet("chaos", "latest", "--plan", "absent.toml")
    assert absent.status == 2 and "cannot read the plan absent.toml" in absent.err
    assert not (tmp_path / "runs/latest/chaos.jsonl").exists()


@slow
def test_links_of_ports_are_refused_and_the_run_goes_on(difnet, running, tmp_path):
    """Agents can be killed there as well; links cannot be broken, and none is drawn."""
    launcher = begin(running, tmp_path, *ENDLESS, "--set", "transport=tcp")
    (tmp_path / "plan.toml").write_text('fault = [{at_s=0, kind="cut", edges=[[2, 3]], for_s=3}]')
    refused = difnet("chaos", "latest", "--plan", "plan.toml")
    assert refused.status == 3 and "transport=tcp" in refused.err
    drawn = difnet("chaos", "latest", "--seed", "1", "--faults", "50", "--print-plan")
    assert drawn.status == 0 and "edges" not in drawn.out
    break_it(difnet, tmp_path, 'fault = [{at_s=0, kind="kill", agents=[3]}]')
    until(lambda: events(tmp_path, "AgentReturned"), "its return")
    assert end(launcher, tmp_path)["returned_agents"] == [3]
