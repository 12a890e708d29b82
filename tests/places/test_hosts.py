"""Several machines, without a shared disk: namespaces on one, each with its own address."""

import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from difnet.errors import EnvironmentLacks
from difnet.record import comparing, finding
from tests.conftest import events, until
from tests.owners import clinics, holds
from tests.places.machines import Machine, machines

pytestmark = pytest.mark.slow
WORDS = ("--topology", "cycle_graph(n=6)", "--engine", "eager", "--tasks", "2", "--eval-tasks", "8", "--seed", "3")
LONG = (*WORDS, "--iterations", "1000000", "--eval-every", "1000000", "--set", "orphan_s=5")
HIDDEN_PULSES = 6
PACED = """
import os, threading
from difnet.tasks.sinusoid import sinusoid

def paced(agents, shots, queries):
    family = sinusoid(agents=agents, shots=shots, queries=queries)
    draw = family.draw

    def draw_in_time(agent, count, rng):  # so that no machine has done all before it is let go
        if not os.path.exists("go"):
            threading.Event().wait(0.05)
        return draw(agent, count, rng)

    family.draw = draw_in_time
    return family
"""
SECRET = {"DIFNET_TOKEN": "open sesame"}


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Machine]]:
    """Three machines; the launcher runs on the first of them too."""
    try:
        with machines(3, tmp_path) as made:
            yield made
    except EnvironmentLacks as lack:
        pytest.skip(str(lack))


def begin(three: list[Machine], *words: str) -> list:
    """A launcher on the first machine, and a host with two agents on each."""
    launcher = three[0].start("launch", *words, "--hosts-expected", "3", **SECRET)
    registry = f"tcp://{three[0].address}:5600"
    return [launcher, *(machine.start("host", "--agents", f"{2 * n}-{2 * n + 1}", "--registry", registry, **SECRET)
                        for n, machine in enumerate(three))]  # fmt: skip


def under_way(tmp_path: Path) -> None:
    until(lambda: (e := events(tmp_path, "Pulse")) and e[-1]["iteration"] > 5, "some iterations")


def summary(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "runs/latest/run.json").read_text())


def test_three_hosts_end_in_the_same_bits_as_one(difnet, three, tmp_path):
    """No disk is shared: figures, final states and the models' test came over the network."""
    words = (*WORDS, "--iterations", "60", "--eval-every", "30")
    launcher, *hosts = begin(three, *words, "--name", "hosts")
    _, err = launcher.communicate(timeout=90)
    assert launcher.returncode == 0, err
    assert [host.wait(20) for host in hosts] == [0, 0, 0], [host.communicate() for host in hosts]
    assert "3/3 hosts" in err and "listening at tcp://0.0.0.0:5600" in err and "sesame" not in err
    here = difnet("launch", *words, "--name", "here", "--quiet")
    assert here.status == 0, here.err
    apart, together = (finding.load(tmp_path / "runs" / name) for name in ("hosts", "here"))
    assert comparing.same_bits(apart, together)
    assert apart.summary["bytes"]["payload"] == together.summary["bytes"]["payload"]
    assert [s.loss for s in apart.scores] == [s.loss for s in together.scores] != []
    assert len(apart.environment["hosts"]) == 3 and "hosts" not in together.environment
    kept, same = (sorted(p.name for p in run.folder.glob("agents/*/*") if not p.name.startswith("checkpoint-"))
                  for run in (apart, together))  # fmt: skip
    assert kept == same


def test_hosts_that_see_their_own_third_alone_end_in_the_bits_of_one_that_has_all(difnet, three, tmp_path):
    """Neither a file of the run nor a packet holds a planted cell, or the name of anybody's table."""
    everything = clinics(tmp_path / "all", 6)
    thirds = [clinics(tmp_path / f"third-{n}", 2, 2 * n) for n in range(3)]
    for n, machine in enumerate(three):
        machine.cover(everything, *(third for m, third in enumerate(thirds) if m != n))
    table = ("--topology", "ring6", "--task", "table", *WORDS[2:], "--inner-lr", "0.1", "--iterations", "40")
    described = difnet("data", "describe", str(everything), "--target", "ill")
    (tmp_path / "schema.toml").write_text(described.out)
    captures = [machine.capture(tmp_path / f"wire-{n}") for n, machine in enumerate(three)]
    assert [capture.stdout.readline() for capture in captures] == ["begun\n"] * 3
    registry = f"tcp://{three[0].address}:5600"
    launcher = three[0].start("launch", *table, "--schema", "schema.toml", "--hosts-expected", "3", "--name", "apart",
                              **SECRET)  # fmt: skip
    hosts = [machine.start("host", "--agents", f"{2 * n}-{2 * n + 1}", "--registry", registry, "--data", str(third),
                           **SECRET) for n, (machine, third) in enumerate(zip(three, thirds, strict=True))]  # fmt: skip
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    assert [host.wait(20) for host in hosts] == [0, 0, 0], [host.communicate() for host in hosts]
    for capture in captures:
        capture.communicate(timeout=30)
    here = difnet("launch", *table, "--schema", "schema.toml", "--data", str(everything), "--name", "here", "--quiet")
    assert here.status == 0, here.err
    apart, together = (finding.load(tmp_path / "runs" / name) for name in ("apart", "here"))
    assert comparing.same_bits(apart, together)
    assert [s.loss for s in apart.scores] == [s.loss for s in together.scores] != []
    wires = [(tmp_path / f"wire-{n}").read_bytes() for n in range(3)]
    assert all(SECRET["DIFNET_TOKEN"].encode() in wire for wire in wires), "they see what travels"
    files = {path: path.read_bytes() for path in apart.folder.rglob("*") if path.is_file()}
    assert not [path for path, content in files.items() if holds(content) or b"clinic-" in content]
    assert not any(holds(wire) or b"clinic-" in wire for wire in wires)


