"""What a run folder says of a run that was recorded step by step."""

from difnet.config import load
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
