"""A launcher that is killed can be replaced while its network lives: the run ends as if nothing had happened."""

import json
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from difnet.config import load
from difnet.data.agreement import settled
from difnet.data.schema import from_dict, to_toml
from difnet.record import events as kinds
from difnet.record import finding
from difnet.runtime.simulation import simulate
from tests.conftest import events, until
from tests.owners import clinics
from tests.runtime.test_resuming import same_in_all, words

pytestmark = pytest.mark.slow
SMALL = {"topology": "ring6", "tasks": 2, "eval_tasks": 8, "test_tasks": 8, "engine": "traced", "iterations": 1500,
         "eval_every": 20}  # fmt: skip
NO_DATA: Mapping[str, Path | None] = {"0-2": None, "3-5": None}
ENDLESS = SMALL | {"iterations": 10**6, "eval_every": 50}


class Network:
    """A launcher, and two hosts that live on without it."""

    def __init__(
        self, running, folder: Path, settings: dict, *more: str, hosts: Mapping[str, Path | None] = NO_DATA
    ) -> None:  # fmt: skip
        self.registry = f"tcp://127.{random.randrange(2, 250)}.{random.randrange(250)}.{random.randrange(2, 250)}:5600"
        self.folder = folder / "runs" / "killed"
        self.launcher = running("launch", *words(settings), "--hosts-expected", "2", "--registry", self.registry,
                                "--name", "killed", "--quiet", *more)  # fmt: skip
        self.hosts = [running("host", "--agents", agents, "--registry", self.registry,
                              *(["--data", str(data)] if data else [])) for agents, data in hosts.items()]  # fmt: skip

    def kill_launcher(self) -> None:
        """SIGKILL; the hosts are not concerned."""
        self.launcher.kill()
        self.launcher.communicate(timeout=20)

    def agent(self, k: int) -> int:
        """The process that is agent k now."""
        found = [p.pid for host in self.hosts for p in psutil.Process(host.pid).children() if f"agent {k}" == p.name()]
        return next(iter(found), 0)

    def ends_well(self) -> None:
        """Both hosts end with status 0, and the folder holds neither lock, socket, token nor process."""
        assert [host.wait(20) for host in self.hosts] == [0, 0]
        assert not (self.folder / "launcher.json").exists()


def reached(folder: Path, iteration: int) -> None:
    """Wait until a run has recorded that iteration."""
    until(lambda: (e := events(folder, "Measured") + events(folder, "Validated"))
          and max(x["iteration"] for x in e) >= iteration, f"iteration {iteration}")  # fmt: skip


@pytest.fixture(autouse=True)
def sesame(monkeypatch):
    monkeypatch.setenv("DIFNET_TOKEN", "sesame")


def told_once(folder: Path) -> None:
    """Nothing an agent said is in the record twice."""
    run = finding.load(folder)
    for lines in [folder / "events.jsonl", *folder.glob("agents/*/metrics.jsonl")]:
        told = [line for line in lines.read_text().splitlines() if '"Note"' not in line and '"Pulse"' not in line]
        assert len(told) == len(set(told)), lines
    assert not [e for e in run.events if isinstance(e, kinds.Resumed)]


@pytest.mark.parametrize("moment", range(int(os.environ.get("DIFNET_MOMENTS", "2"))))
def test_a_launcher_killed_on_the_way_is_replaced_and_every_bit_is_the_same(running, difnet, tmp_path, moment):
    """Nobody stopped, nothing is missing between, and nothing is there twice."""
    want = Path(simulate(load(settings={**SMALL, "runs": str(tmp_path / "oracle")}))["folder"])
    network, at = Network(running, tmp_path, SMALL), random.Random(moment).randrange(40, 900)
    reached(tmp_path, at)
    network.kill_launcher()
    if moment % 2:
        network.launcher = running("resume", "killed", "--quiet")
        reached(tmp_path, at + 200)
        network.kill_launcher()  # the successor has one too
    done = difnet("resume", "killed", "--json")
    assert done.status == 0 and done.json()["state"] == "done", done.err
    assert "another launcher takes over" in done.err
    network.ends_well()
    same_in_all(network.folder, want)
    told_once(network.folder)
    assert difnet("check", "killed").status == 0


