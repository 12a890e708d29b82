"""Data stays with its owners: what a host has, who tests, and what anybody else hears of it."""

import json
import os
import re
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from difnet.config import load
from difnet.data.agreement import settled
from difnet.data.schema import from_dict, to_toml
from difnet.record import finding
from difnet.record.events import Validated
from difnet.record.files import read_tensors
from difnet.record.formatting import number_text
from difnet.report.owners import owners_table
from difnet.runtime.launcher import launch
from difnet.runtime.simulation import simulate
from tests.conftest import agents_of, events, until
from tests.owners import PLANTED, clinics, holds

SMALL = {"task": {"name": "table", "target": "ill"}, "iterations": 30, "eval_every": 10, "eval_tasks": 5,
         "test_tasks": 5, "tasks": 2, "engine": "traced", "inner_lr": 0.1}  # fmt: skip
NETWORKS = {
    "a ring": {"topology": "ring6"},
    "a ring with owners held out": {"topology": "ring6", "hold_out": {"validation": 2, "test": 1}},
    "a star": {"topology": "star_graph(n=6)", "algorithm": "fedmeta"},
    "a star that weighs by samples": {"topology": "star_graph(n=6)", "algorithm": "fedmeta",
                                      "server.aggregation": "samples"},
    "a star with owners held out": {"topology": "star_graph(n=6)", "algorithm": "fedmeta", "server.clients": 2,
                                    "hold_out": {"validation": 1, "test": 2}},
}  # fmt: skip


def asked(runs: Path, data: Path, **settings: object) -> object:
    return settled(load(settings={**SMALL, **settings, "runs": str(runs)}), data)


