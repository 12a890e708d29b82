"""What a run folder says of a run that was recorded step by step."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from difnet.config import load
from difnet.record import prints as module
from difnet.record.events import Progress, Snapshot
from difnet.record.recorder import Recorder
from difnet.system import energy
from difnet.topology import networks

PREPARED = {"engine": "eager", "parameters": 2, "length": 2, "flops": None, "server": None, "model": {"name": "mlp"},
            "pieces": [], "carriers": [0, 1], "transductive": False, "manifest": None, "judges": {},
            "environment": {}}  # fmt: skip


def test_energy_counts_from_when_the_agents_are_ready_and_preparation_stands_apart(monkeypatch, tmp_path):
    """A run of 2 s whose kernels took minutes to compile: 40 J, and not the 4157 J before it."""
    drawn_uj = [1e9]
    counter = energy.Counter(lambda: drawn_uj[0], 10**12, drawn_uj[0])
    monkeypatch.setattr(energy, "rapl", lambda root: ({"package 0": counter}, {}))
    config = load(settings={"topology": "ring6", "runs": str(tmp_path)})
    recorder = Recorder(config, networks.load("ring6"), "launch", lambda event: None)
    drawn_uj[0] += 4157e6
    recorder.ready(PREPARED)
    drawn_uj[0] += 40e6
    told = recorder.finish("stopped")["energy"]
    assert told["quality"] == "measured" and told["joules"] == 40.0 and told["preparation_joules"] == 4157.0


def told(agent: int, iteration: int, **figures: int) -> Progress:
    zero = dict.fromkeys(("steps", "payload_bytes", "wire_bytes", "messages", "uploads", "missed", "refused"), 0)
    return Progress(agent, iteration, None, 0.0, None, figures={}, peak_bytes=None, **zero | figures)


@pytest.fixture
def recorder(tmp_path):
    def make(topology: str, **facts) -> Recorder:
        recorder = Recorder(
            load(settings={"topology": topology, "runs": str(tmp_path)}), networks.load(topology), "launch",
            lambda event: None,
        )  # fmt: skip
        recorder.ready(PREPARED | facts)
        return recorder

    return make


def model(recorder: Recorder) -> tuple[dict[str, str], list[float]]:
    """What the launch model says of itself, and its values."""
    with safe_open(recorder.folder / "launch-model.safetensors", "numpy") as file:
        return file.metadata(), file.get_tensor("w").tolist()


def test_when_all_are_lost_the_iteration_and_the_model_are_those_of_the_newest_record(recorder):
    """Measured by all at 250; one alone has told of 300; the furthest word is that of 302."""
    r = recorder("ring6")
    for iteration in (0, 250):
        for k in range(6):
            r.record(Snapshot(k, iteration), [np.full(2, float(k + iteration))])
    r.record(Snapshot(4, 300), [np.full(2, 1e9)])
    for k in range(6):
        r.record(told(k, 297 + k))
    r.lose([0, 1, 2], "killed by SIGKILL", "x" * 9000)
    assert r.tally.iteration == 300
    r.lose([3, 4, 5], "ended with its host")
    run = r.finish("failed")
    assert run["iterations"] == 302 and run["lost_agents"] == [0, 1, 2, 3, 4, 5]
    assert [(loss["agent"], loss["iteration"]) for loss in run["losses"]][:5] == [
        (0, 297), (1, 298), (2, 299), (3, 300), (4, 301)]  # fmt: skip
    assert run["losses"][3]["status"] == "ended with its host" and len(run["losses"][0]["log_tail"]) == 2000
    about, w = model(r)
    assert about["iteration"] == "250" and about["agents"] == "6" and w == [252.5, 252.5]
    kept = sorted(p.name for p in r.folder.glob("agents/004/state-*"))
    assert kept == ["state-000300.safetensors"]


def test_a_hub_counts_answers_to_its_calls_and_nothing_else(recorder):
    """Nine clients, ten rounds: 106 uploads, of which 16 came too late or to rounds that were over."""
    r = recorder("star_graph(n=9)", server=0)
    for k in range(1, 10):
        r.record(told(k, 10, uploads=12 if k < 8 else 11, steps=12))
    r.record(told(0, 10, answered=90, late=16))
    assert r.finish("done")["server"]["per_round"] == 9.0


def test_the_losses_of_a_big_network_do_not_make_a_big_record(recorder):
    r = recorder("cycle_graph(n=300)")
    r.lose(range(300), "killed by SIGKILL", "y" * 4000)
    run = r.finish("failed")
    assert len(run["lost_agents"]) == 300 and len(run["losses"]) == 50
    assert len(json.dumps(run["losses"])) < 150_000


@pytest.fixture
def heard():
    """What was told to those who listen."""
    return []


@pytest.fixture
def small(tmp_path, heard):
    config = load(settings={"topology": "ring6", "runs": str(tmp_path)})
    return Recorder(config, networks.load("ring6"), "launch", heard.append)


def test_what_an_agent_prints_is_kept_up_to_a_bound_and_the_rest_counted(monkeypatch, small, heard):
    """Of another agent nothing is lost; no letter is cut in two."""
    monkeypatch.setattr(module, "LOG_BYTES", 11)
    for text in ("12345\n", "ääää\n", "more", "and more\n"):
        small.prints.take(3, text)
    small.prints.take(4, "12345678901")
    small.finish("stopped")
    told = (small.folder / "agents/003/log.txt").read_text().splitlines()
    assert told == ["12345", "ää", "[difnet: what agent 3 prints from here on is not kept]",
                    f"[difnet: {len('ää'.encode()) + 1 + 4 + 9} bytes were not kept]"]  # fmt: skip
    assert (small.folder / "agents/004/log.txt").read_text() == "12345678901"
    assert [e.text for e in heard if "printed more" in getattr(e, "text", "")] == [
        "agent 3 has printed more than 11 B; the rest is not kept"]  # fmt: skip


def test_a_secret_is_told_and_not_recorded(small, heard):
    small.note("DIFNET_TOKEN=4f0c difnet host --agents 0", secret="4f0c")
    small.note("an ordinary note")
    assert heard[0].text == "DIFNET_TOKEN=4f0c difnet host --agents 0"
    recorded = [json.loads(line) for line in (small.folder / "events.jsonl").read_text().splitlines()]
    assert [e["text"] for e in recorded] == ["DIFNET_TOKEN=… difnet host --agents 0", "an ordinary note"]
