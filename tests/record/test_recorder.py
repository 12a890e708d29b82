"""What a run folder says of a run that was recorded step by step."""

import json

import pytest

from difnet.config import load
from difnet.record import recorder as module
from difnet.record.recorder import Recorder
from difnet.system import energy
from difnet.topology import networks

PREPARED = {"engine": "eager", "parameters": 2, "length": 2, "flops": None, "server": None, "model": {"name": "mlp"},
            "pieces": [], "transductive": False, "manifest": None, "environment": {}}  # fmt: skip


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


@pytest.fixture
def heard():
    """What was told to those who listen."""
    return []


@pytest.fixture
def recorder(tmp_path, heard):
    config = load(settings={"topology": "ring6", "runs": str(tmp_path)})
    return Recorder(config, networks.load("ring6"), "launch", heard.append)


def test_what_an_agent_prints_is_kept_up_to_a_bound_and_the_rest_counted(monkeypatch, recorder, heard):
    """Of another agent nothing is lost; no letter is cut in two."""
    monkeypatch.setattr(module, "LOG_BYTES", 11)
    for text in ("12345\n", "ääää\n", "more", "and more\n"):
        recorder.log(3, text)
    recorder.log(4, "12345678901")
    recorder.finish("stopped")
    told = (recorder.agent_folder(3) / "log.txt").read_text().splitlines()
    assert told == ["12345", "ää", "[difnet: what agent 3 prints from here on is not kept]",
                    f"[difnet: {len('ää'.encode()) + 1 + 4 + 9} bytes were not kept]"]  # fmt: skip
    assert (recorder.agent_folder(4) / "log.txt").read_text() == "12345678901"
    assert [e.text for e in heard if "printed more" in getattr(e, "text", "")] == [
        "agent 3 has printed more than 11 B; the rest is not kept"]  # fmt: skip


def test_a_secret_is_told_and_not_recorded(recorder, heard):
    recorder.note("DIFNET_TOKEN=4f0c difnet host --agents 0", secret="4f0c")
    recorder.note("an ordinary note")
    assert heard[0].text == "DIFNET_TOKEN=4f0c difnet host --agents 0"
    recorded = [json.loads(line) for line in (recorder.folder / "events.jsonl").read_text().splitlines()]
    assert [e["text"] for e in recorded] == ["DIFNET_TOKEN=… difnet host --agents 0", "an ordinary note"]