def test_owners_with_data_of_their_own_test_for_the_successor_as_for_the_launcher(running, difnet, tmp_path):
    """Two train nothing; what one of them was asked by the launcher that died, another asks again."""
    data = clinics(tmp_path / "data", 8)
    made = settled(load(settings={"task": {"name": "table", "target": "ill"}}), data).task.options["schema"]
    (tmp_path / "schema.toml").write_text(to_toml(from_dict(made)))
    settings = SMALL | {"iterations": 600, "inner_lr": 0.1, "task.schema": str(tmp_path / "schema.toml"),
                        "hold_out.validation": 1, "hold_out.test": 1, "task.name": "table"}  # fmt: skip
    want = Path(simulate(settled(load(settings={**settings, "runs": str(tmp_path / "oracle")}), data),
                         data=data)["folder"])  # fmt: skip
    halves = [clinics(tmp_path / f"half-{n}", 4, 4 * n) for n in range(2)]
    network = Network(running, tmp_path, settings, hosts={"0-3": halves[0], "4-7": halves[1]})
    reached(tmp_path, 100)
    network.kill_launcher()
    done = difnet("resume", "killed", "--json")
    assert done.status == 0 and "another launcher takes over" in done.err, done.err
    network.ends_well()
    same_in_all(network.folder, want)
    told_once(network.folder)
    both = [finding.load(folder) for folder in (network.folder, want)]
    assert both[0].summary["test"] == both[1].summary["test"]
    assert difnet("check", "killed").status == 0


def test_who_has_finished_before_the_successor_is_there_is_taken(running, difnet, tmp_path):
    """Agents keep their last states until somebody takes them."""
    want = Path(simulate(load(settings={**SMALL, "iterations": 300, "runs": str(tmp_path / "oracle")}))["folder"])
    network = Network(running, tmp_path, SMALL | {"iterations": 300})
    reached(tmp_path, 100)
    network.kill_launcher()
    until(lambda: len(list(network.folder.glob("agents/*/checkpoint-000300*"))) == 6, "everybody's end")
    done = difnet("resume", "killed", "--json")
    assert done.status == 0 and done.json()["lost_agents"] == [], done.err
    network.ends_well()
    same_in_all(network.folder, want)
    told_once(network.folder)
    assert len(list(network.folder.glob("agents/*/state-000300.safetensors"))) == 6
    assert difnet("check", "killed").status == 0


def test_an_agent_that_died_and_was_replaced_meanwhile_is_known_to_the_successor(running, difnet, tmp_path):
    """Its host started it again while nobody listened: it waits to be introduced, and is."""
    network = Network(running, tmp_path, ENDLESS)
    reached(tmp_path, 100)
    network.kill_launcher()
    before = network.agent(4)
    os.kill(before, signal.SIGKILL)
    until(lambda: network.agent(4) not in (0, before), "a new process of agent 4")
    successor = running("resume", "killed", "--quiet")
    until(lambda: [e["agent"] for e in events(tmp_path, "AgentReturned")] == [4], "its return")
    until(lambda: {(e["agent"], e["neighbour"]) for e in events(tmp_path, "NeighbourBack")}
          >= {(3, 4), (4, 3), (4, 5), (5, 4)}, "its edges")  # fmt: skip
    successor.send_signal(signal.SIGINT)
    assert successor.wait(40) == 130
    network.ends_well()
    told_once(network.folder)
    summary = json.loads((network.folder / "run.json").read_text())
    assert summary["returned_agents"] == [4] and summary["lost_agents"] == [] and summary["edges_apart"] == []
    assert [e["agent"] for e in events(tmp_path, "AgentLost")] == [4]
    assert difnet("check", "killed").status == 0


def test_an_interrupt_of_the_successor_reaches_everybody(running, difnet, tmp_path):
    network = Network(running, tmp_path, ENDLESS)
    reached(tmp_path, 50)
    network.kill_launcher()
    successor = running("resume", "killed", "--quiet")
    until(lambda: [e for e in events(tmp_path, "Note") if "takes over" in e["text"]], "the successor")
    successor.send_signal(signal.SIGINT)
    assert successor.wait(40) == 130
    network.ends_well()
    assert len({path.name for path in network.folder.glob("agents/*/state-*")}) == 1  # all after the same iteration
    assert difnet("check", "killed").status == 0