def test_hosts_that_share_no_disk_go_on_from_checkpoints_of_their_own(difnet, three, tmp_path):
    """All of it is killed, launcher and hosts; one host had come one checkpoint further than the others."""
    words = (*WORDS, "--iterations", "400", "--eval-every", "100")
    whole = difnet("simulate", *words, "--name", "whole", "--quiet")
    assert whole.status == 0, whole.err
    launcher, *hosts = begin(three, *words, "--checkpoint-every", "10", "--name", "hosts")
    until(lambda: len(events(tmp_path, "Checkpointed")) > 3, "checkpoints")
    for process in (*hosts, launcher):
        process.kill()
        process.communicate(timeout=20)
    kept = {path.parent.name: path for path in (tmp_path / "state").rglob("checkpoint-*.safetensors")}
    assert kept.keys() == {"002", "003", "004", "005"}  # the first machine has the run's own folder
    ahead = kept["004"]
    (ahead.parent / "checkpoint-009990.safetensors").write_bytes(ahead.read_bytes()[:-9])
    launcher = three[0].start("resume", "hosts", **SECRET)
    hosts = [machine.start("host", "--agents", f"{2 * n}-{2 * n + 1}", "--registry",
                           f"tcp://{three[0].address}:5600", **SECRET) for n, machine in enumerate(three)]  # fmt: skip
    _, err = launcher.communicate(timeout=90)
    assert launcher.returncode == 0, err
    assert [host.wait(20) for host in hosts] == [0, 0, 0], [host.communicate() for host in hosts]
    assert "checkpoint-009990.safetensors cannot be used: it is damaged or cut short" in err
    assert len(events(tmp_path, "Resumed")) == 1 and events(tmp_path, "Resumed")[0]["iteration"] >= 40
    runs = [finding.load(tmp_path / "runs" / name) for name in ("hosts", "whole")]
    is_same = comparing.same_bits(*runs)
    assert is_same


def test_a_host_that_is_killed_is_missed_and_the_others_finish(three, tmp_path):
    """SIGKILL of a host takes its two agents; the ring goes on in one piece less, and says who is gone."""
    launcher, *hosts = begin(three, *WORDS, "--iterations", "300", "--eval-every", "300")
    under_way(tmp_path)
    hosts[1].kill()
    _, err = launcher.communicate(timeout=90)
    assert launcher.returncode == 1
    assert summary(tmp_path)["lost_agents"] == [2, 3] and summary(tmp_path)["iterations"] == 300
    assert "agent 2" in err and "agent 3" in err
    assert {hosts[0].wait(20), hosts[2].wait(20)} == {0}


def test_a_host_that_is_killed_and_started_again_comes_back(three, tmp_path):
    """As an engine does it, at once: it waits until nothing has been heard of the one before for three seconds."""
    launcher, *hosts = begin(three, *LONG)
    under_way(tmp_path)
    hosts[1].kill()
    hosts[1].communicate(timeout=20)
    again = three[1].start("host", "--agents", "2-3", "--registry", f"tcp://{three[0].address}:5600", **SECRET)
    until(lambda: {e["agent"] for e in events(tmp_path, "AgentReturned")} == {2, 3}, "both agents")
    edges = {(2, 1), (1, 2), (3, 4), (4, 3)}
    until(lambda: edges <= {(e["agent"], e["neighbour"]) for e in events(tmp_path, "NeighbourBack")}, "their edges")
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(40) == 130 and again.wait(20) == 0
    ended = summary(tmp_path)
    assert ended["lost_agents"] == [] and ended["returned_agents"] == [2, 3] and ended["edges_apart"] == []
    assert ended["one_sided_exchanges"] == 0
    assert all("its host ended" in e["status"] for e in events(tmp_path, "AgentLost"))
    at = {path.name for path in (tmp_path / "runs/latest").glob("agents/*/state-*")}
    assert len(at) == 1  # all of them after the same iteration