def everything(folder: Path) -> dict[str, bytes]:
    """All files of a run, those of its agents among them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_states(one: Path, other: Path) -> None:
    """Every tensor of every state and of the launch model, bit for bit."""
    named = [path for path in other.rglob("*.safetensors") if "checkpoint" not in path.name]
    files = sorted(str(path.relative_to(other)) for path in named)
    assert len(files) >= 7
    for file in files:
        want, got = read_tensors(other / file), read_tensors(one / file)
        assert want.keys() == got.keys() and all(np.array_equal(want[name], got[name]) for name in want), file


def figures(summary: dict) -> list:
    run = finding.load(Path(summary["folder"]))
    validated = [(e.iteration, e.before, e.after, e.accuracy) for e in run.events if isinstance(e, Validated)]
    return [summary["test"], summary["loss"], summary["accuracy"], validated]


def test_traces_are_found_where_they_are(tmp_path):
    """The search itself: a table holds what was planted, and so do its rows as numbers."""
    table = (clinics(tmp_path / "data", 1) / "clinic-00.csv").read_bytes()
    assert holds(table) == PLANTED and not holds(b"31337,5")
    assert holds(b"x" + np.float32(PLANTED[0]).tobytes()) == PLANTED[:1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_processes_end_in_the_simulators_bits_with_everybodys_own_figures(name, tmp_path):
    data = clinics(tmp_path / "data", 9)
    simulated = simulate(asked(tmp_path / "s", data, **NETWORKS[name]), data=data)
    launched = launch(asked(tmp_path / "l", data, **NETWORKS[name]), data=data)
    assert launched["state"] == simulated["state"] == "done", launched.get("reason")
    assert figures(launched) == figures(simulated) and launched["lost_agents"] == []
    assert [v[0] for v in figures(launched)[3]] == [0, 10, 20, 30]
    same_states(Path(launched["folder"]), Path(simulated["folder"]))
    told = everything(Path(launched["folder"])) | everything(Path(simulated["folder"]))
    assert not {file: found for file, content in told.items() if (found := holds(content))}
    assert not [file for file, content in told.items() if str(data).encode() in content or b"clinic-0" in content]


@pytest.mark.slow
def test_each_owners_own_figures_are_its_tests_and_the_mean_of_all_is_the_validation(tmp_path):
    data = clinics(tmp_path / "data", 6)
    run = finding.load(Path(launch(asked(tmp_path / "runs", data, topology="ring6"), data=data)["folder"]))
    rows = [line.split(",") for line in (run.folder / "test-owners.csv").read_text().splitlines()[1:]]
    assert {row[0] for row in rows} == {*map(str, range(6))} and len(rows) == 6 * 11
    ten = [float(row[3]) for row in rows if row[2] == "10"]
    assert run.summary["test"]["launch model"]["loss"]["10"]["mean"] == pytest.approx(np.mean(ten), rel=1e-6)
    told = owners_table(run)
    assert told.head[1:4] == ("loss before adaptation", "loss after 1 inner step", "loss after 10 inner steps")
    assert [row[3] for row in told.rows] == [number_text(loss) for loss in ten]


class Capture:
    """Everything that goes over this machine's loopback device, as the kernel hands it out."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
        except PermissionError:
            pytest.skip("this user may not capture packets")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**26)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.1)
        self.heard, self._over = bytearray(), threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> "Capture":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(30)
        self._socket.close()

    def _listen(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                self.heard += self._socket.recv(2**17)


@pytest.mark.slow
def test_three_hosts_with_a_third_each_end_in_the_bits_of_the_run_that_has_all_and_no_packet_holds_a_row(
    tmp_path, running
):
    whole = clinics(tmp_path / "all", 6)
    simulated = simulate(asked(tmp_path / "s", whole, topology="ring6"), data=whole)
    schema = tmp_path / "schema.toml"
    schema.write_text(to_toml(from_dict(settled(load(settings=SMALL), whole).task.options["schema"])))
    thirds = [clinics(tmp_path / f"third-{n}", 2, 2 * n) for n in range(3)]
    words = [f"--set={name}={value}" for name, value in SMALL.items() if name != "task"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Capture() as capture:
        launcher = running("launch", "--topology", "ring6", "--task", "table", "--schema", str(schema), *words,
                           "--hosts-expected", "3", "--registry", f"tcp://127.0.0.1:{port}",
                           "--name", "thirds")  # fmt: skip
        command = next(line for line in launcher.stderr if "difnet host" in line)
        endpoint, token = (re.search(rf"{word}[= ](\S+)", command)[1] for word in ("--registry", "DIFNET_TOKEN"))
        hosts = [running("host", "--agents", f"{2 * n}-{2 * n + 1}", "--registry", endpoint, "--token", token,
                         "--data", str(third)) for n, third in enumerate(thirds)]  # fmt: skip
        assert launcher.wait(120) == 0, launcher.stderr.read()
        assert [host.wait(30) for host in hosts] == [0, 0, 0]
    launched = json.loads((tmp_path / "runs" / "thirds" / "run.json").read_text())
    assert figures(launched) == figures(simulated)
    same_states(Path(launched["folder"]), Path(simulated["folder"]))
    w = read_tensors(Path(simulated["folder"]) / "launch-model.safetensors")["w"]
    assert token.encode() in capture.heard and w.tobytes()[:64] in capture.heard, "the capture sees what travels"
    assert holds(bytes(capture.heard)) == [] and b"clinic-" not in capture.heard


@pytest.mark.slow
def test_an_owner_that_only_tests_may_die_and_return(tmp_path, running):
    """Killed in the middle of a run, it is started again, and the later validations have its figures too."""
    data = clinics(tmp_path / "data", 8)
    words = {**SMALL, "iterations": 4000, "eval_every": 20, "hold_out.validation": 2, "topology": "ring6"}
    launcher = running("launch", "--task", "table", "--target", "ill", "--data", str(data), "--quiet",
                       *(f"--set={name}={value}" for name, value in words.items() if name != "task"))  # fmt: skip
    until(lambda: len(events(tmp_path, "Validated")) > 1, "validations")
    os.kill(agents_of(launcher.pid)[7], signal.SIGKILL)
    [back] = until(lambda: events(tmp_path, "AgentReturned"), "its return")
    assert back["agent"] == 7
    seen = len(events(tmp_path, "Validated"))
    folder = tmp_path / "runs" / "latest" / "agents" / "007" / "metrics.jsonl"
    told = len(folder.read_text().splitlines())
    until(lambda: len(folder.read_text().splitlines()) > told + 1, "further figures of it")
    assert len(events(tmp_path, "Validated")) > seen
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 130
    summary = json.loads((tmp_path / "runs" / "latest" / "run.json").read_text())
    assert summary["lost_agents"] == [] and summary["returned_agents"] == [7]


@pytest.mark.slow
def test_a_run_of_owners_that_was_killed_goes_on_to_the_same_bits(tmp_path, running, difnet):
    data = clinics(tmp_path / "data", 6)
    words = {**SMALL, "iterations": 60, "checkpoint_every": 10, "topology": "ring6"}
    simulated = simulate(asked(tmp_path / "s", data, **words), data=data)
    launcher = running("launch", "--task", "table", "--target", "ill", "--data", str(data), "--quiet", "--name", "it",
                       *(f"--set={name}={value}" for name, value in words.items() if name != "task"))  # fmt: skip
    until(lambda: events(tmp_path, "Checkpointed"), "a checkpoint of all")
    launcher.kill()
    launcher.wait(30)
    until(lambda: not agents_of(launcher.pid), "the end of its agents")
    refused = difnet("resume", "it")
    assert refused.status == 2 and "say --data" in refused.err
    done = difnet("resume", "it", "--data", str(data), "--json")
    assert done.status == 0, done.err
    assert done.json()["test"] == simulated["test"]
    same_states(tmp_path / "runs" / "it", Path(simulated["folder"]))


@pytest.mark.slow
def test_an_owner_whose_table_has_a_class_that_nobody_agreed_on_is_named_and_refused(tmp_path, difnet):
    data = clinics(tmp_path / "data", 6)
    schema = tmp_path / "schema.toml"
    schema.write_text(to_toml(from_dict(settled(load(settings=SMALL), data).task.options["schema"])))
    odd = data / "clinic-03.csv"
    odd.write_text(odd.read_text().replace("yes", "maybe", 1))
    refused = difnet("launch", "--topology", "ring6", "--task", "table", "--schema", str(schema), "--data", str(data))
    assert refused.status != 0 and "clinic-03.csv" in refused.err and "ill" in refused.err
    assert "maybe" not in refused.err, "a cell is nobody's business but its owner's"


WRONG_WORDS = {
    "no data": (["--task", "table", "--target", "ill"], "say --data"),
    "data for a task that has its own": (["--data", "data"], "no use for --data"),
    "owners held out where nobody owns": (["--hold-out", "validation=1"], "hold_out is for owners"),
    "a path in the configuration": (["--task", "table", "--set", "task.data=data"], "says nothing of where"),
    "no target": (["--task", "table", "--data", "data"], "which column is to be predicted"),
    "clients called by samples": (["--task", "table", "--data", "data", "--target", "ill", "--algorithm", "fedmeta",
                                   "--topology", "star_graph(n=5)", "--set", "server.sampling=samples"],
                                  "nobody but their owners"),
    "more agents than tables": (["--task", "table", "--data", "data", "--target", "ill", "--topology", "ring40"],
                                "6 clients for 40 agents"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG_WORDS)
def test_words_about_data_that_mean_nothing_are_refused_with_the_remedy(name, tmp_path, difnet):
    clinics(tmp_path / "data", 6)
    words, told = WRONG_WORDS[name]
    refused = difnet("simulate", *(["--topology", "ring6"] if "--topology" not in words else []), *words)
    assert refused.status == 2 and told in refused.err, refused.err
    assert not (tmp_path / "runs").exists()