def test_where_nobody_lives_the_run_goes_on_from_checkpoints(running, difnet, tmp_path):
    settings = SMALL | {"iterations": 400, "checkpoint_every": 10}
    want = Path(simulate(load(settings={**settings, "runs": str(tmp_path / "oracle")}))["folder"])
    network = Network(running, tmp_path, settings)
    reached(tmp_path, 100)
    network.kill_launcher()
    for host in network.hosts:
        host.kill()
        host.communicate(timeout=20)
    successor = running("resume", "killed", "--quiet")
    network.hosts = [running("host", "--agents", a, "--registry", network.registry) for a in ("0-2", "3-5")]
    _, err = successor.communicate(timeout=90)
    assert successor.returncode == 0, err
    network.ends_well()
    [resumed] = [e for e in finding.load(network.folder).events if isinstance(e, kinds.Resumed)]
    assert resumed.iteration >= 80
    same_in_all(network.folder, want)


def test_a_second_network_never_begins_beside_one_that_lives(running, difnet, tmp_path):
    """Not by another address or token, nor with other settings: each is refused, and the network stays."""
    network = Network(running, tmp_path, ENDLESS)
    reached(tmp_path, 50)
    network.kill_launcher()
    record = (network.folder / "events.jsonl").read_bytes()
    for more, words_ in (((("--registry", "tcp://127.0.0.1:5699"), {}), "--registry is another one"),
                         (((), {"DIFNET_TOKEN": "guess"}), "DIFNET_TOKEN is another one"),
                         ((("--iterations", "2000000"), {}), "leave --iterations away"),
                         ((("--from", "0"), {}), "leave --from away")):  # fmt: skip
        done = difnet("resume", "killed", *more[0], **more[1])
        assert done.status == 2 and words_ in done.err, done
    assert (network.folder / "events.jsonl").read_bytes().startswith(record)
    assert [host.poll() for host in network.hosts] == [None, None]
    successor = running("resume", "killed", "--quiet")
    until(lambda: [e for e in events(tmp_path, "Note") if "takes over" in e["text"]], "the successor")
    successor.send_signal(signal.SIGINT)
    assert successor.wait(40) == 130
    network.ends_well()


def test_the_token_is_in_a_file_that_its_owner_alone_reads_and_goes_with_the_run(running, tmp_path, monkeypatch):
    """Without a token of one's own, the one that was made is what the successor finds the network with."""
    monkeypatch.delenv("DIFNET_TOKEN")
    network = object.__new__(Network)
    network.registry = f"tcp://127.{random.randrange(2, 250)}.{random.randrange(250)}.{random.randrange(2, 250)}:5600"
    network.folder = tmp_path / "runs" / "killed"
    network.launcher = running("launch", *words(ENDLESS), "--hosts-expected", "1", "--registry", network.registry,
                               "--name", "killed")  # fmt: skip
    line = until(lambda: next((l for l in iter(network.launcher.stderr.readline, "") if "DIFNET_TOKEN=" in l), None),
                 "the command")  # fmt: skip
    monkeypatch.setenv("DIFNET_TOKEN", line.split("DIFNET_TOKEN=")[1].split()[0])
    network.hosts = [running("host", "--agents", "0-5", "--registry", network.registry)]
    monkeypatch.delenv("DIFNET_TOKEN")
    reached(tmp_path, 50)
    assert (network.folder / "launcher.json").stat().st_mode & 0o777 == 0o600
    network.launcher.send_signal(signal.SIGKILL)
    network.launcher.wait(20)
    successor = running("resume", "killed", "--quiet")
    until(lambda: [e for e in events(tmp_path, "Note") if "takes over" in e["text"]], "the successor")
    successor.send_signal(signal.SIGINT)
    assert successor.wait(40) == 130 and network.hosts[0].wait(20) == 0
    assert not (network.folder / "launcher.json").exists()