def test_a_host_whose_network_is_gone_ends_its_agents_and_the_others_finish(three, tmp_path):
    """Nothing closes a connection: silence is all that either side hears."""
    launcher, *hosts = begin(three, *LONG)
    under_way(tmp_path)
    three[2].unplug()
    _, err = hosts[2].communicate(timeout=60)
    assert hosts[2].returncode == 1 and "nothing was heard of the launcher" in err and "2 agents end" in err
    until(lambda: {e["agent"] for e in events(tmp_path, "AgentLost")} == {4, 5}, "the loss of the host's agents")
    assert all("fell silent" in e["status"] for e in events(tmp_path, "AgentLost"))
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(40) == 130 and summary(tmp_path)["lost_agents"] == [4, 5]


def test_a_link_that_swallows_everything_for_some_seconds_is_noticed_and_heals(difnet, three, tmp_path):
    """Between two of three hosts, both ways; nothing breaks a connection, and the launcher hears both all the while."""
    (tmp_path / "paced.py").write_text(PACED)
    words = (*WORDS, "--task", "paced:paced", "--iterations", "600", "--eval-every", "600", "--set", "test_tasks=0",
             "--measure-every", "4")  # fmt: skip
    launcher, *hosts = begin(three, *words)
    under_way(tmp_path)
    edge, pair = {(3, 4), (4, 3)}, three[1:]
    for one, other in (pair, pair[::-1]):
        one.hide(other)
    began = time.monotonic()
    until(lambda: ends(tmp_path, "NeighbourLost") == edge, "both ends to notice", 30)
    noticed_s = time.monotonic() - began
    seen = len(events(tmp_path, "Pulse"))
    until(lambda: len(events(tmp_path, "Pulse")) > seen + HIDDEN_PULSES, "some seconds")
    assert ends(tmp_path, "NeighbourBack") == set()
    for one, other in (pair, pair[::-1]):
        one.find(other)
    began = time.monotonic()
    until(lambda: ends(tmp_path, "NeighbourBack") == edge, "both ends to be joined again", 30)
    healed_s = time.monotonic() - began
    (tmp_path / "go").touch()
    _, err = launcher.communicate(timeout=90)
    assert launcher.returncode == 0 and [host.wait(20) for host in hosts] == [0, 0, 0], err
    ended = summary(tmp_path)
    assert (ended["state"], ended["lost_agents"], ended["edges_apart"]) == ("done", [], [])
    assert ends(tmp_path, "NeighbourLost") == edge, "no other edge was given up"
    checked = difnet("check", "latest")
    assert checked.status == 0, checked.out
    print(f"noticed after {noticed_s:.1f} s, healed {healed_s:.1f} s after its end")  # `pytest -s` shows it
    assert 2.5 < noticed_s < 6 and healed_s < 4


def ends(tmp_path: Path, kind: str) -> set[tuple[int, int]]:
    """The ends of edges that events of a kind tell of."""
    return {(e["agent"], e["neighbour"]) for e in events(tmp_path, kind)}


def test_hosts_end_when_their_launcher_is_gone(three, tmp_path):
    """SIGKILL of the launcher, which is on another machine for them: they say what they miss, and leave nothing."""
    launcher, *hosts = begin(three, *LONG)
    under_way(tmp_path)
    launcher.kill()
    for host in hosts:
        _, err = host.communicate(timeout=60)
        assert host.returncode == 1 and "nothing was heard of the launcher" in err


def test_a_host_that_is_asked_to_stop_tells_the_launcher_first(three, tmp_path):
    """As an engine does it: SIGTERM. The launcher knows at once, and why."""
    launcher, *hosts = begin(three, *WORDS, "--iterations", "300", "--eval-every", "300", "--max-lost", "2")
    under_way(tmp_path)
    hosts[1].terminate()
    assert hosts[1].wait(20) == 143
    launcher.communicate(timeout=90)
    assert launcher.returncode == 0
    assert [e["status"] for e in events(tmp_path, "AgentLost")] == ["killed by SIGTERM"] * 2


def test_the_commands_that_the_launcher_tells_are_those_that_work(three, tmp_path):
    """Without a token of one's own, the one to type is made and told."""
    launcher = three[0].start("launch", *WORDS, "--iterations", "10", "--hosts-expected", "2")
    os.set_blocking(launcher.stderr.fileno(), False)
    said = bytearray()

    def told() -> list[str]:
        with suppress(BlockingIOError):
            said.extend(os.read(launcher.stderr.fileno(), 2**16))
        return [line for line in said.decode().split("\n")[:-1] if "difnet host" in line]

    commands = until(lambda: found if len(found := told()) == 2 else None, "commands")
    assert not any("difnet host" in e["text"] and "…" not in e["text"] for e in events(tmp_path, "Note"))
    hosts = []
    for machine, line in zip(three[1:], commands, strict=True):
        assignment, program, *words = shlex.split(line)
        assert program == "difnet" and f"{three[0].address}:5600" in line
        hosts.append(machine.start(*words, **dict([assignment.split("=", 1)])))
    assert launcher.wait(60) == 0 and [host.wait(20) for host in hosts] == [0, 0]
    assert not any(os.path.exists(f"/proc/{host.pid}") for host in hosts)
